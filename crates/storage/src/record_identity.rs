//! The identity of a record: 128 bytes that say what it is, of which group, log, slot and ballot, and the checksum of
//! its value. It is written twice in one flush: right before the value, and near the other end of the segment
//! (Protocol-Aware Recovery, FAST 2018, section 3.3.3: the identifier is kept physically apart from the entry).
//! So a damaged entry is still known by slot and ballot, a promise, which has no value, stands twice, and a last write
//! that never finished can be told from damage.

use crate::bytes_reader::{put, BytesReader};

/// Encoded length; a multiple of the alignment of records.
pub(crate) const IDENTITY_BYTES: usize = 128;

/// Records start at multiples of this, so an offset is kept in units of it.
pub(crate) const ALIGNMENT: u64 = 8;

/// Which of the two copies a block of bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdentityCopy {
    /// Directly before the value.
    AtRecord = 1,
    /// In the area that grows from the end of the segment.
    Apart = 2,
}

/// The decoded identity. Numbers are bare here: `frame.rs` gives them their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordIdentity {
    /// What the record is; see `frame.rs`.
    pub kind: u8,
    /// Number of its batch; consecutive over the whole log.
    pub batch: u64,
    /// Number of the record in its segment, from 0; gives the place of the copy apart.
    pub number: u32,
    /// Records of the same batch that come after this one.
    pub following: u32,
    /// Where the record starts in the segment, in units of [`ALIGNMENT`].
    pub place: u32,
    /// Length of the value in bytes, without padding.
    pub value_bytes: u32,
    /// CRC32C of the value's first part; see `frame.rs`.
    pub value_checksum: u32,
    /// Entries in the value, in consecutive slots from `slot`.
    pub entries: u32,
    /// The node's log position that the record carries or had reached.
    pub position: u64,
    pub group: u128,
    pub log: u128,
    pub slot: u64,
    pub epoch: u64,
    pub round: u64,
    pub node: u128,
    pub start: u64,
}

impl RecordIdentity {
    /// Encodes the copy that will stand at `offset` of the segment with this id. Seeding the checksum with both means
    /// that a block of an earlier life of the file, or one that the disk put in the wrong place, never verifies.
    pub(crate) fn encode(&self, copy: IdentityCopy, segment_id: u64, offset: u64) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0u8; IDENTITY_BYTES];
        put(&mut bytes, 4, &[self.kind, copy as u8]);
        // 6..8 is zero.
        put(&mut bytes, 8, &self.place.to_le_bytes());
        put(&mut bytes, 12, &self.number.to_le_bytes());
        put(&mut bytes, 16, &self.batch.to_le_bytes());
        put(&mut bytes, 24, &self.following.to_le_bytes());
        put(&mut bytes, 28, &self.value_bytes.to_le_bytes());
        put(&mut bytes, 32, &self.value_checksum.to_le_bytes());
        put(&mut bytes, 36, &self.entries.to_le_bytes());
        put(&mut bytes, 40, &self.position.to_le_bytes());
        put(&mut bytes, 48, &self.group.to_le_bytes());
        put(&mut bytes, 64, &self.log.to_le_bytes());
        put(&mut bytes, 80, &self.slot.to_le_bytes());
        put(&mut bytes, 88, &self.epoch.to_le_bytes());
        put(&mut bytes, 96, &self.round.to_le_bytes());
        put(&mut bytes, 104, &self.node.to_le_bytes());
        put(&mut bytes, 120, &self.start.to_le_bytes());
        let checksum = checksum(&bytes, segment_id, offset);
        put(&mut bytes, 0, &checksum.to_le_bytes());
        bytes
    }

    /// Decodes a copy that stands at `offset`; `None` if it is anything but a whole one. Never panics.
    pub(crate) fn decode(bytes: &[u8], copy: IdentityCopy, segment_id: u64, offset: u64) -> Option<RecordIdentity> {
        let bytes = bytes.get(..IDENTITY_BYTES)?;
        // The cheap test first: recovery looks at every possible place of a damaged region.
        if bytes[5] != copy as u8 {
            return None;
        }
        let mut reader = BytesReader::new(bytes);
        let stored = reader.u32();
        let kind = reader.u8();
        let _copy = reader.u8();
        let _zero = (reader.u8(), reader.u8());
        let place = reader.u32();
        let number = reader.u32();
        if copy == IdentityCopy::AtRecord && u64::from(place) * ALIGNMENT != offset {
            return None;
        }
        if stored != checksum(bytes, segment_id, offset) {
            return None;
        }
        let batch = reader.u64();
        let following = reader.u32();
        let value_bytes = reader.u32();
        let value_checksum = reader.u32();
        let entries = reader.u32();
        Some(RecordIdentity {
            kind,
            batch,
            number,
            following,
            place,
            value_bytes,
            value_checksum,
            entries,
            position: reader.u64(),
            group: reader.u128(),
            log: reader.u128(),
            slot: reader.u64(),
            epoch: reader.u64(),
            round: reader.u64(),
            node: reader.u128(),
            start: reader.u64(),
        })
    }

    /// Where the record starts in its segment.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.place) * ALIGNMENT
    }
}

