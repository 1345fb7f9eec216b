//! Who is live: two-way contact between nodes, not logs. It decides who tries, never what is true (rule 8).
//!
//! Also what is remembered of the others' logs, so that a node that came back with an older disk is refused (rule 7).

use crate::bounds;
use crate::configuration::{Configuration, MemberSet};
use crate::ids::{NodeId, Sequence, Start};
use crate::message::{Heartbeat, Impostor, LogPosition};
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, Default, Clone)]
pub(crate) struct Peer {
    pub(crate) heard_at: Option<Time>,
    /// From its last heartbeat.
    hears: Vec<NodeId>,
    contacts: Vec<NodeId>,
    /// Highest start and log position seen; the incarnation of that start.
    pub(crate) seen: (Start, Sequence),
    incarnation: Option<u64>,
    /// It came back with less than was seen of it, or runs twice.
    refused: bool,
    /// Whether it was live when last looked at, to notice the change.
    was_live: bool,
    /// What of `seen` is written down.
    recorded: (Start, Sequence),
}

#[derive(Debug)]
pub(crate) struct Peers {
    node: NodeId,
    start: Start,
    incarnation: u64,
    /// Durable length of this node's log, now and at its start.
    pub(crate) position: Sequence,
    position_at_start: Sequence,
    /// After this long without a heartbeat a node is not in contact.
    silence_max: Duration,
    peers: BTreeMap<NodeId, Peer>,
}

/// What a heartbeat changed.
pub(crate) enum Heard {
    /// The sender is refused as what it claims to be.
    Refused(Impostor),
    /// Accepted.
    Welcome {
        /// It was not heard before: it should hear back at once.
        newly_heard: bool,
        /// Two-way contact began.
        newly_live: bool,
        /// It restarted since it was last heard.
        restarted: bool,
        /// It came into or went out of contact with somebody since its last heartbeat.
        contacts_changed: bool,
    },
}

impl Peers {
    pub(crate) fn new(
        node: NodeId,
        start: Start,
        incarnation: u64,
        position: Sequence,
        silence_max: Duration,
    ) -> Peers {
        Peers { node, start, incarnation, position, position_at_start: position, silence_max, peers: BTreeMap::new() }
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// What was written down about a node in an earlier life.
    pub(crate) fn remember(&mut self, node: NodeId, seen: (Start, Sequence)) {
        let peer = self.peers.entry(node).or_default();
        peer.seen = seen;
        peer.recorded = seen;
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.peers.iter().map(|(node, peer)| (*node, peer))
    }

    /// Heard within the failure time-out. A node always hears itself.
    pub(crate) fn hears(&self, node: NodeId, now: Time) -> bool {
        node == self.node || self.peers.get(&node).is_some_and(|peer| self.fresh(peer, now))
    }

    /// In two-way contact.
    pub(crate) fn is_live(&self, node: NodeId, now: Time) -> bool {
        node == self.node
            || self.peers.get(&node).is_some_and(|peer| self.fresh(peer, now) && peer.hears.contains(&self.node))
    }

    fn fresh(&self, peer: &Peer, now: Time) -> bool {
        peer.heard_at.is_some_and(|at| now - at < self.silence_max)
    }

    /// The members in two-way contact with this node, itself included.
    pub(crate) fn live_members(&self, configuration: &Configuration, now: Time) -> MemberSet {
        configuration
            .set_of(configuration.members.iter().map(|member| member.node).filter(|node| self.is_live(*node, now)))
    }

    /// Whether, as far as this node can tell, `owner` is in two-way contact with a quorum: by its own word or its members'.
    pub(crate) fn reaches_quorum(&self, owner: NodeId, configuration: &Configuration, now: Time) -> bool {
        let in_contact = |member: NodeId| {
            if member == owner {
                // Counted only if somebody vouches for it.
                return true;
            }
            if member == self.node {
                return self.is_live(owner, now);
            }
            let Some(peer) = self.peers.get(&member) else { return false };
            self.fresh(peer, now) && peer.contacts.contains(&owner)
        };
        let set = configuration
            .set_of(configuration.members.iter().map(|member| member.node).filter(|node| in_contact(*node)));
        let alone = set.count() <= 1;
        configuration.is_quorum(set) && (!alone || owner == self.node)
    }

    /// A live member that says it is in contact with `owner`.
    pub(crate) fn relay_to(&self, owner: NodeId, configuration: &Configuration, now: Time) -> Option<NodeId> {
        let reaches = |node: NodeId| {
            self.is_live(node, now)
                && node != self.node
                && self.peers.get(&node).is_some_and(|peer| peer.contacts.contains(&owner))
        };
        configuration.members.iter().map(|member| member.node).find(|node| reaches(*node))
    }

    pub(crate) fn heartbeat(&self, now: Time, logs: Vec<LogPosition>) -> Heartbeat {
        let hears = self.peers.iter().filter(|(_, peer)| self.fresh(peer, now)).map(|(node, _)| *node);
        let contacts = self.peers.keys().copied().filter(|node| self.is_live(*node, now));
        Heartbeat {
            start: self.start,
            incarnation: self.incarnation,
            position: self.position,
            position_at_start: self.position_at_start,
            hears: hears.collect(),
            contacts: contacts.collect(),
            logs,
        }
    }

    /// Takes in a heartbeat, unless its sender is not what it claims to be (rule 7).
    pub(crate) fn heard(&mut self, from: NodeId, heartbeat: &Heartbeat, now: Time) -> Heard {
        let heard = self.take_in(from, heartbeat, now);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.refused = matches!(heard, Heard::Refused(_));
        }
        heard
    }

