//! What cannot matter any more is made equal after every step, as in the log's model.

use super::{Bug, Epochs, Member, Message, State, NODES};
use crate::words::{Ballot, Node};

impl Epochs {
    /// The state after a step.
    pub(super) fn settle(&self, mut state: State) -> State {
        if state.cluster.crashes == self.crashes {
            for node in 0..NODES as Node {
                self.sync(&mut state, node);
            }
        }
        self.drop_dead_messages(&mut state);
        state
    }

    fn drop_dead_messages(&self, state: &mut State) {
        let is_dead = |message: &&Message| self.is_dead(state, message);
        let dead: Vec<Message> = state.cluster.messages().filter(is_dead).copied().collect();
        state.cluster.remove(&dead);
    }

    /// Whether a message can change nothing any more, whenever it arrives.
    fn is_dead(&self, state: &State, message: &Message) -> bool {
        let nodes = || (0..).zip(&state.cluster.nodes).map(|(number, node)| (number, &node.disk));
        let refuses = |disk: &Member, ballot: Ballot| {
            disk.promised > ballot || (!self.has(Bug::BallotsWithoutEpoch) && disk.epoch() > ballot.epoch)
        };
        match *message {
            Message::Promise { ballot, .. } => !state.cluster.is_preparing(ballot),
            Message::Prepare { ballot } => {
                let is_awaited = state.cluster.is_preparing(ballot);
                nodes().all(|(_, disk)| refuses(disk, ballot) || (disk.promised == ballot && !is_awaited))
            }
            Message::Accept { ballot, .. } => {
                let accepted = state.accepted_by(ballot);
                nodes().all(|(number, disk)| refuses(disk, ballot) || accepted.has(number))
            }
            // Once the third epoch is chosen, nobody asks any more.
            Message::Holds { .. } | Message::Fenced { .. } => state.third.is_some(),
            Message::Accepted { .. } => false,
        }
    }
}
