//! In a log of values: a disk that knows a slot chosen holds the value there, unless a crash cut off what follows it. Who
//! forgets older values keeps the newest.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{Entry, EntryKind, GroupId, LogId, NodeId, Record, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// The slots of each log in which a disk holds a value.
#[derive(Debug, Default)]
pub struct NewestValueKept {
    held: BTreeMap<(NodeId, GroupId, LogId), BTreeSet<Slot>>,
}

impl NewestValueKept {
    fn hold<'a>(&mut self, place: (NodeId, GroupId, LogId), first: Slot, entries: impl Iterator<Item = &'a Entry>) {
        for (slot, _) in (first.0..).map(Slot).zip(entries).filter(|(_, entry)| entry.kind() == EntryKind::Value) {
            self.held.entry(place).or_default().insert(slot);
        }
    }
}

impl Invariant for NewestValueKept {
    fn name(&self) -> &'static str {
        "the newest value is kept"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Durable { node, record, .. } = observation else { return Ok(()) };
        match record {
            Record::Accepted { group, log, first, entries, .. } => {
                self.hold((*node, *group, *log), *first, entries.iter());
            }
            Record::Learnt { group, log, first, entries } => {
                self.hold((*node, *group, *log), *first, entries.iter().map(|(_, entry)| entry));
            }
            Record::Chosen { group, log, up_to } => {
                if let Some(held) = self.held.get(&(*node, *group, *log)) {
                    ensure!(held.contains(up_to), "{node} knows slot {up_to} of {log} chosen, and holds {held:?}");
                }
            }
            Record::Trimmed { group, log, up_to } => {
                if let Some(held) = self.held.get_mut(&(*node, *group, *log)) {
                    *held = held.split_off(&up_to.next());
                    ensure!(!held.is_empty(), "{node} drops {log} up to {up_to} and holds nothing");
                }
            }
            _ => {}
        }
        Ok(())
    }
}
