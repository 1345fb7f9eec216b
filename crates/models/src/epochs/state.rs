//! The state of a group in change: what a member keeps, what is said, what was taken as chosen; and the steps between two
//! states.

use super::reading::Read;
use super::{Configuration, NODES};
use crate::cluster;
use crate::words::{Ballot, Entry, Node, Nodes, Value};

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Message {
    Prepare { ballot: Ballot },
    Promise { ballot: Ballot, from: Node, closed: bool, held: Entry },
    Accept { ballot: Ballot, value: Value },
    Accepted { ballot: Ballot, from: Node, value: Value },
    Fenced { from: Node },
    Holds { from: Node, closed: bool, accepted: bool },
}

/// What a member keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Member {
    /// The configuration in force here.
    pub configuration: Configuration,
    /// Highest promise of the log.
    pub promised: Ballot,
    /// The entry of the slot.
    pub held: Entry,
    /// Whether it is known chosen.
    pub closed: bool,
}

impl Member {
    /// The epoch that it is in.
    #[must_use]
    pub fn epoch(&self) -> u8 {
        self.configuration.epoch()
    }
}

/// What an owner has done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Progress {
    /// Whether the slot has its proposal.
    pub proposed: bool,
}

/// The nodes of the group.
pub type Cluster = cluster::Cluster<NODES, Member, Message, Progress>;

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The nodes, and what they said.
    pub cluster: Cluster,
    /// What the third epoch is, once that is chosen.
    pub third: Option<Configuration>,
    /// What was first taken as chosen, anywhere.
    pub taken: Value,
    /// The epoch in which that was.
    pub taken_in: u8,
    /// The read.
    pub read: Read,
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
    Proposes { node: Node },
    CountsAQuorum { node: Node, ballot: Ballot },
    Fetches { node: Node, from: Node },
    IsTold { node: Node, configuration: Configuration },
    AnswersSyncPass { node: Node },
    ThirdEpochIsChosen { by: Node, configuration: Configuration },
    Syncs { node: Node },
    Crashes { node: Node, keeps_closed: bool },
    ReadBegins { reader: Node },
    AnswersRead { node: Node },
    ReadReturns { counted: Nodes, found: bool },
}

impl State {
    /// Who accepted anything under this ballot, durably.
    pub(super) fn accepted_by(&self, ballot: Ballot) -> Nodes {
        self.cluster.sent.senders(|message| match message {
            Message::Accepted { ballot: under, from, .. } if *under == ballot => Some(*from),
            _ => None,
        })
    }

    /// Who fenced the old epoch, durably.
    pub(super) fn fenced(&self) -> Nodes {
        self.cluster.sent.senders(|message| match message {
            Message::Fenced { from } => Some(*from),
            _ => None,
        })
    }
}
