//! The proposers: a ballot is of one epoch, and so is an owner (rule 4).

use super::state::Progress;
use super::{Bug, Epochs, Message, State, Step};
use crate::stage::Stage;
use crate::words::{Ballot, Entry, Node, Nodes, Value};

impl Epochs {
    pub(super) fn begin_phase_one(&self, state: &State, next: &mut Vec<(Step, State)>) {
        if state.cluster.attempts == self.attempts {
            return;
        }
        for node in self.proposers.iter() {
            let it = state.cluster.node(node);
            if it.stage != Stage::Idle || it.now.closed || !self.eligible(it.now.configuration).has(node) {
                continue;
            }
            let epoch = if self.has(Bug::BallotsWithoutEpoch) { 0 } else { it.now.epoch() };
            let known = if it.now.promised.epoch == epoch { it.now.promised.round } else { 0 };
            for round in known + 1..=self.rounds {
                let ballot = Ballot { epoch, round, node, start: it.start };
                let mut state = state.clone();
                state.cluster.begin_phase_one(ballot, Message::Prepare { ballot });
                self.promise(&mut state, node, ballot);
                next.push((Step::BeginsPhaseOne { node, ballot }, self.settle(state)));
            }
        }
    }

    pub(super) fn become_owner(&self, state: &State, next: &mut Vec<(Step, State)>) {
        for node in self.proposers.iter() {
            let it = state.cluster.node(node);
            let Stage::Preparing { ballot } = it.stage else { continue };
            let promises: Vec<(Node, bool, Entry)> = state
                .cluster
                .sent
                .iter()
                .filter_map(|message| match message {
                    Message::Promise { ballot: under, from, closed, held } if *under == ballot => {
                        Some((*from, *closed, *held))
                    }
                    _ => None,
                })
                .collect();
            let all: Nodes = promises.iter().map(|(from, ..)| *from).collect();
            for set in all.subsets().filter(|set| self.is_quorum(it.now.configuration, *set)) {
                let counted = || promises.iter().filter(|(from, ..)| set.has(*from));
                if counted().any(|(_, closed, _)| *closed) && !it.now.closed {
                    continue;
                }
                let found = counted().map(|(_, _, held)| *held).max().unwrap_or_default().value;
                let mut state = state.clone();
                let progress = Progress { proposed: !found.is_none() };
                state.cluster.node_mut(node).stage = Stage::Owning { ballot, progress };
                if progress.proposed {
                    self.propose(&mut state, node, ballot, found);
                }
                next.push((Step::BecomesOwner { node, promised: set }, self.settle(state)));
            }
        }
    }

    pub(super) fn propose_new(&self, state: &State, next: &mut Vec<(Step, State)>) {
        for node in self.proposers.iter() {
            let it = state.cluster.node(node);
            let Stage::Owning { ballot, progress: Progress { proposed: false } } = it.stage else { continue };
            if it.now.closed {
                continue;
            }
            let value = Value(Ballot { epoch: it.now.epoch(), start: it.start, ..ballot });
            let mut state = state.clone();
            state.cluster.node_mut(node).stage = Stage::Owning { ballot, progress: Progress { proposed: true } };
            self.propose(&mut state, node, ballot, value);
            next.push((Step::Proposes { node }, self.settle(state)));
        }
    }

    fn propose(&self, state: &mut State, node: Node, ballot: Ballot, value: Value) {
        state.cluster.sent.insert(Message::Accept { ballot, value });
        self.accept(state, node, ballot, value);
    }
}
