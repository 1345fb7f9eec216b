//! Who belongs to a group, who votes, and what a quorum is (rule 6). Quorums are asked here and counted nowhere else.

use crate::bounded::{at_most, map_of_at_most, perhaps_at_most};
use crate::bounds::{self, MEMBERS_MAX};
use crate::ids::{Epoch, GroupId, NodeId};
use crate::renewal::Renewal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a member does in the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Role {
    /// Accepts, votes and holds state.
    Voter,
    /// Receives and holds state, does not vote.
    Learner,
    /// Votes in the old half of a joint epoch only; gone after it.
    Leaving,
    /// Accepts and votes, keeps entries, holds no state. Fewer than a quorum are, so that every quorum holds the state.
    Witness,
    /// To be a witness: receives, does not vote yet.
    NewWitness,
    /// As [`Role::Leaving`], of a witness.
    LeavingWitness,
    /// A voter until a witness had no more room for what it lacked: does not vote, and becomes a voter again by itself once it
    /// has caught up.
    Away,
}

impl Role {
    /// Whether its votes count in the configuration (in the new one, in a joint epoch).
    #[must_use]
    pub fn votes(self) -> bool {
        matches!(self, Role::Voter | Role::Witness)
    }

    /// Whether there is a state beside its log. That never changes while it is a member.
    #[must_use]
    pub fn holds_state(self) -> bool {
        !matches!(self, Role::Witness | Role::NewWitness | Role::LeavingWitness)
    }

    /// Whether it is gone after the joint epoch.
    #[must_use]
    pub fn is_leaving(self) -> bool {
        matches!(self, Role::Leaving | Role::LeavingWitness)
    }
}

/// What a group's data logs are (design, section 1). Declared when the group is made, for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Discipline {
    /// Every entry matters; many slots in flight. One log, always in memory.
    #[default]
    Sequences,
    /// The newest chosen value replaces older ones; one slot in flight. Many logs, loaded when they are used.
    Values,
}

/// One node's part in a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// Where its engine listens for peers, as host:port.
    pub address: String,
    /// The key with which it must identify itself on every link: DER of its public key.
    pub public_key: Vec<u8>,
    /// What it does. In a joint epoch: in the new configuration.
    pub role: Role,
    /// For the group's users: how to reach the server beside it (a connection string without password). The core ignores it.
    pub label: String,
}

/// The configuration of a group in one epoch.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The group.
    pub group: GroupId,
    /// The group's name: a label.
    pub name: String,
    /// Which face it serves, such as "tables".
    pub kind: String,
    /// Free text of the face, fixed at creation (for tables: the database).
    pub detail: String,
    /// What its data logs are.
    pub discipline: Discipline,
    /// Number of this configuration; also its slot in the control log.
    pub epoch: Epoch,
    /// Members in the order of their ids.
    #[serde(deserialize_with = "at_most::<MEMBERS_MAX, _, _, _>")]
    pub members: Vec<Member>,
    /// In a joint epoch: the voters of the old configuration, in order.
    #[serde(deserialize_with = "perhaps_at_most::<MEMBERS_MAX, _, _>")]
    pub old_voters: Option<Vec<NodeId>>,
    /// Members that had lost their promises, each with the renewal begun afterwards: past its joint epoch they vote again (rule 9).
    #[serde(deserialize_with = "map_of_at_most::<MEMBERS_MAX, _, _, _>")]
    pub renewed: BTreeMap<NodeId, Renewal>,
}

/// A set of members of one configuration: bit n stands for its n-th member.
#[derive(Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Debug)]
pub struct MemberSet(pub(crate) u32);

impl MemberSet {
    /// Nobody.
    pub const EMPTY: MemberSet = MemberSet(0);

    /// Whether the n-th member is in it.
    #[must_use]
    pub fn contains(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }

    /// Adds the n-th member.
    pub fn insert(&mut self, index: usize) {
        assert!(index < bounds::MEMBERS_MAX);
        self.0 |= 1 << index;
    }

    /// Takes the n-th member out.
    pub fn remove(&mut self, index: usize) {
        self.0 &= !(1 << index);
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl Configuration {
    /// A new group of one voter.
    #[must_use]
    pub fn first(group: GroupId, name: &str, kind: &str, detail: &str, mut member: Member) -> Configuration {
        member.role = Role::Voter;
        Configuration {
            group,
            name: name.to_owned(),
            kind: kind.to_owned(),
            detail: detail.to_owned(),
            discipline: Discipline::Sequences,
            epoch: Epoch(1),
            members: vec![member],
            old_voters: None,
            renewed: BTreeMap::new(),
        }
    }

    /// The same, with other logs. For the first configuration of a group only.
    #[must_use]
    pub fn with_discipline(mut self, discipline: Discipline) -> Configuration {
        self.discipline = discipline;
        self
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.index(node).map(|index| &self.members[index])
    }

    /// Where this node stands among the members.
    #[must_use]
    pub fn index(&self, node: NodeId) -> Option<usize> {
        self.members.binary_search_by_key(&node, |member| member.node).ok()
    }

    /// Whether both an old and a new configuration are in force.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.old_voters.is_some()
    }

    /// Voters of the configuration (of the new one, in a joint epoch), witnesses among them.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(|member| member.role.votes()).map(|member| member.node)
    }

