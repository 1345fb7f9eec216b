//! Rule 6: an epoch has one configuration, whoever hears of it; and none follows another without being its successor.

use std::collections::BTreeMap;

use consensus::{Configuration, Epoch, GroupId, NodeId, Record};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// Every configuration seen.
#[derive(Debug, Default)]
pub struct OneConfigurationPerEpoch {
    seen: BTreeMap<(GroupId, Epoch), Configuration>,
}

impl OneConfigurationPerEpoch {
    fn see(&mut self, node: NodeId, configuration: &Configuration) -> Result<(), String> {
        ensure!(configuration.check().is_ok(), "{node} has the invalid configuration {configuration:?}");
        let key = (configuration.group, configuration.epoch);
        let known = self.seen.entry(key).or_insert_with(|| configuration.clone());
        ensure!(known == configuration, "{node} has {configuration:?}, another has {known:?}");
        if let Some(before) = self.seen.get(&(configuration.group, Epoch(configuration.epoch.0 - 1))) {
            ensure!(follows(before, configuration), "{node} has {configuration:?} after {before:?}");
            ensure!(same_kinds(before, configuration), "{node} has {configuration:?} after {before:?}");
        }
        Ok(())
    }
}

/// Voters change through a joint epoch only: into it with those of before as its old half, out of it into either half.
fn follows(before: &Configuration, after: &Configuration) -> bool {
    let voters = |configuration: &Configuration| configuration.voters().collect::<Vec<_>>();
    match (&before.old_voters, &after.old_voters) {
        (None, None) => voters(before) == voters(after),
        (None, Some(old)) => *old == voters(before),
        (Some(old), None) => voters(after) == voters(before) || voters(after) == *old,
        (Some(_), Some(_)) => false,
    }
}

/// Who stays a member keeps its state, or stays without one.
fn same_kinds(before: &Configuration, after: &Configuration) -> bool {
    let same = |node: NodeId| before.index(node).is_none() || before.is_witness(node) == after.is_witness(node);
    after.members.iter().all(|member| same(member.node))
}

impl Invariant for OneConfigurationPerEpoch {
    fn name(&self) -> &'static str {
        "one configuration per epoch"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Queued { node, record: Record::Configured { configuration }, .. }
            | Observation::Durable { node, record: Record::Configured { configuration }, .. } => {
                self.see(*node, configuration)
            }
            Observation::Configured { node, configuration } => self.see(*node, configuration),
            _ => Ok(()),
        }
    }
}
