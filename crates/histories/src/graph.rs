//! Which transaction must stand before which other, and why: Adya's dependencies, and the order of real time.

use crate::event::{Key, Value};
use std::fmt;

/// Why one transaction stands before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Why {
    /// ww: the second appended after the first.
    Overwrote { key: Key, first: Value, second: Value },
    /// wr: the second read what the first appended.
    Read { key: Key, value: Value },
    /// rw, anti-dependency: the first did not see what the second appended.
    Missed { key: Key, value: Value },
    /// The first was acknowledged before the second began.
    Ended,
    /// The same, of one client.
    SameClient,
}

/// The classes of edges by which the phenomena differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Write,
    Read,
    Anti,
    Order,
}

impl Why {
    pub(crate) fn class(self) -> Class {
        match self {
            Why::Overwrote { .. } => Class::Write,
            Why::Read { .. } => Class::Read,
            Why::Missed { .. } => Class::Anti,
            Why::Ended | Why::SameClient => Class::Order,
        }
    }
}

/// An edge to the later transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) to: usize,
    pub(crate) why: Why,
}

/// Edges by their earlier transaction.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    edges: Vec<Vec<Edge>>,
}

impl Graph {
    pub(crate) fn of(transactions: usize) -> Graph {
        Graph { edges: vec![Vec::new(); transactions] }
    }

    /// Adds an edge; none from a transaction to itself, and none twice.
    pub(crate) fn add(&mut self, from: usize, to: usize, why: Why) {
        let edge = Edge { to, why };
        // Few edges leave a transaction that are alike, and those come one after another.
        if from != to && self.edges[from].last() != Some(&edge) {
            self.edges[from].push(edge);
        }
    }

    pub(crate) fn from(&self, transaction: usize) -> &[Edge] {
        &self.edges[transaction]
    }

    pub(crate) fn transactions(&self) -> usize {
        self.edges.len()
    }

    /// Adds the order of real time: of all pairs where one ended before the other began, those from which the rest
    /// follow. `spans` has the beginnings and the known ends.
    pub(crate) fn add_real_time(&mut self, spans: &[(usize, u64, Option<u64>)]) {
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (index, (_, begin, end)) in spans.iter().enumerate() {
            moments.push((*begin, false, index));
            if let Some(end) = end {
                moments.push((*end, true, index));
            }
        }
        // At one moment, beginnings first: then the two overlap.
        moments.sort_unstable();
        // Those that ended, and after which none that ended has begun: at most one per client.
        let mut latest: Vec<usize> = Vec::new();
        for (_, is_end, index) in moments {
            let (transaction, begin, _) = spans[index];
            if is_end {
                latest.retain(|before| spans[*before].2.is_some_and(|end| end >= begin));
                latest.push(index);
            } else {
                for before in &latest {
                    self.add(spans[*before].0, transaction, Why::Ended);
                }
            }
        }
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.to;
        match self.why {
            Why::Overwrote { key, first, second } => {
                write!(f, "(ww) T{to} appended {second} to list {} after its {first}", key.0)
            }
            Why::Read { key, value } => write!(f, "(wr) T{to} read its {value} in list {}", key.0),
            Why::Missed { key, value } => {
                write!(f, "(rw) it read list {} without {value}, which T{to} appended", key.0)
            }
            Why::Ended => write!(f, "(real time) it was acknowledged before T{to} began"),
            Why::SameClient => write!(f, "(session) it was acknowledged to the client that then began T{to}"),
        }
    }
}
