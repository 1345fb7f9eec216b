//! Local clients' requests: admission, and what can be answered at once.

use super::effects::settled;
use super::Node;
use crate::clients::ReplyTo;
use crate::outgoing::Outgoing;
use crate::refusals;
use crate::waiting::{Proposal, ProposalWaiter, Reader};
use bytes::Bytes;
use client::frame::BODY_BYTES_MAX;
use client::{Engine, GroupId, OperationId, Refusal, RefusalReason, Request, Response, Slot, PROTOCOL_VERSION};
use consensus::{Entry, Input, LogId};

impl Node {
    /// Takes one request.
    pub(super) async fn request(&mut self, to: ReplyTo, request: Request) {
        if !self.clients.is_greeted(to.client) && !matches!(request, Request::Hello { .. }) {
            let refusal =
                Refusal::definite(RefusalReason::Invalid, "the first request of a connection must be a hello");
            return self.clients.refuse(to, refusal);
        }
        match request {
            Request::CreateGroup { name, kind, label, database } => {
                self.create_group(to, name, kind, label, database).await
            }
            Request::LearnGroup { group, await_state } => self.learn_group(to, group, await_state).await,
            request => {
                if let Err(refusal) = self.request_now(to, request) {
                    self.clients.refuse(to, refusal);
                }
            }
        }
    }

    /// Requests that need no waiting before they are under way.
    fn request_now(&mut self, to: ReplyTo, request: Request) -> Result<(), Refusal> {
        match request {
            Request::Hello { version } => self.hello(to, version)?,
            Request::OperationId => {
                let id = self.operation_id();
                self.clients.answer(to, &Response::OperationId(id));
            }
            Request::Groups => {
                let groups = self.replicas.values().map(|r| crate::description::group_description(&r.configuration));
                let response = Response::Groups(groups.collect());
                self.clients.answer(to, &response);
            }
            Request::Status => {
                let status = self.status();
                self.clients.answer(to, &Response::Status(Box::new(status)));
            }
            Request::JoinRequest { group, member, wait_ms } => self.join_request(to, group, member, wait_ms)?,
            Request::Promote { group, node, wait_ms } => self.promote(to, group, node, wait_ms)?,
            Request::Remove { group, node, wait_ms } => self.remove(to, group, node, wait_ms)?,
            Request::Forget { group } => self.forget(to, group)?,
            Request::Propose { group, id, body, origin, answer, wait_ms } => {
                self.metrics.proposals += 1;
                let admitted = self.propose(to, group, id, body, Proposal::Operation { origin, answer }, wait_ms);
                if let Err(refusal) = admitted {
                    self.metrics.proposals_refused += 1;
                    return Err(refusal.about(id));
                }
            }
            Request::Mark { group, id, origin, wait_ms } => {
                self.propose(to, group, id, Bytes::new(), Proposal::Mark { origin }, wait_ms)?
            }
            Request::Withdraw { id } => self.withdraw(to, id),
            Request::Barrier { group, wait_ms } => self.ask_barrier(to, group, wait_ms)?,
            Request::PutValue { group, log, id, follows, value, wait_ms } => {
                self.metrics.proposals += 1;
                self.put_value(to, (group, log), id, follows, &value, wait_ms).map_err(|refusal| refusal.about(id))?;
            }
            Request::Value { group, log, wait_ms } => self.ask_value(to, group, log, wait_ms)?,
            Request::LookUp { group, id } => {
                let known = settled(id, self.serving_replica(group)?.look_up(id));
                self.clients.answer(to, &known.map_or(Response::Undecided, Response::Settled));
            }
            Request::OutcomeOf { group, id, wait_ms } => self.outcome_of(to, group, id, wait_ms)?,
            Request::Entries { group, from, omit_own } => self.open_stream(to, group, from, omit_own)?,
            Request::Entry { group, slot } => self.entry(to, group, slot)?,
            Request::Checkpoint { group, slot, offset } => self.checkpoint_piece(to, group, slot, offset)?,
            Request::ReleaseMark { group, slot } => {
                let replica = self.replica(group)?;
                replica.release_mark(slot);
                self.clients.answer(to, &Response::Done);
            }
            Request::InstallCheckpoint { group, slot, offset, length, piece } => {
                self.install_piece(to, group, slot, offset, length, piece)?
            }
            Request::CreateGroup { .. } | Request::LearnGroup { .. } => {
                unreachable!("taken before")
            }
        }
        Ok(())
    }

    /// The group, or the refusal that it is not here.
    pub(super) fn replica(&mut self, group: GroupId) -> Result<&mut crate::replica::Replica, Refusal> {
        self.replicas
            .get_mut(&group)
            .ok_or_else(|| Refusal::definite(RefusalReason::UnknownGroup, format!("this node has no group {group}")))
    }

    /// The group, if its state is complete here.
    pub(super) fn serving_replica(&mut self, group: GroupId) -> Result<&mut crate::replica::Replica, Refusal> {
        let node = self.node;
        let is_disowned = self.is_disowned(group);
        let replica = self.replica(group)?;
        if replica.awaits_state || replica.needs_state.is_some() {
            return Err(Refusal::definite(
                RefusalReason::NoState,
                format!("this node's copy of group \"{}\" is not complete", replica.configuration.name),
            )
            .with_hint("Wait until its state copy is done, or ask another member."));
        }
        if is_disowned || replica.configuration.member(node).is_none() {
            return Err(refusals::not_a_member(&replica.configuration.name));
        }
        if replica.configuration.is_witness(node) {
            return Err(refusals::from_core(consensus::Refusal::Witness, None));
        }
        Ok(replica)
    }

