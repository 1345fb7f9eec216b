//! The proposers: phase 1, what it finds, and the owner that goes on without it (rules 2 and 4), after `log/proposer.rs` and
//! `log/ownership.rs` of the code.

use super::state::{Message, Progress, State, Step};
use super::{Bug, Log, SLOTS};
use crate::stage::Stage;
use crate::words::{Ballot, Entry, Node, Nodes, Slot, Value};

impl<const N: usize> Log<N> {
    pub(super) fn begin_phase_one(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        if state.cluster.attempts == self.attempts {
            return;
        }
        let heard = state.cluster.sent.iter().filter_map(|message| match message {
            Message::Prepare { ballot } => Some(*ballot),
            _ => None,
        });
        let promised = state.cluster.nodes.iter().map(|node| node.now.promised);
        let highest = heard.chain(promised).max().unwrap_or_default();
        for node in 0..self.proposers {
            let it = state.cluster.node(node);
            if it.stage != Stage::Idle && it.stage.ballot() >= highest {
                continue;
            }
            let known = it.now.promised.max(it.stage.ballot());
            for round in known.round + 1..=self.rounds.min(highest.round + 1) {
                let start = if self.has(Bug::BallotsWithoutStart) { 1 } else { it.start };
                let ballot = Ballot { epoch: 1, round, node, start };
                let mut state = state.clone();
                state.cluster.begin_phase_one(ballot, Message::Prepare { ballot });
                self.promise(&mut state, node, ballot);
                next.push((Step::BeginsPhaseOne { node, ballot }, self.settle(state)));
            }
        }
    }

    pub(super) fn become_owner(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for node in 0..self.proposers {
            let Stage::Preparing { ballot } = state.cluster.node(node).stage else { continue };
            let promises: Vec<&Message> = state
                .cluster
                .sent
                .iter()
                .filter(|message| matches!(message, Message::Promise { ballot: under, .. } if *under == ballot))
                .collect();
            for set in self.quorums() {
                for counted in one_of_each(set, &promises) {
                    if let Some(state) = self.owner_with(state, node, ballot, &counted) {
                        next.push((Step::BecomesOwner { node, promised: set }, self.settle(state)));
                    }
                }
            }
        }
    }

    /// Phase 1 is done with these promises; none if there is something to learn first, or two values under one ballot.
    fn owner_with(&self, state: &State<N>, node: Node, ballot: Ballot, counted: &[&Message]) -> Option<State<N>> {
        let closed = state.cluster.node(node).now.closed;
        let found = self.findings(closed, counted)?;
        let mut state = state.clone();
        let base = closed + 1;
        let highest = (base..=SLOTS as Slot).rev().find(|slot| !found[usize::from(*slot) - 1].value.is_none());
        let last = highest.unwrap_or(closed);
        state.cluster.node_mut(node).stage = Stage::Owning { ballot, progress: Progress { base, next: last + 1 } };
        for slot in base..=last {
            let value = found[usize::from(slot) - 1].value;
            let value = if value.is_none() { Value::NO_OP } else { value };
            self.propose(&mut state, node, ballot, slot, value);
            if self.has(Bug::FoundMeansChosen) {
                self.close(&mut state, node, slot);
            }
        }
        Some(state)
    }

    /// What phase 1 finds in each slot; none if it cannot be used.
    fn findings(&self, closed: Slot, counted: &[&Message]) -> Option<[Entry; SLOTS]> {
        let mut found = [Entry::default(); SLOTS];
        for message in counted {
            let Message::Promise { closed: theirs, held, .. } = message else {
                unreachable!("only promises are counted")
            };
            if *theirs > closed && !self.has(Bug::PhaseOneIgnoresClosed) {
                return None;
            }
            for (known, entry) in found.iter_mut().zip(held) {
                if known.ballot == entry.ballot && known.value != entry.value {
                    return None;
                }
                let wins = if self.has(Bug::PhaseOneTakesLowest) {
                    entry.ballot != Ballot::ZERO && entry.ballot < known.ballot
                } else {
                    entry.ballot > known.ballot
                };
                if wins || known.value.is_none() {
                    *known = *entry;
                }
            }
        }
        if self.has(Bug::PhaseOneForgets) {
            found = [Entry::default(); SLOTS];
        }
        Some(found)
    }

    pub(super) fn propose_new(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for node in 0..self.proposers {
            let it = state.cluster.node(node);
            let Stage::Owning { ballot, progress: Progress { base, next: slot } } = it.stage else { continue };
            if slot > self.slots {
                continue;
            }
            let value = Value(Ballot { start: it.start, ..ballot });
            let mut state = state.clone();
            state.cluster.node_mut(node).stage = Stage::Owning { ballot, progress: Progress { base, next: slot + 1 } };
            self.propose(&mut state, node, ballot, slot, value);
            next.push((Step::Proposes { node, slot }, self.settle(state)));
        }
    }

    fn propose(&self, state: &mut State<N>, node: Node, ballot: Ballot, slot: Slot, value: Value) {
        state.cluster.sent.insert(Message::Accept { ballot, slot, value });
        self.accept(state, node, ballot, slot, value);
    }
}

/// Every way to count one of these promises from each of these nodes.
fn one_of_each<'a>(set: Nodes, promises: &[&'a Message]) -> Vec<Vec<&'a Message>> {
    set.iter().fold(vec![Vec::new()], |ways, node| {
        let from = |message: &&Message| matches!(message, Message::Promise { from, .. } if *from == node);
        ways.iter()
            .flat_map(|way| promises.iter().copied().filter(from).map(|message| [&way[..], &[message]].concat()))
            .collect()
    })
}
