//! A write set: what one transaction proposes, as it stands in the body of a log entry.
//!
//! Format, all numbers little-endian: version (1 byte), count of keys (4), the keys (23 bytes each: table 4, index 2,
//! strength 1, hash 8, position 8), count of operations (4), the operations (a kind byte and what it needs, see
//! `operation.rs`). Keys come first so that certification reads them and leaves the rows alone.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::Slot;

use crate::encoding::{put_count, DecodeError, Reader};
use crate::key::{Key, KeyName, Strength};
use crate::operation::Operation;

/// The most bytes that a write set may take: a whole one stands in memory on every node, several times at once.
pub const WRITE_SET_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The format that this program writes, and the only one that it reads.
const VERSION: u8 = 1;

/// What one transaction changed, and under which keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteSet {
    /// The keys that it touched, each at most once, in the order of their names.
    pub keys: Vec<Key>,
    /// What it does, in order.
    pub operations: Vec<Operation>,
}

impl WriteSet {
    /// A write set of operations and of keys as they were touched: a key that was touched several times keeps its
    /// greatest strength and its lowest position.
    pub fn new(touched: impl IntoIterator<Item = Key>, operations: Vec<Operation>) -> WriteSet {
        let mut keys: BTreeMap<KeyName, (Strength, Slot)> = BTreeMap::new();
        for key in touched {
            keys.entry(key.name())
                .and_modify(|(strength, position)| {
                    *strength = (*strength).max(key.strength);
                    *position = (*position).min(key.position);
                })
                .or_insert((key.strength, key.position));
        }
        let keys = keys
            .into_iter()
            .map(|(name, (strength, position))| Key {
                table: name.table,
                index: name.index,
                hash: name.hash,
                strength,
                position,
            })
            .collect();
        WriteSet { keys, operations }
    }

    /// The bytes of the log entry's body. May be longer than [`WRITE_SET_BYTES_MAX`]; the caller refuses it then.
    pub fn encode(&self) -> Bytes {
        let rows: usize = self.operations.iter().map(Operation::encoded_bytes).sum();
        let mut out = Vec::with_capacity(9 + self.keys.len() * Key::ENCODED_BYTES + rows);
        out.push(VERSION);
        put_count(&mut out, self.keys.len());
        for key in &self.keys {
            key.encode(&mut out);
        }
        put_count(&mut out, self.operations.len());
        for operation in &self.operations {
            operation.encode(&mut out);
        }
        Bytes::from(out)
    }

    /// Reads a whole write set; rows share the memory of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<WriteSet, DecodeError> {
        let mut reader = Reader::new(bytes);
        let keys = read_keys(&mut reader)?;
        let count = reader.count(Operation::ENCODED_BYTES_MIN, "the number of operations")?;
        let mut operations = Vec::with_capacity(count);
        for _ in 0..count {
            operations.push(Operation::decode(&mut reader)?);
        }
        reader.finish()?;
        Ok(WriteSet { keys, operations })
    }

    /// Reads the keys only: what certification needs.
    pub fn decode_keys(bytes: &Bytes) -> Result<Vec<Key>, DecodeError> {
        read_keys(&mut Reader::new(bytes.clone()))
    }
}

fn read_keys(reader: &mut Reader) -> Result<Vec<Key>, DecodeError> {
    let version = reader.u8("the format version")?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let count = reader.count(Key::ENCODED_BYTES, "the number of keys")?;
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        keys.push(Key::decode(reader)?);
    }
    Ok(keys)
}
