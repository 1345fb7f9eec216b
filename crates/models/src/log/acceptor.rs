//! The acceptors: what a message that arrives does to a node (rules 2 and 3), after `log/acceptor.rs` of the code.

use super::state::{Message, State, Step};
use super::{Bug, Log};
use crate::words::{Ballot, Entry, Node, Slot, Value};

impl<const N: usize> Log<N> {
    pub(super) fn receive(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for node in 0..N as Node {
            for message in state.cluster.sent.iter() {
                if !self.may_be_news(state, node, message) {
                    continue;
                }
                let mut reached = state.clone();
                let is_news = match *message {
                    Message::Prepare { ballot } => self.promise(&mut reached, node, ballot),
                    Message::Accept { ballot, slot, value } => self.accept(&mut reached, node, ballot, slot, value),
                    Message::Chosen { ballot, first, last } => self.notice(&mut reached, node, ballot, first, last),
                    Message::Promise { .. } | Message::Accepted { .. } => false,
                };
                if is_news {
                    next.push((Step::Receives { node, message: *message }, self.settle(reached)));
                }
            }
        }
    }

    /// Whether a message may change anything at a node; said before the state is copied, which is what takes the time.
    fn may_be_news(&self, state: &State<N>, node: Node, message: &Message) -> bool {
        let now = &state.cluster.node(node).now;
        match *message {
            Message::Prepare { ballot } => ballot.node != node && ballot >= now.promised,
            Message::Accept { ballot, slot, .. } => {
                let again = now.entry(slot).ballot == ballot;
                (ballot >= now.promised || self.has(Bug::AcceptsBelowPromise)) && (again || slot > now.closed)
            }
            Message::Chosen { first, last, .. } => first <= now.closed + 1 && last > now.closed,
            Message::Promise { .. } | Message::Accepted { .. } => false,
        }
    }

    /// Phase 1 at an acceptor; false if there is nothing to answer.
    pub(super) fn promise(&self, state: &mut State<N>, node: Node, ballot: Ballot) -> bool {
        let answers = |message: &Message| matches!(message, Message::Promise { ballot: under, from, .. } if (*under, *from) == (ballot, node));
        if !self.has(Bug::BallotsWithoutStart) && state.cluster.has_said_any(node, answers) {
            return false;
        }
        let it = state.cluster.node_mut(node);
        if ballot < it.now.promised {
            return false;
        }
        it.now.promised = ballot;
        let closed = it.now.closed;
        let mut held = it.now.held;
        held[..usize::from(closed)].fill(Entry::default());
        state.cluster.step_down_below(node, ballot);
        let message = Message::Promise { ballot, from: node, closed, held };
        if state.cluster.sent.has(&message) {
            return false;
        }
        self.reply(state, node, message);
        true
    }

    /// Phase 2 at an acceptor; false if nothing comes of it.
    pub(super) fn accept(&self, state: &mut State<N>, node: Node, ballot: Ballot, slot: Slot, value: Value) -> bool {
        let now = &state.cluster.node(node).now;
        if ballot < now.promised && !self.has(Bug::AcceptsBelowPromise) {
            return false;
        }
        let held = now.entry(slot);
        let again = held.ballot == ballot;
        if again && held.value != value {
            // Two values under one ballot: the code stops the node.
            return false;
        }
        if !again && slot <= now.closed {
            return false;
        }
        let message = Message::Accepted { ballot, slot, from: node, value };
        if again && state.cluster.has_said(node, &message) {
            return false;
        }
        let now = &mut state.cluster.node_mut(node).now;
        now.promised = now.promised.max(ballot);
        now.held[usize::from(slot) - 1] = Entry { ballot, value };
        state.cluster.step_down_below(node, ballot);
        self.reply(state, node, message);
        true
    }
}