    /// Whether the node is a member that holds the state.
    #[must_use]
    pub fn holds_state(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|member| member.role.holds_state())
    }

    /// Whether the node is a member that keeps entries and holds no state, voting or not.
    #[must_use]
    pub fn is_witness(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|member| !member.role.holds_state())
    }

    /// Whether any member is a witness, voting or not.
    #[must_use]
    pub fn has_witnesses(&self) -> bool {
        self.members.iter().any(|member| !member.role.holds_state())
    }

    /// All whose votes count for anything in this epoch and who hold the state: what a witness keeps, it keeps for them.
    pub fn state_voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        let voting = |member: &&Member| member.role.holds_state() && self.votes(member.node);
        self.members.iter().filter(voting).map(|member| member.node)
    }

    /// Whether this node's votes count for anything in this epoch.
    #[must_use]
    pub fn votes(&self, node: NodeId) -> bool {
        self.voters().any(|voter| voter == node) || self.old_voters.iter().flatten().any(|voter| *voter == node)
    }

    /// All whose votes count for anything in this epoch.
    #[must_use]
    pub fn all_voters(&self) -> Vec<NodeId> {
        self.members.iter().map(|member| member.node).filter(|node| self.votes(*node)).collect()
    }

    /// Whether the set is a quorum: a majority of the voters, and in a joint epoch of the old voters as well.
    #[must_use]
    pub fn is_quorum(&self, set: MemberSet) -> bool {
        self.is_new_quorum(set) && self.is_old_quorum(set)
    }

    /// Whether the set holds a majority of the voters of the new configuration (of the only one, outside a joint epoch).
    #[must_use]
    pub fn is_new_quorum(&self, set: MemberSet) -> bool {
        let (mut all, mut present) = (0, 0);
        for (index, member) in self.members.iter().enumerate() {
            if member.role.votes() {
                all += 1;
                present += usize::from(set.contains(index));
            }
        }
        2 * present > all
    }

    /// Whether the set holds a majority of the voters of the old configuration (of the only one, outside a joint epoch).
    #[must_use]
    pub fn is_old_quorum(&self, set: MemberSet) -> bool {
        let Some(old) = &self.old_voters else { return self.is_new_quorum(set) };
        let present = old.iter().filter(|node| self.index(**node).is_some_and(|index| set.contains(index))).count();
        2 * present > old.len()
    }

    /// The set of the members named.
    #[must_use]
    pub fn set_of(&self, nodes: impl IntoIterator<Item = NodeId>) -> MemberSet {
        let mut set = MemberSet::EMPTY;
        for index in nodes.into_iter().filter_map(|node| self.index(node)) {
            set.insert(index);
        }
        set
    }

    /// Whether it keeps every bound and its own rules; what comes from a disk or a peer must.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), InvalidConfiguration> {
        let wrong = |why| Err(InvalidConfiguration(why));
        if self.members.is_empty() || self.members.len() > bounds::MEMBERS_MAX {
            return wrong("number of members out of bounds");
        }
        if !self.members.windows(2).all(|pair| pair[0].node < pair[1].node) {
            return wrong("members out of order");
        }
        if self.voters().next().is_none() {
            return wrong("no voter");
        }
        if self.epoch.0 == 0 || self.epoch.0 > 1 << 62 {
            return wrong("epoch out of bounds");
        }
        let long = |member: &Member| {
            member.address.len() > bounds::MEMBER_TEXT_MAX
                || member.label.len() > bounds::MEMBER_TEXT_MAX
                || member.public_key.len() > bounds::MEMBER_TEXT_MAX
        };
        if self.members.iter().any(long)
            || self.name.len() + self.kind.len() + self.detail.len() > bounds::MEMBER_TEXT_MAX
        {
            return wrong("a text is too long");
        }
        if let Some(old) = &self.old_voters {
            if old.is_empty() || old.iter().any(|node| self.index(*node).is_none()) {
                return wrong("old voters are not members");
            }
            if old.iter().collect::<BTreeSet<_>>().len() != old.len() {
                return wrong("an old voter is named twice");
            }
        }
        if self.renewed.len() > bounds::MEMBERS_MAX {
            return wrong("too many renewed members");
        }
        if self.old_voters.is_none() && self.members.iter().any(|member| member.role.is_leaving()) {
            return wrong("a member is leaving outside a joint epoch");
        }
        if self.discipline == Discipline::Values && self.has_witnesses() {
            return wrong("a group of values has no witnesses: what they would keep is its state");
        }
        let old: Vec<NodeId> = self.old_voters.iter().flatten().copied().collect();
        if !self.has_few_witnesses(&self.voters().collect::<Vec<_>>()) || !self.has_few_witnesses(&old) {
            return wrong("the witnesses are a quorum by themselves");
        }
        Ok(())
    }

    /// Fewer than a quorum of these voters are witnesses, so every quorum of them holds the state somewhere.
    fn has_few_witnesses(&self, voters: &[NodeId]) -> bool {
        2 * voters.iter().filter(|node| self.is_witness(**node)).count() <= voters.len()
    }
}

/// A configuration that breaks its own rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid configuration: {0}")]
pub struct InvalidConfiguration(pub &'static str);

impl fmt::Debug for Configuration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}[", self.epoch)?;
        for (index, member) in self.members.iter().enumerate() {
            let mark = match member.role {
                Role::Voter => "",
                Role::Learner => " learner",
                Role::Leaving => " leaving",
                Role::Witness => " witness",
                Role::NewWitness => " new witness",
                Role::LeavingWitness => " leaving witness",
                Role::Away => " away",
            };
            write!(out, "{}{}{mark}", if index == 0 { "" } else { ", " }, member.node)?;
        }
        if let Some(old) = &self.old_voters {
            write!(out, "; joint with {old:?}")?;
        }
        write!(out, "]")
    }
}
