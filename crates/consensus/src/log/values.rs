//! A log of values (design, sections 1 and 6; PaxosStore, section 2.2.2: the log is the value): the newest chosen value
//! replaces all before it, and one slot is in flight.
//!
//! What a member holds is the newest value that it knows chosen, at slot n, and at most one acceptance, at slot n + 1. It
//! takes no acceptance further ahead: whoever proposes at n + 1 knows n chosen, so a member that does not is told the
//! newest value first, in one step, from any member that has it; nothing between is ever needed again, and there are no gaps
//! to fill. Phase 1 finds one open slot or none. With these states each slot is decided as in any other log (rules 1 to 6).
//!
//! A value names the slot that it follows, so it stands at the one after it or nowhere: a value that was made from an older
//! one than the newest is definitely failed, and no write is lost under another.

use super::proposer::Stage;
use super::Log;
use crate::ballot::Ballot;
use crate::context::Context;
use crate::effect::{Effect, ProposalOutcome, Refusal};
use crate::entry::{Entry, EntryKind};
use crate::group::Scope;
use crate::ids::{LogId, NodeId, OperationId, Slot};
use crate::message::GroupMessage;
use crate::record::Record;
use crate::recovered::{RecoveredEntry, RecoveredLog};
use crate::seeded_bug::{is_planted, SeededBug};
use std::sync::Arc;

impl Log {
    /// The log as the disk has it. The face's own state, if it has one, holds everything up to `held`.
    pub(crate) fn of_values(id: LogId, mut recovered: RecoveredLog, held: Slot) -> Log {
        recovered.applied = recovered.applied.max(held);
        let on_disk = recovered.closed.max(recovered.trimmed);
        // Who accepted at a slot knew the one before it chosen. What stands there may have been replaced by a record that is lost.
        let highest = recovered.accepted.last_key_value().map_or(Slot::ZERO, |(slot, _)| *slot);
        recovered.closed = on_disk.max(highest.previous());
        let closed = recovered.closed;
        let newest = recovered.accepted.get(&closed).cloned().filter(|_| closed == on_disk);
        let mut log = Log::new(id, &recovered, false);
        log.learner.recorded = on_disk;
        match newest {
            Some(RecoveredEntry { ballot, entry: Some(entry) }) => log.acceptor.put(closed, ballot, entry),
            _ if closed > Slot::ZERO => log.catch_up.healing.want(closed),
            _ => {}
        }
        log
    }

    /// Whether the newest value is here.
    fn newest(&self) -> Option<(Ballot, &Entry)> {
        let held = self.acceptor.held(self.learner.closed)?;
        Some((held.ballot, held.entry.as_ref()?))
    }

    /// An acceptance must be of one value, for its slot, and for the slot after the newest that is known here.
    pub(super) fn may_accept_value(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        first: Slot,
        entries: &[Entry],
    ) -> bool {
        let [entry] = entries else { return false };
        if entry.follows() != Some(first.previous()) {
            return false;
        }
        if first > self.learner.closed.next() && !is_planted(SeededBug::ValueAcceptedAhead) {
            self.catch_up.aim(first.previous());
            self.wake(context, scope);
            return false;
        }
        true
    }

    /// What is due, as [`Log::flush`] does it for a log of sequences.
    pub(super) fn flush_values(&mut self, context: &mut Context, scope: &Scope) {
        self.deliver_newest(context, scope);
        self.settle_superseded(context, scope);
        self.expire(context, scope);
        self.route_pending(context, scope);
        self.seek_ownership(context, scope);
        self.consider_hand_over(context, scope);
        self.propose_next_value(context, scope);
        self.flush_reads(context, scope);
        self.note_durable(context, scope);
        self.note_closed_durable(context, scope);
        self.fetch_newest(context, scope);
        self.record_newest(context, scope);
        self.settle_open_slots(context, scope);
    }

