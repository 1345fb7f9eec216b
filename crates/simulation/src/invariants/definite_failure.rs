//! Rule 10: *definitely failed* is never taken back. An id whose every proposal was answered so is in no log, now or
//! later.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{NodeId, OperationId, ProposalOutcome, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// The attempts at an operation.
#[derive(Debug, Default)]
struct Attempts {
    open: BTreeSet<NodeId>,
    /// One of them was sent, as far as anybody can tell.
    sent: bool,
}

/// All operations.
#[derive(Debug, Default)]
pub struct DefiniteFailure {
    attempts: BTreeMap<OperationId, Attempts>,
    delivered: BTreeMap<OperationId, Slot>,
}

impl DefiniteFailure {
    fn failed(&self, id: &OperationId) -> bool {
        self.attempts.get(id).is_some_and(|attempts| attempts.open.is_empty() && !attempts.sent)
    }
}

impl Invariant for DefiniteFailure {
    fn name(&self) -> &'static str {
        "definitely failed is final"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Proposing { node, entry } => {
                self.attempts.entry(entry.id()).or_default().open.insert(*node);
            }
            Observation::Crashed { node } => {
                for attempts in self.attempts.values_mut() {
                    attempts.sent |= attempts.open.remove(node);
                }
            }
            Observation::Proposed { node, id, outcome, .. } => {
                let attempts = self.attempts.entry(*id).or_default();
                attempts.open.remove(node);
                attempts.sent |= !matches!(outcome, ProposalOutcome::Failed(_));
                if self.failed(id) {
                    let slot = self.delivered.get(id);
                    ensure!(slot.is_none(), "{node} answers that {id} failed; it is at slot {slot:?}");
                }
            }
            Observation::Delivered { node, slot, entry, .. } if self.attempts.contains_key(&entry.id()) => {
                let id = entry.id();
                ensure!(!self.failed(&id), "{node} delivers {id} at slot {slot}; it was answered as failed");
                self.delivered.insert(id, *slot);
            }
            _ => {}
        }
        Ok(())
    }
}
