//! *Implementing fault-tolerant services using the state machine approach* (Schneider, 1990): replicas that took the same
//! entries are in the same state. Whenever a face's state is made durable or copied, all of it is compared with what
//! any other node had at that slot.

use std::collections::BTreeMap;

use consensus::{GroupId, LogId, NodeId, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// What a state came to first at each slot, and where.
#[derive(Debug, Default)]
pub struct StatesAlike {
    states: BTreeMap<(GroupId, LogId, Slot), (NodeId, u64)>,
}

impl Invariant for StatesAlike {
    fn name(&self) -> &'static str {
        "states are alike at a slot"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Checkpointed { node, group, log, slot, digest } = observation else { return Ok(()) };
        let (first, known) = self.states.entry((*group, *log, *slot)).or_insert((*node, *digest));
        ensure!(known == digest, "at slot {slot} of {log} the state of {node} is not that of {first}");
        Ok(())
    }
}
