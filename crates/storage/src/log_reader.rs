//! Reading entries back, from any thread: for members that catch up, and for delivery after a restart.

use crate::log_state::{Place, SharedState};
use bytes::Bytes;
use consensus::{Ballot, Entry, GroupId, LogId, RecoveredEntry, RecoveredLog, Slot};
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

/// Logs with closed-up-to and highest slot of each, and whether these were the last.
pub type LogPage = (Vec<(LogId, Slot, Slot)>, bool);

/// Reads entries of a [`crate::Log`]. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct LogReader {
    state: SharedState,
}

impl LogReader {
    pub(crate) fn new(state: SharedState) -> LogReader {
        LogReader { state }
    }

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
        let mut found = Vec::new();
        let mut bytes = 0usize;
        let mut slot = from;
        while slot <= to {
            match self.read_one(group, log, slot) {
                Ok(entry) => {
                    bytes = bytes.saturating_add(entry.entry.len());
                    if bytes > bytes_max && !found.is_empty() {
                        break;
                    }
                    found.push(entry);
                }
                Err(error) if found.is_empty() => return Err(error),
                Err(_) => break,
            }
            slot = slot.next();
        }
        if found.is_empty() {
            return Err(ReadError::Missing { group, log, slot: from });
        }
        Ok(found)
    }

    /// What the log says, for a core that takes it into use: promise, positions, and every entry that is kept (those at or
    /// below closed-up-to, too), read and verified; a damaged one has no content. A log without a record is empty.
    ///
    /// # Errors
    /// The file system refused.
    pub fn load_log(&self, group: GroupId, log: LogId) -> Result<RecoveredLog, ReadError> {
        let mut loaded = self.state.lock().recovered_log(group, log);
        let slots: Vec<Slot> = loaded.accepted.keys().copied().collect();
        for slot in slots {
            match self.read_one(group, log, slot) {
                Ok(stored) => {
                    let entry = RecoveredEntry { ballot: stored.ballot, entry: Some(stored.entry) };
                    loaded.accepted.insert(slot, entry);
                }
                Err(ReadError::Damaged { ballot, .. }) => {
                    loaded.accepted.insert(slot, RecoveredEntry { ballot, entry: None });
                }
                // Trimmed meanwhile.
                Err(ReadError::Missing { .. }) => {
                    loaded.accepted.remove(&slot);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(loaded)
    }

    /// Data logs of a group that come after this one, `count_max` at most, in the order of their ids: each with closed-up-to
    /// and its highest accepted slot (or closed-up-to, if that is higher). The flag says that these are the last.
    ///
    /// # Errors
    /// The file system refused.
    pub fn list_logs(&self, group: GroupId, after: Option<LogId>, count_max: usize) -> Result<LogPage, ReadError> {
        let state = self.state.lock();
        let mut logs = state.logs_after(group, after);
        let page: Vec<(LogId, Slot, Slot)> = logs.by_ref().take(count_max).collect();
        Ok((page, logs.next().is_none()))
    }

    fn read_one(&self, group: GroupId, log: LogId, slot: Slot) -> Result<StoredEntry, ReadError> {
        let mut earlier: Option<Place> = None;
        loop {
            // The lock is not held while the disk is read; a segment that is recycled meanwhile fails the checksum, and
            // then the index says where the entry went.
            let looked_up = self.state.lock().place(group, log, slot);
            let Some((place, ballot, file)) = looked_up else {
                return Err(ReadError::Missing { group, log, slot });
            };
            if place.is_damaged() || earlier == Some(place) {
                return Err(ReadError::Damaged { group, log, slot, ballot });
            }
            let mut buffer = vec![0u8; place.bytes as usize];
            file.read_at(u64::from(place.offset), &mut buffer)?;
            if crc32c::crc32c(&buffer) == place.checksum {
                if let Ok(entry) = Entry::from_bytes(Bytes::from(buffer)) {
                    return Ok(StoredEntry { slot, ballot, entry });
                }
            }
            earlier = Some(place);
        }
    }
}
