//! *Paxos Made Simple*, section 2.1: only a single value is chosen. All nodes deliver the same entry at a slot.

use std::collections::BTreeMap;

use consensus::{Entry, GroupId, LogId, NodeId, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// What was delivered first at each slot, and where.
#[derive(Debug, Default)]
pub struct Agreement {
    delivered: BTreeMap<(GroupId, LogId, Slot), (NodeId, Entry)>,
}

impl Invariant for Agreement {
    fn name(&self) -> &'static str {
        "agreement"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Delivered { node, group, log, slot, entry } = observation else { return Ok(()) };
        let place = (*group, *log, *slot);
        let (first, known) = self.delivered.entry(place).or_insert_with(|| (*node, (*entry).clone()));
        ensure!(known == *entry, "slot {slot} of {log}: {first} delivered {known:?}, {node} delivers {entry:?}");
        Ok(())
    }
}
