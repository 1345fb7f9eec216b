//! Rules 2 to 4 and 6: an acceptor's promise never falls, over restarts too; it accepts nothing below its promise, and
//! nothing of an epoch older than its fence.

use std::collections::BTreeMap;

use consensus::{Ballot, Discipline, Epoch, GroupId, LogId, NodeId, Record, Recovered};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// What one node promised, by the records in its queue (a record binds from there on) or on its disk.
#[derive(Debug, Default, Clone)]
struct Promises {
    logs: BTreeMap<(GroupId, LogId), Ballot>,
    fences: BTreeMap<GroupId, Epoch>,
}

impl Promises {
    fn take(&mut self, node: NodeId, record: &Record) -> Result<(), String> {
        let (group, log, ballot) = match record {
            Record::Configured { configuration } => {
                let fence = self.fences.entry(configuration.group).or_default();
                *fence = (*fence).max(configuration.epoch);
                return Ok(());
            }
            Record::Forgotten { group } => {
                self.fences.remove(group);
                self.logs.retain(|(owner, _), _| owner != group);
                return Ok(());
            }
            Record::Promised { group, log, ballot } | Record::Accepted { group, log, ballot, .. } => {
                (*group, *log, *ballot)
            }
            _ => return Ok(()),
        };
        let promised = self.logs.entry((group, log)).or_default();
        ensure!(ballot >= *promised, "{node} promised {promised} in {log} and then records {record:?}");
        let fence = self.fences.get(&group).copied().unwrap_or_default();
        ensure!(ballot.epoch >= fence, "{node} fenced {fence} and then records {record:?}");
        *promised = ballot;
        Ok(())
    }
}

/// Promises of all nodes.
#[derive(Debug, Default)]
pub struct PromisesMonotone {
    queued: BTreeMap<NodeId, Promises>,
    durable: BTreeMap<NodeId, Promises>,
}

impl PromisesMonotone {
    fn check_recovered(&self, node: NodeId, recovered: &Recovered) -> Result<(), String> {
        let Some(durable) = self.durable.get(&node) else { return Ok(()) };
        for ((group, log), promised) in &durable.logs {
            let known = recovered.groups.get(group);
            let discipline = known.and_then(|group| group.configuration.as_ref()).map(|known| known.discipline);
            if discipline == Some(Discipline::Values) && *log != LogId::CONTROL {
                // Looked at when it is loaded.
                continue;
            }
            if known.is_none_or(|group| group.promises_lost || group.barred.is_some()) {
                // The disk says that it lost some, or knows nothing of the group, so that whoever tells it bars it: then nothing may be promised or accepted below them, which is
                // checked as for any other record.
                continue;
            }
            let found = recovered.groups.get(group).and_then(|group| group.logs.get(log));
            let found = found.map(|log| log.promised).unwrap_or_default();
            ensure!(found >= *promised, "{node} comes back with promise {found} in {log}, it was {promised}");
        }
        Ok(())
    }
}

impl Invariant for PromisesMonotone {
    fn name(&self) -> &'static str {
        "promises are monotone"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Started { node, recovered, .. } => self.check_recovered(*node, recovered)?,
            Observation::Loaded { node, group, log, loaded } => {
                let durable = self.durable.get(node).and_then(|node| node.logs.get(&(*group, *log)));
                let promised = durable.copied().unwrap_or_default();
                ensure!(
                    loaded.promised >= promised,
                    "{node} loads promise {} in {log}, it was {promised}",
                    loaded.promised
                );
            }
            Observation::Crashed { node } => {
                let durable = self.durable.entry(*node).or_default().clone();
                self.queued.insert(*node, durable);
            }
            Observation::Queued { node, record, .. } => self.queued.entry(*node).or_default().take(*node, record)?,
            Observation::Durable { node, record, .. } => self.durable.entry(*node).or_default().take(*node, record)?,
            _ => {}
        }
        Ok(())
    }
}
