//! Waiting: for a condition, with a deadline, and with what was seen last in the message.

use std::fmt::Debug;
use std::time::{Duration, Instant};

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Tries until it succeeds; at the deadline, fails with the last error.
pub fn wait_for<T>(what: &str, within: Duration, mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("not within {within:?}: {what}")));
            }
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Looks until what is seen satisfies; at the deadline, fails with what was seen last.
pub fn wait_until<T: Debug>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> anyhow::Result<T>,
    satisfies: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    wait_for(what, within, || {
        let seen = look()?;
        match satisfies(&seen) {
            true => Ok(seen),
            false => Err(anyhow::anyhow!("last seen: {seen:?}")),
        }
    })
}
