//! Rule 6: a node told of a chosen epoch refuses votes and reads of older ones from then on: it says nothing that counts in
//! an older epoch, and its disk takes nothing under an older ballot. (In the manner of Vertical Paxos, section 3.)

use std::collections::BTreeMap;

use consensus::{Epoch, GroupId, GroupMessage, Message, NodeId, Record};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// The highest epoch that each node queued: in force from there on, durable or not.
#[derive(Debug, Default)]
pub struct EpochsFenced {
    fences: BTreeMap<(NodeId, GroupId), Epoch>,
    /// The same, durable: what is left after a crash.
    durable: BTreeMap<(NodeId, GroupId), Epoch>,
}

impl EpochsFenced {
    fn check_sent(&self, node: NodeId, group: GroupId, epoch: Epoch, body: &GroupMessage) -> Result<(), String> {
        let ballot = match body {
            GroupMessage::Promise { ballot, .. } | GroupMessage::Accepted { ballot, .. } => Some(*ballot),
            GroupMessage::ReadAnswer { .. } | GroupMessage::SyncAnswer { .. } | GroupMessage::Fenced => None,
            _ => return Ok(()),
        };
        ensure!(ballot.is_none_or(|ballot| ballot.epoch == epoch), "{node} votes for {ballot:?} in {epoch}");
        // A reply that waited for the disk carries the epoch in which it was said, and whoever gets it fences it. A read
        // answer waits for nothing.
        let fence = self.fences.get(&(node, group)).copied().unwrap_or_default();
        let late = matches!(body, GroupMessage::ReadAnswer { .. }) && epoch < fence;
        ensure!(!late, "{node} fenced {fence} and answers a read in {epoch}");
        Ok(())
    }
}

impl Invariant for EpochsFenced {
    fn name(&self) -> &'static str {
        "epochs are fenced"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Queued { node, record, .. } => match record {
                Record::Configured { configuration } => {
                    let fence = self.fences.entry((*node, configuration.group)).or_default();
                    *fence = (*fence).max(configuration.epoch);
                }
                Record::Promised { group, ballot, .. } | Record::Accepted { group, ballot, .. } => {
                    let fence = self.fences.get(&(*node, *group)).copied().unwrap_or_default();
                    ensure!(ballot.epoch == fence, "{node} is in {fence} and records {record:?}");
                }
                Record::Forgotten { group } => {
                    self.fences.remove(&(*node, *group));
                }
                _ => {}
            },
            Observation::Durable { node, record: Record::Configured { configuration }, .. } => {
                let fence = self.durable.entry((*node, configuration.group)).or_default();
                *fence = (*fence).max(configuration.epoch);
            }
            Observation::Started { node, recovered, .. } => {
                self.fences.retain(|(owner, _), _| owner != node);
                for (group, found) in &recovered.groups {
                    let epoch =
                        found.configuration.as_ref().map(|configuration| configuration.epoch).unwrap_or_default();
                    let durable = self.durable.get(&(*node, *group)).copied().unwrap_or_default();
                    let lost = found.promises_lost || found.barred.is_some();
                    ensure!(lost || epoch >= durable, "{node} fenced {durable} and comes back in {epoch}");
                    self.fences.insert((*node, *group), epoch);
                }
            }
            Observation::Sent { from, message: Message::Group { group, epoch, body, .. }, .. } => {
                self.check_sent(*from, *group, *epoch, body)?;
            }
            _ => {}
        }
        Ok(())
    }
}
