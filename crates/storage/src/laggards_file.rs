//! A file of one group's entries that are kept only for members that lag: closed slots, written once and never changed.
//!
//! The design, section 4: a segment is recycled once nothing in it is current, and entries kept for laggards move to
//! that group's own file, synced first. A file is laid out as a segment is (records from the front, the second copies of
//! their identities from the back, a header at both ends), so it is read, scrubbed and shown by the same code. It gets its
//! name only when all of it is synced: there is no torn end, and whatever in it is not whole is damage. It is small and
//! holds neighbouring slots, so that trimming removes whole files. `docs/on-disk-format.md` gives the bytes.

use crate::bounds::{COUNT_MAX, SEGMENT_BYTES_MAX, SEGMENT_SEQUENCE_MAX, SEPARATION_PART};
use crate::bytes_reader::{put, BytesReader};
use crate::disk::{Disk, DiskFile};
use crate::frame::Frame;
use crate::record_identity::{IdentityCopy, IDENTITY_BYTES};
use crate::segment_header::{HEADER_BLOCK_BYTES, HEADER_BYTES};
use consensus::GroupId;
use std::io::{self, IoSlice};
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"SYNODLAG";

/// The only version of these files.
pub(crate) const VERSION: u32 = 1;

/// A file under this name was never finished.
pub(crate) const UNFINISHED: &str = "laggards-unfinished";

const PREFIX: &str = "laggards-";

/// Number of a laggards' file, consecutive over the node; a later one counts where two hold one slot. 2^32 of them hold
/// 16 PiB.
pub(crate) type LaggardsNumber = u32;

/// The first and the last block of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaggardsHeader {
    /// Size of the file.
    pub bytes: u64,
    /// Which one it is.
    pub number: LaggardsNumber,
    /// Random; seeds every checksum in the file.
    pub id: u64,
    /// Whose file this is.
    pub node: u128,
    /// The start of the node that wrote it.
    pub start: u64,
    /// The segment in use when it was written: damage in later ones says nothing about what stands here.
    pub written_in: u64,
    /// The group of all entries.
    pub group: u128,
    /// Records in it.
    pub records: u32,
}

/// What a header block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaggardsBlock {
    Valid(LaggardsHeader),
    UnknownVersion(u32),
    Damaged,
}

impl LaggardsHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &self.records.to_le_bytes());
        put(&mut bytes, 16, &self.bytes.to_le_bytes());
        put(&mut bytes, 24, &u64::from(self.number).to_le_bytes());
        put(&mut bytes, 32, &self.id.to_le_bytes());
        put(&mut bytes, 40, &self.node.to_le_bytes());
        put(&mut bytes, 56, &self.start.to_le_bytes());
        put(&mut bytes, 64, &self.written_in.to_le_bytes());
        put(&mut bytes, 72, &self.group.to_le_bytes());
        // 88..124 is zero.
        let checksum = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        put(&mut bytes, HEADER_BYTES - 4, &checksum.to_le_bytes());
        bytes
    }

    /// Never panics, whatever the bytes.
    pub(crate) fn decode(bytes: &[u8]) -> LaggardsBlock {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else { return LaggardsBlock::Damaged };
        let mut checksum = BytesReader::new(&bytes[HEADER_BYTES - 4..]);
        if checksum.u32() != crc32c::crc32c(&bytes[..HEADER_BYTES - 4]) || bytes[..8] != MAGIC {
            return LaggardsBlock::Damaged;
        }
        let mut reader = BytesReader::new(&bytes[8..]);
        let version = reader.u32();
        if version != VERSION {
            return LaggardsBlock::UnknownVersion(version);
        }
        let (records, bytes, number) = (reader.u32(), reader.u64(), reader.u64());
        let Ok(number) = LaggardsNumber::try_from(number) else { return LaggardsBlock::Damaged };
        let (id, node) = (reader.u64(), reader.u128());
        let (start, written_in, group) = (reader.u64(), reader.u64(), reader.u128());
        let header = LaggardsHeader { bytes, number, id, node, start, written_in, group, records };
        if header.is_plausible() {
            LaggardsBlock::Valid(header)
        } else {
            LaggardsBlock::Damaged
        }
    }

    /// Whether a node can have written it.
    fn is_plausible(&self) -> bool {
        let identities = u64::from(self.records) * IDENTITY_BYTES as u64;
        self.bytes <= SEGMENT_BYTES_MAX
            && self.bytes >= 2 * HEADER_BLOCK_BYTES + 2 * identities
            && self.number < LaggardsNumber::MAX
            && self.start <= COUNT_MAX
            && self.written_in <= SEGMENT_SEQUENCE_MAX
    }
}

/// The file's name.
pub(crate) fn name_of(group: GroupId, number: LaggardsNumber) -> String {
    format!("{PREFIX}{:032x}-{number:08x}", group.0)
}

