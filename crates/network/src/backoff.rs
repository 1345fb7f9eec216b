//! How long to wait before dialling again.

use std::time::Duration;

use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};
use crate::pinning;

/// Doubling waits with jitter: each is between half of and the whole of its nominal value, so that nodes that lost
/// the same peer at the same moment do not all come back at the same moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    nominal: Duration,
    random: u64,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        let mut seed = [0; 8];
        // Without randomness there is merely less jitter.
        let _ = pinning::provider().secure_random.fill(&mut seed);
        Self { nominal: BACKOFF_MIN, random: u64::from_ne_bytes(seed) | 1 }
    }

    pub(crate) fn reset(&mut self) {
        self.nominal = BACKOFF_MIN;
    }

    pub(crate) fn next(&mut self) -> Duration {
        // xorshift64: any cheap sequence will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = self.nominal / 2;
        let jitter = half.mul_f64((self.random >> 11) as f64 / (1u64 << 53) as f64);
        self.nominal = (self.nominal * 2).min(BACKOFF_MAX);
        half + jitter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_short_again() {
        let mut backoff = Backoff::new();
        let first = backoff.next();
        assert!(first >= BACKOFF_MIN / 2 && first <= BACKOFF_MIN, "{first:?}");
        for _ in 0..20 {
            assert!(backoff.next() <= BACKOFF_MAX);
        }
        assert!(backoff.next() >= BACKOFF_MAX / 2);
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_MIN);
    }
}
