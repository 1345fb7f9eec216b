//! The acceptor state of one cold log as a value of the store: promise, positions, and the entries that are kept, with
//! their ballots. `docs/on-disk-format.md` gives the bytes.
//!
//! Its checksum is seeded with the key, so that a value under another key does not pass; it covers everything but the
//! contents of entries, which have one each: damage to one is *damaged (ballot)*, damage to the rest is the loss of a promise.

use crate::bounds::{COUNT_MAX, SEGMENT_SEQUENCE_MAX};
use crate::bytes_reader::BytesReader;
use crate::log_state::SegmentSequence;
use bytes::Bytes;
use consensus::{Ballot, Entry, Epoch, NodeId, RecoveredEntry, RecoveredLog, Slot, Start};
use std::collections::BTreeMap;

/// The only version of these values.
const VERSION: u32 = 1;

/// Before the rows of entries.
const FIXED_BYTES: usize = 80;

/// One row per entry: slot, ballot, length, checksum, flags, zeroes.
const ROW_BYTES: usize = 64;

const DAMAGED: u32 = 1;

/// The state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ColdLog {
    /// The segment in use when it was written.
    pub written_in: SegmentSequence,
    pub promised: Ballot,
    pub closed: Slot,
    pub trimmed: Slot,
    /// Above `trimmed`; without content where damaged.
    pub entries: BTreeMap<Slot, RecoveredEntry>,
}

impl ColdLog {
    pub(crate) fn of(written_in: SegmentSequence, log: RecoveredLog) -> ColdLog {
        let RecoveredLog { promised, closed, trimmed, accepted, .. } = log;
        ColdLog { written_in, promised, closed, trimmed, entries: accepted }
    }

    /// What a core is told of it.
    pub(crate) fn into_recovered(self) -> RecoveredLog {
        let closed = self.closed.max(self.trimmed);
        let damaged = self.entries.range(..=closed).filter(|(_, entry)| entry.entry.is_none());
        RecoveredLog {
            promised: self.promised,
            closed,
            trimmed: self.trimmed,
            lost: damaged.map(|(slot, entry)| (*slot, entry.ballot)).collect(),
            accepted: self.entries,
            applied: Slot::ZERO,
        }
    }

    /// Adds what the log says, which is newer. What stands here of closed slots is left out if a record that replaced it
    /// may have been lost in a segment up to `distrusted`.
    pub(crate) fn merge(&mut self, newer: ColdLog, distrusted: SegmentSequence) {
        let in_doubt = self.written_in <= distrusted;
        self.written_in = self.written_in.max(newer.written_in);
        self.promised = self.promised.max(newer.promised);
        self.closed = self.closed.max(newer.closed);
        self.trimmed = self.trimmed.max(newer.trimmed);
        let closed = self.closed.max(self.trimmed);
        if in_doubt {
            self.entries.retain(|slot, _| *slot > closed);
        }
        for (slot, entry) in newer.entries {
            // Damage never replaces a whole copy of the same.
            let is_copy = |known: &RecoveredEntry| known.ballot == entry.ballot && known.entry.is_some();
            if entry.entry.is_some() || !self.entries.get(&slot).is_some_and(is_copy) {
                self.entries.insert(slot, entry);
            }
        }
        let trimmed = self.trimmed;
        self.entries.retain(|slot, _| *slot > trimmed);
    }

