//! Admission of this node's own proposals, and their way to the owner (rules 10 and 11).
//!
//! An operation is definitely failed only if it was never handed to a proposer or a peer; from then on its outcome is
//! what the log says, and *unknown* until then.

use super::ownership::Hint;
use super::proposer::Stage;
use super::Log;
use crate::ballot::Ballot;
use crate::bounds;
use crate::context::Context;
use crate::effect::{Effect, ProposalOutcome, Refusal};
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::{NodeId, OperationId, Slot};
use crate::message::{GroupMessage, NotProposed};
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug, Default)]
pub(super) struct Admission {
    pending: BTreeMap<OperationId, Pending>,
    bytes: usize,
    deadlines: BTreeSet<(Time, OperationId)>,
    /// Not yet handed to a proposer or peer, in order.
    unrouted: VecDeque<OperationId>,
    /// When to look for forwards that came to nothing.
    resend_at: Option<Time>,
}

#[derive(Debug)]
struct Pending {
    entry: Entry,
    deadline: Time,
    /// Whether it may have left this node, or entered its log.
    sent: bool,
    place: Place,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Place {
    Unrouted,
    /// In this node's proposer, queued or in flight.
    Here,
    Forwarded {
        to: NodeId,
        again_at: Time,
    },
}

impl Admission {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn next_deadline(&self) -> Time {
        let deadline = self.deadlines.first().map_or(Time::NEVER, |(at, _)| *at);
        deadline.min(self.resend_at.unwrap_or(Time::NEVER))
    }

    fn remove(&mut self, id: OperationId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.deadlines.remove(&(pending.deadline, id));
        self.bytes -= pending.entry.len();
        Some(pending)
    }
}

impl Log {
    pub(crate) fn propose(&mut self, context: &mut Context, scope: &Scope, entry: Entry, deadline: Time) {
        self.touch(context, scope);
        let id = entry.id();
        assert!(id != OperationId::NONE, "an operation has an id");
        if self.admission.pending.contains_key(&id) {
            return;
        }
        let refusal = if !Log::is_of_its_kind(scope, &entry) {
            Some(Refusal::Unfit("a log of values takes values, and no other log does"))
        } else if entry.len() > bounds::ENTRY_BYTES_MAX {
            Some(Refusal::TooLarge(entry.len()))
        } else if self.admission.pending.len() >= bounds::PENDING_ENTRIES_MAX {
            Some(Refusal::Full("operations"))
        } else if self.admission.bytes + entry.len() > bounds::PENDING_BYTES_MAX {
            Some(Refusal::Full("bytes of operations"))
        } else {
            self.refuse_for_witnesses(context)
        };
        if let Some(refusal) = refusal {
            self.answer(context, scope, id, ProposalOutcome::Failed(refusal));
            return;
        }
        self.admission.bytes += entry.len();
        self.admission.deadlines.insert((deadline, id));
        self.admission.pending.insert(id, Pending { entry, deadline, sent: false, place: Place::Unrouted });
        self.admission.unrouted.push_back(id);
    }

    pub(crate) fn withdraw(&mut self, context: &mut Context, scope: &Scope, id: OperationId) {
        self.give_up(context, scope, id, Refusal::Withdrawn);
    }

    /// The caller waits no longer: failed if it was never sent, else unknown.
    fn give_up(&mut self, context: &mut Context, scope: &Scope, id: OperationId, why: Refusal) {
        let Some(pending) = self.admission.remove(id) else { return };
        if pending.sent && !is_planted(SeededBug::SentMeansFailed) {
            self.answer(context, scope, id, ProposalOutcome::Unknown);
            return;
        }
        self.proposer.take_back(id);
        self.answer(context, scope, id, ProposalOutcome::Failed(why));
    }

    /// This node is no member any more.
    pub(super) fn give_all_up(&mut self, context: &mut Context, scope: &Scope, why: &Refusal) {
        for id in self.admission.pending.keys().copied().collect::<Vec<_>>() {
            self.give_up(context, scope, id, why.clone());
        }
    }

    fn answer(&self, context: &mut Context, scope: &Scope, id: OperationId, outcome: ProposalOutcome) {
        context.effect(Effect::Proposed { group: scope.group, log: self.id, id, outcome });
    }

    /// In a log of values: this node's proposals, the slot that each follows, and whether it may have left this node.
    pub(super) fn pending_values(&self) -> Vec<(OperationId, Slot, bool)> {
        let value = |(id, pending): (&OperationId, &Pending)| Some((*id, pending.entry.follows()?, pending.sent));
        self.admission.pending.iter().filter_map(value).collect()
    }

