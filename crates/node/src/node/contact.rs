//! Says when a member falls silent and when it answers again. A link that breaks is told by the network; a member that
//! is frozen, or cut off without a word, keeps its links.
//!
//! And finds out that this node was removed from a group while it was away. Those that stayed take its key no more, so nobody can
//! tell it; but that they refuse it, it hears from each.

use super::Node;
use crate::limits::DISOWNED_FOR;
use crate::refusals;
use client::{GroupId, Refusal};
use consensus::{Configuration, NodeId};
use network::LinkStatus;
use std::collections::BTreeMap;
use std::time::Instant;
use tracing::{info, warn};

/// Whether each member was live when last looked at. Absent: never yet, as all are after a start.
pub(super) type Contact = BTreeMap<NodeId, bool>;

/// Groups of whose members this node hears nothing but that they do not know it: since when, and whether that is for so long that
/// it takes itself for removed.
pub(super) type Disowned = BTreeMap<GroupId, (Instant, bool)>;

impl Node {
    pub(super) fn note_contact(&mut self) {
        let seen = self.core.status(self.now()).peers;
        let peers = &self.peers;
        self.contact.retain(|node, _| peers.contains_key(node));
        for (node, peer) in peers {
            let is_live = seen.iter().any(|one| one.node == *node && one.live);
            match (self.contact.get(node), is_live) {
                (Some(true), false) => warn!("node {node} at {} is silent", peer.address),
                (Some(false), true) => info!("node {node} at {} answers again", peer.address),
                (None, false) => continue,
                _ => {}
            }
            self.contact.insert(*node, is_live);
        }
    }

    pub(super) fn note_disowned(&mut self) {
        let links = self.links.status();
        let mut disowned = Disowned::new();
        for (group, replica) in &self.replicas {
            if !disowns(&replica.configuration, self.node, &links) {
                continue;
            }
            let (since, was_removed) = self.disowned.get(group).copied().unwrap_or((Instant::now(), false));
            let is_removed = since.elapsed() >= DISOWNED_FOR;
            if is_removed && !was_removed {
                warn!(
                    "the other members of group \"{}\" do not know this node any more: it was removed while it was away",
                    replica.configuration.name
                );
            }
            disowned.insert(*group, (since, is_removed));
        }
        self.disowned = disowned;
    }

    /// Whether this node was removed from the group while it was away.
    pub(super) fn is_disowned(&self, group: GroupId) -> bool {
        self.disowned.get(&group).is_some_and(|(_, is_removed)| *is_removed)
    }

    /// What a client of the group is told of the core's refusal.
    pub(super) fn refusal(&self, group: GroupId, refusal: consensus::Refusal) -> Refusal {
        let configuration = self.replicas.get(&group).map(|replica| &*replica.configuration);
        match (refusal, configuration) {
            (consensus::Refusal::NoQuorum { .. }, Some(configuration)) if self.is_disowned(group) => {
                refusals::not_a_member(&configuration.name)
            }
            (refusal, configuration) => refusals::from_core(refusal, configuration),
        }
    }
}

/// Whether most of the other voters refuse this node's key and no member does otherwise. A member that only lags behind in epochs
/// refuses a new one, too; but whoever let it in does not.
fn disowns(configuration: &Configuration, node: NodeId, links: &[LinkStatus]) -> bool {
    let others: Vec<NodeId> = configuration.voters().filter(|voter| *voter != node).collect();
    let is_in_contact = |link: &LinkStatus| link.receiving || link.connected.is_some();
    let of_members = || links.iter().filter(|link| configuration.member(link.node).is_some());
    let refusing = of_members().filter(|link| link.refused && others.contains(&link.node)).count();
    configuration.member(node).is_some() && 2 * refusing > others.len() && !of_members().any(is_in_contact)
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Member, Role, Start};

    fn link(node: u128, refused: bool, connected: bool) -> LinkStatus {
        LinkStatus {
            node: NodeId(node),
            address: String::new(),
            connected: connected.then_some(Start(1)),
            receiving: false,
            queued_bytes: 0,
            last_error: None,
            refused,
        }
    }

    fn is_disowned(links: &[LinkStatus]) -> bool {
        let member = |node, role| Member {
            node: NodeId(node),
            role,
            address: "a:1".into(),
            public_key: Vec::new(),
            label: String::new(),
        };
        let mut configuration = Configuration::first(GroupId(1), "g", "tables", "", member(1, Role::Voter));
        configuration.members.extend([member(2, Role::Voter), member(3, Role::Voter), member(4, Role::Learner)]);
        disowns(&configuration, NodeId(1), links)
    }

    #[test]
    fn a_member_is_disowned_by_most_of_the_others_and_only_if_nobody_says_otherwise() {
        assert!(is_disowned(&[link(2, true, false), link(3, true, false), link(4, false, false)]));
        assert!(!is_disowned(&[link(2, false, false), link(3, false, false)]), "silence says nothing");
        assert!(!is_disowned(&[link(2, true, false), link(3, false, false)]), "one alone may be wrong");
        assert!(!is_disowned(&[link(2, true, false), link(4, true, false)]), "a learner does not count");
        assert!(!is_disowned(&[link(2, true, false), link(3, true, false), link(4, false, true)]), "4 knows it");
        assert!(!is_disowned(&[link(2, true, false), link(9, true, false)]), "9 is of another group");
    }
}
