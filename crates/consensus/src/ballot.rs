//! Ballots: the numbers of *Paxos Made Simple*, totally ordered, never used by two proposers.

use crate::ids::{Epoch, NodeId, Start};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A ballot, ordered by epoch, then round, then node, then start. The start keeps a restarted node from reusing a ballot
/// of its earlier life; the epoch makes every ballot of an older configuration lower than the fence of a newer one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Ballot {
    /// The configuration whose quorums decide under this ballot.
    pub epoch: Epoch,
    /// Counts attempts within the epoch.
    pub round: u64,
    /// The proposer.
    pub node: NodeId,
    /// The proposer's start.
    pub start: Start,
}

impl Ballot {
    /// Lower than every ballot that anybody uses.
    pub const ZERO: Ballot = Ballot { epoch: Epoch(0), round: 0, node: NodeId(0), start: Start(0) };

    /// The lowest promise of a member that has fenced `epoch`: refuses every older epoch, and no proposer of this one.
    #[must_use]
    pub fn floor(epoch: Epoch) -> Ballot {
        Ballot { epoch, round: 0, node: NodeId(0), start: Start(0) }
    }

    /// Whether some node proposed under it, as opposed to a floor.
    #[must_use]
    pub fn is_proposed(&self) -> bool {
        self.round > 0
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_proposed() {
            write!(out, "{}.{}.{:x}.{}", self.epoch.0, self.round, self.node.0, self.start.0)
        } else {
            write!(out, "{}.0", self.epoch.0)
        }
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}
