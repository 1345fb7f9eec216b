//! Where the acceptor state of cold logs stands: an ordered store beside the log.
//!
//! The design, sections 4 and 6: ten million objects that nobody uses cost disk, not memory. When the segment that holds the
//! last records of such a log is to be used again, the log's state moves here, synced first, and out of memory
//! (`cold_moves.rs`). A log's state is what the store and the log say together, and the log is newer.
//!
//! Behind a trait, because the store in use writes by itself (`fjall_store.rs`) and the crash matrix must see every
//! write: its tests use a store on the same disk as the log.

use consensus::{GroupId, LogId};
use std::io;

/// What the log asks of an ordered store.
pub(crate) trait ColdStore: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdStoreError>;

    /// Keys from `from` up to `to`, both counted in, in order, `count_max` at most, with their values.
    fn scan(&self, from: &[u8], to: &[u8], count_max: usize) -> Result<Vec<Pair>, ColdStoreError>;

    /// Sets keys, or removes those with `None`. All or nothing, and durable on return. Keys rise. After an error the store
    /// must not be changed any more.
    fn change(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), ColdStoreError>;

    /// Moves everything aside, for people to look at; the store is empty then. Durable on return.
    fn set_aside(&self) -> io::Result<()>;

    /// Bytes on the disk.
    fn bytes(&self) -> u64;
}

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// Why the store does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ColdStoreError {
    /// What it holds there is damaged: reading it again will not help.
    #[error("the store of cold logs is damaged: {0}")]
    Damaged(String),
    /// The file system refused, or an earlier failure of the store is not over.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ColdStoreError {
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            ColdStoreError::Io(error) => error,
            damaged => io::Error::new(io::ErrorKind::InvalidData, damaged),
        }
    }
}

/// Key of the number of changes there were. The log notes it too: a store that says less has lost some.
pub(crate) const MOVES: &[u8] = &[0, 0];

/// Key of the last segment with a gap: see [`crate::log_state::LogState::distrust_closed`].
pub(crate) const DISTRUSTED: &[u8] = &[0, 1];

const OF_LOGS: u8 = 1;

/// Key of a log's state: logs of a group stand together, in the order of their ids.
pub(crate) fn key_of(group: GroupId, log: LogId) -> Vec<u8> {
    let mut key = Vec::with_capacity(33);
    key.push(OF_LOGS);
    key.extend_from_slice(&group.0.to_be_bytes());
    key.extend_from_slice(&log.0.to_be_bytes());
    key
}

/// The log of a key; `None` for other keys.
pub(crate) fn log_of(key: &[u8]) -> Option<(GroupId, LogId)> {
    let (group, log) = key.strip_prefix(&[OF_LOGS])?.split_at_checked(16)?;
    let number = |bytes: &[u8]| Some(u128::from_be_bytes(bytes.try_into().ok()?));
    Some((GroupId(number(group)?), LogId(number(log)?)))
}

/// A number under one of the keys that are no log's: with its checksum.
pub(crate) fn number_value(key: &[u8], number: u64) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.extend_from_slice(&crc32c::crc32c_append(crc32c::crc32c(key), &value).to_le_bytes());
    value
}

/// Reads such a number; 0 where there is none.
pub(crate) fn number_in(store: &dyn ColdStore, key: &[u8]) -> Result<u64, ColdStoreError> {
    let Some(value) = store.get(key)? else { return Ok(0) };
    let number = value.get(..8).and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
    let number = number.filter(|number| value == number_value(key, *number));
    number.ok_or_else(|| ColdStoreError::Damaged(format!("the number under key {key:?}")))
}
