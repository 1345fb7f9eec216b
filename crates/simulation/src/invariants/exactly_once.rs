//! Rule 10: an id takes effect at one slot only, the same on every node; never once it was closed.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{GroupId, LogId, OperationId, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// What took effect at a slot, and what was closed there.
type Passed = (Option<OperationId>, Vec<OperationId>);

/// What took effect where.
#[derive(Debug, Default)]
pub struct ExactlyOnce {
    effects: BTreeMap<OperationId, Slot>,
    closed: BTreeSet<OperationId>,
    passed: BTreeMap<(GroupId, LogId, Slot), Passed>,
}

impl Invariant for ExactlyOnce {
    fn name(&self) -> &'static str {
        "an id takes effect once"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Applied { node, group, log, slot, effect, closed } = observation else { return Ok(()) };
        let known = self.passed.entry((*group, *log, *slot)).or_insert_with(|| (*effect, closed.to_vec()));
        ensure!(
            known.0 == *effect && known.1 == *closed,
            "at slot {slot} {node} has effect {effect:?} and closes {closed:?}; another had {known:?}"
        );
        if let Some(id) = effect {
            let first = self.effects.entry(*id).or_insert(*slot);
            ensure!(first == slot, "{id} took effect at slot {first} and again at slot {slot}");
            ensure!(!self.closed.contains(id), "{id} takes effect at slot {slot} although it was closed");
        }
        for id in *closed {
            let effect = self.effects.get(id);
            ensure!(effect.is_none(), "{id} is closed at slot {slot} as failed; it took effect at {effect:?}");
            self.closed.insert(*id);
        }
        Ok(())
    }
}
