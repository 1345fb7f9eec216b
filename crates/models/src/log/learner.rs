//! The learners: how a node comes to know what is chosen (rule 1), after `log/learner.rs` and `log/catch_up.rs` of the code; and
//! where the promises of the log are judged.

use super::state::{Message, Progress, State, Step};
use super::{Bug, Log};
use crate::stage::Stage;
use crate::words::{Ballot, Entry, Node, Nodes, Slot, Value};

impl<const N: usize> Log<N> {
    /// An owner, or whoever finishes, sees that the entry it holds was accepted by a quorum.
    pub(super) fn count(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for node in 0..N as Node {
            let now = &state.cluster.node(node).now;
            let slot = now.closed + 1;
            if slot > self.slots {
                continue;
            }
            let held = now.entry(slot);
            if held.value.is_none() || !self.is_quorum(self.supporters(state, slot, held)) {
                continue;
            }
            let mut state = state.clone();
            self.close(&mut state, node, slot);
            next.push((Step::CountsAQuorum { node, slot, ballot: held.ballot }, self.settle(state)));
        }
    }

    fn supporters(&self, state: &State<N>, slot: Slot, held: Entry) -> Nodes {
        if !self.has(Bug::EqualValuesAreChosen) {
            return state.accepted_by(held.ballot, slot);
        }
        state.cluster.sent.senders(|message| match message {
            Message::Accepted { slot: at, from, value, .. } if (*at, *value) == (slot, held.value) => Some(*from),
            _ => None,
        })
    }

    /// A chosen notice; false if it tells nothing new.
    pub(super) fn notice(&self, state: &mut State<N>, node: Node, ballot: Ballot, first: Slot, last: Slot) -> bool {
        let now = &state.cluster.node(node).now;
        let mut closed = now.closed;
        if first > closed + 1 {
            return false;
        }
        for slot in closed + 1..=last {
            let held = now.entry(slot);
            let other_ballot = held.ballot != ballot && !self.has(Bug::ChosenUnderAnyBallot);
            if held.value.is_none() || other_ballot {
                break;
            }
            closed = slot;
        }
        if closed == now.closed {
            return false;
        }
        state.cluster.step_down_below(node, ballot);
        self.close(state, node, closed);
        true
    }

    pub(super) fn fetch(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for node in 0..N as Node {
            for from in 0..N as Node {
                let (mine, theirs) = (state.cluster.node(node).now.closed, state.cluster.node(from).now);
                if theirs.closed <= mine {
                    continue;
                }
                let mut state = state.clone();
                let range = usize::from(mine)..usize::from(theirs.closed);
                let highest = theirs.held[range.clone()].iter().map(|entry| entry.ballot).max().unwrap_or_default();
                state.cluster.step_down_below(node, highest);
                state.cluster.node_mut(node).now.held[range.clone()].copy_from_slice(&theirs.held[range]);
                self.close(&mut state, node, theirs.closed);
                next.push((Step::Fetches { node, from }, self.settle(state)));
            }
        }
    }

    /// Closed-up-to moves at a node that holds what is chosen there.
    pub(super) fn close(&self, state: &mut State<N>, node: Node, slot: Slot) {
        let now = state.cluster.node(node).now;
        for closed in now.closed + 1..=slot {
            self.take(state, closed, now.entry(closed).value);
        }
        let it = state.cluster.node_mut(node);
        it.now.closed = slot;
        if let Stage::Owning { ballot, progress: Progress { base, next } } = &mut it.stage {
            *next = (*next).max(slot + 1);
            let (ballot, first) = (*ballot, *base);
            let is_redundant = |slot| self.is_quorum(state.accepted_by(ballot, slot));
            if slot >= first && (self.has(Bug::ChosenUnderAnyBallot) || !(first..=slot).all(is_redundant)) {
                state.cluster.sent.insert(Message::Chosen { ballot, first, last: slot });
            }
        }
    }

    /// Takes a slot as chosen; the promises of the log are judged here.
    fn take(&self, state: &mut State<N>, slot: Slot, value: Value) {
        let is_chosen = state.cluster.sent.iter().any(|message| match message {
            Message::Accepted { ballot, slot: at, value: accepted, .. } if (*at, *accepted) == (slot, value) => {
                self.is_quorum(state.accepted_by(*ballot, slot))
            }
            _ => false,
        });
        if !is_chosen {
            state.broken = Some("a member takes as chosen only what is chosen");
        }
        let taken = &mut state.taken[usize::from(slot) - 1];
        if taken.is_none() {
            *taken = value;
        } else if *taken != value {
            state.broken = Some("agreement: one value per slot");
        }
    }
}
