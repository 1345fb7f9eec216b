//! Reading entries back, from any thread: for members that catch up, and for delivery after a restart.

use consensus::{Ballot, Entry, GroupId, LogId, Slot};
use std::io;

/// An entry as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its slot.
    pub slot: Slot,
    /// The ballot of the record it came from.
    pub ballot: Ballot,
    /// Its content, verified.
    pub entry: Entry,
}

/// Why the first entry asked for could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The log does not hold that slot: it was trimmed, never accepted here, or lost to damage.
    #[error("slot {slot} of log {log} in group {group} is not in this node's log")]
    Missing {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The slot.
        slot: Slot,
    },
    /// The disk damaged it; the entry must be fetched from another member.
    #[error("slot {slot} of log {log} in group {group} is damaged on this node's disk; it was accepted under ballot {ballot}")]
    Damaged {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The slot.
        slot: Slot,
        /// The ballot under which it was accepted or learnt.
        ballot: Ballot,
    },
    /// The file system refused.
    #[error("cannot read the log: {0}")]
    Io(#[from] io::Error),
}

/// Reads entries of a [`crate::Log`]. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct LogReader {
    never: std::convert::Infallible,
}

impl LogReader {
    /// Durable entries of consecutive slots from `from` up to `to`, stopping before `bytes_max` would be exceeded (but
    /// for the first) and before the first slot that is missing or damaged. Never empty when it succeeds.
    ///
    /// # Errors
    /// The first slot is missing or damaged, or the file system refused.
    pub fn read_entries(
        &self,
        group: GroupId,
        log: LogId,
        from: Slot,
        to: Slot,
        bytes_max: usize,
    ) -> Result<Vec<StoredEntry>, ReadError> {
        let _ = (group, log, from, to, bytes_max);
        match self.never {}
    }
}
