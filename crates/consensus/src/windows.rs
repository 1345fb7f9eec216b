//! How much travels together and how much may be under way in one log. What is shipped is the most ([`bounds`]); smaller
//! ones are for tests, in which a few entries must fill what takes thousands otherwise.

use crate::bounds;

/// The sizes of batches and windows. Every node of a group should have the same ones: an acceptor takes no more ahead than
/// it expects of an owner. Safety does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Entries in one message. Default [`bounds::BATCH_ENTRIES_MAX`].
    pub batch_entries: usize,
    /// Bytes of entries in one message; a larger entry travels alone. Default [`bounds::BATCH_BYTES_MAX`].
    pub batch_bytes: usize,
    /// Batches that an owner has in flight before it lets entries gather. Default [`bounds::IN_FLIGHT_BATCHES_MAX`].
    pub in_flight_batches: usize,
    /// Slots that an owner may have in flight, beside those that it carries over. Default [`bounds::IN_FLIGHT_SLOTS_MAX`].
    pub in_flight_slots: usize,
}

impl Default for Windows {
    fn default() -> Self {
        Windows {
            batch_entries: bounds::BATCH_ENTRIES_MAX,
            batch_bytes: bounds::BATCH_BYTES_MAX,
            in_flight_batches: bounds::IN_FLIGHT_BATCHES_MAX,
            in_flight_slots: bounds::IN_FLIGHT_SLOTS_MAX,
        }
    }
}

impl Windows {
    /// Whether each is at least one and within its bound: messages beyond it would be refused by whoever gets them.
    #[must_use]
    pub fn are_within_bounds(&self) -> bool {
        (1..=bounds::BATCH_ENTRIES_MAX).contains(&self.batch_entries)
            && (1..=bounds::BATCH_BYTES_MAX).contains(&self.batch_bytes)
            && (1..=bounds::IN_FLIGHT_BATCHES_MAX).contains(&self.in_flight_batches)
            && (1..=bounds::IN_FLIGHT_SLOTS_MAX).contains(&self.in_flight_slots)
    }

    /// Whether so many entries leave no place in their message for one more, with which they take so many bytes.
    pub(crate) fn is_full(&self, entries: usize, bytes_with_next: usize) -> bool {
        entries > 0 && (entries >= self.batch_entries || bytes_with_next > self.batch_bytes)
    }

    /// As [`bounds::IN_FLIGHT_BYTES_MAX`].
    pub(crate) fn in_flight_bytes(&self) -> usize {
        2 * self.in_flight_batches * self.batch_bytes
    }

    /// As [`bounds::ACCEPT_WINDOW_SLOTS`]. Nobody has more in flight: what an owner carries over, acceptors have taken.
    #[must_use]
    pub fn accept_slots(&self) -> u64 {
        2 * self.in_flight_slots as u64
    }

    /// As [`bounds::ACCEPT_WINDOW_BYTES`]; the largest entry fits in any case, and one before it.
    pub(crate) fn accept_bytes(&self) -> usize {
        (2 * self.in_flight_bytes()).max(2 * bounds::ENTRY_BYTES_MAX)
    }

    /// As [`bounds::PROMOTION_LAG_SLOTS`].
    pub(crate) fn promotion_lag(&self) -> u64 {
        self.accept_slots() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_are_the_bounds() {
        let shipped = Windows::default();
        assert!(shipped.are_within_bounds());
        assert_eq!(shipped.in_flight_bytes(), bounds::IN_FLIGHT_BYTES_MAX);
        assert_eq!(shipped.accept_slots(), bounds::ACCEPT_WINDOW_SLOTS);
        assert_eq!(shipped.accept_bytes(), bounds::ACCEPT_WINDOW_BYTES);
        assert_eq!(shipped.promotion_lag(), bounds::PROMOTION_LAG_SLOTS);
        assert!(!Windows { batch_entries: 0, ..shipped }.are_within_bounds());
        assert!(!Windows { in_flight_slots: bounds::IN_FLIGHT_SLOTS_MAX + 1, ..shipped }.are_within_bounds());
        assert!(!shipped.is_full(0, usize::MAX), "a large entry travels alone");
    }
}