    /// Whether this start of the node has shown where its log stands, and was not refused: only then does anything count that it
    /// says, or a read could take the answer of a node that went back before its first heartbeat comes.
    pub(crate) fn is_welcome(&self, node: NodeId, start: Start) -> bool {
        let has_shown = |peer: &Peer| peer.seen.0 == start && peer.incarnation.is_some();
        let is_it = |peer: &Peer| !peer.refused && (has_shown(peer) || is_planted(SeededBug::WordBeforeHeartbeat));
        node == self.node || self.peers.get(&node).is_some_and(is_it)
    }

    /// The present start of a node in contact, which it said in its heartbeats.
    pub(crate) fn start_of(&self, node: NodeId, now: Time) -> Option<Start> {
        if node == self.node {
            return Some(self.start);
        }
        self.peers.get(&node).filter(|peer| self.is_live(node, now) && !peer.refused).map(|peer| peer.seen.0)
    }

    pub(crate) fn position_at_start(&self) -> Sequence {
        self.position_at_start
    }

    fn take_in(&mut self, from: NodeId, heartbeat: &Heartbeat, now: Time) -> Heard {
        let me = self.node;
        let silence_max = self.silence_max;
        if self.peers.len() >= bounds::PEERS_MAX && !self.peers.contains_key(&from) {
            return Heard::Welcome { newly_heard: false, newly_live: false, restarted: false, contacts_changed: false };
        }
        let peer = self.peers.entry(from).or_default();
        let (seen_start, seen) = peer.seen;
        if heartbeat.start < seen_start {
            return Heard::Refused(Impostor::RunsTwice { incarnation: heartbeat.incarnation });
        }
        if heartbeat.start == seen_start && peer.incarnation.is_some_and(|known| known != heartbeat.incarnation) {
            return Heard::Refused(Impostor::RunsTwice { incarnation: heartbeat.incarnation });
        }
        let found = if heartbeat.start > seen_start || peer.incarnation.is_none() {
            heartbeat.position_at_start
        } else {
            heartbeat.position
        };
        let went_back = if heartbeat.start > seen_start {
            found < seen
        } else {
            heartbeat.position < seen && peer.incarnation.is_none()
        };
        if went_back && !is_planted(SeededBug::LostDiskRejoins) {
            return Heard::Refused(Impostor::LogWentBack { seen, under: seen_start, found });
        }
        let restarted = heartbeat.start > seen_start && seen_start > Start(0);
        peer.seen = (heartbeat.start, heartbeat.position.max(if restarted { Sequence(0) } else { seen }));
        peer.incarnation = Some(heartbeat.incarnation);
        let newly_heard = restarted || peer.heard_at.is_none_or(|at| now - at >= silence_max);
        peer.heard_at = Some(now);
        peer.hears.clone_from(&heartbeat.hears);
        let contacts_changed = peer.contacts != heartbeat.contacts;
        peer.contacts.clone_from(&heartbeat.contacts);
        let live = peer.hears.contains(&me);
        let newly_live = live && (restarted || newly_heard || !peer.was_live);
        peer.was_live = live;
        Heard::Welcome { newly_heard, newly_live, restarted, contacts_changed }
    }

    /// When the first node that is heard now will have been silent for too long.
    pub(crate) fn next_loss(&self, now: Time) -> Time {
        let heard = self.peers.values().filter(|peer| self.fresh(peer, now)).filter_map(|peer| peer.heard_at);
        heard.min().map_or(Time::NEVER, |at| at + self.silence_max)
    }

    /// This node itself stood still for so long: what the others said meanwhile has not been looked at yet.
    pub(crate) fn excuse(&mut self, standstill: Duration, before: Time) {
        let silence_max = self.silence_max;
        for at in self.peers.values_mut().filter_map(|peer| peer.heard_at.as_mut()) {
            if before - *at < silence_max {
                *at = *at + standstill;
            }
        }
    }

    /// The link to the node broke. A killed process is noticed at once this way; one that lives is heard again by its next heartbeat.
    pub(crate) fn link_lost(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.heard_at = None;
            peer.was_live = false;
        }
    }

    /// A reply of `from` claims this much of its log durable. It is booked under the start that it was said in: what a
    /// start says before its first heartbeat must not count for the one before, which it would then seem to have gone back from.
    pub(crate) fn saw_position(&mut self, from: NodeId, start: Start, position: Sequence) {
        if let Some(peer) = self.peers.get_mut(&from).filter(|peer| peer.seen.0 == start) {
            peer.seen.1 = peer.seen.1.max(position);
        }
    }

    /// Positions that grew since they were last written down.
    pub(crate) fn unrecorded(&mut self) -> Vec<(NodeId, Start, Sequence)> {
        let mut grown = Vec::new();
        for (node, peer) in &mut self.peers {
            if peer.seen != peer.recorded {
                peer.recorded = peer.seen;
                grown.push((*node, peer.seen.0, peer.seen.1));
            }
        }
        grown
    }
}
