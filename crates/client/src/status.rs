//! What the views of a face and `synod status` show.

use crate::{Engine, GroupId, MemberRole, NodeId, Slot};
use serde::{Deserialize, Serialize};

/// The whole of a node at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The engine.
    pub engine: Engine,
    /// Counters since its start.
    pub metrics: Metrics,
    /// Its groups, by name.
    #[serde(deserialize_with = "consensus::bounded::at_most::<{ consensus::bounds::GROUPS_MAX }, _, _, _>")]
    pub groups: Vec<GroupStatus>,
}

/// One group on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Its name.
    pub name: String,
    /// Which face it has.
    pub kind: String,
    /// Where this member keeps the group's data.
    pub database: String,
    /// The number of its configuration.
    pub epoch: u64,
    /// Whether a configuration change is under way.
    pub changing: bool,
    /// What this node is in it; `None` once it was removed: it was told so, or it was away then and finds that the others do not
    /// know it any more.
    pub role: Option<MemberRole>,
    /// Set if the logs of the peers no longer reach back to what this node needs: it needs a state copy of this slot or
    /// a later one.
    pub needs_state: Option<Slot>,
    /// Set if the face stopped applying, and why.
    pub stopped: Option<String>,
    /// Its log.
    pub log: LogStatus,
    /// Its members, as this node sees them.
    #[serde(deserialize_with = "consensus::bounded::at_most::<{ consensus::bounds::MEMBERS_MAX }, _, _, _>")]
    pub members: Vec<MemberStatus>,
}

/// The log of a group on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Who appends in one round trip, if known.
    pub owner: Option<NodeId>,
    /// The round of the highest ballot seen.
    pub round: u64,
    /// Every slot at or below is known chosen.
    pub chosen: Slot,
    /// Every slot at or below was given to the face.
    pub delivered: Slot,
    /// Every slot at or below is durable in the face's own store.
    pub held: Slot,
    /// Slots at or below this are no longer in the log.
    pub trimmed: Slot,
}

/// A member as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The node.
    pub node: NodeId,
    /// What it does.
    pub role: MemberRole,
    /// Where its engine is dialled.
    pub address: String,
    /// How views show it.
    pub label: String,
    /// Where it keeps the group's data.
    pub database: String,
    /// Whether it is in two-way contact with this node within the failure time-out (this node itself: true).
    pub live: bool,
    /// The highest slot that it is known to have learnt.
    pub chosen: Slot,
    /// The highest slot that it holds durably in its face's store; known to itself only.
    pub held: Option<Slot>,
}

/// Counters since the engine's start, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Proposals taken from local clients.
    pub proposals: u64,
    /// Proposals that were accepted at their slot.
    pub proposals_accepted: u64,
    /// Proposals that the face rejected at their slot.
    pub proposals_rejected: u64,
    /// Proposals that were refused before they left the node.
    pub proposals_refused: u64,
    /// Proposals whose outcome this node could not tell in time.
    pub proposals_unknown: u64,
    /// Proposals that wait for their outcome now.
    pub proposals_pending: u64,
    /// Barriers asked for.
    pub barriers: u64,
    /// Barriers that got no quorum in time.
    pub barriers_refused: u64,
    /// Slots given to faces.
    pub slots_delivered: u64,
    /// Batches written to the log, each with one fdatasync.
    pub log_batches: u64,
    /// Records written to the log.
    pub log_records: u64,
    /// Bytes written to the log.
    pub log_bytes: u64,
    /// Time spent in writing and syncing the log, in microseconds.
    pub log_sync_us: u64,
    /// The longest single write and sync of the log, in microseconds.
    pub log_sync_us_max: u64,
    /// Bytes that the log takes on disk now.
    pub log_bytes_on_disk: u64,
    /// Bytes of the log and the checkpoints that scrub has read.
    pub scrub_bytes: u64,
    /// Damage that scrub has found: entries, log segments, checkpoints.
    pub scrub_damage_found: u64,
    /// Damage that was healed, whoever found it.
    pub scrub_damage_healed: u64,
    /// Messages sent to peers.
    pub messages_sent: u64,
    /// Messages received from peers.
    pub messages_received: u64,
    /// Messages dropped because a peer's queue was full or it was not connected.
    pub messages_dropped: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Turns of the engine's loop.
    pub loop_turns: u64,
    /// The longest turn of the engine's loop, in microseconds: while it runs nobody is answered.
    pub loop_turn_us_max: u64,
    /// Logs of values in memory now.
    pub values_in_memory: u64,
    /// Logs of values that left memory.
    pub values_unloaded: u64,
    /// Connections of local clients now.
    pub clients: u64,
}