    pub(super) fn answer_pending(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        id: OperationId,
        outcome: ProposalOutcome,
    ) {
        if self.admission.remove(id).is_some() {
            self.proposer.take_back(id);
            self.answer(context, scope, id, outcome);
        }
    }

    pub(super) fn proposal_chosen(&mut self, context: &mut Context, scope: &Scope, id: OperationId, slot: Slot) {
        if self.admission.remove(id).is_some() {
            self.answer(context, scope, id, ProposalOutcome::Chosen(slot));
        }
    }

    /// Deadlines that have passed.
    pub(super) fn expire(&mut self, context: &mut Context, scope: &Scope) {
        while let Some((_, id)) = self.admission.deadlines.first().copied().filter(|(at, _)| *at <= context.now) {
            let why = scope.why_late(context);
            self.give_up(context, scope, id, why);
        }
        self.expire_reads(context, scope);
    }

    pub(super) fn has_unrouted(&self) -> bool {
        !self.admission.unrouted.is_empty()
    }

    /// Hands what is waiting to this node's proposer or to the owner; holds it while no quorum is in contact.
    pub(super) fn route_pending(&mut self, context: &mut Context, scope: &Scope) {
        self.look_for_lost_forwards(context);
        if self.admission.unrouted.is_empty() && self.proposer.queue.is_empty() {
            return;
        }
        let quorum = scope.configuration.is_quorum(context.peers.live_members(&scope.configuration, context.now));
        match self.hint(context, scope) {
            Hint::Here => self.route_here(),
            Hint::To(owner) if quorum || context.peers.reaches_quorum(owner, &scope.configuration, context.now) => {
                self.leave_to_others();
                self.route_to(context, scope, owner);
            }
            Hint::Through(relay) => {
                self.leave_to_others();
                self.route_to(context, scope, relay);
            }
            Hint::Nobody if scope.may_propose() => self.route_here(),
            Hint::Nobody => {
                // This node cannot propose: the first live voter takes over when it is asked to.
                if let Some(candidate) = scope.first_live_candidate(context).filter(|_| quorum) {
                    self.route_to(context, scope, candidate);
                }
            }
            Hint::To(_) => {}
        }
    }

    fn route_here(&mut self) {
        while let Some(id) = self.admission.unrouted.pop_front() {
            let Some(pending) = self.admission.pending.get_mut(&id) else { continue };
            if pending.place != Place::Unrouted {
                continue;
            }
            // A repeated id may be in flight already: then its outcome is the log's word.
            pending.sent |= self.proposer.is_in_flight(id);
            if !self.proposer.enqueue(pending.entry.clone()) {
                self.admission.unrouted.push_front(id);
                return;
            }
            pending.place = Place::Here;
        }
    }

    /// Somebody else owns the log: what was queued here is not proposed here.
    fn leave_to_others(&mut self) {
        if self.proposer.queue.is_empty() {
            return;
        }
        self.give_up_proposing();
    }

    fn route_to(&mut self, context: &mut Context, scope: &Scope, to: NodeId) {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let origin = context.node;
        let timeout = context.options.failure_timeout;
        let send = |context: &mut Context, log: &Log, entries: Vec<Entry>| {
            let body = GroupMessage::Forward { log: log.id, entries, origin, hops: 0 };
            context.send(scope, [to], body);
        };
        while let Some(id) = self.admission.unrouted.pop_front() {
            let now = context.now;
            let Some(pending) = self.admission.pending.get_mut(&id) else { continue };
            if pending.place != Place::Unrouted {
                continue;
            }
            pending.sent = true;
            let entry = pending.entry.clone();
            pending.place =
                Place::Forwarded { to, again_at: now + timeout + context.options.transfer_time(entry.len()) };
            if context.options.windows.is_full(entries.len(), bytes + entry.len()) {
                send(context, self, std::mem::take(&mut entries));
                bytes = 0;
            }
            bytes += entry.len();
            entries.push(entry);
        }
        if !entries.is_empty() {
            send(context, self, entries);
        }
        self.admission.resend_at.get_or_insert(context.now + context.options.failure_timeout);
    }

    /// Forwards that were not chosen within the failure time-out go out again; a second slot does no harm (rule 10).
    fn look_for_lost_forwards(&mut self, context: &Context) {
        if self.admission.resend_at.is_none_or(|at| context.now < at) {
            return;
        }
        self.unroute(|place| matches!(place, Place::Forwarded { again_at, .. } if context.now >= again_at));
        let forwarded = self.admission.pending.values().any(|pending| matches!(pending.place, Place::Forwarded { .. }));
        self.admission.resend_at = forwarded.then_some(context.now + context.options.retry_interval() / 2);
    }

