//! Rule 10: an operation that was answered as chosen stands at that slot, delivered where the answer was given. With
//! agreement, and every node whole at the end, it is nowhere lost.

use std::collections::BTreeMap;

use consensus::{LogId, NodeId, OperationId, ProposalOutcome, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// Where operations were delivered.
#[derive(Debug, Default)]
pub struct NoAcknowledgedLoss {
    operations: BTreeMap<(LogId, Slot), OperationId>,
    position: BTreeMap<(NodeId, LogId), Slot>,
}

impl Invariant for NoAcknowledgedLoss {
    fn name(&self) -> &'static str {
        "no acknowledged operation is lost"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Delivered { node, log, slot, entry, .. } if *log != LogId::CONTROL => {
                self.operations.insert((*log, *slot), entry.id());
                self.position.insert((*node, *log), *slot);
            }
            Observation::Crashed { node } => {
                self.position.retain(|(of, _), _| of != node);
            }
            Observation::Restored { node, log, slot, .. } | Observation::Installed { node, log, slot, .. } => {
                self.position.insert((*node, *log), *slot);
            }
            Observation::Proposed { node, log, id, outcome: ProposalOutcome::Chosen(slot) } => {
                let found = self.operations.get(&(*log, *slot));
                ensure!(found == Some(id), "{node} answers that {id} is chosen at slot {slot}, where {found:?} stands");
                let position = self.position.get(&(*node, *log)).copied().unwrap_or_default();
                ensure!(
                    position >= *slot,
                    "{node} answers that {id} is chosen at slot {slot}, it delivered up to {position}"
                );
            }
            _ => {}
        }
        Ok(())
    }
}
