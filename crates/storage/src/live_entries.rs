//! Which entries of a file the index still points to: what keeps the file, and what must move when it goes.

use crate::log_state::Place;
use consensus::{GroupId, LogId, Slot};

/// Consecutive slots of which a file holds, or held, entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub group: GroupId,
    pub log: LogId,
    pub first: Slot,
    pub count: u64,
}

/// The entries that count in one file.
#[derive(Debug, Default)]
pub(crate) struct LiveEntries {
    pub bytes: u64,
    pub count: u64,
    /// Bytes of those that go to the store of cold logs when the file goes.
    pub cold_bytes: u64,
    /// Where to look for them; what has moved or been trimmed since is still named.
    pub runs: Vec<Run>,
}

impl LiveEntries {
    pub(crate) fn add(&mut self, group: GroupId, log: LogId, slot: Slot, place: &Place) {
        self.count += 1;
        self.bytes += u64::from(place.bytes);
        self.cold_bytes += if place.is_cold() { u64::from(place.bytes) } else { 0 };
        if let Some(last) = self.runs.last_mut() {
            if (last.group, last.log, last.first.plus(last.count)) == (group, log, slot) {
                last.count += 1;
                return;
            }
        }
        self.runs.push(Run { group, log, first: slot, count: 1 });
    }

    pub(crate) fn remove(&mut self, place: &Place) {
        assert!(self.count > 0, "an entry is released once");
        self.count -= 1;
        self.bytes -= u64::from(place.bytes);
        self.cold_bytes -= if place.is_cold() { u64::from(place.bytes) } else { 0 };
    }
}