    /// Bytes of the contents of entries.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.entries.values().filter_map(|entry| entry.entry.as_ref()).map(|entry| entry.len() as u64).sum()
    }

    pub(crate) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.written_in.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(self.entries.len()).expect("entries are bounded").to_le_bytes());
        put_ballot(&mut bytes, self.promised);
        bytes.extend_from_slice(&self.closed.0.to_le_bytes());
        bytes.extend_from_slice(&self.trimmed.0.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        assert_eq!(bytes.len(), FIXED_BYTES);
        for (slot, RecoveredEntry { ballot, entry }) in &self.entries {
            let content = entry.as_ref().map(Entry::bytes);
            bytes.extend_from_slice(&slot.0.to_le_bytes());
            put_ballot(&mut bytes, *ballot);
            let length = content.map_or(0, Bytes::len);
            bytes.extend_from_slice(&u32::try_from(length).expect("entries are bounded").to_le_bytes());
            bytes.extend_from_slice(&content.map_or(0, |content| crc32c::crc32c(content)).to_le_bytes());
            bytes.extend_from_slice(&if content.is_none() { DAMAGED } else { 0 }.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
        }
        let checksum = crc32c::crc32c_append(crc32c::crc32c(key), &bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        let contents = self.entries.values().filter_map(|entry| entry.entry.as_ref());
        contents.for_each(|entry| bytes.extend_from_slice(entry.bytes()));
        bytes
    }

    /// `None` if it is damaged, or of another version. Never panics, whatever the bytes.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<ColdLog> {
        let fixed = value.get(..FIXED_BYTES)?;
        let mut reader = BytesReader::new(fixed);
        let (checksum, version, written_in, count) = (reader.u32(), reader.u32(), reader.u32(), reader.u32());
        let rows_bytes = (count as usize).checked_mul(ROW_BYTES)?;
        let rows = value.get(FIXED_BYTES..FIXED_BYTES.checked_add(rows_bytes)?)?;
        let found = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), &fixed[4..]), rows);
        if found != checksum || version != VERSION || u64::from(written_in) > SEGMENT_SEQUENCE_MAX {
            return None;
        }
        let promised = ballot(&mut reader)?;
        let (closed, trimmed) = (slot(&mut reader)?, slot(&mut reader)?);
        let mut entries = BTreeMap::new();
        let mut at = FIXED_BYTES + rows_bytes;
        for row in rows.chunks_exact(ROW_BYTES) {
            let mut reader = BytesReader::new(row);
            let (slot, ballot) = (slot(&mut reader)?, ballot(&mut reader)?);
            let (length, checksum, flags) = (reader.u32() as usize, reader.u32(), reader.u32());
            let content = value.get(at..at.checked_add(length)?);
            at += length;
            let whole = content.filter(|content| flags & DAMAGED == 0 && crc32c::crc32c(content) == checksum);
            let entry = whole.and_then(|content| Entry::from_bytes(Bytes::copy_from_slice(content)).ok());
            entries.insert(slot, RecoveredEntry { ballot, entry });
        }
        Some(ColdLog { written_in, promised, closed, trimmed, entries })
    }
}

fn put_ballot(bytes: &mut Vec<u8>, ballot: Ballot) {
    bytes.extend_from_slice(&ballot.epoch.0.to_le_bytes());
    bytes.extend_from_slice(&ballot.round.to_le_bytes());
    bytes.extend_from_slice(&ballot.node.0.to_le_bytes());
    bytes.extend_from_slice(&ballot.start.0.to_le_bytes());
}

fn ballot(reader: &mut BytesReader<'_>) -> Option<Ballot> {
    let (epoch, round) = (Epoch(reader.u64()), reader.u64());
    let ballot = Ballot { epoch, round, node: NodeId(reader.u128()), start: Start(reader.u64()) };
    (ballot.epoch.0 <= COUNT_MAX && ballot.round <= COUNT_MAX).then_some(ballot)
}

