//! The first and the last block of a segment file: what the segment is and where it stands in the log.
//!
//! File names say nothing about order: a segment is recycled in place, without a rename, by writing a new header, so
//! taking the next segment into use costs no directory sync. The header is written in the same flush as the segment's
//! first batch. It stands twice, at both ends of the file, because without it nothing in the segment can be verified.
//! `docs/on-disk-format.md` gives the bytes and the reasons.

use crate::bounds::{COUNT_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_SEQUENCE_MAX};
use crate::bytes_reader::{put, BytesReader};

/// What stands at the start of every segment that was ever used.
pub(crate) const MAGIC: [u8; 8] = *b"SYNODLOG";

/// The version of the segment format that is written, and the only one that is read. 1 knew no entries in parts, had no
/// bound on an entry, and kept everything for laggards in the segments themselves.
pub(crate) const VERSION: u32 = 2;

/// Both ends of the file keep a block of this size for the header, so that no later write touches its page.
pub(crate) const HEADER_BLOCK_BYTES: u64 = 4096;

/// Encoded length. Below 512 on purpose: a header never spans two sectors, so it is there as a whole or not at all.
pub(crate) const HEADER_BYTES: usize = 128;

/// The decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Size of the file.
    pub bytes: u64,
    /// Place in the log; consecutive, from 1.
    pub sequence: u64,
    /// Random; seeds every checksum in the segment, so that what an earlier life of the file left never verifies.
    pub id: u64,
    /// Whose log this is.
    pub node: u128,
    /// Which start of the node took the segment into use.
    pub start: u64,
    /// Whether recovery opened it: then its first batch was synced before this header was written.
    pub opened_at_start: bool,
    /// Number of the first batch in it.
    pub first_batch: u64,
    /// The oldest segment that still belonged to the log when this one was taken into use.
    pub oldest: u64,
    /// The segment that the latest recovery cut (0: none yet), ...
    pub cut_segment: u64,
    /// ... and the first batch there that no longer counts: it was torn, and what was whole in it stands again
    /// behind this header.
    pub cut_batch: u64,
}

/// What a header block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderBlock {
    /// A header of this version.
    Valid(SegmentHeader),
    /// Never written.
    Zero,
    /// The magic and checksum are right, the version is not ours.
    UnknownVersion(u32),
    /// Anything else.
    Damaged,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &u32::from(self.opened_at_start).to_le_bytes());
        put(&mut bytes, 16, &self.bytes.to_le_bytes());
        put(&mut bytes, 24, &self.sequence.to_le_bytes());
        put(&mut bytes, 32, &self.id.to_le_bytes());
        put(&mut bytes, 40, &self.node.to_le_bytes());
        put(&mut bytes, 56, &self.start.to_le_bytes());
        put(&mut bytes, 64, &self.first_batch.to_le_bytes());
        put(&mut bytes, 72, &self.oldest.to_le_bytes());
        put(&mut bytes, 80, &self.cut_segment.to_le_bytes());
        put(&mut bytes, 88, &self.cut_batch.to_le_bytes());
        // 96..124 is zero.
        let checksum = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
        put(&mut bytes, HEADER_BYTES - 4, &checksum.to_le_bytes());
        bytes
    }

    /// Never panics, whatever the bytes.
    pub(crate) fn decode(bytes: &[u8]) -> HeaderBlock {
        if bytes.len() < HEADER_BYTES {
            return HeaderBlock::Damaged;
        }
        let bytes = &bytes[..HEADER_BYTES];
        if bytes.iter().all(|byte| *byte == 0) {
            return HeaderBlock::Zero;
        }
        let mut reader = BytesReader::new(&bytes[HEADER_BYTES - 4..]);
        if reader.u32() != crc32c::crc32c(&bytes[..HEADER_BYTES - 4]) || bytes[..8] != MAGIC {
            return HeaderBlock::Damaged;
        }
        let mut reader = BytesReader::new(&bytes[8..]);
        let version = reader.u32();
        if version != VERSION {
            return HeaderBlock::UnknownVersion(version);
        }
        let opened_at_start = match reader.u32() {
            0 => false,
            1 => true,
            _ => return HeaderBlock::Damaged,
        };
        let header = SegmentHeader {
            bytes: reader.u64(),
            sequence: reader.u64(),
            id: reader.u64(),
            node: reader.u128(),
            start: reader.u64(),
            opened_at_start,
            first_batch: reader.u64(),
            oldest: reader.u64(),
            cut_segment: reader.u64(),
            cut_batch: reader.u64(),
        };
        if header.is_plausible() {
            HeaderBlock::Valid(header)
        } else {
            HeaderBlock::Damaged
        }
    }

    /// Whether a node can have written it: what recovery counts on.
    fn is_plausible(&self) -> bool {
        (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.bytes)
            && (1..=SEGMENT_SEQUENCE_MAX).contains(&self.sequence)
            && (1..=COUNT_MAX).contains(&self.first_batch)
            && self.cut_batch <= COUNT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            bytes: 16 << 20,
            sequence: 7,
            id: 0x0123_4567_89ab_cdef,
            node: 42,
            start: 3,
            opened_at_start: true,
            first_batch: 99,
            oldest: 5,
            cut_segment: 6,
            cut_batch: 90,
        }
    }

    #[test]
    fn a_header_comes_back_as_it_was() {
        assert_eq!(SegmentHeader::decode(&header().encode()), HeaderBlock::Valid(header()));
    }

    #[test]
    fn every_single_bit_flip_is_seen() {
        let good = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad), HeaderBlock::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn what_no_node_writes_is_damage() {
        let bad = [
            SegmentHeader { bytes: 4096, ..header() },
            SegmentHeader { sequence: 0, ..header() },
            SegmentHeader { sequence: u64::MAX, ..header() },
            SegmentHeader { first_batch: 0, ..header() },
            SegmentHeader { cut_batch: u64::MAX, ..header() },
        ];
        for header in bad {
            assert_eq!(SegmentHeader::decode(&header.encode()), HeaderBlock::Damaged, "{header:?}");
        }
    }

    #[test]
    fn an_unknown_version_is_named_not_guessed() {
        for version in [1, 3] {
            let mut bytes = header().encode();
            put(&mut bytes, 8, &u32::to_le_bytes(version));
            let checksum = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
            put(&mut bytes, HEADER_BYTES - 4, &checksum.to_le_bytes());
            assert_eq!(SegmentHeader::decode(&bytes), HeaderBlock::UnknownVersion(version));
        }
    }
}
