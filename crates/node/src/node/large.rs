//! Proposing operations that are too large for one entry: the part of it that answers their clients.

use super::Node;
use crate::clients::ReplyTo;
use crate::limits::LEFTOVERS_WAIT_MS;
use crate::outgoing::Outgoing;
use crate::refusals;
use crate::waiting::{Proposal, ProposalWaiter};
use bytes::Bytes;
use client::{GroupId, OperationId, Refusal, RefusalReason};
use consensus::{Entry, Input, LogId, ProposalOutcome};

impl Node {
    /// Takes a large operation, whose waiter is told when it is decided, or refused.
    pub(super) fn propose_large(
        &mut self,
        to: ReplyTo,
        group: GroupId,
        id: OperationId,
        body: Bytes,
        proposal: Proposal,
        wait_ms: u32,
    ) -> Result<(), Refusal> {
        assert!(Outgoing::is_large(&body), "small operations go whole");
        let deadline = self.deadline(wait_ms);
        if !self.outgoing.admit(group, id, body, deadline) {
            let what = "too much is waiting: bytes of large operations";
            return Err(Refusal::definite(RefusalReason::Full, what).with_hint("Try again."));
        }
        self.waiting.proposals.insert(id, ProposalWaiter { to, group, proposal });
        self.send_parts(group);
        Ok(())
    }

    /// Proposes what may be under way now of the group's large operations.
    fn send_parts(&mut self, group: GroupId) {
        let (node, start, now) = (self.node, self.start, self.now());
        let sequence = &self.sequence;
        let mut entries = Vec::new();
        while let Some(next) =
            self.outgoing.next_entry(group, now, || OperationId { node, start, sequence: sequence() })
        {
            entries.push(next);
        }
        for (entry, deadline) in entries {
            self.input(Input::Propose { group, log: LogId::MAIN, entry, deadline });
        }
    }

    /// The core's word on a part, or on an entry whose outcome concerns nobody; whether it was one.
    pub(super) fn part_proposed(&mut self, id: OperationId, outcome: &ProposalOutcome) -> bool {
        if self.outgoing.is_unattended(id) {
            return true;
        }
        if let ProposalOutcome::Chosen(_) = outcome {
            let Some(group) = self.outgoing.part_chosen(id, self.now()) else {
                return false;
            };
            self.send_parts(group);
            return true;
        }
        let Some((group, operation)) = self.outgoing.part_answered(id) else {
            return false;
        };
        let refusal = match outcome {
            ProposalOutcome::Failed(refusal) => self.refusal(group, refusal.clone()),
            // The part may be in the log, but without the last one the operation has no effect.
            _ => refusals::not_sent_in_time(),
        };
        self.refuse_large(operation, refusal);
        true
    }

    /// Ends a large operation that was not wholly sent: it has definitely failed.
    pub(super) fn refuse_large(&mut self, id: OperationId, refusal: Refusal) {
        self.give_up_large(id, true);
        if let Some(waiter) = self.waiting.proposals.remove(&id) {
            self.metrics.proposals_refused += 1;
            self.clients.refuse(waiter.to, refusal.about(id));
        }
    }

    /// Sends nothing more of a large operation; whether there was more to send. What stands of it in the log makes room
    /// at once if its id is closed there, else it lapses.
    pub(super) fn give_up_large(&mut self, id: OperationId, close: bool) -> bool {
        let Some(given_up) = self.outgoing.give_up(id) else {
            return false;
        };
        let group = given_up.group;
        for id in given_up.in_flight {
            self.input(Input::Withdraw { group, log: LogId::MAIN, id });
        }
        if close && given_up.was_sent {
            let own = self.operation_id();
            self.outgoing.leave_unattended(own);
            let (entry, deadline) = (Entry::close(own, id), self.deadline(LEFTOVERS_WAIT_MS));
            self.input(Input::Propose { group, log: LogId::MAIN, entry, deadline });
        }
        self.send_parts(group);
        true
    }

    /// Operations of this node that ended in the log before they were wholly sent.
    pub(super) fn large_ended(&mut self, id: OperationId, refusal: Refusal) {
        if self.give_up_large(id, false) {
            self.refuse_large(id, refusal);
        }
    }

    /// Large operations of a group that this node forgets.
    pub(super) fn forget_large(&mut self, group: GroupId) {
        for id in self.outgoing.forget_group(group) {
            let refusal = Refusal::definite(RefusalReason::UnknownGroup, "the group was forgotten meanwhile");
            self.refuse_large(id, refusal);
        }
    }

    /// Large operations whose turn did not come in time.
    pub(super) fn refuse_overdue(&mut self) {
        for id in self.outgoing.overdue(self.now()) {
            self.refuse_large(id, refusals::not_sent_in_time());
        }
    }
}
