//! What a slot holds: a kind, the id of the operation, and a body that only the face understands.
//!
//! An entry is encoded once, where it is proposed; the same bytes go to the disk and to every peer. Cloning is cheap.

use crate::bounds;
use crate::configuration::Configuration;
use crate::ids::{NodeId, OperationId, Slot, Start};
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
    /// A piece of an operation too large for one entry; nothing happens at its slot. Its own id is for its way through the
    /// log only; the body names the operation.
    Part = 5,
    /// The end of such an operation, under the operation's id: it takes effect here, if its parts were chosen before.
    LastPart = 6,
    /// A value in a log of values: all that is to be known at its slot. It names the slot before its own, whose value it
    /// was made from, so that it can stand at no other.
    Value = 7,
}

/// Bytes before the body: kind, then the id's node, start and sequence, big-endian.
const HEADER: usize = 1 + ID;

/// Bytes of an operation's id.
const ID: usize = 16 + 8 + 8;

/// Bytes before the piece in the body of a part: the operation's id, the part's number.
const PART_HEADER: usize = ID + 4;

/// Bytes before the face's own in the body of a value: the slot that it follows.
const VALUE_HEADER: usize = 8;

/// Bytes before the piece in the body of a last part: how many parts are before it, the length of the whole.
const LAST_PART_HEADER: usize = 4 + 4;

/// What a [`EntryKind::Part`] entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The operation it belongs to.
    pub operation: OperationId,
    /// Its place in it, from 0.
    pub number: u32,
    /// The bytes of the operation's body that stand there.
    pub piece: Bytes,
}

/// What a [`EntryKind::LastPart`] entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastPart {
    /// How many parts come before it.
    pub parts: u32,
    /// Length of the operation's whole body, in bytes.
    pub length: u32,
    /// The end of the body.
    pub piece: Bytes,
}

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
        put_id(&mut bytes, id);
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

    /// A part of the operation `operation`; the entry itself goes by `id`.
    #[must_use]
    pub fn part(id: OperationId, operation: OperationId, number: u32, piece: &[u8]) -> Entry {
        let mut body = BytesMut::with_capacity(PART_HEADER + piece.len());
        put_id(&mut body, operation);
        body.put_u32(number);
        body.put_slice(piece);
        Entry::new(EntryKind::Part, id, &body)
    }

    /// The end of the operation `id`, behind that many parts; `length` is that of its whole body.
    #[must_use]
    pub fn last_part(id: OperationId, parts: u32, length: u32, piece: &[u8]) -> Entry {
        let mut body = BytesMut::with_capacity(LAST_PART_HEADER + piece.len());
        body.put_u32(parts);
        body.put_u32(length);
        body.put_slice(piece);
        Entry::new(EntryKind::LastPart, id, &body)
    }

    /// A value for the slot after `follows` of a log of values.
    #[must_use]
    pub fn value(id: OperationId, follows: Slot, value: &[u8]) -> Entry {
        let mut body = BytesMut::with_capacity(VALUE_HEADER + value.len());
        body.put_u64(follows.0);
        body.put_slice(value);
        Entry::new(EntryKind::Value, id, &body)
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
        let fits = match kind {
            EntryKind::Close => bytes.len() == HEADER + ID,
            EntryKind::Part => bytes.len() >= HEADER + PART_HEADER,
            EntryKind::LastPart => bytes.len() >= HEADER + LAST_PART_HEADER,
            EntryKind::Value => bytes.len() >= HEADER + VALUE_HEADER,
            _ => true,
        };
        if !fits {
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

    /// What a [`EntryKind::Part`] entry carries.
    #[must_use]
    pub fn to_part(&self) -> Option<Part> {
        (self.kind() == EntryKind::Part).then(|| Part {
            operation: id_at(self.body()),
            number: u32_at(&self.body()[ID..]),
            piece: self.bytes.slice(HEADER + PART_HEADER..),
        })
    }

    /// What a [`EntryKind::LastPart`] entry carries.
    #[must_use]
    pub fn to_last_part(&self) -> Option<LastPart> {
        (self.kind() == EntryKind::LastPart).then(|| LastPart {
            parts: u32_at(self.body()),
            length: u32_at(&self.body()[4..]),
            piece: self.bytes.slice(HEADER + LAST_PART_HEADER..),
        })
    }

    /// The slot that a [`EntryKind::Value`] entry follows: it stands at the one after it or nowhere.
    #[must_use]
    pub fn follows(&self) -> Option<Slot> {
        (self.kind() == EntryKind::Value).then(|| Slot(u64_at(self.body())))
    }

    /// The face's own bytes of a [`EntryKind::Value`] entry.
    #[must_use]
    pub fn to_value(&self) -> Option<Bytes> {
        (self.kind() == EntryKind::Value).then(|| self.bytes.slice(HEADER + VALUE_HEADER..))
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
        5 => EntryKind::Part,
        6 => EntryKind::LastPart,
        7 => EntryKind::Value,
        _ => return None,
    })
}

