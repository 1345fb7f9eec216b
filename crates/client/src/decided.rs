//! Decided entries, as the applier of a face reads them.

use crate::{OperationId, Slot};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What a face decides about an operation when it is delivered; part of the log's state, the same on every member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It takes effect.
    Accepted,
    /// It has no effect; the face says why, in its own encoding (at most [`Verdict::DETAIL_BYTES_MAX`]).
    Rejected(Bytes),
}

impl Verdict {
    /// The largest reason of a rejection, in bytes. It is kept in the window of ids for every rejected operation, so it
    /// has room for a table, a key and a slot, not for rows.
    pub const DETAIL_BYTES_MAX: usize = 1024;

    /// Whether the operation takes effect.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Verdict::Accepted)
    }
}

/// A decided slot that holds an operation or a snapshot mark which has its first occurrence there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedEntry {
    /// The slot.
    pub slot: Slot,
    /// The operation.
    pub id: OperationId,
    /// Whether it takes effect.
    pub verdict: Verdict,
    /// Whether it is a snapshot mark, which has no body.
    pub mark: bool,
    /// The payload of an accepted operation; `None` for rejected ones, for marks and where it was asked to be left
    /// out.
    pub body: Option<Bytes>,
}

/// Consecutive decided slots. Slots from `from` to `through` that are not among `entries` have no effect (no-ops,
/// repeated ids, closed ids, configurations).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedBatch {
    /// The first slot covered.
    pub from: Slot,
    /// The last slot covered.
    pub through: Slot,
    /// What happened there, in slot order.
    #[serde(deserialize_with = "consensus::bounded::at_most::<{ DecidedBatch::SLOTS_MAX as usize }, _, _, _>")]
    pub entries: Vec<DecidedEntry>,
}

impl DecidedBatch {
    /// Slots that one batch covers at most: what an applier takes in well under a second.
    pub const SLOTS_MAX: u64 = 4096;
}
