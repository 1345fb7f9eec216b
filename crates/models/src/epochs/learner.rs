//! The learners: how a node comes to know the slot chosen, in any epoch; and where the promises of the log are judged.

use super::{Bug, Epochs, Message, State, Step, NODES};
use crate::words::{Entry, Node};

impl Epochs {
    pub(super) fn count_or_fetch(&self, state: &State, next: &mut Vec<(Step, State)>) {
        for node in 0..NODES as Node {
            let now = state.cluster.node(node).now;
            if now.closed {
                continue;
            }
            let ballot = now.held.ballot;
            let same_epoch = ballot.epoch == now.epoch() || self.has(Bug::BallotsWithoutEpoch);
            if ballot.round > 0 && same_epoch && self.is_quorum(now.configuration, state.accepted_by(ballot)) {
                let mut state = state.clone();
                self.take(&mut state, node, now.held);
                next.push((Step::CountsAQuorum { node, ballot }, self.settle(state)));
            }
            for from in 0..NODES as Node {
                let theirs = state.cluster.node(from).now;
                if theirs.closed {
                    let mut state = state.clone();
                    state.cluster.step_down_below(node, theirs.held.ballot);
                    state.cluster.node_mut(node).now.held = theirs.held;
                    self.take(&mut state, node, theirs.held);
                    next.push((Step::Fetches { node, from }, self.settle(state)));
                }
            }
        }
    }

    fn take(&self, state: &mut State, node: Node, entry: Entry) {
        let is_chosen = state.cluster.sent.iter().any(|message| match message {
            Message::Accepted { ballot, value, .. } if *value == entry.value => {
                self.is_quorum(self.deciding(state, *ballot), state.accepted_by(*ballot))
            }
            _ => false,
        });
        // Without epochs in ballots it cannot be said afterwards which quorum decided.
        if !is_chosen && !self.has(Bug::BallotsWithoutEpoch) {
            state.broken = Some("a member takes as chosen only what is chosen");
        }
        if state.taken.is_none() {
            state.taken = entry.value;
            state.taken_in = state.cluster.node(node).now.epoch();
        } else if state.taken != entry.value {
            state.broken = Some("agreement: one value per slot, across epochs");
        }
        state.cluster.node_mut(node).now.closed = true;
    }
}