    /// Hands the newest value over, and lets go of all before it.
    fn deliver_newest(&mut self, context: &mut Context, scope: &Scope) {
        let closed = self.learner.closed;
        let Some(entry) = self.newest().map(|(_, entry)| entry.clone()) else {
            if closed > Slot::ZERO {
                self.catch_up.healing.want(closed);
            }
            return;
        };
        self.catch_up.healed_value();
        self.acceptor.drop_below(closed);
        if self.learner.delivered < closed {
            self.learner.delivered = closed;
            let id = entry.id();
            context.effect(Effect::Deliver { group: scope.group, log: self.id, slot: closed, entry });
            self.proposal_chosen(context, scope, id, closed);
        }
    }

    /// Proposals of this node whose slot is taken by another value, or is too far back to tell by what.
    fn settle_superseded(&mut self, context: &mut Context, scope: &Scope) {
        let closed = self.learner.closed;
        let newest = self.newest().map(|(_, entry)| entry.id());
        for (id, follows, sent) in self.pending_values() {
            let slot = follows.next();
            if slot > closed {
                continue;
            }
            let outcome = match newest {
                // Its content is yet to come, and says which it was.
                None if slot == closed => continue,
                Some(newest) if slot == closed && newest == id => ProposalOutcome::Chosen(slot),
                Some(_) if slot == closed => ProposalOutcome::Failed(Refusal::Superseded(closed)),
                _ if sent => ProposalOutcome::Unknown,
                _ => ProposalOutcome::Failed(Refusal::Superseded(closed)),
            };
            self.answer_pending(context, scope, id, outcome);
        }
    }

    /// Forwarded values that can still be chosen, as far as this node knows. Who sent others is told where the log stands.
    pub(super) fn values_in_time(
        &self,
        context: &mut Context,
        scope: &Scope,
        origin: NodeId,
        entries: Vec<Entry>,
    ) -> Vec<Entry> {
        let count = entries.len();
        let closed = self.learner.closed;
        let in_time = |entry: &Entry| entry.kind() == EntryKind::Value && entry.follows() >= Some(closed);
        let entries: Vec<Entry> = entries.into_iter().filter(in_time).collect();
        if entries.len() < count && origin != context.node {
            let logs = vec![self.position(context, scope)];
            context.send(scope, [origin], GroupMessage::Positions { logs });
        }
        entries
    }

    /// The next value, once nothing is in flight: one that follows the newest.
    fn propose_next_value(&mut self, context: &mut Context, scope: &Scope) {
        let closed = self.learner.closed;
        self.proposer.drop_values_before(closed);
        let has_quorum = scope.configuration.is_quorum(context.peers.live_members(&scope.configuration, context.now));
        if let Stage::Owning(owning) = &self.proposer.stage {
            assert!(owning.ballot.epoch == scope.epoch(), "an owner's ballot is of the current epoch");
            let yields = owning.yielding_until.is_some_and(|until| context.now < until);
            if !yields && has_quorum && owning.has_nothing_in_flight() {
                if let Some(entry) = self.proposer.take_value_after(closed) {
                    self.send_batch(context, scope, vec![entry]);
                }
            }
        }
        if let Some(known) = self.proposer.highest_followed() {
            // Who made a value from it knows it chosen.
            self.catch_up.aim(known);
        }
        self.send_again(context, scope);
        self.send_notice(context, scope);
    }

    /// Asks the next member for the newest value, if another one knows of a newer or this disk lost its own.
    fn fetch_newest(&mut self, context: &mut Context, scope: &Scope) {
        let closed = self.learner.closed;
        let is_lost = closed > Slot::ZERO && self.newest().is_none();
        let first = if is_lost { closed } else { closed.next() };
        if !self.catch_up.wants_newest(is_lost, closed) || context.now < self.catch_up.not_before {
            return;
        }
        let me = context.node;
        let heard: Vec<NodeId> = scope
            .configuration
            .members
            .iter()
            .map(|member| member.node)
            .filter(|node| *node != me && context.peers.hears(*node, context.now))
            .collect();
        if is_lost && self.catch_up.healing.heals_from(scope, closed).is_some() {
            // Perhaps nobody else knows it chosen: `docs/decisions/0007-healing-what-is-known-chosen.md`.
            let ask = GroupMessage::AskAccepted { log: self.id, from: closed, up_to: closed };
            context.send(scope, heard.iter().copied(), ask);
        }
        let knowing = heard.iter().copied().filter(|node| self.known_closed(*node) >= first).collect();
        let from = self.catch_up.next_source(context.now, context.options.retry_interval(), knowing, heard);
        let up_to = self.catch_up.target().max(first);
        context.send(scope, from, GroupMessage::Fetch { log: self.id, from: first, up_to });
    }

