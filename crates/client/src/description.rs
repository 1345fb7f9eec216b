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
    /// Accepts and votes, holds no state.
    Witness,
    /// To be a witness; does not vote yet.
    NewWitness,
    /// A voter that was away for so long that a witness had no more room for what it lacks: it becomes a voter again by
    /// itself once it has caught up.
    Away,
}

impl MemberRole {
    /// Whether there are no tables, objects or volumes at this member, only a log.
    pub fn is_witness(self) -> bool {
        matches!(self, MemberRole::Witness | MemberRole::NewWitness)
    }
}

impl std::fmt::Display for MemberRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            MemberRole::Voter => "voter",
            MemberRole::Learner => "learner",
            MemberRole::Leaving => "leaving",
            MemberRole::Witness => "witness",
            MemberRole::NewWitness => "new witness",
            MemberRole::Away => "away",
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
    /// Whether it joins as a witness, which votes and holds no state.
    pub witness: bool,
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
