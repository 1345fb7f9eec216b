//! The readable story of a run.

use std::fmt;

use crate::schedule::Moment;

/// Prints every event when switched on.
#[derive(Debug, Default)]
pub struct Trace {
    /// Whether anybody reads it.
    pub enabled: bool,
}

impl Trace {
    /// Tells what happened.
    pub fn tell(&self, now: Moment, what: fmt::Arguments<'_>) {
        if self.enabled {
            println!("{:>4}.{:06}  {what}", now / 1_000_000, now % 1_000_000);
        }
    }
}