    /// The newest value for a member that is behind, and behind it what it could not accept before.
    pub(super) fn on_fetch_newest(&mut self, context: &mut Context, scope: &Scope, to: NodeId, from: Slot) {
        self.saw_closed(to, from.previous());
        let closed = self.learner.closed;
        let newest = self.newest().filter(|_| from <= closed).map(|(ballot, entry)| (ballot, entry.clone()));
        let (first, entries) = newest.map_or((from, Vec::new()), |newest| (closed, vec![newest]));
        let (log, entries) = (self.id, entries.into());
        context.send(scope, [to], GroupMessage::Fetched { log, first, entries, closed, trimmed: Slot::ZERO });
        self.send_in_flight_to(context, scope, to);
    }

    pub(super) fn on_fetched_newest(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        slot: Slot,
        entries: &Arc<[(Ballot, Entry)]>,
        closed: Slot,
    ) {
        self.catch_up.aim(closed);
        self.catch_up.answered(context.now, !entries.is_empty());
        if let Some((ballot, entry)) = entries.first().filter(|(_, entry)| entry.follows() == Some(slot.previous())) {
            self.saw_ballot(context, scope, *ballot);
            self.learn_newest(context, scope, slot, *ballot, entry);
        }
        self.wake(context, scope);
    }

    /// A value known chosen by the member that sent it: everything below it is chosen and superseded.
    pub(super) fn learn_newest(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        slot: Slot,
        ballot: Ballot,
        entry: &Entry,
    ) {
        let closed = self.learner.closed;
        if slot < closed || (slot == closed && self.newest().is_some()) {
            return;
        }
        let held = self.acceptor.held(slot).filter(|held| held.ballot == ballot).and_then(|held| held.entry.clone());
        match held {
            Some(mine) if mine != *entry => return self.stop_two_values(context, scope, slot),
            Some(_) => {}
            None => {
                if !is_planted(SeededBug::NewestNotWritten) {
                    let entries = [(ballot, entry.clone())].into();
                    self.persist(context, Record::Learnt { group: scope.group, log: self.id, first: slot, entries });
                }
                self.acceptor.put(slot, ballot, entry.clone());
                if self.proposer.owned_ballot() != Some(ballot) {
                    // Another ballot got further than this owner.
                    self.stop_vouching(context, scope);
                }
            }
        }
        self.close(context, scope, slot);
        self.wake(context, scope);
    }

    /// The newest value's slot, and that nothing before it is needed, behind the value itself and before any acceptance above:
    /// a disk that holds an acceptance knows the slot before it closed.
    pub(super) fn record_newest(&mut self, context: &mut Context, scope: &Scope) {
        let closed = self.learner.closed;
        if closed <= self.learner.recorded || self.newest().is_none() {
            return;
        }
        self.record_closed(context, scope);
        self.learner.trimmed = closed.previous();
        if self.learner.trimmed > Slot::ZERO {
            context.persist(Record::Trimmed { group: scope.group, log: self.id, up_to: self.learner.trimmed });
        }
    }

    /// This node owns the log under a ballot of this epoch, and nothing is in flight: whatever was chosen in an older epoch stands
    /// at or below closed-up-to, because phase 1 asked a quorum of the old voters too.
    pub(crate) fn settled_at(&self, scope: &Scope) -> Option<Slot> {
        let Stage::Owning(owning) = &self.proposer.stage else { return None };
        (owning.ballot.epoch == scope.epoch() && owning.has_nothing_in_flight()).then_some(self.learner.closed)
    }

