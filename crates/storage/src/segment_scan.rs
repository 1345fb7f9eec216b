//! Finds every record of a segment whose bytes may be damaged anywhere.
//!
//! Each record is known from either copy of its identity. The copies apart stand at fixed places, by number. The copies
//! at the records form a chain; where a link is broken and the copy apart is broken too, every aligned place up to the
//! next known record is tried, so that what follows damage is still found.

use crate::frame::is_plausible;
use crate::record_identity::{IdentityCopy, RecordIdentity, ALIGNMENT, IDENTITY_BYTES};
use crate::segment_header::HEADER_BLOCK_BYTES;
use bytes::Bytes;
use std::collections::BTreeMap;

/// A record, found by at least one copy of its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundRecord {
    pub identity: RecordIdentity,
    /// The bytes where its value should be; what they are worth is for `frame.rs` to say.
    pub value: Bytes,
}

/// Where the second copy of record `number` stands in a segment of this size.
pub(crate) fn apart_offset(segment_bytes: u64, number: u32) -> Option<u64> {
    let from_end = HEADER_BLOCK_BYTES + (u64::from(number) + 1) * IDENTITY_BYTES as u64;
    segment_bytes.checked_sub(from_end).filter(|offset| *offset >= HEADER_BLOCK_BYTES)
}

/// Every record of the segment with this id, in order of its number. `bytes` is the whole file.
pub(crate) fn scan(bytes: &Bytes, id: u64) -> Vec<FoundRecord> {
    let apart = scan_apart(bytes, id);
    let mut found = Vec::new();
    let mut number = 0u32;
    let mut offset = HEADER_BLOCK_BYTES;
    loop {
        let here = at_record(bytes, id, offset).filter(|identity| identity.number == number);
        let identity = match here.or_else(|| apart.get(&number).copied()) {
            Some(identity) => identity,
            None => {
                let next_apart = apart.range(number..).next().map(|(_, identity)| *identity);
                let limit = next_apart.map_or(bytes.len() as u64, |identity| identity.offset());
                match search(bytes, id, offset, limit, number).or(next_apart) {
                    Some(identity) => identity,
                    None => return found,
                }
            }
        };
        offset =
            (identity.offset() + IDENTITY_BYTES as u64 + u64::from(identity.value_bytes)).next_multiple_of(ALIGNMENT);
        let Some(next) = identity.number.checked_add(1) else {
            return found;
        };
        number = next;
        found.push(FoundRecord { value: value(bytes, &identity), identity });
    }
}

fn at_record(bytes: &Bytes, id: u64, offset: u64) -> Option<RecordIdentity> {
    let from = usize::try_from(offset).ok()?;
    let identity = RecordIdentity::decode(bytes.get(from..)?, IdentityCopy::AtRecord, id, offset)?;
    can_be_there(bytes, &identity).then_some(identity)
}

/// Whether a node can have written this identity into this segment. One that it cannot is damage, whatever its checksum
/// says: nothing is allotted, and no sum made, of a number that is only claimed.
fn can_be_there(bytes: &Bytes, identity: &RecordIdentity) -> bool {
    let end = identity.offset() + IDENTITY_BYTES as u64 + u64::from(identity.value_bytes);
    identity.offset() >= HEADER_BLOCK_BYTES && end <= bytes.len() as u64 && is_plausible(identity)
}

fn scan_apart(bytes: &Bytes, id: u64) -> BTreeMap<u32, RecordIdentity> {
    let mut apart = BTreeMap::new();
    for number in 0.. {
        let Some(offset) = apart_offset(bytes.len() as u64, number) else {
            break;
        };
        let block = &bytes[offset as usize..offset as usize + IDENTITY_BYTES];
        if let Some(identity) = RecordIdentity::decode(block, IdentityCopy::Apart, id, offset) {
            if identity.number == number && can_be_there(bytes, &identity) {
                apart.insert(number, identity);
            }
        }
    }
    apart
}

/// The first whole identity between two offsets of a record not before `number`.
fn search(bytes: &Bytes, id: u64, from: u64, limit: u64, number: u32) -> Option<RecordIdentity> {
    let mut offset = from;
    while offset < limit {
        if let Some(identity) = at_record(bytes, id, offset).filter(|identity| identity.number >= number) {
            return Some(identity);
        }
        offset += ALIGNMENT;
    }
    None
}

fn value(bytes: &Bytes, identity: &RecordIdentity) -> Bytes {
    let from = identity.offset() + IDENTITY_BYTES as u64;
    bytes.slice(from as usize..(from + u64::from(identity.value_bytes)) as usize)
}
