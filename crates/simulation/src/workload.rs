//! The users: operations proposed, withdrawn, proposed again, asked after; reads.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{Entry, NodeId, OperationId, Token};

use crate::parts::Unfinished;

/// What users wait for.
#[derive(Debug, Default)]
pub struct Workload {
    /// Proposals not answered yet, by the node that was asked.
    pub proposals: BTreeMap<(NodeId, OperationId), Entry>,
    /// Reads not answered yet, by the node that was asked.
    pub reads: BTreeSet<(NodeId, Token)>,
    /// Operations in parts that are on their way.
    pub unfinished: Unfinished,
    /// Names given to reads and changes.
    tokens: u64,
    /// Proposals answered as chosen.
    pub chosen: u64,
    /// Proposals answered as failed.
    pub failed: u64,
    /// Proposals answered as unknown, or cut off by a crash.
    pub unknown: u64,
    /// Reads answered with a barrier.
    pub barriers: u64,
    /// Reads refused.
    pub refused: u64,
}

impl Workload {
    /// A new name.
    pub fn next_token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    /// The node lost its memory: what it was asked will never be answered. Returns the proposals, unknown now.
    pub fn crashed(&mut self, node: NodeId) -> Vec<Entry> {
        self.unfinished.crashed(node);
        self.reads.retain(|(asked, _)| *asked != node);
        let lost: Vec<_> = self.proposals.keys().filter(|(asked, _)| *asked == node).copied().collect();
        self.unknown += lost.len() as u64;
        lost.iter().filter_map(|key| self.proposals.remove(key)).collect()
    }
}
