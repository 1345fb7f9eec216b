//! What a history shows that it must not.

use std::fmt;

/// The phenomena, by their names in the literature: Adya's thesis, Berenson et al., Cerone and Gotsman, Elle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// No order of the operations explains what a register returned.
    NotLinearizable,
    /// A value that nobody wrote.
    Garbage,
    /// One append that is in a list twice.
    Duplicate,
    /// Two reads of a list of which neither continues the other.
    IncompatibleOrder,
    /// A transaction that contradicts itself: its own append missing, or a second read of a snapshot that differs.
    Internal,
    /// G0, write cycle: transactions that each overwrote the other.
    WriteCycle,
    /// G1a: the effect of a transaction that was rolled back.
    AbortedRead,
    /// G1b: a state from the middle of another transaction.
    IntermediateRead,
    /// G1c: transactions that each saw or overwrote the other.
    CircularInformationFlow,
    /// P4: two transactions that read the same version and both wrote the next.
    LostUpdate,
    /// Something acknowledged before the transaction began was not seen: a stale read, or a lost write.
    StaleRead,
    /// G-single, read skew: one anti-dependency in the cycle.
    SingleAntiDependency,
    /// Two transactions that saw two others in opposite orders.
    LongFork,
    /// G-nonadjacent: several anti-dependencies, no two in a row.
    NonAdjacentAntiDependencies,
    /// G2, write skew among them: anti-dependencies in a row.
    AntiDependencyCycle,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::NotLinearizable => "not linearizable",
            Kind::Garbage => "a value that nobody wrote",
            Kind::Duplicate => "an append that took effect twice",
            Kind::IncompatibleOrder => "reads that contradict each other",
            Kind::Internal => "a transaction that contradicts itself",
            Kind::WriteCycle => "G0, write cycle",
            Kind::AbortedRead => "G1a, aborted read",
            Kind::IntermediateRead => "G1b, intermediate read",
            Kind::CircularInformationFlow => "G1c, circular information flow",
            Kind::LostUpdate => "lost update",
            Kind::StaleRead => "stale read or lost write",
            Kind::SingleAntiDependency => "G-single, read skew",
            Kind::LongFork => "long fork",
            Kind::NonAdjacentAntiDependencies => "G-nonadjacent",
            Kind::AntiDependencyCycle => "G2, anti-dependency cycle",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One anomaly, with all that a reader needs to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    /// Which.
    pub kind: Kind,
    /// The transactions and keys concerned, a line each.
    pub story: Vec<String>,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        self.story.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}
