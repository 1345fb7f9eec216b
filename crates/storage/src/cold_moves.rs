//! Moving the state of cold logs from the log to the ordered store, and what is done when the store fails.
//!
//! All logs of values with something in the segment that is to be used again go, the state of each as a whole and as of
//! now; so nothing of them is ever written forward in the log. One that is in use comes back to memory, in part, with its
//! next record: a log's state is what the store and the log say together.
//!
//! The log notes how many changes the store has had. A store that lacks some at the start, or cannot be read, is set aside,
//! and every group whose logs it may have held is told that promises may be lost (rule 9). Damage found later is handled by
//! noting one change more than there was and stopping: the start after that does the rest.

use crate::bounds;
use crate::cold_log::ColdLog;
use crate::cold_store::{key_of, log_of, number_value, ColdStore, ColdStoreError, MOVES};
use crate::frame::{Frame, FrameKind};
use crate::log_reader::LogReader;
use crate::log_state::SegmentSequence;
use crate::segmented_log::{SegmentedLog, WriteError};
use consensus::{Ballot, GroupId, LogId, Sequence, Slot};
use std::io;
use std::sync::Arc;

impl SegmentedLog {
    /// Moves logs that have something in this segment, as many as one move takes. The frames go with the next batch.
    pub(crate) fn move_cold(&mut self, segment: SegmentSequence) -> Result<Vec<Frame>, WriteError> {
        let Some(store) = self.cold.clone() else { return Ok(Vec::new()) };
        let logs = self.state.lock().cold_in(segment, bounds::COLD_MOVE_LOGS_MAX);
        if logs.is_empty() {
            return Ok(Vec::new());
        }
        let moves = self.moves() + 1;
        let mut changes = vec![(MOVES.to_vec(), Some(number_value(MOVES, moves)))];
        let mut moved = Vec::new();
        let mut bytes = 0u64;
        for (group, log) in logs {
            let key = key_of(group, log);
            let state = match self.as_of_now(&*store, &key, (group, log)) {
                Ok(state) => state,
                Err(ColdStoreError::Damaged(why)) => return Err(self.give_up_store(&why)?),
                Err(error) => return Err(self.failed("read the store of cold logs", error.into_io())),
            };
            bytes += state.content_bytes();
            let value = state.encode(&key);
            changes.push((key, Some(value)));
            moved.push((group, log));
            if bytes > bounds::COLD_MOVE_BYTES {
                break;
            }
        }
        store.change(&changes).map_err(|error| self.failed("write the store of cold logs", error.into_io()))?;
        self.moved_bytes +=
            changes.iter().map(|(key, value)| (key.len() + value.as_ref().map_or(0, Vec::len)) as u64).sum::<u64>();
        let mut state = self.state.lock();
        moved.into_iter().for_each(|(group, log)| state.unload_cold(group, log));
        drop(state);
        Ok(vec![cold_moved(self.position, moves)])
    }

    /// What the store and the log say of a log together.
    fn as_of_now(
        &self,
        store: &dyn ColdStore,
        key: &[u8],
        (group, log): (GroupId, LogId),
    ) -> Result<ColdLog, ColdStoreError> {
        let mut state = match store.get(key)? {
            Some(value) => decode(key, &value)?,
            None => ColdLog::default(),
        };
        let in_memory = LogReader::new(self.state.clone()).load_from_log(group, log).map_err(io::Error::other)?;
        let distrusted = self.state.lock().cold.distrusted;
        state.merge(ColdLog::of(self.current.sequence(), in_memory), distrusted);
        Ok(state)
    }

    /// The store cannot be trusted any more: makes the next start set it aside, and says why this one must end.
    pub(crate) fn give_up_store(&mut self, why: &str) -> Result<WriteError, WriteError> {
        let noted = cold_moved(self.position, self.moves() + 1);
        self.append_frames(&[noted])?;
        let why = format!("{why}; at the next start it is set aside, and the groups whose logs it held are told");
        let source = io::Error::new(io::ErrorKind::InvalidData, why);
        Ok(self.failed("use the store of cold logs", source))
    }

    fn moves(&self) -> u64 {
        self.state.lock().cold.moves.map_or(0, |kept| kept.value)
    }

    /// Takes the logs of dropped groups out of the store. Durable on return, as with laggards' files.
    pub(crate) fn wipe_forgotten(&mut self) -> Result<(), WriteError> {
        let forgotten = std::mem::take(&mut self.state.lock().cold.forgotten);
        let Some(store) = self.cold.clone() else { return Ok(()) };
        for group in forgotten {
            wipe(&*store, group).map_err(|error| self.failed("drop a group's cold logs", error.into_io()))?;
        }
        Ok(())
    }
}

fn wipe(store: &dyn ColdStore, group: GroupId) -> Result<(), ColdStoreError> {
    loop {
        let found =
            store.scan(&key_of(group, LogId(0)), &key_of(group, LogId(u128::MAX)), bounds::COLD_WIPE_LOGS_MAX)?;
        if found.is_empty() {
            return Ok(());
        }
        let changes: Vec<_> = found.into_iter().map(|(key, _)| (key, None)).collect();
        store.change(&changes)?;
    }
}

/// Notes that the store has had so many changes.
pub(crate) fn cold_moved(position: Sequence, moves: u64) -> Frame {
    Frame::bare(FrameKind::ColdMoved, position, GroupId(0), LogId(0), Slot(moves), Ballot::ZERO)
}

pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<ColdLog, ColdStoreError> {
    ColdLog::decode(key, value).ok_or_else(|| {
        let (group, log) = log_of(key).unwrap_or_default();
        ColdStoreError::Damaged(format!("the state of log {log} in group {group}"))
    })
}

/// The store, where there is one.
pub(crate) type SharedStore = Option<Arc<dyn ColdStore>>;
