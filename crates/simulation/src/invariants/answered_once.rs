//! The core's contract: a request is answered by exactly one effect. (That it is answered at all is checked at the end
//! of the run.)

use std::collections::BTreeSet;

use consensus::{NodeId, OperationId, Token};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// Requests not answered yet.
#[derive(Debug, Default)]
pub struct AnsweredOnce {
    proposals: BTreeSet<(NodeId, OperationId)>,
    reads: BTreeSet<(NodeId, Token)>,
}

impl Invariant for AnsweredOnce {
    fn name(&self) -> &'static str {
        "a request is answered once"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Crashed { node } => {
                self.proposals.retain(|(asked, _)| asked != node);
                self.reads.retain(|(asked, _)| asked != node);
            }
            Observation::Proposing { node, entry } => {
                self.proposals.insert((*node, entry.id()));
            }
            Observation::Reading { node, token, .. } => {
                self.reads.insert((*node, *token));
            }
            Observation::Proposed { node, id, outcome, .. } => {
                let asked = self.proposals.remove(&(*node, *id));
                ensure!(asked, "{node} answers {outcome:?} for {id}, which nobody is waiting for");
            }
            Observation::Barrier { node, token, result } => {
                let asked = self.reads.remove(&(*node, *token));
                ensure!(asked, "{node} answers {result:?} for read {token}, which nobody is waiting for");
            }
            _ => {}
        }
        Ok(())
    }
}
