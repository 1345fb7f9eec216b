//! The learner: what is known chosen, and its delivery to the face, in order, once.
//!
//! Rule 1: an own entry counts as chosen only if it was accepted under the very ballot that a notice names.

use super::Log;
use crate::ballot::Ballot;
use crate::bounds;
use crate::context::Context;
use crate::effect::Effect;
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::{NodeId, Slot, Token};
use crate::message::ChosenRange;
use crate::record::Record;
use crate::seeded_bug::{is_planted, SeededBug};
use crate::turns::Queued;
use std::collections::{BTreeMap, VecDeque};

/// Every so many slots the bytes of the log so far are noted, to know how much a trim would leave.
const SAMPLE_SLOTS: u64 = 1024;

/// And after so many bytes: a thousand large entries would be far more than any bound for laggards.
const SAMPLE_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Learner {
    /// Closed-up-to: every slot at or below is known chosen.
    pub(super) closed: Slot,
    /// Delivered to the face.
    pub(super) delivered: Slot,
    /// Held durably by the face.
    pub(super) held: Slot,
    /// No longer in the log.
    pub(super) trimmed: Slot,
    /// The closed-up-to last written down.
    pub(super) recorded: Slot,
    /// Closed-up-to records on their way to the disk.
    not_durable: VecDeque<(Queued, Slot)>,
    /// The closed-up-to that is durable: what stands on the disk at or below it is what was chosen. Above it the disk may
    /// still hold an entry that lost, so nothing above is read from there, and nothing above leaves memory.
    durable_closed: Slot,
    /// A read from the disk under way, and its first slot.
    pub(super) reading: Option<(Token, Slot)>,
    /// Bytes delivered since the start, samples of it, and how many of them are trimmed.
    pub(super) bytes: u64,
    pub(super) samples: BTreeMap<Slot, u64>,
    pub(super) trimmed_bytes: u64,
}

impl Learner {
    pub(super) fn new(closed: Slot, applied: Slot, trimmed: Slot) -> Learner {
        Learner {
            closed,
            delivered: applied,
            held: applied,
            trimmed,
            recorded: closed,
            not_durable: VecDeque::new(),
            durable_closed: closed,
            reading: None,
            bytes: 0,
            samples: BTreeMap::new(),
            trimmed_bytes: 0,
        }
    }
}

impl Log {
    /// A chosen notice (rule 1). What is not here under that ballot must be fetched.
    pub(super) fn on_chosen(&mut self, context: &mut Context, scope: &Scope, from: NodeId, range: ChosenRange) {
        self.saw_closed(from, range.last);
        self.saw_ballot(context, scope, range.ballot);
        self.take_chosen(context, scope, range);
        if range.last > self.learner.closed {
            self.catch_up.aim(range.last);
        }
    }

    pub(super) fn take_chosen(&mut self, context: &mut Context, scope: &Scope, range: ChosenRange) {
        if range.first > self.learner.closed.next() || range.last <= self.learner.closed {
            return;
        }
        let mut closed = self.learner.closed;
        for (slot, held) in self.acceptor.between(closed.next(), range.last) {
            let other_ballot = held.ballot != range.ballot && !is_planted(SeededBug::ChosenUnderAnyBallot);
            if slot != closed.next() || other_ballot || held.entry.is_none() {
                break;
            }
            closed = slot;
        }
        self.close(context, scope, closed);
    }

    /// Every slot up to `closed` is chosen, and stands here as chosen.
    pub(super) fn close(&mut self, context: &mut Context, scope: &Scope, closed: Slot) {
        if closed <= self.learner.closed {
            return;
        }
        self.learner.closed = closed;
        self.acceptor.open_since = (self.acceptor.highest() > closed).then_some(context.now);
        self.closed_moved(context, scope);
        self.wake(context, scope);
    }

    /// Hands over what is chosen and not yet delivered; reads from the disk what is not in memory.
    pub(super) fn deliver(&mut self, context: &mut Context, scope: &Scope) {
        while self.learner.delivered < self.learner.closed && self.learner.reading.is_none() {
            let slot = self.learner.delivered.next();
            let entry = self.acceptor.held(slot).and_then(|held| held.entry.clone());
            match entry {
                Some(entry) => self.deliver_one(context, scope, slot, entry),
                None if slot <= self.learner.trimmed => {
                    self.catch_up.healing.want(slot);
                    break;
                }
                None if self.catch_up.healing.contains(slot) => break,
                None => self.read_to_deliver(context, scope, slot),
            }
        }
        self.acceptor.shrink(self.learner.closed, self.learner.durable_closed);
    }

