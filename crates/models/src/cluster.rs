//! The nodes and the network between them, as the models of the log and of the epochs both have them: who said what, what waits
//! for a disk, who crashed, and what a phase 1 would find if everybody crashed now.
//!
//! What a message means, and what an acceptor keeps, is each model's own.

use crate::messages::Messages;
use crate::node_state::NodeState;
use crate::stage::Stage;
use crate::words::{Ballot, Entry, Node, Nodes, Value};

/// Nodes and network.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cluster<const N: usize, Kept, Message, Progress> {
    /// The nodes.
    pub nodes: [NodeState<Kept, Message, Progress>; N],
    /// Everything ever sent that can still matter.
    pub sent: Messages<Message>,
    /// Phase 1 begun so often.
    pub attempts: u8,
    /// Crashes so far.
    pub crashes: u8,
}

impl<const N: usize, Kept: Default, Message, Progress> Default for Cluster<N, Kept, Message, Progress> {
    /// Before anything has happened.
    fn default() -> Cluster<N, Kept, Message, Progress> {
        let nodes = std::array::from_fn(|_| NodeState::default());
        Cluster { nodes, sent: Messages::default(), attempts: 0, crashes: 0 }
    }
}

impl<const N: usize, Kept, Message, Progress> Cluster<N, Kept, Message, Progress>
where
    Kept: Copy,
    Message: Copy + Ord,
    Progress: PartialEq,
{
    /// A node.
    #[must_use]
    pub fn node(&self, node: Node) -> &NodeState<Kept, Message, Progress> {
        &self.nodes[usize::from(node)]
    }

    /// A node, to change it.
    pub fn node_mut(&mut self, node: Node) -> &mut NodeState<Kept, Message, Progress> {
        &mut self.nodes[usize::from(node)]
    }

    /// The proposer of a ballot begins phase 1 under it; its `prepare` says so to the others.
    pub fn begin_phase_one(&mut self, ballot: Ballot, prepare: Message) {
        self.attempts += 1;
        self.node_mut(ballot.node).stage = Stage::Preparing { ballot };
        self.sent.insert(prepare);
    }

    /// Says something with the next sync.
    pub fn reply(&mut self, node: Node, message: Message) {
        self.node_mut(node).waiting.insert(message);
    }

    /// Lets the replies go that waited for the disk.
    pub fn send_waiting(&mut self, node: Node) {
        for message in std::mem::take(&mut self.node_mut(node).waiting).iter() {
            self.sent.insert(*message);
        }
    }

    /// Whether the node, whose message this is, has said it, or will with the next sync.
    #[must_use]
    pub fn has_said(&self, node: Node, message: &Message) -> bool {
        self.sent.has(message) || self.node(node).waiting.has(message)
    }

    /// The same of any message like this.
    pub fn has_said_any(&self, node: Node, is: impl Fn(&Message) -> bool) -> bool {
        self.sent.iter().chain(self.node(node).waiting.iter()).any(is)
    }

    /// Every message, sent or waiting.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.sent.iter().chain(self.nodes.iter().flat_map(|node| node.waiting.iter()))
    }

    /// Takes messages from the network and from those that wait.
    pub fn remove(&mut self, messages: &[Message]) {
        for message in messages {
            self.sent.remove(message);
            for node in &mut self.nodes {
                node.waiting.remove(message);
            }
        }
    }

    /// Whether the proposer of this ballot still waits for promises under it.
    #[must_use]
    pub fn is_preparing(&self, ballot: Ballot) -> bool {
        self.node(ballot.node).stage == Stage::Preparing { ballot }
    }

    /// A proposer that hears of a higher ballot gives up its own.
    pub fn step_down_below(&mut self, node: Node, ballot: Ballot) {
        let stage = &mut self.node_mut(node).stage;
        if stage.ballot() < ballot {
            *stage = Stage::Idle;
        }
    }

    /// A node crashes, and starts again from its disk.
    pub fn crash(&mut self, node: Node) {
        self.crashes += 1;
        self.node_mut(node).restart();
    }

    /// Whether a phase 1 that counts these nodes would find a value in a slot, if all of them crashed now. `slot` says of what a
    /// member keeps whether the slot is closed there, and its entry.
    pub fn would_find(&self, value: Value, counted: Nodes, slot: impl Fn(&Kept) -> (bool, Entry)) -> bool {
        let found = || counted.iter().map(|node| slot(&self.node(node).disk));
        found().any(|(is_closed, _)| is_closed)
            || found().map(|(_, entry)| entry).max().is_some_and(|entry| entry.value == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member keeps whether the slot is closed, and its entry; it says numbers.
    type Three = Cluster<3, (bool, Entry), u8, ()>;

    fn ballot(round: u8, node: Node) -> Ballot {
        Ballot { epoch: 1, round, node, start: 1 }
    }

    #[test]
    fn a_crash_returns_to_the_disk_and_loses_what_waited() {
        let mut cluster = Three::default();
        cluster.reply(0, 7);
        cluster.send_waiting(0);
        cluster.reply(0, 8);
        cluster.begin_phase_one(ballot(1, 0), 9);
        cluster.node_mut(0).now.0 = true;
        assert!(cluster.has_said(0, &8) && cluster.is_preparing(ballot(1, 0)));
        cluster.crash(0);
        assert!(cluster.has_said(0, &7) && !cluster.has_said(0, &8), "what was sent stays sent");
        assert!(cluster.sent.has(&9) && !cluster.is_preparing(ballot(1, 0)));
        let it = cluster.node(0);
        assert!(!it.now.0 && it.start == 2 && (cluster.attempts, cluster.crashes) == (1, 1));
    }

    #[test]
    fn a_proposer_steps_down_only_for_a_higher_ballot() {
        let mut cluster = Three::default();
        cluster.begin_phase_one(ballot(2, 0), 1);
        cluster.step_down_below(0, ballot(2, 0));
        assert!(cluster.is_preparing(ballot(2, 0)));
        cluster.step_down_below(0, ballot(2, 1));
        assert!(cluster.node(0).stage == Stage::Idle);
    }

    #[test]
    fn phase_one_finds_the_value_of_the_highest_ballot_on_the_disks() {
        let (early, late) = (Value(ballot(1, 0)), Value(ballot(2, 1)));
        let mut cluster = Three::default();
        cluster.node_mut(0).disk.1 = Entry { ballot: ballot(1, 0), value: early };
        cluster.node_mut(1).disk.1 = Entry { ballot: ballot(2, 1), value: late };
        cluster.node_mut(2).now.1 = Entry { ballot: ballot(3, 2), value: early };
        let finds = |cluster: &Three, value, nodes| cluster.would_find(value, Nodes::of(nodes), |kept| *kept);
        assert!(finds(&cluster, late, &[0, 1]) && !finds(&cluster, early, &[0, 1]));
        assert!(!finds(&cluster, early, &[1, 2]), "what is not on the disk is not found");
        assert!(!finds(&cluster, early, &[2]));
        // Who knows the slot closed hands its value on whatever the ballots say.
        cluster.node_mut(2).disk.0 = true;
        assert!(finds(&cluster, early, &[1, 2]));
    }
}
