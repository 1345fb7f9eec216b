//! The words that the models share.

use std::fmt;

/// A node; small numbers.
pub type Node = u8;

/// A slot of a log, from 1.
pub type Slot = u8;

/// A ballot, ordered as in the code: by epoch, round, node, start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ballot {
    /// The configuration whose quorums decide under it.
    pub epoch: u8,
    /// Counts attempts; zero is nobody's.
    pub round: u8,
    /// The proposer.
    pub node: Node,
    /// The proposer's start.
    pub start: u8,
}

impl Ballot {
    /// Lower than every ballot that anybody uses.
    pub const ZERO: Ballot = Ballot { epoch: 0, round: 0, node: 0, start: 0 };

    /// The lowest promise of a member that has fenced `epoch`.
    #[must_use]
    pub fn floor(epoch: u8) -> Ballot {
        Ballot { epoch, ..Ballot::ZERO }
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.round == 0 {
            return write!(out, "{}.0", self.epoch);
        }
        write!(out, "{}.{}.n{}.{}", self.epoch, self.round, self.node, self.start)
    }
}

/// What stands in a slot. A value is named after the ballot under which it was first proposed, with the true start of its
/// proposer, so that no two proposals are alike unless one repeats the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Value(pub Ballot);

impl Value {
    /// Nothing at all.
    pub const NONE: Value = Value(Ballot::ZERO);
    /// What fills a gap.
    pub const NO_OP: Value = Value(Ballot { epoch: 0, round: 0, node: 0, start: 1 });

    /// Whether it is none.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Value::NONE
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Value::NONE => write!(out, "nothing"),
            Value::NO_OP => write!(out, "no-op"),
            Value(ballot) => write!(out, "value of {ballot:?}"),
        }
    }
}

/// An accepted entry: a value and the ballot under which it was accepted last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Entry {
    /// Under which ballot.
    pub ballot: Ballot,
    /// What.
    pub value: Value,
}

/// A set of nodes, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nodes(pub u8);

impl Nodes {
    /// Nobody.
    pub const NONE: Nodes = Nodes(0);

    /// The nodes numbered below `count`.
    #[must_use]
    pub fn below(count: u8) -> Nodes {
        Nodes((1 << count) - 1)
    }

    /// These nodes.
    #[must_use]
    pub fn of(nodes: &[Node]) -> Nodes {
        nodes.iter().copied().collect()
    }

    /// With this node.
    #[must_use]
    pub fn with(self, node: Node) -> Nodes {
        Nodes(self.0 | 1 << node)
    }

    /// Whether this node is in it.
    #[must_use]
    pub fn has(self, node: Node) -> bool {
        self.0 & 1 << node != 0
    }

    /// How many.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Those in both.
    #[must_use]
    pub fn and(self, other: Nodes) -> Nodes {
        Nodes(self.0 & other.0)
    }

    /// Those in either.
    #[must_use]
    pub fn or(self, other: Nodes) -> Nodes {
        Nodes(self.0 | other.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub fn without(self, other: Nodes) -> Nodes {
        Nodes(self.0 & !other.0)
    }

    /// Whether it holds more than half of `all`.
    #[must_use]
    pub fn is_majority_of(self, all: Nodes) -> bool {
        2 * self.and(all).count() > all.count()
    }

    /// One by one.
    pub fn iter(self) -> impl Iterator<Item = Node> {
        (0..8).filter(move |node| self.has(*node))
    }

    /// Every set of some of these.
    pub fn subsets(self) -> impl Iterator<Item = Nodes> {
        (1..=self.0).map(Nodes).filter(move |set| set.and(self) == *set)
    }
}

impl FromIterator<Node> for Nodes {
    fn from_iter<I: IntoIterator<Item = Node>>(nodes: I) -> Nodes {
        nodes.into_iter().fold(Nodes::NONE, Nodes::with)
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subset_is_named_once_and_nobody_is_none_of_them() {
        let subsets: Vec<Nodes> = Nodes::of(&[0, 2]).subsets().collect();
        assert_eq!(subsets, [Nodes::of(&[0]), Nodes::of(&[2]), Nodes::of(&[0, 2])]);
        assert_eq!(Nodes::NONE.subsets().count(), 0);
    }

    #[test]
    fn half_is_no_majority() {
        let all = Nodes::below(4);
        assert!(!Nodes::of(&[0, 1]).is_majority_of(all));
        assert!(all.without(Nodes::of(&[3])).is_majority_of(all));
        assert!(!Nodes::of(&[0, 1]).or(Nodes::of(&[5])).is_majority_of(all));
    }
}
