//! The acceptor: promises and accepted entries (rules 1 to 4, 9).
//!
//! Its state changes when the record enters the log's queue; its answers leave when that is durable (rule 3).

use super::Log;
use crate::ballot::Ballot;
use crate::bounds;
use crate::context::Context;
use crate::effect::{Effect, StopReason};
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::{NodeId, Slot};
use crate::message::{Accepted, GroupMessage};
use crate::record::Record;
use crate::recovered::RecoveredLog;
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use crate::turns::Queued;
use crate::windows::Windows;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What stands in a slot here.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) ballot: Ballot,
    /// None if its content was damaged on the disk (rule 9).
    pub(super) entry: Option<Entry>,
}

#[derive(Debug)]
pub(super) struct Acceptor {
    /// The log's own promise; the effective one is the higher of this and the group's floor (rule 4).
    promised: Ballot,
    /// Accepted entries above closed-up-to, and below it those still kept in memory for delivery and for members that fetch.
    slots: BTreeMap<Slot, Held>,
    /// Bytes of all entries in memory.
    bytes: usize,
    /// Those of them at or below `cached_up_to`, which follows closed-up-to.
    cached_bytes: usize,
    cached_up_to: Slot,
    /// Acceptances on their way to the disk: record, highest slot of it, ballot.
    not_durable: VecDeque<(Queued, Slot, Ballot)>,
    /// Highest slot accepted durably and its ballot: what a read is told.
    durable_highest: (Slot, Ballot),
    /// Since when open slots wait without anything happening.
    pub(super) open_since: Option<Time>,
    pub(super) settle_at: Time,
}

impl Acceptor {
    pub(super) fn new(recovered: &RecoveredLog, closed: Slot) -> Acceptor {
        let slots: BTreeMap<Slot, Held> = recovered
            .accepted
            .iter()
            .filter(|(slot, _)| **slot > closed)
            .map(|(slot, found)| (*slot, Held { ballot: found.ballot, entry: found.entry.clone() }))
            .collect();
        let bytes = slots.values().map(size).sum();
        let durable_highest = slots.last_key_value().map(|(slot, held)| (*slot, held.ballot)).unwrap_or_default();
        Acceptor {
            promised: recovered.promised,
            slots,
            bytes,
            cached_bytes: 0,
            cached_up_to: closed,
            not_durable: VecDeque::new(),
            durable_highest,
            open_since: None,
            settle_at: Time::NEVER,
        }
    }

    pub(super) fn promise(&self, scope: &Scope) -> Ballot {
        let floor =
            if is_planted(SeededBug::BallotsWithoutEpoch) { Ballot::ZERO } else { Ballot::floor(scope.epoch()) };
        self.promised.max(floor)
    }

    pub(super) fn held(&self, slot: Slot) -> Option<&Held> {
        self.slots.get(&slot)
    }

    pub(super) fn highest(&self) -> Slot {
        self.slots.last_key_value().map(|(slot, _)| *slot).unwrap_or_default()
    }

    pub(super) fn has_damage(&self) -> bool {
        self.slots.values().any(|held| held.entry.is_none())
    }

    pub(super) fn durable_highest(&self) -> (Slot, Ballot) {
        self.durable_highest
    }

    pub(super) fn above(&self, slot: Slot) -> impl Iterator<Item = (Slot, &Held)> {
        self.slots.range(slot.next()..).map(|(slot, held)| (*slot, held))
    }

    pub(super) fn between(&self, from: Slot, up_to: Slot) -> impl Iterator<Item = (Slot, &Held)> {
        let up_to = up_to.max(from);
        self.slots.range(from..=up_to).map(|(slot, held)| (*slot, held))
    }

    pub(super) fn put(&mut self, slot: Slot, ballot: Ballot, entry: Entry) {
        let held = Held { ballot, entry: Some(entry) };
        let grown = size(&held);
        let before = self.slots.insert(slot, held).as_ref().map_or(0, size);
        self.bytes = self.bytes + grown - before;
        if slot <= self.cached_up_to {
            self.cached_bytes = self.cached_bytes + grown - before;
        }
    }