fn checksum(bytes: &[u8], segment_id: u64, offset: u64) -> u32 {
    let mut seed = [0u8; 16];
    put(&mut seed, 0, &segment_id.to_le_bytes());
    put(&mut seed, 8, &offset.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&seed), &bytes[4..IDENTITY_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn identity()(
            numbers in any::<(u8, u64, u32, u32, u32, u32, u32, u32)>(),
            wide in any::<(u64, u128, u128, u64, u64, u64, u128, u64)>(),
        ) -> RecordIdentity {
            RecordIdentity {
                kind: numbers.0, batch: numbers.1, number: numbers.2, following: numbers.3, place: numbers.4,
                value_bytes: numbers.5, value_checksum: numbers.6, entries: numbers.7,
                position: wide.0, group: wide.1, log: wide.2, slot: wide.3, epoch: wide.4, round: wide.5,
                node: wide.6, start: wide.7,
            }
        }
    }

    proptest! {
        #[test]
        fn both_copies_come_back_as_they_were(identity in identity(), id in any::<u64>()) {
            let offset = identity.offset();
            let bytes = identity.encode(IdentityCopy::AtRecord, id, offset);
            prop_assert_eq!(RecordIdentity::decode(&bytes, IdentityCopy::AtRecord, id, offset), Some(identity));
            let bytes = identity.encode(IdentityCopy::Apart, id, 128);
            prop_assert_eq!(RecordIdentity::decode(&bytes, IdentityCopy::Apart, id, 128), Some(identity));
        }

        #[test]
        fn a_flipped_bit_another_place_or_another_segment_is_seen(
            identity in identity(), id in any::<u64>(), bit in 0..IDENTITY_BYTES * 8, far in 1u64..1 << 30,
        ) {
            let offset = identity.offset();
            let mut bytes = identity.encode(IdentityCopy::AtRecord, id, offset);
            prop_assert_eq!(RecordIdentity::decode(&bytes, IdentityCopy::Apart, id, offset), None);
            prop_assert_eq!(RecordIdentity::decode(&bytes, IdentityCopy::AtRecord, id ^ far, offset), None);
            prop_assert_eq!(RecordIdentity::decode(&bytes, IdentityCopy::AtRecord, id, offset + far), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(RecordIdentity::decode(&bytes, IdentityCopy::AtRecord, id, offset), None);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), offset in any::<u64>()) {
            let _ = RecordIdentity::decode(&bytes, IdentityCopy::AtRecord, 1, offset);
            let _ = RecordIdentity::decode(&bytes, IdentityCopy::Apart, 1, offset);
        }
    }
}
