//! Why a request failed, and what is certain about it.

use crate::{NodeId, OperationId};
use serde::{Deserialize, Serialize};

/// What is known about the effect of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Certainty {
    /// It had no effect and never will.
    Definite,
    /// It may have taken effect, or still take it. Only [`crate::Request::OutcomeOf`] settles it.
    Unknown,
}

/// Why a request failed. A face maps this to its own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefusalReason {
    /// No quorum is in contact.
    NoQuorum,
    /// The deadline passed.
    Deadline,
    /// No group with this id is on this node.
    UnknownGroup,
    /// A group with this name is on this node already.
    GroupExists,
    /// This node is not a member of the group, or was removed from it.
    NotAMember,
    /// No such member is in the group.
    UnknownMember,
    /// This node's copy of the state is not complete.
    NoState,
    /// A body, a name or another value is too large.
    TooLarge,
    /// The client took the proposal back.
    Withdrawn,
    /// A queue or window is full; worth trying again later.
    Full,
    /// The operation's id is older than the window of ids.
    Expired,
    /// The operation's id was closed by somebody who asked for its outcome.
    Closed,
    /// The face foresaw that the operation would be rejected; `detail` says why, in the face's encoding.
    Conflict,
    /// Another configuration change is under way, or the change would leave no voter.
    Change,
    /// The entry asked for is no longer in the log, or the checkpoint asked for is not kept.
    Gone,
    /// The request makes no sense: wrong state, malformed value.
    Invalid,
    /// The client speaks another version of the protocol.
    Version,
    /// The engine is stopping.
    Stopping,
    /// Damaged or failing storage.
    Storage,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// What is certain.
    pub certainty: Certainty,
    /// What was refused and why: short, lower case, no full stop.
    pub message: String,
    /// What to do about it, as a sentence; may be empty.
    pub hint: String,
    /// The operation concerned.
    pub id: Option<OperationId>,
    /// For [`RefusalReason::Conflict`]: why, in the face's encoding.
    pub detail: Vec<u8>,
    /// Members that answer, by node and label.
    #[serde(deserialize_with = "consensus::bounded::at_most::<{ consensus::bounds::MEMBERS_MAX }, _, _, _>")]
    pub answering: Vec<(NodeId, String)>,
    /// Members that do not.
    #[serde(deserialize_with = "consensus::bounded::at_most::<{ consensus::bounds::MEMBERS_MAX }, _, _, _>")]
    pub silent: Vec<(NodeId, String)>,
}

impl Refusal {
    /// A refusal of something that had no effect.
    pub fn definite(reason: RefusalReason, message: impl Into<String>) -> Refusal {
        Refusal {
            reason,
            certainty: Certainty::Definite,
            message: message.into(),
            hint: String::new(),
            id: None,
            detail: Vec::new(),
            answering: Vec::new(),
            silent: Vec::new(),
        }
    }

    /// A refusal of something that may have taken effect.
    pub fn unknown(reason: RefusalReason, message: impl Into<String>) -> Refusal {
        Refusal { certainty: Certainty::Unknown, ..Refusal::definite(reason, message) }
    }

    /// The same with a hint.
    pub fn with_hint(self, hint: impl Into<String>) -> Refusal {
        Refusal { hint: hint.into(), ..self }
    }

    /// The same about an operation.
    pub fn about(self, id: OperationId) -> Refusal {
        Refusal { id: Some(id), ..self }
    }

    /// One line that names who answers and who does not, for a DETAIL; empty if nothing is known.
    pub fn contact(&self) -> String {
        let names = |members: &[(NodeId, String)]| {
            members
                .iter()
                .map(|(node, label)| if label.is_empty() { node.to_string() } else { label.clone() })
                .collect::<Vec<_>>()
                .join(", ")
        };
        match (self.answering.is_empty(), self.silent.is_empty()) {
            (true, true) => String::new(),
            (false, true) => format!("Answering: {}.", names(&self.answering)),
            (true, false) => format!("Not answering: {}.", names(&self.silent)),
            (false, false) => format!("Answering: {}. Not answering: {}.", names(&self.answering), names(&self.silent)),
        }
    }
}