    fn hello(&mut self, to: ReplyTo, version: u32) -> Result<(), Refusal> {
        if version != PROTOCOL_VERSION {
            return Err(Refusal::definite(
                RefusalReason::Version,
                format!(
                    "the client speaks version {version} of the local protocol, the engine version {PROTOCOL_VERSION}"
                ),
            )
            .with_hint("Restart the server so that all of it runs the same version."));
        }
        self.clients.greet(to.client);
        let engine = self.describe();
        self.clients.answer(to, &Response::Hello(engine));
        Ok(())
    }

    /// This engine as clients see it.
    pub(super) fn describe(&self) -> Engine {
        Engine {
            node: self.node,
            start: self.start,
            address: self.advertise_address.clone(),
            public_key: self.public_key.clone(),
        }
    }

    /// A fresh operation id of this start.
    pub(super) fn operation_id(&self) -> OperationId {
        OperationId { node: self.node, start: self.start, sequence: (self.sequence)() }
    }

    /// An id must be of this start of this node, and not be waited for already.
    pub(super) fn check_own_id(&self, id: OperationId) -> Result<(), Refusal> {
        if (id.node, id.start) != (self.node, self.start) || id.sequence == 0 {
            return Err(Refusal::definite(
                RefusalReason::Invalid,
                format!("operation id {id} is not of this start of this node"),
            ));
        }
        if self.waiting.proposals.contains_key(&id) {
            return Err(Refusal::definite(RefusalReason::Invalid, format!("operation {id} is proposed already")));
        }
        Ok(())
    }

    fn propose(
        &mut self,
        to: ReplyTo,
        group: GroupId,
        id: OperationId,
        body: Bytes,
        proposal: Proposal,
        wait_ms: u32,
    ) -> Result<(), Refusal> {
        self.check_own_id(id)?;
        if body.len() > BODY_BYTES_MAX {
            return Err(Refusal::definite(
                RefusalReason::TooLarge,
                format!("a body of {} bytes is larger than the limit of {BODY_BYTES_MAX} bytes", body.len()),
            ));
        }
        let replica = self.serving_replica(group)?;
        let entry = match proposal {
            Proposal::Mark { .. } => Entry::snapshot_mark(id),
            _ => {
                replica.admit(&body).map_err(|detail| Refusal {
                    detail: detail.to_vec(),
                    ..Refusal::definite(RefusalReason::Conflict, "the operation conflicts with one already decided")
                })?;
                if Outgoing::is_large(&body) {
                    return self.propose_large(to, group, id, body, proposal, wait_ms);
                }
                Entry::operation(id, &body)
            }
        };
        self.propose_entry(to, group, id, entry, proposal, wait_ms);
        Ok(())
    }

    fn propose_entry(
        &mut self,
        to: ReplyTo,
        group: GroupId,
        id: OperationId,
        entry: Entry,
        proposal: Proposal,
        wait_ms: u32,
    ) {
        self.waiting.proposals.insert(id, ProposalWaiter { to, group, proposal });
        let deadline = self.deadline(wait_ms);
        self.input(Input::Propose { group, log: LogId::MAIN, entry, deadline });
    }

    /// Withdraws a proposal: its own answer comes at once, then the withdrawal's.
    fn withdraw(&mut self, to: ReplyTo, id: OperationId) {
        let Some(waiter) = self.waiting.proposals.get(&id).filter(|waiter| waiter.to.client == to.client) else {
            return self.clients.answer(to, &Response::Withdrawn(false));
        };
        let (group, log) = (waiter.group, waiter.log());
        if self.outgoing.holds(id) {
            self.refuse_large(id, refusals::from_core(consensus::Refusal::Withdrawn, None));
            return self.clients.answer(to, &Response::Withdrawn(true));
        }
        self.withdrawn = None;
        self.input(Input::Withdraw { group, log, id });
        self.carry_out();
        // If it was decided just now, that is its answer.
        self.deliver_some(usize::MAX);
        let withdrawn = self.withdrawn == Some(id);
        self.clients.answer(to, &Response::Withdrawn(withdrawn));
    }

    fn ask_barrier(&mut self, to: ReplyTo, group: GroupId, wait_ms: u32) -> Result<(), Refusal> {
        self.metrics.barriers += 1;
        self.serving_replica(group)?;
        let token = self.waiting.token();
        self.waiting.readers.insert(token, Reader { to, group });
        let deadline = self.deadline(wait_ms);
        self.input(Input::Read { group, log: LogId::MAIN, token, deadline });
        Ok(())
    }

    /// Answers what became of an id; if nothing is decided about it, closes it through the log first, so that the
    /// answer is final (rule 10).
    fn outcome_of(&mut self, to: ReplyTo, group: GroupId, id: OperationId, wait_ms: u32) -> Result<(), Refusal> {
        let replica = self.serving_replica(group)?;
        if let Some(settled) = settled(id, replica.look_up(id)) {
            self.clients.answer(to, &Response::Settled(settled));
            return Ok(());
        }
        let close = self.operation_id();
        self.propose_entry(to, group, close, Entry::close(close, id), Proposal::Close, wait_ms);
        Ok(())
    }

    fn checkpoint_piece(&mut self, to: ReplyTo, group: GroupId, slot: Slot, offset: u64) -> Result<(), Refusal> {
        let replica = self.replica(group)?;
        let Some(bytes) = replica.mark(slot) else {
            return Err(Refusal::definite(
                RefusalReason::Gone,
                format!("no checkpoint is kept for slot {slot}"),
            )
            .with_hint("The copy took longer than the log is kept for it; raise the setting for the log's size, or copy again."));
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = bytes.len().min(start + client::frame::CHECKPOINT_PIECE_BYTES);
        let response =
            Response::CheckpointPiece { length: bytes.len() as u64, piece: Bytes::copy_from_slice(&bytes[start..end]) };
        self.clients.answer(to, &response);
        Ok(())
    }
}
