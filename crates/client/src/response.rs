//! What the engine answers.

use crate::{DecidedBatch, GroupDescription, NodeId, OperationId, Refusal, Slot, Start, Status, Verdict};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Who answers at the other end of the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// The node.
    pub node: NodeId,
    /// The node's current start: operation ids are made with it.
    pub start: Start,
    /// The address that peers are told to dial.
    pub address: String,
    /// The public key of the node's own key pair (SubjectPublicKeyInfo, DER).
    pub public_key: Bytes,
}

/// What the log decided about an operation: final, and the same on every member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The operation.
    pub id: OperationId,
    /// Its slot.
    pub slot: Slot,
    /// What the face said when it was delivered.
    pub verdict: Verdict,
}

/// The final word on an operation whose proposer did not hear it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settled {
    /// The log holds it.
    Decided(Outcome),
    /// It never took effect and never will: its id was closed.
    Closed {
        /// Where it was closed.
        slot: Slot,
    },
    /// The window of outcomes no longer reaches back to it.
    Expired,
}

/// A step of a change that takes a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// One line for a person.
    pub message: String,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To [`crate::Request::Hello`].
    Hello(Engine),
    /// To [`crate::Request::OperationId`].
    OperationId(OperationId),
    /// To [`crate::Request::CreateGroup`] and [`crate::Request::JoinRequest`].
    Group(GroupDescription),
    /// To [`crate::Request::Groups`].
    Groups(
        #[serde(deserialize_with = "consensus::bounded::at_most::<{ consensus::bounds::GROUPS_MAX }, _, _, _>")]
        Vec<GroupDescription>,
    ),
    /// To [`crate::Request::Status`].
    Status(Box<Status>),
    /// A change goes on; more responses with this number follow.
    Progress(Progress),
    /// It is done.
    Done,
    /// An operation or mark was decided.
    Outcome(Outcome),
    /// To [`crate::Request::Withdraw`]: whether the proposal was taken back and definitely has no effect.
    Withdrawn(bool),
    /// To [`crate::Request::Barrier`].
    Barrier {
        /// Wait until this slot is applied before reading.
        slot: Slot,
    },
    /// To [`crate::Request::Value`].
    Value {
        /// The value's slot; zero if there is none yet.
        slot: Slot,
        /// The value.
        value: Bytes,
    },
    /// To [`crate::Request::OutcomeOf`] and [`crate::Request::LookUp`].
    Settled(Settled),
    /// To [`crate::Request::LookUp`]: as far as this node has applied the log, it does not hold the operation.
    Undecided,
    /// To [`crate::Request::Entries`] and [`crate::Request::Entry`].
    Decided(DecidedBatch),
    /// To [`crate::Request::Checkpoint`].
    CheckpointPiece {
        /// The length of the whole, in bytes.
        length: u64,
        /// The piece; empty at the end.
        piece: Bytes,
    },
    /// The request failed.
    Refused(Refusal),
}
