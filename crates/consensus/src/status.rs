//! A snapshot of the core for views, metrics and tests.

use crate::ballot::Ballot;
use crate::configuration::Configuration;
use crate::ids::{GroupId, LogId, NodeId, Sequence, Slot, Start};
use std::sync::Arc;
use std::time::Duration;

/// What one node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// This node.
    pub node: NodeId,
    /// Its start.
    pub start: Start,
    /// Durable length of its log.
    pub position: Sequence,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
    /// Its groups.
    pub groups: Vec<GroupStatus>,
}

/// Another node, as seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The node.
    pub node: NodeId,
    /// Whether it is in two-way contact with this one.
    pub live: bool,
    /// Since when it was heard last; none if never.
    pub silent_for: Option<Duration>,
    /// The highest length of its log that was seen (rule 7).
    pub position: Sequence,
}

/// One group, as seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// The configuration in force here.
    pub configuration: Arc<Configuration>,
    /// Whether this node belongs to it.
    pub is_member: bool,
    /// Whether this node may vote (rule 9).
    pub may_vote: bool,
    /// Whether a quorum is in two-way contact.
    pub has_quorum: bool,
    /// Nodes that do not know yet that they were removed: they are told once a quorum of the members has the configuration on disk.
    pub untold: Vec<NodeId>,
    /// Its logs, without the control log.
    pub logs: Vec<LogStatus>,
}

/// What a log holds in its queues. Cheap to look at: for checks after every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogQueues {
    /// The group.
    pub group: GroupId,
    /// The log.
    pub log: LogId,
    /// Operations admitted here and not yet chosen.
    pub pending: usize,
    /// Slots in flight here, if owner.
    pub in_flight: usize,
    /// Entries that wait here to be proposed.
    pub queued: usize,
    /// Readers that wait for their barrier.
    pub readers: usize,
    /// Chosen slots whose content is being fetched again.
    pub healing: usize,
    /// Closed-up-to.
    pub closed: Slot,
    /// Delivered to the face.
    pub delivered: Slot,
    /// Held durably by the face.
    pub held: Slot,
}

/// One log, as seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStatus {
    /// The log.
    pub log: LogId,
    /// The highest ballot known.
    pub ballot: Ballot,
    /// The node of that ballot, if one proposed.
    pub owner: Option<NodeId>,
    /// Whether this node is the owner and may skip phase 1.
    pub is_owner: bool,
    /// Closed-up-to.
    pub closed: Slot,
    /// Delivered to the face.
    pub delivered: Slot,
    /// Held durably by the face.
    pub held: Slot,
    /// Trimmed from the log.
    pub trimmed: Slot,
    /// Slots in flight here, if owner.
    pub in_flight: usize,
    /// Operations admitted here and not yet chosen.
    pub pending: usize,
    /// Closed-up-to of the other members, as last heard; lag is the distance to `closed`.
    pub members: Vec<(NodeId, Slot)>,
    /// Whether it is waiting for a state copy.
    pub needs_state: bool,
    /// The first slot not delivered whose content this node's disk has lost, and that nothing has healed so far: it waits for
    /// whoever has an intact copy.
    pub damaged: Option<Slot>,
}
