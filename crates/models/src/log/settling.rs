//! What cannot matter any more is made equal after every step, which leaves 25 times fewer states
//! (`docs/decisions/0004-models.md`). Each thing dropped here must be argued: it changes nothing, whenever it arrives.

use super::state::{Message, State};
use super::{Bug, Log};
use crate::words::Node;

impl<const N: usize> Log<N> {
    /// The state after a step.
    pub(super) fn settle(&self, mut state: State<N>) -> State<N> {
        if state.cluster.crashes == self.crashes {
            for node in 0..N as Node {
                self.sync(&mut state, node);
            }
        }
        if !self.has(Bug::BallotsWithoutStart) && !self.has(Bug::AcceptsBelowPromise) {
            drop_dead_messages(&mut state);
        }
        state
    }
}

fn drop_dead_messages<const N: usize>(state: &mut State<N>) {
    let dead: Vec<Message> = state.cluster.messages().filter(|message| is_dead(state, message)).copied().collect();
    state.cluster.remove(&dead);
}

/// Whether a message can change nothing any more: promises that their proposer does not wait for, what every acceptor has
/// answered or will refuse.
fn is_dead<const N: usize>(state: &State<N>, message: &Message) -> bool {
    let nodes = || (0..).zip(&state.cluster.nodes);
    match *message {
        Message::Promise { ballot, .. } => !state.cluster.is_preparing(ballot),
        Message::Prepare { ballot } => {
            let is_awaited = state.cluster.is_preparing(ballot);
            let promised = state.promised_by(ballot);
            nodes().all(|(number, node)| {
                node.disk.promised > ballot || (node.disk.promised == ballot && (!is_awaited || promised.has(number)))
            })
        }
        Message::Accept { ballot, slot, .. } => {
            let accepted = state.accepted_by(ballot, slot);
            nodes().all(|(number, node)| node.disk.promised > ballot || accepted.has(number))
        }
        Message::Accepted { .. } | Message::Chosen { .. } => false,
    }
}
