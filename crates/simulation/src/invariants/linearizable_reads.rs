//! Rule 5: a barrier covers everything completed, anywhere, before the read was asked for. Completed means
//! acknowledged, or visible: delivered at some node, or covered by the barrier of an earlier read.

use std::collections::BTreeMap;

use consensus::{LogId, NodeId, ProposalOutcome, Slot, Token};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// The frontier of what is completed, and the reads under way with the frontier at their beginning.
#[derive(Debug, Default)]
pub struct LinearizableReads {
    completed: BTreeMap<LogId, Slot>,
    reads: BTreeMap<(NodeId, Token), (LogId, Slot)>,
}

impl LinearizableReads {
    fn complete(&mut self, log: LogId, slot: Slot) {
        let completed = self.completed.entry(log).or_default();
        *completed = (*completed).max(slot);
    }
}

impl Invariant for LinearizableReads {
    fn name(&self) -> &'static str {
        "reads are linearizable"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Delivered { slot, log, .. } => self.complete(*log, *slot),
            Observation::Proposed { log, outcome: ProposalOutcome::Chosen(slot), .. } => self.complete(*log, *slot),
            Observation::Reading { node, log, token } => {
                let completed = self.completed.get(log).copied().unwrap_or_default();
                self.reads.insert((*node, *token), (*log, completed));
            }
            Observation::Barrier { node, token, result } => {
                let asked = self.reads.remove(&(*node, *token));
                if let (Some((log, asked)), Ok(barrier)) = (asked, result) {
                    ensure!(
                        *barrier >= asked,
                        "{node} answers read {token} with barrier {barrier}; slot {asked} was completed before it was asked"
                    );
                    self.complete(log, *barrier);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
