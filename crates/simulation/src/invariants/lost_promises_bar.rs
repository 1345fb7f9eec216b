//! Rule 9: a node that cannot know what it promised in a group does not vote there until the final epoch of a change begun
//! afterwards, one that names it; and its answers count in no sync pass. (*Protocol-Aware Recovery*, FAST 2018, and the
//! recovery of a lost disk in *Paxos Made Live*, section 5.1, which lets such a replica vote too early.)

use std::collections::BTreeMap;

use consensus::{Configuration, Epoch, GroupId, GroupMessage, Message, NodeId, Recovered};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// A node that lost its promises.
#[derive(Debug)]
struct Loss {
    /// The newest epoch that anybody knew when the node started and found the loss: a change begun afterwards has a later
    /// one. The node itself may have known an older one, and have to go by its starts.
    since: Epoch,
    /// Whether it may vote.
    renewed: bool,
}

/// Nodes that may not vote.
#[derive(Debug, Default)]
pub struct LostPromisesBar {
    losses: BTreeMap<(NodeId, GroupId), Loss>,
    newest: BTreeMap<GroupId, Epoch>,
}

impl LostPromisesBar {
    fn started(&mut self, node: NodeId, recovered: &Recovered) {
        let still_barred = |group: &GroupId| recovered.groups.get(group).is_some_and(|found| found.barred.is_some());
        self.losses.retain(|(owner, group), _| *owner != node || still_barred(group));
        for (group, found) in &recovered.groups {
            let since = self.newest.get(group).copied().unwrap_or_default();
            if found.promises_lost {
                self.losses.insert((node, *group), Loss { since, renewed: false });
            }
            if let Some(loss) = self.losses.get_mut(&(node, *group)) {
                loss.renewed = false;
            }
            if let Some(configuration) = &found.configuration {
                self.configured(node, configuration);
            }
        }
    }

    fn configured(&mut self, node: NodeId, configuration: &Configuration) {
        let newest = self.newest.entry(configuration.group).or_default();
        *newest = (*newest).max(configuration.epoch);
        let Some(loss) = self.losses.get_mut(&(node, configuration.group)) else { return };
        let renewal = configuration.renewed.get(&node);
        // The joint epoch that names it is not enough: there the old quorums still decide, and it may have promised in them.
        loss.renewed |=
            renewal.is_some_and(|renewal| renewal.joint > loss.since && configuration.epoch > renewal.joint);
    }
}

impl Invariant for LostPromisesBar {
    fn name(&self) -> &'static str {
        "lost promises bar from voting"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Started { node, recovered, .. } => self.started(*node, recovered),
            Observation::Configured { node, configuration } => self.configured(*node, configuration),
            Observation::Sent { from, message: Message::Group { group, body, .. }, .. } => {
                let votes = match body {
                    GroupMessage::Prepare { .. } | GroupMessage::Promise { .. } | GroupMessage::Accepted { .. } => true,
                    GroupMessage::SyncAnswer { votes, .. } => *votes,
                    _ => false,
                };
                let barred = self.losses.get(&(*from, *group)).filter(|loss| !loss.renewed);
                ensure!(
                    !votes || barred.is_none(),
                    "{from} lost its promises by {:?}, was not renewed since, and votes: {body:?}",
                    barred.expect("just found").since
                );
            }
            _ => {}
        }
        Ok(())
    }
}
