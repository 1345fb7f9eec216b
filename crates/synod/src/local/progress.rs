//! Progress lines: what was just finished, and how long after the start.

use std::time::Instant;

/// Prints a line per finished step, so that nobody looks at a silent terminal.
pub struct Progress {
    start: Instant,
}

impl Progress {
    /// Counts from now.
    pub fn begin() -> Progress {
        Progress { start: Instant::now() }
    }

    /// Says that something is done (or about to be, if it takes long).
    pub fn say(&self, line: impl AsRef<str>) {
        println!("[{:5.1} s] {}", self.start.elapsed().as_secs_f64(), line.as_ref());
    }
}