    fn deliver_one(&mut self, context: &mut Context, scope: &Scope, slot: Slot, entry: Entry) {
        assert!(
            slot == self.learner.delivered.next() && slot <= self.learner.closed,
            "slots are delivered in order, chosen ones only"
        );
        self.learner.delivered = slot;
        self.learner.bytes += entry.len() as u64;
        let sampled = self.learner.samples.last_key_value().map_or(0, |(_, bytes)| *bytes);
        if slot.0.is_multiple_of(SAMPLE_SLOTS) || self.learner.bytes - sampled >= SAMPLE_BYTES {
            self.learner.samples.insert(slot, self.learner.bytes);
        }
        if self.witness {
            // Nobody wants it. It was looked at, so what is kept is known, and found again if the disk lost it.
            return;
        }
        let id = entry.id();
        context.effect(Effect::Deliver { group: scope.group, log: self.id, slot, entry });
        self.proposal_chosen(context, scope, id, slot);
    }

    fn read_to_deliver(&mut self, context: &mut Context, scope: &Scope, from: Slot) {
        let closed = self.learner.closed;
        let in_memory = self.acceptor.between(from, closed).next().map(|(slot, _)| slot.previous());
        let up_to = in_memory.unwrap_or(closed).max(from);
        let token = context.reading(scope.group, self.id);
        self.learner.reading = Some((token, from));
        let bytes_max = bounds::DELIVERY_READ_BYTES;
        context.effect(Effect::ReadEntries { token, group: scope.group, log: self.id, from, up_to, bytes_max });
    }

    /// Nobody can give what delivery waits for: perhaps this node's own disk can by now.
    pub(super) fn read_again_to_deliver(&mut self, context: &mut Context, scope: &Scope, slot: Slot) {
        let waits = slot == self.learner.delivered.next() && slot <= self.learner.closed && slot > self.learner.trimmed;
        if waits && self.learner.reading.is_none() {
            self.read_to_deliver(context, scope, slot);
        }
    }

    /// The disk's answer, to a delivery or to a member that fetches.
    pub(super) fn on_entries_read(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        token: Token,
        entries: Vec<(Ballot, Entry)>,
        damaged: Option<Ballot>,
    ) {
        match self.learner.reading {
            Some((expected, from)) if expected == token => {
                self.learner.reading = None;
                if from != self.learner.delivered.next() {
                    return;
                }
                if entries.is_empty() {
                    self.catch_up.healing.want(from);
                    self.catch_up.healing.lose(from, damaged);
                }
                for (_, entry) in entries {
                    let slot = self.learner.delivered.next();
                    if slot > self.learner.closed {
                        break;
                    }
                    self.catch_up.healing.is_healed(slot);
                    self.deliver_one(context, scope, slot, entry);
                }
            }
            _ => self.answer_fetch_read(context, scope, token, entries),
        }
    }

    /// The face installed a copy of the state: everything up to its slot is chosen, and void here (rule 2).
    pub(crate) fn installed(&mut self, context: &mut Context, scope: &Scope, slot: Slot) {
        if slot <= self.learner.delivered {
            return;
        }
        self.learner.delivered = slot;
        self.learner.held = self.learner.held.max(slot);
        self.learner.reading = None;
        self.skip_to(context, scope, slot);
        self.touch(context, scope);
    }

    /// The face holds everything up to `slot`, so it is chosen; what the log holds there, if anything, is void.
    pub(super) fn skip_to(&mut self, context: &mut Context, scope: &Scope, slot: Slot) {
        self.catch_up.state_installed();
        if slot > self.learner.closed {
            self.stop_vouching(context, scope);
            self.persist(context, Record::Installed { group: scope.group, log: self.id, slot });
            self.acceptor.drop_up_to(slot);
            self.learner.trimmed = slot;
            self.learner.recorded = slot;
        }
        self.close(context, scope, slot);
    }

    /// Closed-up-to records that became durable.
    pub(super) fn note_closed_durable(&mut self, context: &Context, scope: &Scope) {
        let learner = &mut self.learner;
        while learner.not_durable.front().is_some_and(|(queued, _)| context.is_durable(scope, *queued)) {
            let (_, slot) = learner.not_durable.pop_front().expect("it has a front");
            learner.durable_closed = learner.durable_closed.max(slot);
        }
    }

    pub(super) fn record_closed(&mut self, context: &mut Context, scope: &Scope) {
        if self.learner.closed > self.learner.recorded {
            self.learner.recorded = self.learner.closed;
            let queued =
                context.persist(Record::Chosen { group: scope.group, log: self.id, up_to: self.learner.closed });
            self.learner.not_durable.push_back((queued, self.learner.closed));
        }
    }
}
