//! Rule 5: a barrier covers everything completed, anywhere, before the read was asked for. Completed means
//! acknowledged, or visible: delivered at some node, or covered by the barrier of an earlier read.

use std::collections::BTreeMap;

use consensus::{LogId, NodeId, ProposalOutcome, Slot, Token};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// The frontier of what is completed, and the reads under way with the frontier at their beginning.
#[derive(Debug, Default)]
pub struct LinearizableReads {
    completed: Slot,
    reads: BTreeMap<(NodeId, Token), Slot>,
}

impl Invariant for LinearizableReads {
    fn name(&self) -> &'static str {
        "reads are linearizable"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Delivered { slot, log: LogId::MAIN, .. } => self.completed = self.completed.max(*slot),
            Observation::Proposed { outcome: ProposalOutcome::Chosen(slot), .. } => {
                self.completed = self.completed.max(*slot);
            }
            Observation::Reading { node, token } => {
                self.reads.insert((*node, *token), self.completed);
            }
            Observation::Barrier { node, token, result } => {
                let asked = self.reads.remove(&(*node, *token));
                if let (Some(asked), Ok(barrier)) = (asked, result) {
                    ensure!(
                        *barrier >= asked,
                        "{node} answers read {token} with barrier {barrier}; slot {asked} was completed before it was asked"
                    );
                    self.completed = self.completed.max(*barrier);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