    /// Forgets everything at or below a state's slot.
    pub(super) fn drop_up_to(&mut self, slot: Slot) {
        self.slots = self.slots.split_off(&slot.next());
        self.bytes = self.slots.values().map(size).sum();
        self.cached_bytes = 0;
        self.cached_up_to = slot;
        if self.durable_highest.0 <= slot {
            // What stands above is still on its way to the disk, or it would be the highest.
            self.durable_highest = Default::default();
        }
    }

    /// Forgets what stands below a slot; what stands there is the newest value.
    pub(super) fn drop_below(&mut self, slot: Slot) {
        if self.slots.first_key_value().is_some_and(|(first, _)| *first < slot) {
            self.slots = self.slots.split_off(&slot);
            self.bytes = self.slots.values().map(size).sum();
        }
        self.cached_up_to = self.cached_up_to.max(slot);
        self.cached_bytes = self.slots.range(..=self.cached_up_to).map(|(_, held)| size(held)).sum();
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of the oldest chosen entries in memory beyond the cache's bounds. Only what is durable as chosen goes: it can be
    /// read again, also to be delivered, if delivery waits for a slot that the disk has lost or for a copy of the state.
    pub(super) fn shrink(&mut self, closed: Slot, durable_closed: Slot) {
        if closed > self.cached_up_to {
            let grown: usize = self.between(self.cached_up_to.next(), closed).map(|(_, held)| size(held)).sum();
            self.cached_bytes += grown;
            self.cached_up_to = closed;
        }
        while let Some((slot, held)) = self.slots.first_key_value() {
            let over = self.cached_bytes > bounds::CACHE_BYTES_MAX
                || closed.0.saturating_sub(slot.0) >= bounds::CACHE_ENTRIES_MAX as u64;
            if !over || *slot > closed.min(durable_closed) {
                break;
            }
            let bytes = size(held);
            self.bytes -= bytes;
            self.cached_bytes -= bytes;
            self.slots.pop_first();
        }
    }

    /// Whether a batch of this size up to `last` fits beside what is open here. Slots below the highest one always do: they are
    /// what closed-up-to waits for.
    fn has_room(&self, windows: &Windows, last: Slot, bytes: usize) -> bool {
        last <= self.highest() || self.bytes - self.cached_bytes + bytes <= windows.accept_bytes()
    }

    pub(super) fn next_deadline(&self) -> Time {
        self.settle_at
    }
}

fn is_of_epoch(ballot: Ballot, scope: &Scope) -> bool {
    ballot.epoch == scope.epoch() || is_planted(SeededBug::BallotsWithoutEpoch)
}

fn size(held: &Held) -> usize {
    held.entry.as_ref().map_or(0, Entry::len) + 64
}

impl Log {
    /// Phase 1. A promise covers every slot of the log that is not closed.
    pub(super) fn on_prepare(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        from: NodeId,
        ballot: Ballot,
        closed: Slot,
    ) {
        if !scope.may_vote() {
            return;
        }
        self.saw_closed(from, closed);
        let promise = self.acceptor.promise(scope);
        if ballot < promise || !is_of_epoch(ballot, scope) {
            self.refuse(context, scope, from, ballot);
            return;
        }
        if ballot > self.acceptor.promised {
            self.acceptor.promised = ballot;
            if !is_planted(SeededBug::PromiseNotWritten) {
                self.persist(context, Record::Promised { group: scope.group, log: self.id, ballot });
            }
            self.saw_ballot(context, scope, ballot);
            self.step_down_below(context, scope, ballot);
        }
        assert!(self.acceptor.promised == ballot, "a promise is kept before it is answered");
        self.answer_prepare(context, scope, from, ballot, closed);
    }

