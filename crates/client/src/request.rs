//! What a client may ask of the engine.

use crate::{GroupDescription, GroupId, LogId, NewMember, NodeId, OperationId, Slot};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Names a request within its connection; its responses repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestNumber(pub u32);

/// Names the local proposer to the face of this node, for instance the index of a PostgreSQL backend. It never leaves
/// the node and no outcome may depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin(pub u32);

/// When a proposal is answered over the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// With [`crate::Response::Outcome`], or a refusal.
    Always,
    /// Only if it was not accepted (rejected at its slot, failed, unknown): the face tells the proposer of an
    /// acceptance by its own means, which spares a wake-up.
    OnRefusal,
}

/// A request. Durations are counted from the moment at which the engine reads the request; they never affect what is
/// true, only when the engine stops waiting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Must come first. Answered by [`crate::Response::Hello`].
    Hello {
        /// [`crate::PROTOCOL_VERSION`] of the client.
        version: u32,
    },
    /// A fresh operation id, for a client without a shared counter of its own. Answered by
    /// [`crate::Response::OperationId`].
    OperationId,
    /// Makes a new group with this node as its only voter. Answered by [`crate::Response::Group`].
    CreateGroup {
        /// The name; unique on this node.
        name: String,
        /// Which face: `tables`, ...; must be one that the host of the engine knows.
        kind: String,
        /// How views show this member (a connection string without password).
        label: String,
        /// Where this member keeps the group's data, for instance the name of a database.
        database: String,
    },
    /// Every group that this node has. Answered by [`crate::Response::Groups`].
    Groups,
    /// The engine, its groups, their members and positions. Answered by [`crate::Response::Status`].
    Status,
    /// Adds a learner on behalf of a joiner, so that its key is known before it dials. Asked of an existing member;
    /// repeating it with the same key and address is harmless. Answered by [`crate::Response::Progress`] (none or
    /// more), then [`crate::Response::Group`].
    JoinRequest {
        /// The group.
        group: GroupId,
        /// Who joins.
        member: NewMember,
        /// How long to wait for the change, in milliseconds.
        wait_ms: u32,
    },
    /// Tells a joiner's own engine of the group that it was added to. Answered by [`crate::Response::Done`].
    LearnGroup {
        /// As answered by [`Request::JoinRequest`].
        group: GroupDescription,
        /// Whether a state copy follows: then the group [needs state](crate::GroupStatus::needs_state), and nothing of
        /// it reaches the face or the disk, until [`Request::InstallCheckpoint`]. Otherwise the log is replayed from
        /// its first slot, if the others still have it.
        await_state: bool,
    },
    /// Makes a learner that has caught up a voter (through a joint epoch). Answered by progress, then
    /// [`crate::Response::Done`].
    Promote {
        /// The group.
        group: GroupId,
        /// The learner.
        node: NodeId,
        /// How long to wait for the change, in milliseconds.
        wait_ms: u32,
    },
    /// Removes a member, dead or alive, this node itself included. Answered by progress, then
    /// [`crate::Response::Done`].
    Remove {
        /// The group.
        group: GroupId,
        /// The member to remove.
        node: NodeId,
        /// How long to wait for the change, in milliseconds.
        wait_ms: u32,
    },
    /// Forgets a group on this node only: its log, its checkpoints. Refused while this node is a member of it and
    /// other members exist. Answered by [`crate::Response::Done`].
    Forget {
        /// The group.
        group: GroupId,
    },
    /// Proposes an operation. Answered as `answer` says by [`crate::Response::Outcome`] or
    /// [`crate::Response::Refused`], whose certainty says whether the operation may still take effect.
    Propose {
        /// The group.
        group: GroupId,
        /// The operation's id, of this start of this node.
        id: OperationId,
        /// The face's payload, at most [`crate::frame::BODY_BYTES_MAX`].
        body: Bytes,
        /// Tells the face who waits.
        origin: Option<Origin>,
        /// When to answer.
        answer: Answer,
        /// After this many milliseconds the answer is *unknown*, or *definitely failed* if it never left the node.
        wait_ms: u32,
    },
    /// Takes back a proposal of this connection if it has not been sent. Answered by [`crate::Response::Withdrawn`].
    /// The proposal's own answer comes first, at once: a definite refusal if it was taken back, an unknown one if it
    /// was sent and is not decided; nothing if it was answered (or decided) before.
    Withdraw {
        /// The proposal.
        id: OperationId,
    },
    /// A slot such that everything completed anywhere before this request is at or below it. Answered by
    /// [`crate::Response::Barrier`].
    Barrier {
        /// The group.
        group: GroupId,
        /// How long to wait for a quorum, in milliseconds.
        wait_ms: u32,
    },
    /// Puts a value in place of another one of a log of values. Answered by [`crate::Response::Outcome`], or by a refusal: a
    /// definite one of reason *conflict* if something else was chosen in that place.
    PutValue {
        /// The group; one of values.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The operation's id, of this start of this node.
        id: OperationId,
        /// The slot of the value that this one was made from; zero if there is none.
        follows: Slot,
        /// The value, at most [`consensus::bounds::PIECE_BYTES`].
        value: Bytes,
        /// As in [`Request::Propose`].
        wait_ms: u32,
    },
    /// The newest value of a log of values, as new as everything completed anywhere before this request. Answered by
    /// [`crate::Response::Value`].
    Value {
        /// The group; one of values.
        group: GroupId,
        /// The log.
        log: LogId,
        /// How long to wait, in milliseconds.
        wait_ms: u32,
    },
    /// What this node knows to have become of an operation; changes nothing. Answered by
    /// [`crate::Response::Settled`] or [`crate::Response::Undecided`].
    LookUp {
        /// The group.
        group: GroupId,
        /// The operation, of any node.
        id: OperationId,
    },
    /// What became of an operation. If the log has not decided it, it is closed first, so that the answer is final.
    /// Answered by [`crate::Response::Settled`].
    OutcomeOf {
        /// The group.
        group: GroupId,
        /// The operation, of any node.
        id: OperationId,
        /// How long to wait, in milliseconds.
        wait_ms: u32,
    },
    /// The decided entries from a slot on, for ever, in slot order, none left out. Answered by any number of
    /// [`crate::Response::Decided`]; the engine sends no more than the socket takes and reads ahead a bounded amount.
    /// A second request for the same group on one connection replaces the first.
    Entries {
        /// The group.
        group: GroupId,
        /// The first slot wanted.
        from: Slot,
        /// Leave out the bodies of operations that this very start of this node proposed: their proposers have them.
        omit_own: bool,
    },
    /// One decided entry with its body. Answered by [`crate::Response::Decided`] with just this slot.
    Entry {
        /// The group.
        group: GroupId,
        /// The slot, at or below what this node has applied.
        slot: Slot,
    },
    /// Puts a snapshot mark into the log; the engine keeps its checkpoint for exactly the mark's slot until the mark
    /// is released, and the face is told of it. Answered by [`crate::Response::Outcome`].
    Mark {
        /// The group.
        group: GroupId,
        /// The mark's id, of this start of this node.
        id: OperationId,
        /// Tells the face who waits.
        origin: Option<Origin>,
        /// How long to wait, in milliseconds.
        wait_ms: u32,
    },
    /// A piece of the checkpoint kept for a mark. Answered by [`crate::Response::CheckpointPiece`].
    Checkpoint {
        /// The group.
        group: GroupId,
        /// The mark's slot.
        slot: Slot,
        /// Where the piece starts, in bytes.
        offset: u64,
    },
    /// Drops the checkpoint kept for a mark, and lets the log be trimmed past it. Answered by
    /// [`crate::Response::Done`]. A mark lapses by itself when its log has grown past the bound for laggards.
    ReleaseMark {
        /// The group.
        group: GroupId,
        /// The mark's slot.
        slot: Slot,
    },
    /// A piece of a checkpoint that belongs to a state copy, in order from offset 0; with the last one the state at
    /// `slot` counts as installed. The face's own data for that slot must be durable before. Answered by
    /// [`crate::Response::Done`].
    InstallCheckpoint {
        /// The group.
        group: GroupId,
        /// The slot of the copied state.
        slot: Slot,
        /// Where this piece starts, in bytes.
        offset: u64,
        /// The length of the whole, in bytes.
        length: u64,
        /// The piece, at most [`crate::frame::CHECKPOINT_PIECE_BYTES`].
        piece: Bytes,
    },
}
