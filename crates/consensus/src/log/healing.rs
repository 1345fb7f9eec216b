//! Healing: chosen slots whose content this disk lost are fetched again (rule 9), from a member that knows them chosen, or,
//! if perhaps nobody else does, from any intact acceptance that must have the chosen value
//! (`docs/decisions/0007-healing-what-is-known-chosen.md`).

use super::acceptor::Held;
use super::Log;
use crate::ballot::Ballot;
use crate::bounds;
use crate::context::Context;
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::Slot;
use crate::message::Accepted;
use crate::record::Record;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What of the chosen entries is to be fetched again, and what is still known of it.
#[derive(Debug, Default)]
pub(super) struct Healing {
    /// Chosen slots whose content is missing here, with how often each was asked for.
    wanted: BTreeMap<Slot, usize>,
    /// Chosen slots whose content the disk lost, with the ballots under which it stood there.
    lost: BTreeMap<Slot, Ballot>,
    /// What was asked for last was a slot that is delivered: new entries come first the next time.
    asked_last: bool,
}

impl Healing {
    pub(super) fn new(lost: BTreeMap<Slot, Ballot>) -> Healing {
        Healing { lost, ..Healing::default() }
    }

    pub(super) fn want(&mut self, slot: Slot) {
        if self.wanted.len() < bounds::HEALING_SLOTS_MAX {
            self.wanted.entry(slot).or_default();
        }
    }

    /// The disk found a chosen slot damaged, and still knows under which ballot it stood there.
    pub(super) fn lose(&mut self, slot: Slot, ballot: Option<Ballot>) {
        if let Some(ballot) = ballot {
            self.lost.insert(slot, ballot);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.wanted.len()
    }

    pub(super) fn contains(&self, slot: Slot) -> bool {
        self.wanted.contains_key(&slot)
    }

    /// The ballot, that of the chosen value or a later one, from which on any acceptance heals a slot that is to be healed.
    pub(super) fn heals_from(&self, scope: &Scope, slot: Slot) -> Option<Ballot> {
        self.lost.get(&slot).copied().filter(|ballot| self.contains(slot) && scope.knows_all_since(*ballot))
    }

    pub(super) fn is_healed(&mut self, slot: Slot) {
        self.wanted.remove(&slot);
        self.lost.remove(&slot);
    }

    pub(super) fn forget_up_to(&mut self, slot: Slot) {
        self.wanted = self.wanted.split_off(&slot.next());
        self.lost = self.lost.split_off(&slot.next());
    }

    pub(super) fn state_installed(&mut self) {
        self.wanted.clear();
    }

    pub(super) fn first_above(&self, slot: Slot) -> Option<Slot> {
        self.wanted.range(slot.next()..).next().map(|(slot, _)| *slot)
    }

    /// The first slots that are missing one behind the other.
    pub(super) fn first_run(&self) -> Option<(Slot, Slot)> {
        let (first, _) = self.wanted.first_key_value()?;
        let run = self.wanted.keys().zip(first.0..).take_while(|(slot, number)| slot.0 == *number);
        Some((*first, run.last().map_or(*first, |(slot, _)| *slot)))
    }

    /// Whether what is asked for now are slots that only the log lost.
    pub(super) fn asks_for(&mut self, heals: bool) {
        self.asked_last = heals;
    }

    pub(super) fn had_its_turn(&self) -> bool {
        self.asked_last
    }

    /// Counts a request for slots that only the log lost. Each member is asked twice; then they are left as they are until
    /// storage tells of them again: nobody may have them any more.
    pub(super) fn may_ask_again(&mut self, first: Slot, up_to: Slot, members: usize) -> bool {
        if members == 0 {
            return false;
        }
        for attempts in self.wanted.range_mut(first..=up_to).map(|(_, attempts)| attempts) {
            *attempts += 1;
        }
        self.wanted.retain(|slot, attempts| *slot < first || *slot > up_to || *attempts <= 2 * members);
        self.contains(first)
    }
}

impl Log {
    /// The disk lost the content of this slot, although nobody needed it now.
    pub(crate) fn damaged(&mut self, context: &mut Context, scope: &Scope, slot: Slot) {
        if slot <= self.learner.trimmed {
            return;
        }
        match self.acceptor.held(slot).cloned() {
            Some(Held { ballot, entry: Some(entry) }) if slot <= self.learner.closed => {
                let entries = [(ballot, entry)].into();
                self.persist(context, Record::Learnt { group: scope.group, log: self.id, first: slot, entries });
            }
            Some(Held { ballot, entry: Some(entry) }) => {
                let entries = [entry].into();
                self.persist(
                    context,
                    Record::Accepted { group: scope.group, log: self.id, ballot, first: slot, entries },
                );
            }
            _ if slot <= self.learner.closed => {
                self.catch_up.healing.want(slot);
                self.wake(context, scope);
            }
            // Open, and its content is lost: it is answered as damaged until phase 1 or a notice settles it.
            _ => {}
        }
    }

    /// A slot that is known chosen here, and whose content this disk lost, is healed from any intact acceptance under the
    /// ballot under which it stood here, or a higher one: that value was chosen under that ballot or a lower one, and from
    /// there on every ballot has it (*Paxos Made Simple*, P2b). `docs/decisions/0007-healing-what-is-known-chosen.md`.
    pub(super) fn heal_from_accepted(&mut self, context: &mut Context, scope: &Scope, accepted: &[Accepted]) {
        for found in accepted {
            let enough = self.catch_up.healing.heals_from(scope, found.slot).is_some_and(|from| found.ballot >= from);
            let Some(entry) = found.entry.clone().filter(|_| enough) else { continue };
            if scope.is_of_values() {
                self.learn_newest(context, scope, found.slot, found.ballot, &entry);
                continue;
            }
            self.heal_from(context, scope, found.slot, &vec![(found.ballot, entry)].into());
            self.wake(context, scope);
        }
    }

    /// Content that the disk had lost below closed-up-to.
    pub(super) fn heal_from(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        first: Slot,
        entries: &Arc<[(Ballot, Entry)]>,
    ) {
        let (closed, delivered) = (self.learner.closed, self.learner.delivered);
        // Where delivery stands still, what follows may be lost as well, and comes in the same answer.
        let all_behind = self.catch_up.healing.contains(first) && first > delivered;
        let numbered: Vec<(Slot, &(Ballot, Entry))> = (first.0..)
            .map(Slot)
            .zip(entries.iter())
            .filter(|(slot, _)| {
                *slot <= closed && (self.catch_up.healing.contains(*slot) || (all_behind && *slot > delivered))
            })
            .collect();
        for run in numbered.chunk_by(|(left, _), (right, _)| left.next() == *right) {
            let entries = run.iter().map(|(_, entry)| (*entry).clone()).collect();
            self.persist(context, Record::Learnt { group: scope.group, log: self.id, first: run[0].0, entries });
        }
        for (slot, (ballot, entry)) in numbered {
            self.catch_up.healing.is_healed(slot);
            if slot > delivered && self.acceptor.held(slot).is_none_or(|held| held.entry.is_none()) {
                self.acceptor.put(slot, *ballot, entry.clone());
            }
        }
    }
}
