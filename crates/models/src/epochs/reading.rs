//! A read (rule 5) while the epochs change under it.
//!
//! A round is of its reader's epoch, and answers of another epoch do not count; a reader that is told of the next epoch asks
//! anew (`restart_reads`), which is here as if it began then. In a joint epoch both quorums answer, and the barrier is what a
//! quorum of the old voters may have: everything chosen in the old epoch or in the joint one had that.
//!
//! The read begins once something was taken as chosen: one that began before owes nothing to anybody, and there is one only.

use super::{Bug, Configuration, Epochs, State, Step, NODES};
use crate::words::{Node, Nodes};

/// What a member says to a reader: whether the slot is closed there, and whether it is closed or accepted, durably.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Answer {
    closed: bool,
    reaches: bool,
}

/// The one round of reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[allow(missing_docs)]
pub enum Read {
    #[default]
    NotBegun,
    Sent {
        reader: Node,
        configuration: Configuration,
        answers: [Option<Answer>; NODES],
    },
    Over {
        stale: bool,
    },
}

impl Epochs {
    pub(super) fn read_steps(&self, state: &State, next: &mut Vec<(Step, State)>) {
        match state.read {
            Read::NotBegun if !state.taken.is_none() => {
                for reader in self.readers.iter() {
                    let configuration = state.cluster.node(reader).now.configuration;
                    if self.voters(configuration).has(reader) {
                        let read = Read::Sent { reader, configuration, answers: [None; NODES] };
                        next.push((Step::ReadBegins { reader }, State { read, ..state.clone() }));
                    }
                }
            }
            Read::Sent { .. } => {
                self.answer_read(state, next);
                self.return_barrier(state, next);
            }
            Read::NotBegun | Read::Over { .. } => {}
        }
    }

    fn answer_read(&self, state: &State, next: &mut Vec<(Step, State)>) {
        let Read::Sent { reader, configuration, answers } = state.read else { return };
        for node in self.voters(configuration).iter() {
            let it = state.cluster.node(node);
            let same_epoch = it.now.configuration == configuration || self.has(Bug::ReadsNotFenced);
            if answers[usize::from(node)].is_some() || !same_epoch {
                continue;
            }
            let closed = it.now.closed;
            let mut answers = answers;
            answers[usize::from(node)] = Some(Answer { closed, reaches: closed || it.disk.held.ballot.round > 0 });
            let read = Read::Sent { reader, configuration, answers };
            next.push((Step::AnswersRead { node }, State { read, ..state.clone() }));
        }
    }

    fn return_barrier(&self, state: &State, next: &mut Vec<(Step, State)>) {
        let Read::Sent { reader, configuration, answers } = state.read else { return };
        let answered: Nodes = (0..NODES as Node).filter(|node| answers[usize::from(*node)].is_some()).collect();
        let closed_here = state.cluster.node(reader).now.closed;
        for counted in answered.subsets().filter(|set| self.is_quorum(configuration, *set)) {
            let of = |what: fn(&Answer) -> bool| -> Nodes {
                counted.iter().filter(|node| answers[usize::from(*node)].as_ref().is_some_and(what)).collect()
            };
            let reach = of(|answer| answer.reaches);
            let silent = self.voters(configuration).without(counted);
            let may_be_chosen = self.holds_barrier(configuration, reach.or(silent));
            let barrier = reach != Nodes::NONE && may_be_chosen;
            let known = closed_here || of(|answer| answer.closed) != Nodes::NONE;
            if barrier && !known {
                continue;
            }
            let read = Read::Over { stale: !barrier };
            next.push((Step::ReadReturns { counted, found: barrier }, State { read, ..state.clone() }));
        }
    }

    /// Whether these contain a quorum under which the slot may have been chosen: in a joint epoch, of the old voters.
    fn holds_barrier(&self, configuration: Configuration, set: Nodes) -> bool {
        match configuration {
            Configuration::New => set.is_majority_of(self.new),
            Configuration::Joint if self.has(Bug::JointReadsAskNew) => set.is_majority_of(self.new),
            Configuration::Old | Configuration::Joint | Configuration::OldAgain => set.is_majority_of(self.old),
        }
    }

    /// A reader that crashed, or was told of the next epoch, has no round any more.
    pub(super) fn forget_round(&self, state: &mut State, node: Node) {
        if matches!(state.read, Read::Sent { reader, .. } if reader == node) {
            state.read = Read::NotBegun;
        }
    }
}
