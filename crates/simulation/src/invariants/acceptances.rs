//! What the disks say was accepted, and what was chosen by it (rule 1): the ground on which other invariants stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use consensus::{Ballot, Configuration, Entry, Epoch, GroupId, LogId, MemberSet, NodeId, Record, Slot};

use super::ensure;
use crate::observation::Observation;

/// A slot of a log.
pub type Place = (GroupId, LogId, Slot);

/// Every acceptance ever made durable.
#[derive(Debug, Default)]
pub struct Acceptances {
    configurations: BTreeMap<(GroupId, Epoch), Arc<Configuration>>,
    accepted: BTreeMap<(Place, Ballot), (Entry, MemberSet)>,
    chosen: BTreeMap<Place, (Ballot, Entry)>,
}

impl Acceptances {
    /// What was first chosen at a slot.
    pub fn chosen(&self, place: Place) -> Option<&Entry> {
        self.chosen.get(&place).map(|(_, entry)| entry)
    }

    /// The epoch of the ballot under which a slot was first chosen.
    pub fn chosen_in(&self, place: Place) -> Option<Epoch> {
        self.chosen.get(&place).map(|(ballot, _)| ballot.epoch)
    }

    /// What was accepted at a slot under a ballot.
    pub fn accepted(&self, place: Place, ballot: Ballot) -> Option<&Entry> {
        self.accepted.get(&(place, ballot)).map(|(entry, _)| entry)
    }

    /// Takes in what became durable. Returns the slots that a quorum has accepted with it.
    ///
    /// # Errors
    /// Two values under one ballot, two values chosen, or an acceptance under an epoch that nobody has made durable.
    pub fn take_in(&mut self, observation: &Observation<'_>) -> Result<Vec<Place>, String> {
        let mut by_quorum = Vec::new();
        match observation {
            // Queued is enough here: which configuration an epoch has is another invariant's matter.
            Observation::Queued { record: Record::Configured { configuration }, .. }
            | Observation::Durable { record: Record::Configured { configuration }, .. } => {
                self.configurations.insert((configuration.group, configuration.epoch), configuration.clone());
            }
            Observation::Durable { node, record: Record::Accepted { group, log, ballot, first, entries }, .. } => {
                for (slot, entry) in (first.0..).map(Slot).zip(entries.iter()) {
                    if self.accept(*node, (*group, *log, slot), *ballot, entry)? {
                        by_quorum.push((*group, *log, slot));
                    }
                }
            }
            _ => {}
        }
        Ok(by_quorum)
    }

    /// Returns whether a quorum has accepted it now.
    fn accept(&mut self, node: NodeId, place: Place, ballot: Ballot, entry: &Entry) -> Result<bool, String> {
        let (group, log, slot) = place;
        let Some(configuration) = self.configurations.get(&(group, ballot.epoch)) else {
            return Err(format!("{node} accepted under ballot {ballot}, whose epoch nobody has made durable"));
        };
        let (known, acceptors) =
            self.accepted.entry((place, ballot)).or_insert_with(|| (entry.clone(), MemberSet::EMPTY));
        ensure!(known == entry, "two values under ballot {ballot} at slot {slot} of {log}: {known:?} and {entry:?}");
        if let Some(index) = configuration.index(node) {
            acceptors.insert(index);
        }
        if !configuration.is_quorum(*acceptors) {
            return Ok(false);
        }
        let (first, chosen) = self.chosen.entry(place).or_insert_with(|| (ballot, entry.clone()));
        ensure!(
            chosen == entry,
            "two values chosen at slot {slot} of {log}: {chosen:?} under {first}, {entry:?} under {ballot}"
        );
        Ok(true)
    }
}
