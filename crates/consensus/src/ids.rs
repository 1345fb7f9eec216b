//! The names of things: nodes, groups, logs, slots, epochs. Newtypes, so that no integer can be taken for another.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A running engine's identity: random, 128 bits, made on first start, never reused after its disk is lost (rule 7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct NodeId(pub u128);

/// A named set of members that replicate together. Random, 128 bits; its name is a label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct GroupId(pub u128);

/// A sequence of slots inside a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct LogId(pub u128);

impl LogId {
    /// The group's own log: each slot holds a configuration, one slot in flight. Slot n holds the configuration of epoch n.
    pub const CONTROL: LogId = LogId(0);
    /// The one data log of a tables group: a pipelined sequence.
    pub const MAIN: LogId = LogId(1);
}

/// A position in a log. The first entry stands at slot 1; [`Slot::ZERO`] means "before the first".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Slot(pub u64);

impl Slot {
    /// Before the first entry.
    pub const ZERO: Slot = Slot(0);
    /// No log reaches this far: at a million entries a second it would take 146,000 years. Decoding refuses more, so that no sum overflows.
    pub const LARGEST: Slot = Slot(1 << 62);

    /// The slot after this one.
    #[must_use]
    pub fn next(self) -> Slot {
        Slot(self.0 + 1)
    }

    /// The slot before this one; slot zero stays.
    #[must_use]
    pub fn previous(self) -> Slot {
        Slot(self.0.saturating_sub(1))
    }

    /// The slot `count` further on.
    #[must_use]
    pub fn plus(self, count: u64) -> Slot {
        Slot(self.0.saturating_add(count))
    }
}

/// The number of a group's current configuration; also the control log's slot that holds it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch that follows.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }

    /// The slot of the control log that holds this epoch's configuration.
    #[must_use]
    pub fn slot(self) -> Slot {
        Slot(self.0)
    }
}

/// A counter made durable at each start of a node before it sends anything, so that no ballot or operation id is used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Start(pub u64);

/// A position in a node's write-ahead log, counted in records over the node's whole life: record n+1 follows record n,
/// across restarts too. `Persisted { sequence }` acknowledges every record up to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Sequence(pub u64);

/// A caller's own name for a request that it wants answered; the core only hands it back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Token(pub u64);

/// Names one operation for ever (rule 10). Given out by the node where the operation began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct OperationId {
    /// The node where the operation began.
    pub node: NodeId,
    /// That node's start at that time.
    pub start: Start,
    /// Counted by the node within that start, from 1.
    pub sequence: u64,
}

impl OperationId {
    /// The id of entries that nobody asks after: no-ops and configurations.
    pub const NONE: OperationId = OperationId { node: NodeId(0), start: Start(0), sequence: 0 };
}

macro_rules! show {
    ($type:ty, $format:literal) => {
        impl fmt::Debug for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, $format, self.0)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, $format, self.0)
            }
        }
    };
}
show!(NodeId, "n{:x}");
show!(GroupId, "g{:x}");
show!(LogId, "l{:x}");
show!(Slot, "{}");
show!(Epoch, "e{}");
show!(Start, "s{}");
show!(Sequence, "#{}");
show!(Token, "t{}");

impl fmt::Display for OperationId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:x}.{}.{}", self.node.0, self.start.0, self.sequence)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}

impl std::str::FromStr for OperationId {
    type Err = InvalidOperationId;

    /// Reads what `Display` writes: node in hexadecimal, start, sequence, with dots between.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(InvalidOperationId);
        let node = u128::from_str_radix(part()?, 16).map_err(|_| InvalidOperationId)?;
        let start = part()?.parse().map_err(|_| InvalidOperationId)?;
        let sequence = part()?.parse().map_err(|_| InvalidOperationId)?;
        if parts.next().is_some() {
            return Err(InvalidOperationId);
        }
        Ok(OperationId { node: NodeId(node), start: Start(start), sequence })
    }
}

/// The text is no operation id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an operation id: expected NODE.START.SEQUENCE")]
pub struct InvalidOperationId;
