//! Groups and members as they are shown and handed to a joiner.

use crate::{GroupId, NodeId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What a member does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRole {
    /// Accepts and holds state.
    Voter,
    /// Receives, does not vote.
    Learner,
    /// Votes for the old configuration until a change under way is done; gone after it.
    Leaving,
}

impl std::fmt::Display for MemberRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            MemberRole::Voter => "voter",
            MemberRole::Learner => "learner",
            MemberRole::Leaving => "leaving",
        })
    }
}

/// Who wants to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMember {
    /// The node.
    pub node: NodeId,
    /// Where its engine is dialled, `host:port`.
    pub address: String,
    /// Its public key ([`crate::Engine::public_key`] of its own engine).
    pub public_key: Bytes,
    /// How views show it.
    pub label: String,
    /// Where it keeps the group's data.
    pub database: String,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberDescription {
    /// The node.
    pub node: NodeId,
    /// What it does.
    pub role: MemberRole,
    /// Where its engine is dialled.
    pub address: String,
    /// Its public key.
    pub public_key: Bytes,
    /// How views show it.
    pub label: String,
    /// Where it keeps the group's data.
    pub database: String,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDescription {
    /// Its identity.
    pub group: GroupId,
    /// Its name, a label.
    pub name: String,
    /// Which face it has.
    pub kind: String,
    /// The number of its configuration.
    pub epoch: u64,
    /// Its members, in the order of their ids.
    #[serde(deserialize_with = "consensus::bounded::at_most::<{ consensus::bounds::MEMBERS_MAX }, _, _, _>")]
    pub members: Vec<MemberDescription>,
    /// Its configuration in the engine's own encoding, for [`crate::Request::LearnGroup`].
    pub configuration: Bytes,
}
