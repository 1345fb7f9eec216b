//! The state of the log: what an acceptor keeps, what is said, what was taken as chosen; and the steps between two states.

use super::SLOTS;
use crate::cluster;
use crate::words::{Ballot, Entry, Node, Nodes, Slot, Value};

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Message {
    Prepare { ballot: Ballot },
    Promise { ballot: Ballot, from: Node, closed: Slot, held: [Entry; SLOTS] },
    Accept { ballot: Ballot, slot: Slot, value: Value },
    Accepted { ballot: Ballot, slot: Slot, from: Node, value: Value },
    Chosen { ballot: Ballot, first: Slot, last: Slot },
}

/// What an acceptor keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Acceptor {
    /// Highest promise.
    pub promised: Ballot,
    /// Accepted entries by slot.
    pub held: [Entry; SLOTS],
    /// Closed-up-to.
    pub closed: Slot,
}

impl Acceptor {
    /// The entry of a slot.
    #[must_use]
    pub fn entry(&self, slot: Slot) -> Entry {
        self.held[usize::from(slot) - 1]
    }

    /// The highest slot that holds an entry.
    #[must_use]
    pub fn highest(&self) -> Slot {
        (1..=SLOTS as Slot).rev().find(|slot| self.entry(*slot).ballot != Ballot::ZERO).unwrap_or(0)
    }
}

/// What an owner has done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Progress {
    /// The first slot that was open when phase 1 was done.
    pub base: Slot,
    /// The next slot to propose in.
    pub next: Slot,
}

/// The nodes of the log.
pub type Cluster<const N: usize> = cluster::Cluster<N, Acceptor, Message, Progress>;

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State<const N: usize> {
    /// The nodes, and what they said.
    pub cluster: Cluster<N>,
    /// What was first taken as chosen in each slot, anywhere: it may have been acknowledged.
    pub taken: [Value; SLOTS],
    /// A promise that the last step broke.
    pub broken: Option<&'static str>,
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Step {
    BeginsPhaseOne { node: Node, ballot: Ballot },
    Receives { node: Node, message: Message },
    BecomesOwner { node: Node, promised: Nodes },
    Proposes { node: Node, slot: Slot },
    CountsAQuorum { node: Node, slot: Slot, ballot: Ballot },
    Fetches { node: Node, from: Node },
    Syncs { node: Node },
    Crashes { node: Node, keeps_closed: bool },
}

impl<const N: usize> State<N> {
    /// The highest slot that somebody may have been told of.
    #[must_use]
    pub fn acknowledged(&self) -> Slot {
        (1..=SLOTS as Slot).rev().find(|slot| !self.taken[usize::from(*slot) - 1].is_none()).unwrap_or(0)
    }

    /// Who promised this ballot, durably.
    pub(super) fn promised_by(&self, ballot: Ballot) -> Nodes {
        self.cluster.sent.senders(|message| match message {
            Message::Promise { ballot: under, from, .. } if *under == ballot => Some(*from),
            _ => None,
        })
    }

    /// Who accepted anything in this slot under this ballot, durably.
    pub(super) fn accepted_by(&self, ballot: Ballot, slot: Slot) -> Nodes {
        self.cluster.sent.senders(|message| match message {
            Message::Accepted { ballot: under, slot: at, from, .. } if (*under, *at) == (ballot, slot) => Some(*from),
            _ => None,
        })
    }
}
