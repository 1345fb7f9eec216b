//! What a checker says.

use crate::anomaly::Anomaly;

/// How much was looked at; a pass over nothing says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions acknowledged.
    pub committed: usize,
    /// Of unknown outcome.
    pub unknown: usize,
    /// Of these, seen by somebody, hence committed.
    pub unknown_but_seen: usize,
    /// Certainly rolled back.
    pub failed: usize,
    /// Steps of committed transactions, which is what was checked.
    pub steps: usize,
    /// Keys that they touch.
    pub keys: usize,
}

/// A checker's judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// What was seen is possible at the level promised.
    Valid(Counts),
    /// It is not, for these reasons.
    Invalid(Vec<Anomaly>),
    /// The budget ran out on these keys before an answer was found. Not a pass.
    Undecided(String),
}

impl Verdict {
    /// Whether it is a pass.
    pub fn is_valid(&self) -> bool {
        matches!(self, Verdict::Valid(_))
    }

    /// The anomalies found.
    pub fn anomalies(&self) -> &[Anomaly] {
        match self {
            Verdict::Invalid(anomalies) => anomalies,
            Verdict::Valid(_) | Verdict::Undecided(_) => &[],
        }
    }
}