    fn unroute(&mut self, which: impl Fn(Place) -> bool) {
        for (id, pending) in &mut self.admission.pending {
            if which(pending.place) {
                pending.place = Place::Unrouted;
                self.admission.unrouted.push_back(*id);
            }
        }
    }

    /// The presumed owner changed: what was forwarded finds its way anew. What waits in the queue here goes on waiting.
    pub(super) fn reconsider_forwards(&mut self) {
        self.unroute(|place| matches!(place, Place::Forwarded { .. }));
    }

    /// Nothing is proposed here any more: the queue is emptied, and everything undecided finds its way anew.
    pub(super) fn give_up_proposing(&mut self) {
        self.proposer.clear_queue();
        self.unroute(|place| place != Place::Unrouted);
    }

    pub(super) fn forget_forwards(&mut self, node: NodeId, _restarted: bool) {
        self.unroute(|place| matches!(place, Place::Forwarded { to, .. } if to == node));
    }

    /// What went to a member that is not the way to the owner any more, such as one that was to pass it on to an owner now
    /// lost, finds its way anew at once: nobody will say that it came to nothing.
    pub(super) fn forget_forwards_astray(&mut self, context: &Context, scope: &Scope) {
        let way = match self.hint(context, scope) {
            Hint::To(node) | Hint::Through(node) => Some(node),
            Hint::Here | Hint::Nobody => None,
        };
        self.unroute(|place| matches!(place, Place::Forwarded { to, .. } if Some(to) != way));
    }

    /// These leave the queue for the log: from now on their outcome is the log's word.
    pub(super) fn mark_proposed(&mut self, entries: &[Entry]) {
        if self.admission.pending.is_empty() {
            return;
        }
        for entry in entries {
            if let Some(pending) = self.admission.pending.get_mut(&entry.id()) {
                pending.sent = true;
            }
        }
    }

    /// A peer asks to have these proposed; none at all means: finish what is open.
    pub(super) fn on_forward(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        entries: Vec<Entry>,
        origin: NodeId,
        hops: u8,
    ) {
        let asks_to_finish = entries.is_empty();
        let entries = if scope.is_of_values() { self.values_in_time(context, scope, origin, entries) } else { entries };
        if entries.is_empty() && !asks_to_finish {
            return;
        }
        let ids = |entries: &[Entry]| entries.iter().map(Entry::id).collect::<Vec<_>>();
        let hint = self.hint(context, scope);
        let ballot = self.ownership.highest;
        let to = match hint {
            Hint::Here => None,
            Hint::Nobody if scope.may_propose() => None,
            Hint::To(owner) | Hint::Through(owner) => Some(owner),
            Hint::Nobody => Some(context.node),
        };
        let Some(to) = to else {
            if entries.is_empty() && matches!(self.proposer.stage, Stage::Idle) {
                self.ownership.must_try = true;
            }
            let refused: Vec<Entry> =
                entries.into_iter().filter(|entry| !self.proposer.enqueue(entry.clone())).collect();
            if !refused.is_empty() {
                let body =
                    GroupMessage::NotProposed { log: self.id, ids: ids(&refused), reason: NotProposed::Full, ballot };
                context.send(scope, [origin], body);
            }
            return;
        };
        if to != context.node && to != origin && hops < bounds::FORWARD_HOPS_MAX {
            context.send(scope, [to], GroupMessage::Forward { log: self.id, entries, origin, hops: hops + 1 });
        } else {
            let body =
                GroupMessage::NotProposed { log: self.id, ids: ids(&entries), reason: NotProposed::NotOwner, ballot };
            context.send(scope, [origin], body);
        }
    }

    pub(super) fn on_not_proposed(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        from: NodeId,
        ids: &[OperationId],
        reason: NotProposed,
        ballot: Ballot,
    ) {
        self.saw_ballot(context, scope, ballot);
        if reason == NotProposed::NotOwner && ballot == self.ownership.highest && ballot.node == from {
            self.ownership.disown(ballot);
        }
        let pause = context.options.failure_timeout / 20;
        for id in ids {
            let Some(pending) = self.admission.pending.get_mut(id) else { continue };
            if !matches!(pending.place, Place::Forwarded { .. }) {
                continue;
            }
            // Not at once: two members that know equally little would pass it to and fro.
            pending.place = Place::Forwarded { to: from, again_at: context.now + pause };
        }
        self.admission.resend_at =
            Some(self.admission.resend_at.map_or(context.now + pause, |at| at.min(context.now + pause)));
        self.wake(context, scope);
    }
}
