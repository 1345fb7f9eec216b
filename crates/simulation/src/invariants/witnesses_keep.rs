//! Design, section 4: what a witness drops from its log, every voter with a state holds durably. So whoever is lost, what was
//! chosen is in the state of each voter that is left, or in the log of a witness.

use std::collections::BTreeMap;
use std::sync::Arc;

use consensus::{Configuration, GroupId, LogId, NodeId, Record, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// What the disks say.
#[derive(Debug, Default)]
pub struct WitnessesKeep {
    configurations: BTreeMap<(NodeId, GroupId), Arc<Configuration>>,
    held: BTreeMap<(NodeId, GroupId, LogId), Slot>,
}

impl WitnessesKeep {
    fn check(&self, node: NodeId, group: GroupId, log: LogId, dropped: Slot) -> Result<(), String> {
        let Some(configuration) = self.configurations.get(&(node, group)) else { return Ok(()) };
        // One that does not vote yet may lack what it likes.
        if !configuration.is_witness(node) || !configuration.votes(node) {
            return Ok(());
        }
        for voter in configuration.state_voters() {
            let held = self.held.get(&(voter, group, log)).copied().unwrap_or_default();
            ensure!(held >= dropped, "{node} drops {log} up to slot {dropped}, {voter} holds it up to {held}");
        }
        Ok(())
    }
}

impl Invariant for WitnessesKeep {
    fn name(&self) -> &'static str {
        "witnesses keep what a voter lacks"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Queued { node, record: Record::Configured { configuration }, .. }
            | Observation::Durable { node, record: Record::Configured { configuration }, .. } => {
                let known = self.configurations.entry((*node, configuration.group));
                let known = known.or_insert_with(|| configuration.clone());
                if known.epoch < configuration.epoch {
                    *known = configuration.clone();
                }
            }
            Observation::Started { node, recovered, .. } => {
                self.configurations.retain(|(owner, _), _| owner != node);
                for (group, found) in &recovered.groups {
                    if let Some(configuration) = &found.configuration {
                        self.configurations.insert((*node, *group), configuration.clone());
                    }
                }
            }
            Observation::Checkpointed { node, group, log, slot, .. } => {
                let held = self.held.entry((*node, *group, *log)).or_default();
                *held = (*held).max(*slot);
            }
            Observation::Queued { node, record: Record::Trimmed { group, log, up_to }, .. } => {
                self.check(*node, *group, *log, *up_to)?;
            }
            Observation::Queued { node, record: Record::Installed { group, log, slot }, .. } => {
                self.check(*node, *group, *log, *slot)?;
            }
            _ => {}
        }
        Ok(())
    }
}
