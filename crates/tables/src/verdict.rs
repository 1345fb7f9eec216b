//! Verdicts: what certification says of an entry, with all that an error message needs.

use consensus::{NodeId, Slot};
use serde::{Deserialize, Serialize};

use crate::encoding::DecodeError;
use crate::key::{Key, Strength};

/// What every node decides of an entry, alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It commits at its slot.
    Accepted,
    /// It takes no effect.
    Rejected(Conflict),
}

/// Why an entry was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The rejected entry's key, as it touched it.
    pub key: Key,
    /// What stood against it.
    pub reason: Reason,
}

/// What stood against a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// An earlier entry touched the key, and the rejected one had not seen it.
    Touched {
        /// The slot of that entry.
        slot: Slot,
        /// The node that it came from.
        origin: NodeId,
        /// How strongly it touched the key.
        strength: Strength,
    },
    /// The key was read so long ago that what happened since is no longer remembered.
    BelowFloor {
        /// The lowest position that is still accepted.
        floor: Slot,
    },
}

impl Verdict {
    /// Whether the entry commits.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Verdict::Accepted)
    }

    /// The bytes in which a verdict travels and is kept as an operation's outcome.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a verdict always encodes")
    }

    /// The inverse of [`Verdict::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Verdict, DecodeError> {
        match postcard::take_from_bytes(bytes) {
            Ok((verdict, [])) => Ok(verdict),
            Ok((_, more)) => Err(DecodeError::Trailing(more.len())),
            Err(_) => Err(DecodeError::Malformed("a verdict")),
        }
    }
}
