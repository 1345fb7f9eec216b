//! Rule 1: a value is chosen when a quorum accepted it, durably, under one ballot of that ballot's epoch; never two
//! values at a slot; and nothing is delivered that is not chosen at that moment.
//!
//! It sees the disks, not what nodes believe, so it finds a second chosen value before any node delivers it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use consensus::{Ballot, Configuration, Entry, Epoch, GroupId, LogId, NodeId, Record, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

type Place = (GroupId, LogId, Slot);

/// Every acceptance ever made durable.
#[derive(Debug, Default)]
pub struct ChosenByQuorum {
    configurations: BTreeMap<(GroupId, Epoch), Arc<Configuration>>,
    accepted: BTreeMap<Place, BTreeMap<Ballot, (Entry, BTreeSet<NodeId>)>>,
    chosen: BTreeMap<Place, (Ballot, Entry)>,
}

impl ChosenByQuorum {
    fn accept(&mut self, node: NodeId, place: Place, ballot: Ballot, entry: &Entry) -> Result<(), String> {
        let (group, log, slot) = place;
        let ballots = self.accepted.entry(place).or_default();
        let (known, acceptors) = ballots.entry(ballot).or_insert_with(|| (entry.clone(), BTreeSet::new()));
        ensure!(known == entry, "two values under ballot {ballot} at slot {slot} of {log}: {known:?} and {entry:?}");
        acceptors.insert(node);
        let configuration = self.configurations.get(&(group, ballot.epoch));
        let Some(configuration) = configuration else {
            return Err(format!("{node} accepted under ballot {ballot}, whose epoch nobody has made durable"));
        };
        if !configuration.is_quorum(configuration.set_of(acceptors.iter().copied())) {
            return Ok(());
        }
        let (first, chosen) = self.chosen.entry(place).or_insert_with(|| (ballot, entry.clone()));
        ensure!(
            chosen == entry,
            "two values chosen at slot {slot} of {log}: {chosen:?} under {first}, {entry:?} under {ballot}"
        );
        Ok(())
    }
}

impl Invariant for ChosenByQuorum {
    fn name(&self) -> &'static str {
        "chosen by a quorum under one ballot"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            // Queued is enough here: which configuration an epoch has is another invariant's matter.
            Observation::Queued { record: Record::Configured { configuration }, .. }
            | Observation::Durable { record: Record::Configured { configuration }, .. } => {
                self.configurations.insert((configuration.group, configuration.epoch), configuration.clone());
            }
            Observation::Durable { node, record: Record::Accepted { group, log, ballot, first, entries }, .. } => {
                for (slot, entry) in (first.0..).map(Slot).zip(entries.iter()) {
                    self.accept(*node, (*group, *log, slot), *ballot, entry)?;
                }
            }
            Observation::Delivered { node, group, log, slot, entry } => {
                let chosen = self.chosen.get(&(*group, *log, *slot)).map(|(_, entry)| entry);
                ensure!(
                    chosen == Some(entry),
                    "{node} delivers {entry:?} at slot {slot} of {log}; chosen there is {chosen:?}"
                );
            }
            _ => {}
        }
        Ok(())
    }
}
