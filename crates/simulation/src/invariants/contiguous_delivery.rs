//! The core's contract: entries are delivered in slot order, without gaps, each once per life, after the slot that the
//! face's durable state reached. With agreement per slot it makes delivered sequences prefixes of each other.

use std::collections::BTreeMap;

use consensus::{EntryKind, GroupId, LogId, NodeId, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// Where each node's delivery stands.
#[derive(Debug, Default)]
pub struct ContiguousDelivery {
    position: BTreeMap<(NodeId, GroupId, LogId), Slot>,
}

impl Invariant for ContiguousDelivery {
    fn name(&self) -> &'static str {
        "contiguous delivery"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Crashed { node } => self.position.retain(|(owner, ..), _| owner != node),
            Observation::Restored { node, group, log, slot } | Observation::Installed { node, group, log, slot } => {
                let position = self.position.entry((*node, *group, *log)).or_default();
                ensure!(*slot >= *position, "{node} goes back from slot {position} to {slot} of {log}");
                *position = *slot;
            }
            Observation::Unloaded { node, group, log } => {
                self.position.remove(&(*node, *group, *log));
            }
            Observation::Delivered { node, group, log, slot, entry } => {
                let position = self.position.entry((*node, *group, *log)).or_default();
                // Of a log of values the newest is delivered, whatever was between.
                let follows = *slot == position.next() || (entry.kind() == EntryKind::Value && slot > position);
                ensure!(follows, "{node} delivers slot {slot} of {log} after slot {position}");
                *position = *slot;
            }
            _ => {}
        }
        Ok(())
    }
}
