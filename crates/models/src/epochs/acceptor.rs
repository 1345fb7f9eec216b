//! The acceptors: votes are of one epoch, and a fenced member gives none in an older one (rules 2, 4 and 6).

use super::{Bug, Epochs, Message, State, Step, NODES};
use crate::words::{Ballot, Entry, Node, Value};

impl Epochs {
    pub(super) fn receive(&self, state: &State, next: &mut Vec<(Step, State)>) {
        for node in 0..NODES as Node {
            for message in state.cluster.sent.iter() {
                let (Message::Prepare { ballot } | Message::Accept { ballot, .. }) = *message else { continue };
                // Asked before the state is copied, which is what takes the time.
                if !self.votes_under(state, node, ballot) {
                    continue;
                }
                let mut reached = state.clone();
                let is_news = match *message {
                    Message::Accept { ballot, value } => self.accept(&mut reached, node, ballot, value),
                    _ => self.promise(&mut reached, node, ballot),
                };
                if is_news {
                    next.push((Step::Receives { node, message: *message }, self.settle(reached)));
                }
            }
        }
    }

    /// Whether an acceptor may vote under this ballot.
    fn votes_under(&self, state: &State, node: Node, ballot: Ballot) -> bool {
        let now = &state.cluster.node(node).now;
        if !self.voters(now.configuration).has(node) {
            return false;
        }
        let (floor, same_epoch) = if self.has(Bug::BallotsWithoutEpoch) {
            (Ballot::ZERO, true)
        } else {
            (Ballot::floor(now.epoch()), ballot.epoch == now.epoch())
        };
        same_epoch && ballot >= now.promised.max(floor)
    }

    /// Phase 1 at an acceptor; false if there is nothing to answer.
    pub(super) fn promise(&self, state: &mut State, node: Node, ballot: Ballot) -> bool {
        let answers = |message: &Message| matches!(message, Message::Promise { ballot: under, from, .. } if (*under, *from) == (ballot, node));
        if !self.votes_under(state, node, ballot) || state.cluster.has_said_any(node, answers) {
            return false;
        }
        let now = &mut state.cluster.node_mut(node).now;
        now.promised = ballot;
        let (closed, held) = (now.closed, now.held);
        state.cluster.step_down_below(node, ballot);
        state.cluster.reply(node, Message::Promise { ballot, from: node, closed, held });
        true
    }

    /// Phase 2 at an acceptor; false if nothing comes of it.
    pub(super) fn accept(&self, state: &mut State, node: Node, ballot: Ballot, value: Value) -> bool {
        if !self.votes_under(state, node, ballot) {
            return false;
        }
        let message = Message::Accepted { ballot, from: node, value };
        let now = &state.cluster.node(node).now;
        let again = now.held.ballot == ballot;
        if again && (now.held.value != value || state.cluster.has_said(node, &message)) {
            return false;
        }
        if !again && now.closed {
            return false;
        }
        let now = &mut state.cluster.node_mut(node).now;
        now.promised = ballot;
        now.held = Entry { ballot, value };
        state.cluster.step_down_below(node, ballot);
        state.cluster.reply(node, message);
        true
    }
}
