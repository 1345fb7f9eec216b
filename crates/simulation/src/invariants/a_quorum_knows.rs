//! Rule 6: when a change is answered, and when a removed node hears that it is gone, a quorum of the configuration that is in force
//! then has it on disk. The removed node may be switched off, and whatever the group bears of its own may happen at once.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{Configuration, Epoch, GroupId, NodeId, Record};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// Who has had which configuration on disk.
#[derive(Debug, Default)]
pub struct AQuorumKnows {
    durable: BTreeMap<GroupId, BTreeMap<NodeId, Epoch>>,
}

impl AQuorumKnows {
    fn check(&self, configuration: &Configuration, what: &str) -> Result<(), String> {
        let known = self.durable.get(&configuration.group).into_iter().flatten();
        let know: BTreeSet<NodeId> =
            known.filter(|(_, epoch)| **epoch >= configuration.epoch).map(|(node, _)| *node).collect();
        ensure!(
            configuration.is_quorum(configuration.set_of(know.iter().copied())),
            "{what} {configuration:?}, which only {know:?} have on disk"
        );
        Ok(())
    }
}

impl Invariant for AQuorumKnows {
    fn name(&self) -> &'static str {
        "a quorum knows"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Durable { node, record: Record::Configured { configuration }, .. } => {
                let epoch =
                    self.durable.entry(configuration.group).or_default().entry(*node).or_insert(configuration.epoch);
                *epoch = (*epoch).max(configuration.epoch);
                Ok(())
            }
            Observation::Configured { node, configuration } if configuration.index(*node).is_none() => {
                self.check(configuration, &format!("{node} hears that it was removed by"))
            }
            Observation::Changed { node, configuration } => {
                self.check(configuration, &format!("{node} answers a change with"))
            }
            _ => Ok(()),
        }
    }
}