    fn answer_prepare(&mut self, context: &mut Context, scope: &Scope, to: NodeId, ballot: Ballot, closed: Slot) {
        let above = closed.max(self.learner.closed);
        let mut parts: Vec<Vec<Accepted>> = vec![Vec::new()];
        let mut bytes = 0;
        for (slot, held) in self.acceptor.above(above) {
            if slot > self.acceptor.durable_highest.0 && is_planted(SeededBug::PhaseOnePastQueuedAccept) {
                continue;
            }
            let length = held.entry.as_ref().map_or(0, Entry::len);
            let part = parts.last().expect("there is one part at least");
            if context.options.windows.is_full(part.len(), bytes + length) {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += length;
            let accepted = Accepted { slot, ballot: held.ballot, entry: held.entry.clone() };
            parts.last_mut().expect("there is one part at least").push(accepted);
        }
        let count = parts.len();
        for (number, accepted) in parts.into_iter().enumerate() {
            let body = GroupMessage::Promise {
                log: self.id,
                ballot,
                closed: self.learner.closed,
                above,
                part: u32::try_from(number).expect("parts are bounded by the accept window"),
                last: number + 1 == count,
                accepted,
                position: context.required(),
            };
            context.send_when_durable(scope, to, body);
        }
    }

    fn refuse(&mut self, context: &mut Context, scope: &Scope, to: NodeId, ballot: Ballot) {
        let promised = self.acceptor.promise(scope);
        let body = GroupMessage::Refused { log: self.id, ballot, promised, closed: self.learner.closed };
        context.send(scope, [to], body);
    }

    /// Phase 2. Slots that are closed here are not accepted again; if they hold the same ballot they count, as they did.
    pub(super) fn on_accept(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        ballot: Ballot,
        first: Slot,
        entries: &Arc<[Entry]>,
        answer_to: NodeId,
    ) {
        if !scope.may_accept() {
            return;
        }
        let last = first.plus(entries.len() as u64 - 1);
        if ballot < self.acceptor.promise(scope) || !is_of_epoch(ballot, scope) {
            self.refuse(context, scope, answer_to, ballot);
            return;
        }
        if scope.is_of_values() && !self.may_accept_value(context, scope, first, entries) {
            return;
        }
        let bytes = entries.iter().map(Entry::len).sum();
        let windows = &context.options.windows;
        let in_window = last.0 <= self.learner.closed.0 + windows.accept_slots();
        if !in_window || !self.acceptor.has_room(windows, last, bytes) {
            // Too far ahead of what is known chosen here: once it is chosen, catch-up brings it.
            return;
        }
        let mut fresh = false;
        for (slot, entry) in (first.0..).map(Slot).zip(entries.iter()) {
            match self.acceptor.held(slot) {
                Some(held) if held.ballot == ballot => match &held.entry {
                    Some(known) if known != entry => {
                        self.stop_two_values(context, scope, slot);
                        return;
                    }
                    Some(_) => {}
                    None => fresh = true,
                },
                _ if slot <= self.learner.closed => {
                    self.refuse(context, scope, answer_to, ballot);
                    return;
                }
                _ => fresh = true,
            }
        }
        if ballot > self.acceptor.promised {
            self.acceptor.promised = ballot;
            self.step_down_below(context, scope, ballot);
            fresh = true;
            if last <= self.learner.closed {
                // All of it was learnt under this ballot already: no acceptance will be written that carries the promise.
                self.persist(context, Record::Promised { group: scope.group, log: self.id, ballot });
            }
        }
        self.saw_ballot(context, scope, ballot);
        if fresh {
            self.accept(context, scope, ballot, first, entries);
        }
        let body = GroupMessage::Accepted {
            log: self.id,
            ballot,
            first,
            last,
            closed: self.learner.closed,
            position: context.required(),
        };
        context.send_when_durable(scope, answer_to, body);
    }

    fn accept(&mut self, context: &mut Context, scope: &Scope, ballot: Ballot, first: Slot, entries: &Arc<[Entry]>) {
        let closed = self.learner.closed;
        let (first, entries) = if first > closed {
            (first, entries.clone())
        } else {
            let skip = usize::try_from(closed.0 - first.0 + 1).expect("a batch fits memory");
            if skip >= entries.len() {
                return;
            }
            (closed.next(), entries[skip..].to_vec().into())
        };
        assert!(ballot >= self.acceptor.promise(scope), "nothing is accepted below the promise");
        assert!(first > closed, "nothing is accepted at or below closed-up-to");
        if scope.is_of_values() {
            self.record_newest(context, scope);
        }
        let accepted = Record::Accepted { group: scope.group, log: self.id, ballot, first, entries: entries.clone() };
        let queued = self.persist(context, accepted);
        for (slot, entry) in (first.0..).map(Slot).zip(entries.iter()) {
            self.acceptor.put(slot, ballot, entry.clone());
        }
        let last = first.plus(entries.len() as u64 - 1);
        self.acceptor.not_durable.push_back((queued, last, ballot));
        self.acceptor.open_since = Some(context.now);
    }

    /// Records that became durable count for readers now.
    pub(crate) fn note_durable(&mut self, context: &Context, scope: &Scope) {
        while self.acceptor.not_durable.front().is_some_and(|(queued, ..)| context.is_durable(scope, *queued)) {
            let (_, slot, ballot) = self.acceptor.not_durable.pop_front().expect("it has a front");
            let known = &mut self.acceptor.durable_highest;
            if slot > known.0 || (slot == known.0 && ballot > known.1) {
                *known = (slot, ballot);
            }
        }
    }

    pub(super) fn stop_two_values(&mut self, context: &mut Context, scope: &Scope, slot: Slot) {
        context.effect(Effect::Stop { reason: StopReason::TwoValues { group: scope.group, log: self.id, slot } });
        context.stopped = true;
    }

    /// What was accepted here, chosen or not, for a member that finishes it.
    pub(super) fn on_ask_accepted(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        from: NodeId,
        first: Slot,
        up_to: Slot,
    ) {
        let mut accepted = Vec::new();
        let mut bytes = 0;
        for (slot, held) in self.acceptor.between(first.max(self.learner.closed.next()), up_to) {
            bytes += held.entry.as_ref().map_or(0, Entry::len);
            if context.options.windows.is_full(accepted.len(), bytes) {
                break;
            }
            accepted.push(Accepted { slot, ballot: held.ballot, entry: held.entry.clone() });
        }
        let body = GroupMessage::HasAccepted { log: self.id, closed: self.learner.closed, accepted };
        context.send(scope, [from], body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::OperationId;

    #[test]
    fn open_entries_are_bounded_in_bytes_but_gaps_below_them_can_be_filled() {
        let windows = Windows::default();
        let mut acceptor = Acceptor::new(&RecoveredLog::default(), Slot::ZERO);
        let entry = Entry::operation(OperationId::NONE, &vec![0; bounds::PIECE_BYTES]);
        let mut slot = Slot(1000);
        while acceptor.has_room(&windows, slot, entry.len()) {
            acceptor.put(slot, Ballot::ZERO, entry.clone());
            slot = slot.next();
        }
        assert!(acceptor.bytes <= bounds::ACCEPT_WINDOW_BYTES && slot > Slot(1020));
        assert!(!acceptor.has_room(&windows, slot, entry.len()), "nothing more at the end");
        assert!(acceptor.has_room(&windows, Slot(1), entry.len()), "but what closed-up-to waits for");

        // Put again under another ballot it takes no more room, and what is closed and durable goes.
        acceptor.put(Slot(1000), Ballot::ZERO, entry.clone());
        let (bytes, highest) = (acceptor.bytes, acceptor.highest());
        acceptor.shrink(highest, Slot(1000));
        assert_eq!((acceptor.bytes, acceptor.cached_bytes), (bytes - entry.len() - 64, bytes - entry.len() - 64));
        assert!(acceptor.held(Slot(1000)).is_none() && acceptor.held(Slot(1001)).is_some());
        assert!(acceptor.has_room(&windows, slot, entry.len()), "closed entries leave room");
        acceptor.shrink(highest, highest);
        assert!(acceptor.bytes <= bounds::CACHE_BYTES_MAX && acceptor.bytes > 0);
        acceptor.drop_up_to(highest);
        assert_eq!((acceptor.bytes, acceptor.cached_bytes), (0, 0));
    }
}
