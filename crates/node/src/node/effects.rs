//! Carrying out what the core wants.

use super::Node;
use crate::refusals;
use crate::replica::Delivered;
use crate::waiting::{Proposal, ProposalWaiter};
use crate::EngineFailure;
use bytes::Bytes;
use client::{Answer, Outcome, Refusal, RefusalReason, Response, Settled, Slot, Verdict};
use consensus::{Effect, Entry, GroupId, Input, LogId, Occurrence, OperationId, ProposalOutcome, Token};
use tracing::warn;

impl Node {
    /// Carries out all effects of the core. Records gather for [`Node::submit`], decided slots for the faces.
    pub(super) fn carry_out(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            self.effect(effect);
        }
        self.submit();
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Persist { sequence, record } => self.batch.push((sequence, record)),
            Effect::Send { to, message } => {
                let frame = Bytes::from(message.encode());
                for node in to {
                    match self.links.send(node, frame.clone()) {
                        Ok(()) => self.metrics.messages_sent += 1,
                        Err(_) => self.metrics.messages_dropped += 1,
                    }
                }
            }
            Effect::Deliver { group, log, slot, entry } if self.is_of_values(group) => {
                self.deliver_value(group, log, slot, entry);
            }
            Effect::LoadLog { group, log } => self.load_log(group, log),
            Effect::Unloaded { group, log } => self.log_unloaded(group, log),
            Effect::ListLogs { token, group, after, count_max } => self.list_logs(token, group, after, count_max),
            deliver @ Effect::Deliver { .. } => {
                if matches!(deliver, Effect::Deliver { log: LogId::MAIN, .. }) {
                    self.deliveries.push_back(deliver);
                }
            }
            Effect::Proposed { id, outcome, .. } => self.proposed(id, outcome),
            Effect::Barrier { token, result } => self.barrier(token, result),
            Effect::ReadEntries { token, group, log, from, up_to, bytes_max } => {
                self.read_entries(token, group, log, from, up_to, bytes_max)
            }
            Effect::NeedState { group, from, donors, .. } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    if replica.needs_state.is_none() {
                        warn!(
                            "group \"{}\" needs a copy of the state: this node was away for longer than the log is \
                             kept, and the {} other members in contact have no slot {from} any more",
                            replica.configuration.name,
                            donors.len()
                        );
                    }
                    replica.needs_state = Some(from);
                }
            }
            Effect::HoldMore { group, .. } => self.checkpoint_at_once(group),
            Effect::Configured { configuration } => self.configured(configuration),
            Effect::Changed { token, result } => self.changed(token, result),
            Effect::Stop { reason } => self.fail(EngineFailure::Consensus(reason.to_string())),
        }
    }

    /// Hands the records of this turn to the log's writer, in one piece.
    pub(super) fn submit(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        if let Err(error) = self.log.submit(batch) {
            self.fail(EngineFailure::Storage(error.to_string()));
        }
    }

    /// Gives one decided slot to its face and answers who waits for it.
    pub(super) fn deliver(&mut self, group: GroupId, slot: Slot, entry: Entry) {
        let Some(replica) = self.replicas.get_mut(&group) else {
            return;
        };
        // After a state copy was installed, slots at or below it may still be on their way.
        if slot <= replica.delivered() {
            return;
        }
        self.metrics.slots_delivered += 1;
        // A log that reaches back has turned up after all.
        replica.needs_state = None;
        let proposals = &self.waiting.proposals;
        let delivered = replica.deliver(slot, entry, |id| proposals.get(&id).and_then(ProposalWaiter::origin));
        let given_up = replica.take_given_up();
        if replica.capture_if_due(self.limits.checkpoint_every_bytes) {
            self.see_to_checkpoint(group);
        }
        for id in given_up {
            self.large_ended(id, refusals::parts_given_up());
        }
        match delivered {
            Delivered::Nothing => {}
            Delivered::Operation { id, slot, outcome } => self.decided(id, slot, outcome),
            Delivered::Expired { id } => {
                if let Some(waiter) = self.waiting.proposals.remove(&id) {
                    let refusal =
                        Refusal::unknown(RefusalReason::Expired, "the operation's id is older than the window of ids");
                    self.clients.refuse(waiter.to, refusal.about(id));
                }
            }
            Delivered::Incomplete { id, why } => {
                if let Some(waiter) = self.waiting.proposals.remove(&id) {
                    self.metrics.proposals_rejected += 1;
                    let refusal = Refusal::definite(RefusalReason::Full, why.to_string()).with_hint("Try again.");
                    self.clients.refuse(waiter.to, refusal.about(id));
                }
            }
            Delivered::Closed { id, target, occurrence } => {
                self.large_ended(target, refusals::closed());
                if let Some(waiter) = self.waiting.proposals.remove(&id) {
                    let settled = settled(target, occurrence).expect("a closed id is used up");
                    self.clients.answer(waiter.to, &Response::Settled(settled));
                }
            }
        }
    }

    /// Answers the proposer of an operation or mark that was decided.
    fn decided(&mut self, id: OperationId, slot: Slot, outcome: consensus::Outcome) {
        let Some(waiter) = self.waiting.proposals.remove(&id) else {
            return;
        };
        let verdict = match outcome {
            consensus::Outcome::Applied(_) => Verdict::Accepted,
            consensus::Outcome::Rejected(detail) => Verdict::Rejected(detail.into()),
            consensus::Outcome::Closed => {
                self.metrics.proposals_rejected += 1;
                self.clients.refuse(waiter.to, refusals::closed().about(id));
                return;
            }
        };
        if verdict.is_accepted() {
            self.metrics.proposals_accepted += 1;
        } else {
            self.metrics.proposals_rejected += 1;
        }
        let silent =
            verdict.is_accepted() && matches!(waiter.proposal, Proposal::Operation { answer: Answer::OnRefusal, .. });
        if !silent {
            self.clients.answer(waiter.to, &Response::Outcome(Outcome { id, slot, verdict }));
        }
    }

    /// The core's word on a proposal. A chosen one is answered when it is delivered, with the face's verdict.
    fn proposed(&mut self, id: OperationId, outcome: ProposalOutcome) {
        if self.part_proposed(id, &outcome) {
            return;
        }
        let is_value = |waiter: &ProposalWaiter| matches!(waiter.proposal, Proposal::Value { .. });
        let refusal = match outcome {
            ProposalOutcome::Chosen(slot) if self.waiting.proposals.get(&id).is_some_and(is_value) => {
                return self.value_chosen(id, slot);
            }
            ProposalOutcome::Chosen(_) => return,
            ProposalOutcome::Failed(refusal) => {
                self.metrics.proposals_refused += 1;
                if refusal == consensus::Refusal::Withdrawn {
                    self.withdrawn = Some(id);
                }
                Some(refusal)
            }
            ProposalOutcome::Unknown => {
                self.metrics.proposals_unknown += 1;
                None
            }
        };
        let Some(waiter) = self.waiting.proposals.remove(&id) else {
            return;
        };
        let refusal = match refusal {
            Some(refusal) => self.refusal(waiter.group, refusal),
            None => refusals::outcome_unknown(),
        };
        self.clients.refuse(waiter.to, refusal.about(id));
    }

    fn barrier(&mut self, token: Token, result: Result<Slot, consensus::Refusal>) {
        if self.value_barrier(token, &result) {
            return;
        }
        let Some(reader) = self.waiting.readers.remove(&token) else {
            return;
        };
        match result {
            Ok(slot) => self.clients.answer(reader.to, &Response::Barrier { slot }),
            Err(refusal) => {
                self.metrics.barriers_refused += 1;
                let refusal = self.refusal(reader.group, refusal);
                self.clients.refuse(reader.to, refusal);
            }
        }
    }

    /// Reads log entries for the core, on another thread.
    fn read_entries(&mut self, token: Token, group: GroupId, log: LogId, from: Slot, up_to: Slot, bytes_max: usize) {
        let reader = self.reader.clone();
        self.in_background(
            move || reader.read_entries(group, log, from, up_to, bytes_max),
            move |node, result| {
                let damaged = match &result {
                    Err(storage::ReadError::Damaged { ballot, .. }) => Some(*ballot),
                    _ => None,
                };
                let entries = match result {
                    Ok(entries) => entries.into_iter().map(|stored| (stored.ballot, stored.entry)).collect(),
                    Err(error) => {
                        // The core fetches from a peer what this disk does not give.
                        warn!("cannot read slot {from} of group {group} from the log: {error}");
                        Vec::new()
                    }
                };
                node.input(Input::EntriesRead { token, entries, damaged });
            },
        );
    }
}

/// What is known of an id; `None` if nothing is decided about it yet.
pub(super) fn settled(id: OperationId, occurrence: Occurrence) -> Option<Settled> {
    let decided = |slot, verdict| Settled::Decided(Outcome { id, slot, verdict });
    match occurrence {
        Occurrence::First => None,
        Occurrence::Expired => Some(Settled::Expired),
        Occurrence::Repeated(slot, consensus::Outcome::Applied(_)) => Some(decided(slot, Verdict::Accepted)),
        Occurrence::Repeated(slot, consensus::Outcome::Rejected(detail)) => {
            Some(decided(slot, Verdict::Rejected(detail.into())))
        }
        Occurrence::Repeated(slot, consensus::Outcome::Closed) => Some(Settled::Closed { slot }),
    }
}
