//! Reading entries back, from any thread: for members that catch up, and for delivery after a restart.

use crate::cold_log::ColdLog;
use crate::cold_moves::{decode, SharedStore};
use crate::cold_store::{key_of, log_of, ColdStoreError};
use crate::log_state::{Place, SegmentSequence, SharedState};
use crate::repair::Repair;
use crate::writer::Shared;
use bytes::Bytes;
use consensus::{Ballot, Entry, GroupId, LogId, RecoveredEntry, RecoveredLog, Slot};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

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
    /// The disk damaged the store of cold logs: promises are lost. The log ends the node for it, and the next start says
    /// so of every group concerned.
    #[error("cannot read log {log} in group {group}: {why}")]
    StateLost {
        /// The group.
        group: GroupId,
        /// The log that was asked for.
        log: LogId,
        /// What is damaged.
        why: String,
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
    cold: SharedStore,
    /// Whom to tell of damage.
    writer: Option<Arc<Shared>>,
}

impl LogReader {
    /// Of what stands in the log's own files.
    pub(crate) fn new(state: SharedState) -> LogReader {
        LogReader::with_store(state, None, None)
    }

    pub(crate) fn with_store(state: SharedState, cold: SharedStore, writer: Option<Arc<Shared>>) -> LogReader {
        LogReader { state, cold, writer }
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
    /// The file system refused, or the store of cold logs is damaged.
    pub fn load_log(&self, group: GroupId, log: LogId) -> Result<RecoveredLog, ReadError> {
        // Memory first: what leaves it meanwhile is in the store by then.
        let in_log = self.load_from_log(group, log)?;
        match self.load_from_store(group, log)? {
            Some((mut cold, distrusted)) => {
                cold.merge(ColdLog::of(0, in_log), distrusted);
                Ok(cold.into_recovered())
            }
            None => Ok(in_log),
        }
    }

    /// What the log itself says.
    pub(crate) fn load_from_log(&self, group: GroupId, log: LogId) -> Result<RecoveredLog, ReadError> {
        let mut loaded = self.state.lock().recovered_log(group, log);
        let slots: Vec<Slot> = loaded.accepted.keys().copied().collect();
        for slot in slots {
            match self.read_from_log(group, log, slot) {
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
    /// The file system refused, or the store of cold logs is damaged.
    pub fn list_logs(&self, group: GroupId, after: Option<LogId>, count_max: usize) -> Result<LogPage, ReadError> {
        let (mut logs, cold): (BTreeMap<LogId, (Slot, Slot)>, bool) = {
            let state = self.state.lock();
            let in_log = state.logs_after(group, after).map(|(log, closed, highest)| (log, (closed, highest)));
            (in_log.take(count_max.saturating_add(1)).collect(), state.goes_cold(group, LogId(u128::MAX)))
        };
        let first = after.map_or(Some(LogId(0)), |after| after.0.checked_add(1).map(LogId));
        if let (true, Some(first), Some(store)) = (cold, first, &self.cold) {
            let (from, to) = (key_of(group, first), key_of(group, LogId(u128::MAX)));
            let damaged = |error| self.store_failed(error, group, first);
            let found = store.scan(&from, &to, count_max.saturating_add(1)).map_err(damaged)?;
            for (key, value) in found {
                let state = decode(&key, &value).map_err(damaged)?;
                let log = log_of(&key).map_or(first, |(_, log)| log);
                let known = logs.entry(log).or_default();
                let highest = state.entries.keys().next_back().copied().unwrap_or_default();
                known.0 = known.0.max(state.closed).max(state.trimmed);
                known.1 = known.1.max(highest).max(known.0);
            }
        }
        let is_last = logs.len() <= count_max;
        Ok((logs.into_iter().take(count_max).map(|(log, (closed, highest))| (log, closed, highest)).collect(), is_last))
    }

    /// What the store holds of a log, if it holds such logs; and the last segment that makes it doubtful.
    fn load_from_store(&self, group: GroupId, log: LogId) -> Result<Option<(ColdLog, SegmentSequence)>, ReadError> {
        let (cold, distrusted) = {
            let state = self.state.lock();
            (state.goes_cold(group, log), state.cold.distrusted)
        };
        let (true, Some(store)) = (cold, &self.cold) else { return Ok(None) };
        let key = key_of(group, log);
        let damaged = |error| self.store_failed(error, group, log);
        let Some(value) = store.get(&key).map_err(damaged)? else { return Ok(None) };
        Ok(Some((decode(&key, &value).map_err(damaged)?, distrusted)))
    }

    fn store_failed(&self, error: ColdStoreError, group: GroupId, log: LogId) -> ReadError {
        match error {
            ColdStoreError::Io(error) => ReadError::Io(error),
            ColdStoreError::Damaged(why) => {
                tracing::error!(%group, %log, %why, "the store of cold logs is damaged");
                if let Some(writer) = &self.writer {
                    writer.repair(vec![Repair::ColdStore]);
                }
                ReadError::StateLost { group, log, why }
            }
        }
    }

    fn read_one(&self, group: GroupId, log: LogId, slot: Slot) -> Result<StoredEntry, ReadError> {
        let missing = match self.read_from_log(group, log, slot) {
            Err(missing @ ReadError::Missing { .. }) => missing,
            other => return other,
        };
        let Some((mut cold, distrusted)) = self.load_from_store(group, log)? else { return Err(missing) };
        let positions = RecoveredLog { accepted: BTreeMap::new(), ..self.state.lock().recovered_log(group, log) };
        cold.merge(ColdLog::of(0, positions), distrusted);
        match cold.entries.remove(&slot) {
            Some(RecoveredEntry { ballot, entry: Some(entry) }) => Ok(StoredEntry { slot, ballot, entry }),
            Some(RecoveredEntry { ballot, entry: None }) => Err(ReadError::Damaged { group, log, slot, ballot }),
            None => Err(missing),
        }
    }

    fn read_from_log(&self, group: GroupId, log: LogId, slot: Slot) -> Result<StoredEntry, ReadError> {
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
            match file.read_at(u64::from(place.offset), &mut buffer) {
                // A laggards' file that was removed meanwhile, or by hand.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    earlier = Some(place);
                    continue;
                }
                read => read?,
            }
            if crc32c::crc32c(&buffer) == place.checksum {
                if let Ok(entry) = Entry::from_bytes(Bytes::from(buffer)) {
                    return Ok(StoredEntry { slot, ballot, entry });
                }
            }
            earlier = Some(place);
        }
    }
}
