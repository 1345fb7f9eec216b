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