fn slot(reader: &mut BytesReader<'_>) -> Option<Slot> {
    Some(Slot(reader.u64())).filter(|slot| *slot <= Slot::LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::OperationId;
    use proptest::prelude::*;

    fn ballot(round: u64) -> Ballot {
        Ballot { epoch: Epoch(1), round, node: NodeId(9), start: Start(3) }
    }

    fn state() -> ColdLog {
        let entry = |text: &str| Some(Entry::operation(OperationId::NONE, text.as_bytes()));
        let entries = BTreeMap::from([
            (Slot(5), RecoveredEntry { ballot: ballot(2), entry: entry("five") }),
            (Slot(6), RecoveredEntry { ballot: ballot(4), entry: None }),
            (Slot(7), RecoveredEntry { ballot: ballot(4), entry: entry("") }),
        ]);
        ColdLog { written_in: 12, promised: ballot(6), closed: Slot(6), trimmed: Slot(4), entries }
    }

    #[test]
    fn a_state_comes_back_under_its_own_key_only() {
        let value = state().encode(b"key");
        assert_eq!(ColdLog::decode(b"key", &value), Some(state()));
        assert_eq!(ColdLog::decode(b"yek", &value), None);
        let told = state().into_recovered();
        assert_eq!((told.closed, told.lost), (Slot(6), BTreeMap::from([(Slot(6), ballot(4))])));
    }

    #[test]
    fn every_bit_flip_is_seen_and_one_in_an_entry_costs_that_entry() {
        let good = state().encode(b"key");
        let head = FIXED_BYTES + 3 * ROW_BYTES;
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match ColdLog::decode(b"key", &bad) {
                None => assert!(bit / 8 < head, "bit {bit}"),
                Some(found) => {
                    assert!(bit / 8 >= head, "bit {bit}");
                    let lost = found.entries.values().filter(|entry| entry.entry.is_none()).count();
                    assert_eq!((lost, found.promised, found.entries.len()), (2, ballot(6), 3));
                }
            }
        }
        for length in 0..good.len() {
            let found = ColdLog::decode(b"key", &good[..length]);
            assert_eq!(found.is_some(), length >= head, "cut to {length}");
            assert!(found.is_none_or(|found| found.entries[&Slot(7)].entry.is_none()), "cut to {length}");
        }
    }

    #[test]
    fn what_is_newer_wins_and_damage_never_replaces_a_whole_copy() {
        let one = |round, text: Option<&str>| ColdLog {
            entries: BTreeMap::from([(
                Slot(5),
                RecoveredEntry {
                    ballot: ballot(round),
                    entry: text.map(|text| Entry::operation(OperationId::NONE, text.as_bytes())),
                },
            )]),
            ..ColdLog::default()
        };
        let merged = |newer: ColdLog, distrusted| {
            let mut merged = state();
            merged.merge(newer, distrusted);
            merged
        };
        assert_eq!(merged(one(9, Some("new")), 0).entries[&Slot(5)].ballot, ballot(9));
        assert_eq!(merged(one(2, None), 0), state());
        assert_eq!(merged(one(9, None), 0).entries[&Slot(5)].entry, None);
        assert_eq!(merged(ColdLog { trimmed: Slot(6), ..ColdLog::default() }, 0).entries.len(), 1);
        assert_eq!(merged(ColdLog::default(), 11).entries.len(), 3);
        assert_eq!(merged(ColdLog::default(), 12).entries.keys().collect::<Vec<_>>(), [&Slot(7)], "what is open stays");
    }

    proptest! {
        #[test]
        fn hostile_values_never_panic(value in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = ColdLog::decode(b"key", &value);
            if value.len() >= FIXED_BYTES {
                // With a checksum that fits.
                let mut value = value;
                let rows = (value[12] as usize % 4) * ROW_BYTES;
                value[12..16].copy_from_slice(&u32::try_from(rows / ROW_BYTES).unwrap().to_le_bytes());
                value[4..8].copy_from_slice(&VERSION.to_le_bytes());
                value[8..12].fill(0);
                if let Some(head) = value.get(4..FIXED_BYTES + rows) {
                    let checksum = crc32c::crc32c_append(crc32c::crc32c(b"key"), head);
                    value[..4].copy_from_slice(&checksum.to_le_bytes());
                    let _ = ColdLog::decode(b"key", &value);
                }
            }
        }
    }
}
