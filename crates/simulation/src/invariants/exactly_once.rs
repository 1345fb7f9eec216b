//! Rule 10: an id takes effect at one slot only, the same on every node; never once it was closed.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{GroupId, LogId, OperationId, Slot};

use super::{ensure, Invariant};
use crate::face::Passed;
use crate::observation::Observation;

/// What took effect where.
#[derive(Debug, Default)]
pub struct ExactlyOnce {
    effects: BTreeMap<OperationId, Slot>,
    /// Rejected, and where first.
    rejected: BTreeMap<OperationId, Slot>,
    closed: BTreeSet<OperationId>,
    passed: BTreeMap<(GroupId, LogId, Slot), Passed>,
}

impl Invariant for ExactlyOnce {
    fn name(&self) -> &'static str {
        "an id takes effect once"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Applied { node, group, log, slot, passed } = observation else { return Ok(()) };
        let known = self.passed.entry((*group, *log, *slot)).or_insert_with(|| passed.clone());
        ensure!(known == passed, "at slot {slot} {node} has {passed:?}; another had {known:?}");
        let Passed { effect, rejected, closed } = passed;
        if let Some(id) = rejected {
            let first = self.rejected.entry(*id).or_insert(*slot);
            ensure!(first == slot, "{id} was rejected at slot {first} and again at slot {slot}");
            ensure!(!self.closed.contains(id), "{id} is rejected at slot {slot} although it was closed");
        }
        if let Some(id) = effect {
            let first = self.effects.entry(*id).or_insert(*slot);
            ensure!(first == slot, "{id} took effect at slot {first} and again at slot {slot}");
            let rejected = self.rejected.get(id);
            ensure!(rejected.is_none(), "{id} takes effect at slot {slot}; it was rejected at {rejected:?}");
            ensure!(!self.closed.contains(id), "{id} takes effect at slot {slot} although it was closed");
        }
        for id in closed {
            let effect = self.effects.get(id);
            ensure!(effect.is_none(), "{id} is closed at slot {slot} as failed; it took effect at {effect:?}");
            self.closed.insert(*id);
        }
        Ok(())
    }
}