    /// Whether it may leave memory: the disk has everything that anybody was told of it or will be, and nobody here waits for
    /// it. What else is forgotten (an unfinished phase 1, an open slot that nobody has asked for) a crash may take as well.
    pub(crate) fn may_unload(&self, context: &Context, scope: &Scope) -> bool {
        let written = self.last_record.is_none_or(|record| context.is_durable(scope, record));
        (written || is_planted(SeededBug::UnloadedUnwritten))
            && self.admission.len() == 0
            && !self.reader.has_readers()
            && self.proposer.queue.is_empty()
            && self.proposer.in_flight_slots() == 0
    }

    /// Whether nothing at all is going on.
    pub(crate) fn is_idle(&self) -> bool {
        let tells = matches!(&self.proposer.stage, Stage::Owning(owning) if !owning.has_told_all());
        !tells && self.is_done()
    }

    /// Whether this node has nothing to find out or to bring about in it.
    pub(crate) fn is_done(&self) -> bool {
        let prepares = matches!(self.proposer.stage, Stage::Preparing(_));
        !prepares && !self.ownership.must_try && !self.reader.is_busy() && self.is_settled()
    }

    /// Whether this node has all of it that it knows of, and nothing in it is open.
    fn is_settled(&self) -> bool {
        let closed = self.learner.closed;
        self.learner.recorded == closed
            && self.learner.delivered >= closed
            && self.open_acceptance().is_none_or(|open| self.void == Some(open))
            && self.catch_up.target() <= closed
    }

    /// What stands open and was found not to be chosen: remembered while the log is not in memory.
    pub(crate) fn void(&self) -> Option<(Slot, Ballot)> {
        self.void
    }

    pub(crate) fn remember_void(&mut self, void: Option<(Slot, Ballot)>) {
        self.void = void;
    }

    /// Finds out at once where the other members stand, and has an open slot finished that was chosen.
    pub(crate) fn look(&mut self, context: &mut Context, scope: &Scope) {
        self.read_for_itself(context);
        self.wake(context, scope);
    }

    pub(super) fn says_to_have(&mut self, scope: &Scope, node: NodeId, slot: Slot) {
        if scope.is_of_values() {
            let known = self.said_to_have.entry(node).or_default();
            *known = (*known).max(slot);
        }
    }

    /// Bytes of values in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.acceptor.bytes()
    }

    /// Whether an entry may be proposed in such a log.
    pub(super) fn is_of_its_kind(scope: &Scope, entry: &Entry) -> bool {
        (entry.kind() == EntryKind::Value) == scope.is_of_values()
    }
}

impl super::proposer::Proposer {
    /// Values that can no longer be chosen. Their nodes learn it by what was.
    fn drop_values_before(&mut self, closed: Slot) {
        if is_planted(SeededBug::ValueFollowsAnything) {
            return;
        }
        let gone: Vec<OperationId> =
            self.queue.iter().filter(|entry| entry.follows() < Some(closed)).map(Entry::id).collect();
        gone.into_iter().for_each(|id| self.take_back(id));
    }

    fn take_value_after(&mut self, closed: Slot) -> Option<Entry> {
        let fits = |entry: &Entry| entry.follows() == Some(closed) || is_planted(SeededBug::ValueFollowsAnything);
        let at = self.queue.iter().position(fits)?;
        let entry = self.queue.remove(at).expect("it was found there");
        self.queue_bytes -= entry.len();
        if entry.follows() == Some(closed) {
            return Some(entry);
        }
        Some(Entry::value(entry.id(), closed, &entry.to_value().unwrap_or_default()))
    }

    fn highest_followed(&self) -> Option<Slot> {
        self.queue.iter().filter_map(Entry::follows).max()
    }
}
