//! The configurations that a group goes through, and who decides in each: quorums are asked of the configuration (rule 6).

use super::{Bug, Epochs, State};
use crate::words::{Ballot, Nodes};

/// The configurations there can be, by epoch; the third epoch has two candidates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[allow(missing_docs)]
pub enum Configuration {
    #[default]
    Old,
    Joint,
    New,
    OldAgain,
}

impl Configuration {
    /// The number of its epoch.
    #[must_use]
    pub fn epoch(self) -> u8 {
        match self {
            Configuration::Old => 1,
            Configuration::Joint => 2,
            Configuration::New | Configuration::OldAgain => 3,
        }
    }
}

impl Epochs {
    pub(super) fn is_quorum(&self, configuration: Configuration, set: Nodes) -> bool {
        let (old, new) = (set.is_majority_of(self.old), set.is_majority_of(self.new));
        match configuration {
            Configuration::Old | Configuration::OldAgain => old,
            Configuration::Joint => new && (old || self.has(Bug::JointAsksNewOnly)),
            Configuration::New => new,
        }
    }

    pub(super) fn voters(&self, configuration: Configuration) -> Nodes {
        match configuration {
            Configuration::Old | Configuration::OldAgain => self.old,
            Configuration::Joint => self.old.or(self.new),
            Configuration::New => self.new,
        }
    }

    /// Who may own the log: voters that stay.
    pub(super) fn eligible(&self, configuration: Configuration) -> Nodes {
        match configuration {
            Configuration::Joint => self.new,
            other => self.voters(other),
        }
    }

    /// The configuration that decides under a ballot, for judging.
    pub(super) fn deciding(&self, state: &State, ballot: Ballot) -> Configuration {
        match ballot.epoch {
            0 | 1 => Configuration::Old,
            2 => Configuration::Joint,
            _ => state.third.expect("nobody is in an epoch that was not chosen"),
        }
    }
}