fn put_id(bytes: &mut BytesMut, id: OperationId) {
    bytes.put_u128(id.node.0);
    bytes.put_u64(id.start.0);
    bytes.put_u64(id.sequence);
}

fn u32_at(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))
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
            EntryKind::Part => write!(out, "part {} of {}", u32_at(&self.body()[ID..]), id_at(self.body())),
            EntryKind::LastPart => write!(out, "{} behind {} parts", self.id(), u32_at(self.body())),
            EntryKind::Value => {
                let value = &self.body()[VALUE_HEADER..];
                let text = String::from_utf8_lossy(&value[..value.len().min(16)]);
                write!(out, "{}={text:?} after {}", self.id(), u64_at(self.body()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(sequence: u64) -> OperationId {
        OperationId { node: NodeId(0x0a), start: Start(2), sequence }
    }

    fn hex(entry: &Entry) -> String {
        entry.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes on disks and links; a change of them needs a new version there.
    #[test]
    fn parts_are_encoded_byte_by_byte_as_documented() {
        let own = "0000000000000000000000000000000a00000000000000020000000000000007";
        let operation = "0000000000000000000000000000000a00000000000000020000000000000003";
        let part = Entry::part(id(7), id(3), 258, b"piece");
        assert_eq!(hex(&part), format!("05{own}{operation}000001027069656365"));
        let last = Entry::last_part(id(3), 259, 1_000_000, b"end");
        assert_eq!(hex(&last), format!("06{operation}00000103000f4240656e64"));
        assert_eq!(format!("{part:?}, {last:?}"), "part 258 of a.2.3, a.2.3 behind 259 parts");
    }

    #[test]
    fn parts_read_back_and_short_ones_are_refused() {
        let part = Entry::part(id(7), id(3), 4, b"p");
        let last = Entry::last_part(id(3), 5, 6, b"l");
        let read = |entry: &Entry| Entry::from_bytes(entry.bytes().clone()).unwrap();
        let (operation, number) = (id(3), 4);
        assert_eq!(read(&part).to_part(), Some(Part { operation, number, piece: Bytes::from_static(b"p") }));
        assert_eq!(part.to_last_part(), None);
        let (parts, length) = (5, 6);
        assert_eq!(read(&last).to_last_part(), Some(LastPart { parts, length, piece: Bytes::from_static(b"l") }));
        assert_eq!(last.to_part(), None);
        for (entry, header) in [(part, HEADER + PART_HEADER), (last, HEADER + LAST_PART_HEADER)] {
            for cut in 0..entry.len() {
                let bytes = entry.bytes().slice(..cut);
                assert_eq!(Entry::from_bytes(bytes).is_ok(), cut >= header, "cut at {cut}");
            }
        }
    }

    #[test]
    fn values_are_encoded_byte_by_byte_as_documented() {
        let value = Entry::value(id(3), Slot(258), b"value");
        assert_eq!(
            hex(&value),
            "070000000000000000000000000000000a0000000000000002000000000000000300000000000001027\
                                 6616c7565"
                .replace(' ', "")
        );
        let read = Entry::from_bytes(value.bytes().clone()).unwrap();
        assert_eq!((read.follows(), read.to_value()), (Some(Slot(258)), Some(Bytes::from_static(b"value"))));
        assert_eq!(format!("{value:?}"), "a.2.3=\"value\" after 258");
        for cut in 0..value.len() {
            let whole = cut >= HEADER + VALUE_HEADER;
            assert_eq!(Entry::from_bytes(value.bytes().slice(..cut)).is_ok(), whole, "cut at {cut}");
        }
        assert_eq!(Entry::operation(id(1), b"12345678").follows(), None);
    }

    #[test]
    fn the_largest_entry_holds_a_piece_and_every_header() {
        let piece = vec![1; bounds::PIECE_BYTES];
        for entry in [
            Entry::operation(id(1), &piece),
            Entry::part(id(1), id(2), u32::MAX, &piece),
            Entry::last_part(id(1), u32::MAX, u32::MAX, &piece),
        ] {
            assert!(Entry::from_bytes(entry.bytes().clone()).is_ok(), "{entry:?}");
        }
        let bytes = Bytes::from(vec![EntryKind::Operation as u8; bounds::ENTRY_BYTES_MAX + 1]);
        assert_eq!(Entry::from_bytes(bytes), Err(InvalidEntry::Long(bounds::ENTRY_BYTES_MAX + 1)));
    }
}
