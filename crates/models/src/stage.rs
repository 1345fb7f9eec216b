//! What the proposer of a node does. None of it is on the disk (rule 4: an owner that restarts owns no more).

use crate::words::Ballot;

/// The stage of a proposer, and what an owner has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Stage<Progress> {
    /// It proposes nothing.
    #[default]
    Idle,
    /// It waits for promises.
    Preparing {
        /// Under which ballot.
        ballot: Ballot,
    },
    /// It proposes without phase 1.
    Owning {
        /// Under which ballot.
        ballot: Ballot,
        /// What it has done.
        progress: Progress,
    },
}

impl<Progress> Stage<Progress> {
    /// The ballot that it prepares or owns under; that of nobody if it does neither.
    #[must_use]
    pub fn ballot(&self) -> Ballot {
        match self {
            Stage::Idle => Ballot::ZERO,
            Stage::Preparing { ballot } | Stage::Owning { ballot, .. } => *ballot,
        }
    }
}