/// The number in a file's name; `None` if it is no laggards' file.
pub(crate) fn number_in(name: &str) -> Option<LaggardsNumber> {
    let (group, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    u128::from_str_radix(group, 16).ok()?;
    LaggardsNumber::from_str_radix(number, 16).ok()
}

/// Size of a file of these frames, in whole pages. The two copies of an identity are never in one page, nor nearer than a
/// sixteenth of the file.
pub(crate) fn bytes_for(frames: &[Frame]) -> u64 {
    let records: u64 = frames.iter().map(Frame::bytes).sum();
    let identities = (frames.len() * IDENTITY_BYTES) as u64;
    let used = 2 * HEADER_BLOCK_BYTES + records + identities;
    let apart = (used / (SEPARATION_PART - 1)).max(HEADER_BLOCK_BYTES);
    (used + apart).next_multiple_of(HEADER_BLOCK_BYTES)
}

/// The whole file, and where each frame begins.
pub(crate) fn assemble(header: &LaggardsHeader, frames: &[Frame]) -> (Vec<u8>, Vec<u64>) {
    assert_eq!((header.bytes, header.records as usize), (bytes_for(frames), frames.len()));
    let length = usize::try_from(header.bytes).expect("64-bit machines only");
    let mut bytes = vec![0u8; length];
    let encoded = header.encode();
    put(&mut bytes, 0, &encoded);
    put(&mut bytes, length - HEADER_BLOCK_BYTES as usize, &encoded);
    let mut places = Vec::with_capacity(frames.len());
    let mut offset = HEADER_BLOCK_BYTES;
    for (number, frame) in (0u32..).zip(frames) {
        let identity = frame.identity(1, number, header.records - number - 1, offset);
        let mut at = offset as usize;
        put(&mut bytes, at, &identity.encode(IdentityCopy::AtRecord, header.id, offset));
        at += IDENTITY_BYTES;
        for piece in &frame.value {
            put(&mut bytes, at, piece);
            at += piece.len();
        }
        let apart = crate::segment_scan::apart_offset(header.bytes, number).expect("it was counted in");
        put(&mut bytes, apart as usize, &identity.encode(IdentityCopy::Apart, header.id, apart));
        places.push(offset);
        offset += frame.bytes();
    }
    (bytes, places)
}

/// Writes a file, durable with its name on return. A crash before leaves nothing under that name.
pub(crate) fn write(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    match disk.remove(UNFINISHED) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Not zero-filled: it is written once, and twice the bytes would be in the way of the log.
    let file = disk.create(UNFINISHED, 0)?;
    file.write_at(0, &[IoSlice::new(bytes)])?;
    file.sync()?;
    disk.rename(UNFINISHED, name)?;
    disk.sync()
}

/// A file that is opened for each use: there may be many, and hardly one is ever read.
pub(crate) struct OpenedOnUse {
    pub disk: Arc<dyn Disk>,
    pub name: String,
}

impl DiskFile for OpenedOnUse {
    fn bytes(&self) -> io::Result<u64> {
        self.disk.open(&self.name)?.bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.open(&self.name)?.read_at(offset, buffer)
    }

    fn read_from_medium(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.open(&self.name)?.read_from_medium(offset, buffer)
    }

    fn write_at(&self, _offset: u64, _slices: &[IoSlice<'_>]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "a laggards' file is never changed"))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> LaggardsHeader {
        LaggardsHeader { bytes: 16 << 10, number: 7, id: 99, node: 42, start: 3, written_in: 5, group: 8, records: 2 }
    }

    #[test]
    fn a_header_comes_back_and_every_bit_flip_is_seen() {
        let good = header().encode();
        assert_eq!(LaggardsHeader::decode(&good), LaggardsBlock::Valid(header()));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(LaggardsHeader::decode(&bad), LaggardsBlock::Damaged, "bit {bit}");
        }
        assert_eq!(LaggardsHeader::decode(&good[..100]), LaggardsBlock::Damaged);
    }

    #[test]
    fn what_no_node_writes_is_damage() {
        for bad in [
            LaggardsHeader { bytes: 8192, ..header() },
            LaggardsHeader { bytes: u64::MAX, ..header() },
            LaggardsHeader { records: u32::MAX, ..header() },
            LaggardsHeader { written_in: u64::MAX, ..header() },
        ] {
            assert_eq!(LaggardsHeader::decode(&bad.encode()), LaggardsBlock::Damaged, "{bad:?}");
        }
    }

    #[test]
    fn names_are_told_from_others() {
        let name = name_of(GroupId(0xabc), 0x12);
        assert_eq!(name, "laggards-00000000000000000000000000000abc-00000012");
        assert_eq!(number_in(&name), Some(0x12));
        for other in [UNFINISHED, "segment-00000001", "damaged-laggards-00-00", "laggards-x-1"] {
            assert_eq!(number_in(other), None, "{other}");
        }
    }
}
