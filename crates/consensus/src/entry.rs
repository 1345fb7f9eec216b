//! What a slot holds: a kind, the id of the operation, and a body that only the face understands.
//!
//! An entry is encoded once, where it is proposed; the same bytes go to the disk and to every peer. Cloning is cheap.

use crate::bounds;
use crate::configuration::Configuration;
use crate::ids::{NodeId, OperationId, Start};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum EntryKind {
    /// Fills a gap; no effect.
    NoOp = 0,
    /// A face's operation.
    Operation = 1,
    /// A configuration; only in the control log.
    Configuration = 2,
    /// Closes an operation id, so that asking after it has a final answer (rule 10). The body is that id.
    Close = 3,
    /// Marks the slot at which a snapshot is taken for a state copy.
    SnapshotMark = 4,
}

/// Bytes before the body: kind, then the id's node, start and sequence, big-endian.
const HEADER: usize = 1 + 16 + 8 + 8;

/// A slot's content, encoded. Equal entries have equal bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    bytes: Bytes,
}

impl Entry {
    /// An entry of `kind` for the operation `id`.
    #[must_use]
    pub fn new(kind: EntryKind, id: OperationId, body: &[u8]) -> Entry {
        let mut bytes = BytesMut::with_capacity(HEADER + body.len());
        bytes.put_u8(kind as u8);
        bytes.put_u128(id.node.0);
        bytes.put_u64(id.start.0);
        bytes.put_u64(id.sequence);
        bytes.put_slice(body);
        Entry { bytes: bytes.freeze() }
    }

    /// A gap filler.
    #[must_use]
    pub fn no_op() -> Entry {
        Entry::new(EntryKind::NoOp, OperationId::NONE, &[])
    }

    /// A face's operation.
    #[must_use]
    pub fn operation(id: OperationId, body: &[u8]) -> Entry {
        Entry::new(EntryKind::Operation, id, body)
    }

    /// Closes the id `target`; the entry itself goes by `id`.
    #[must_use]
    pub fn close(id: OperationId, target: OperationId) -> Entry {
        let body = Entry::new(EntryKind::Close, target, &[]);
        Entry::new(EntryKind::Close, id, &body.bytes[1..])
    }

    /// Marks the slot of a snapshot.
    #[must_use]
    pub fn snapshot_mark(id: OperationId) -> Entry {
        Entry::new(EntryKind::SnapshotMark, id, &[])
    }

    /// A configuration for the control log.
    #[must_use]
    pub fn configuration(configuration: &Configuration) -> Entry {
        let body = postcard::to_stdvec(configuration).expect("a configuration always encodes");
        Entry::new(EntryKind::Configuration, OperationId::NONE, &body)
    }

    /// Takes bytes from a disk or a peer as an entry.
    ///
    /// # Errors
    /// The bytes are too short, too long, or of a kind that this version does not know.
    pub fn from_bytes(bytes: Bytes) -> Result<Entry, InvalidEntry> {
        if bytes.len() < HEADER {
            return Err(InvalidEntry::Short(bytes.len()));
        }
        if bytes.len() > bounds::ENTRY_BYTES_MAX {
            return Err(InvalidEntry::Long(bytes.len()));
        }
        let kind = kind_of(bytes[0]).ok_or(InvalidEntry::Kind(bytes[0]))?;
        if kind == EntryKind::Close && bytes.len() != HEADER + HEADER - 1 {
            return Err(InvalidEntry::Short(bytes.len()));
        }
        Ok(Entry { bytes })
    }

    /// The whole entry, as it goes to disks and peers.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        kind_of(self.bytes[0]).expect("checked when the entry was made")
    }

    /// The operation it belongs to.
    #[must_use]
    pub fn id(&self) -> OperationId {
        id_at(&self.bytes[1..])
    }

    /// The face's own bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    /// The id that a [`EntryKind::Close`] entry closes.
    #[must_use]
    pub fn closes(&self) -> Option<OperationId> {
        (self.kind() == EntryKind::Close).then(|| id_at(self.body()))
    }

    /// The configuration that a [`EntryKind::Configuration`] entry carries, if it is a valid one.
    #[must_use]
    pub fn to_configuration(&self) -> Option<Configuration> {
        if self.kind() != EntryKind::Configuration {
            return None;
        }
        let configuration: Configuration = postcard::from_bytes(self.body()).ok()?;
        configuration.check().ok()?;
        Some(configuration)
    }

    /// Bytes that it takes in memory, on the disk and on a link.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: every entry has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

fn kind_of(byte: u8) -> Option<EntryKind> {
    Some(match byte {
        0 => EntryKind::NoOp,
        1 => EntryKind::Operation,
        2 => EntryKind::Configuration,
        3 => EntryKind::Close,
        4 => EntryKind::SnapshotMark,
        _ => return None,
    })
}

fn id_at(bytes: &[u8]) -> OperationId {
    let number = |from: usize| u64::from_be_bytes(bytes[from..from + 8].try_into().expect("eight bytes"));
    OperationId {
        node: NodeId(u128::from_be_bytes(bytes[..16].try_into().expect("sixteen bytes"))),
        start: Start(number(16)),
        sequence: number(24),
    }
}

/// Bytes that are no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEntry {
    /// Shorter than its header.
    #[error("an entry of {0} bytes is too short for its header")]
    Short(usize),
    /// Longer than any entry may be.
    #[error("an entry of {0} bytes is longer than the largest allowed")]
    Long(usize),
    /// A kind from a newer version.
    #[error("entry kind {0} is unknown to this version")]
    Kind(u8),
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entry, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?;
        Entry::from_bytes(bytes).map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            EntryKind::NoOp => write!(out, "no-op"),
            EntryKind::Operation => {
                let body = String::from_utf8_lossy(&self.body()[..self.body().len().min(16)]);
                write!(out, "{}={body:?}", self.id())
            }
            EntryKind::Configuration => match self.to_configuration() {
                Some(configuration) => write!(out, "{configuration:?}"),
                None => write!(out, "invalid configuration"),
            },
            EntryKind::Close => write!(out, "close {}", id_at(self.body())),
            EntryKind::SnapshotMark => write!(out, "snapshot mark {}", self.id()),
        }
    }
}
