//! Says when a member falls silent and when it answers again. A link that breaks is told by the network; a member that
//! is frozen, or cut off without a word, keeps its links.

use super::Node;
use consensus::NodeId;
use std::collections::BTreeMap;
use tracing::{info, warn};

/// Whether each member was live when last looked at. Absent: never yet, as all are after a start.
pub(super) type Contact = BTreeMap<NodeId, bool>;

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
}
