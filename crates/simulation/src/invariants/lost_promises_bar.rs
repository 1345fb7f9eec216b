//! Rule 9: a node that cannot know what it promised in a group does not vote there until the final epoch of a change begun
//! afterwards, one that names it; and its answers count in no sync pass. (*Protocol-Aware Recovery*, FAST 2018, and the
//! recovery of a lost disk in *Paxos Made Live*, section 5.1, which lets such a replica vote too early.)

use std::collections::BTreeMap;

use consensus::{Configuration, Epoch, GroupId, GroupMessage, Message, NodeId};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// Nodes that may not vote, and the newest epoch that each knew when it lost its promises.
#[derive(Debug, Default)]
pub struct LostPromisesBar {
    since: BTreeMap<(NodeId, GroupId), Epoch>,
}

impl LostPromisesBar {
    fn lift(&mut self, node: NodeId, configuration: &Configuration) {
        let key = (node, configuration.group);
        let Some(since) = self.since.get(&key) else { return };
        let renewed = configuration.renewed.get(&node);
        // The joint epoch that names it is not enough: there the old quorums still decide, and it may have promised in them.
        if renewed.is_some_and(|joint| joint > since && configuration.epoch > *joint) {
            self.since.remove(&key);
        }
    }
}

impl Invariant for LostPromisesBar {
    fn name(&self) -> &'static str {
        "lost promises bar from voting"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Started { node, recovered, .. } => {
                self.since.retain(|(owner, _), _| owner != node);
                for (group, found) in &recovered.groups {
                    let epoch = found.configuration.as_ref().map(|known| known.epoch).unwrap_or_default();
                    let lost = found.promises_lost.then_some(epoch);
                    if let Some(since) = lost.max(found.barred_since) {
                        self.since.insert((*node, *group), since);
                    }
                    if let Some(configuration) = &found.configuration {
                        self.lift(*node, configuration);
                    }
                }
            }
            Observation::Configured { node, configuration } => self.lift(*node, configuration),
            Observation::Sent { from, message: Message::Group { group, body, .. }, .. } => {
                let votes = match body {
                    GroupMessage::Prepare { .. } | GroupMessage::Promise { .. } | GroupMessage::Accepted { .. } => true,
                    GroupMessage::SyncAnswer { votes, .. } => *votes,
                    _ => false,
                };
                let barred = self.since.get(&(*from, *group));
                ensure!(
                    !votes || barred.is_none(),
                    "{from} lost its promises in epoch {:?} and votes: {body:?}",
                    barred.expect("just found")
                );
            }
            _ => {}
        }
        Ok(())
    }
}
