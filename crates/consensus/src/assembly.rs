//! The parts of large operations, until the last one comes: log state, driven in delivery order, alike on every member.
//!
//! An operation too large for one entry stands in the log as parts under one id, of which only the last takes effect (design,
//! core interface). A part is kept whether or not its proposer still lives, so two rules, functions of the log alone, bound
//! what is kept: an operation lapses when no part of it came for so many slots, and when there are too many bytes the one that
//! has waited longest for its next part is given up. A last part without all others has no effect, on every member alike.

use crate::bounds;
use crate::entry::{LastPart, Part};
use crate::ids::{OperationId, Slot};
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The operations of which parts have come and the last one has not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Encoded", into = "Encoded")]
pub struct Assembly {
    bytes_max: u64,
    lapse_slots: u64,
    operations: BTreeMap<OperationId, Gathered>,
    /// The same operations by the slot of their newest part: the first one lapses, or is given up, next.
    by_newest: BTreeMap<Slot, OperationId>,
    bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Gathered {
    newest: Slot,
    parts: BTreeMap<u32, (Slot, Bytes)>,
}

/// An operation put together again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Whole {
    /// Its body.
    pub body: Bytes,
    /// The slots of its parts before the last one, in the order of the body.
    pub slots: Vec<Slot>,
}

/// Why a last part takes no effect.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Incomplete {
    /// They lapsed, were given up for want of room, or never stood in the log.
    #[error("parts of the operation are missing: {here} of {parts} are here")]
    Missing {
        /// How many are here.
        here: usize,
        /// How many there should be.
        parts: u32,
    },
    /// All are here and are not what the last one says.
    #[error("the parts of the operation make {here} bytes, and it has {length}")]
    Length {
        /// Bytes that the parts make.
        here: usize,
        /// Bytes that there should be.
        length: u32,
    },
}

/// Number, slot and piece of each part of an operation.
type EncodedParts = Vec<(u32, Slot, Bytes)>;

/// How a checkpoint holds it: each operation with its parts, number, slot and piece.
#[derive(Serialize, Deserialize)]
struct Encoded {
    bytes_max: u64,
    lapse_slots: u64,
    operations: Vec<(OperationId, EncodedParts)>,
}

impl TryFrom<Encoded> for Assembly {
    type Error = &'static str;

    fn try_from(encoded: Encoded) -> Result<Assembly, &'static str> {
        if encoded.lapse_slots == 0 {
            return Err("parts that lapse at once");
        }
        let mut assembly = Assembly::new(encoded.bytes_max, encoded.lapse_slots);
        for (id, parts) in encoded.operations {
            let newest = parts.iter().map(|(_, slot, _)| *slot).max().ok_or("an operation without parts")?;
            assembly.bytes += parts.iter().map(|(_, _, piece)| cost(piece)).sum::<u64>();
            let count = parts.len();
            let parts: BTreeMap<_, _> =
                parts.into_iter().map(|(number, slot, piece)| (number, (slot, piece))).collect();
            if parts.len() < count {
                return Err("a part twice");
            }
            if assembly.by_newest.insert(newest, id).is_some() {
                return Err("two parts in one slot");
            }
            if assembly.operations.insert(id, Gathered { newest, parts }).is_some() {
                return Err("an operation twice");
            }
        }
        Ok(assembly)
    }
}

impl From<Assembly> for Encoded {
    fn from(assembly: Assembly) -> Encoded {
        let in_order =
            |gathered: Gathered| gathered.parts.into_iter().map(|(n, (slot, piece))| (n, slot, piece)).collect();
        Encoded {
            bytes_max: assembly.bytes_max,
            lapse_slots: assembly.lapse_slots,
            operations: assembly.operations.into_iter().map(|(id, gathered)| (id, in_order(gathered))).collect(),
        }
    }
}

impl Default for Assembly {
    fn default() -> Self {
        Assembly::new(bounds::ASSEMBLY_BYTES_MAX as u64, bounds::PARTS_LAPSE_SLOTS)
    }
}

/// What a part counts for.
fn cost(piece: &Bytes) -> u64 {
    (piece.len() + bounds::PART_OVERHEAD_BYTES) as u64
}

impl Assembly {
    /// Room for so many bytes of parts (each counts for [`bounds::PART_OVERHEAD_BYTES`] more), which lapse after so many
    /// slots without another one. Part of the log's state: every member must use the same.
    #[must_use]
    pub fn new(bytes_max: u64, lapse_slots: u64) -> Assembly {
        assert!(lapse_slots > 0);
        Assembly { bytes_max, lapse_slots, operations: BTreeMap::new(), by_newest: BTreeMap::new(), bytes: 0 }
    }

    /// The slot of the newest part of an operation that is not whole yet.
    #[must_use]
    pub fn newest(&self) -> Option<Slot> {
        self.by_newest.last_key_value().map(|(slot, _)| *slot)
    }

    /// The log is at `slot`: operations that lapse there. Their ids are to be closed at this slot. Call it for every slot.
    #[must_use]
    pub fn lapse(&mut self, slot: Slot) -> Vec<OperationId> {
        let mut lapsed = Vec::new();
        while let Some((newest, id)) = self.by_newest.first_key_value().map(|(newest, id)| (*newest, *id)) {
            assert!(newest < slot, "slots come in order");
            if slot.0 - newest.0 <= self.lapse_slots {
                break;
            }
            self.forget(id);
            lapsed.push(id);
        }
        lapsed
    }

    /// A part of an operation whose id is not used up. One that is here already changes nothing. Returns the operations
    /// that are given up to make room; their ids are to be closed at this slot.
    #[must_use]
    pub fn take(&mut self, slot: Slot, part: Part) -> Vec<OperationId> {
        let gathered = self
            .operations
            .entry(part.operation)
            .or_insert_with(|| Gathered { newest: Slot::ZERO, parts: BTreeMap::new() });
        if gathered.parts.contains_key(&part.number) {
            return Vec::new();
        }
        assert!(slot > gathered.newest, "slots come in order");
        self.by_newest.remove(&gathered.newest);
        self.by_newest.insert(slot, part.operation);
        gathered.newest = slot;
        self.bytes += cost(&part.piece);
        gathered.parts.insert(part.number, (slot, part.piece));
        let mut given_up = Vec::new();
        while self.bytes > self.bytes_max {
            let (_, id) = self.by_newest.first_key_value().expect("bytes are those of some operation");
            given_up.push(*id);
            self.forget(*id);
        }
        given_up
    }

    /// The last part of an operation came: its parts leave, and make its body if all of them were here.
    pub fn finish(&mut self, id: OperationId, last: &LastPart) -> Result<Whole, Incomplete> {
        let parts = self.remove(id).map(|gathered| gathered.parts).unwrap_or_default();
        let in_order = parts.keys().copied().eq(0..last.parts);
        if !in_order {
            return Err(Incomplete::Missing { here: parts.range(..last.parts).count(), parts: last.parts });
        }
        let here = parts.values().map(|(_, piece)| piece.len()).sum::<usize>() + last.piece.len();
        if here != last.length as usize {
            return Err(Incomplete::Length { here, length: last.length });
        }
        let mut body = BytesMut::with_capacity(here);
        for (_, piece) in parts.values() {
            body.extend_from_slice(piece);
        }
        body.extend_from_slice(&last.piece);
        Ok(Whole { body: body.freeze(), slots: parts.values().map(|(slot, _)| *slot).collect() })
    }

    /// The id is used up without them: its parts go.
    pub fn forget(&mut self, id: OperationId) {
        self.remove(id);
    }

    fn remove(&mut self, id: OperationId) -> Option<Gathered> {
        let gathered = self.operations.remove(&id)?;
        let listed = self.by_newest.remove(&gathered.newest);
        assert_eq!(listed, Some(id), "every operation has its place in the order");
        self.bytes -= gathered.parts.values().map(|(_, piece)| cost(piece)).sum::<u64>();
        Some(gathered)
    }

    /// Bytes that its parts count for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many operations wait for their last part.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, Start};

    fn id(sequence: u64) -> OperationId {
        OperationId { node: NodeId(1), start: Start(1), sequence }
    }

    fn part(operation: u64, number: u32, piece: &'static [u8]) -> Part {
        Part { operation: id(operation), number, piece: Bytes::from_static(piece) }
    }

    fn last(parts: u32, length: u32, piece: &'static [u8]) -> LastPart {
        LastPart { parts, length, piece: Bytes::from_static(piece) }
    }

    fn roomy() -> Assembly {
        Assembly::new(1 << 20, 10)
    }

    #[test]
    fn parts_come_in_any_order_and_make_the_body_in_theirs() {
        let mut assembly = roomy();
        assert!(assembly.take(Slot(3), part(1, 1, b"cd")).is_empty());
        assert!(assembly.take(Slot(4), part(2, 0, b"other")).is_empty());
        assert!(assembly.take(Slot(7), part(1, 0, b"ab")).is_empty());
        let whole = assembly.finish(id(1), &last(2, 5, b"e")).unwrap();
        assert_eq!(whole, Whole { body: Bytes::from_static(b"abcde"), slots: vec![Slot(7), Slot(3)] });
        assert_eq!(assembly.len(), 1, "the other one is still gathered");
        assembly.forget(id(2));
        assert_eq!((assembly.is_empty(), assembly.bytes()), (true, 0));
        // None at all is a small operation.
        assert_eq!(assembly.finish(id(9), &last(0, 1, b"x")).unwrap().body, Bytes::from_static(b"x"));
    }

    #[test]
    fn a_part_that_comes_twice_changes_nothing() {
        let mut assembly = roomy();
        let _ = assembly.take(Slot(1), part(1, 0, b"first"));
        let before = assembly.clone();
        assert!(assembly.take(Slot(2), part(1, 0, b"again")).is_empty());
        assert_eq!(assembly, before);
    }

    #[test]
    fn a_last_part_without_all_others_is_refused_and_they_go() {
        let mut assembly = roomy();
        let missing = |here, parts| Err(Incomplete::Missing { here, parts });
        assert_eq!(assembly.finish(id(1), &last(2, 3, b"")), missing(0, 2));
        let _ = assembly.take(Slot(1), part(1, 0, b"a"));
        let _ = assembly.take(Slot(2), part(1, 2, b"c"));
        assert_eq!(assembly.finish(id(1), &last(2, 3, b"")), missing(1, 2));
        assert!(assembly.is_empty());
        // One too many is no better, nor is another length.
        let _ = assembly.take(Slot(3), part(1, 0, b"a"));
        let _ = assembly.take(Slot(4), part(1, 1, b"b"));
        assert_eq!(assembly.finish(id(1), &last(1, 1, b"")), missing(1, 1));
        let _ = assembly.take(Slot(5), part(1, 0, b"a"));
        assert_eq!(assembly.finish(id(1), &last(1, 3, b"b")), Err(Incomplete::Length { here: 2, length: 3 }));
        assert_eq!((assembly.is_empty(), assembly.bytes()), (true, 0));
    }

    #[test]
    fn an_operation_lapses_after_so_many_slots_without_a_part() {
        let mut assembly = roomy();
        let _ = assembly.take(Slot(1), part(1, 0, b"a"));
        let _ = assembly.take(Slot(2), part(2, 0, b"a"));
        assert!(assembly.lapse(Slot(10)).is_empty());
        let _ = assembly.take(Slot(10), part(1, 1, b"b"));
        assert!(assembly.lapse(Slot(12)).is_empty());
        assert_eq!(assembly.lapse(Slot(13)), [id(2)], "the one that went on stays");
        assert!(assembly.lapse(Slot(20)).is_empty());
        assert_eq!(assembly.lapse(Slot(21)), [id(1)]);
        assert_eq!((assembly.is_empty(), assembly.bytes()), (true, 0));
    }

    #[test]
    fn too_many_bytes_end_the_one_that_waited_longest_for_a_part() {
        let each = 100 + bounds::PART_OVERHEAD_BYTES as u64;
        let mut assembly = Assembly::new(3 * each, 10);
        let piece = &[0; 100];
        let _ = assembly.take(Slot(1), part(1, 0, piece));
        let _ = assembly.take(Slot(2), part(2, 0, piece));
        assert!(assembly.take(Slot(3), part(1, 1, piece)).is_empty());
        assert_eq!(assembly.take(Slot(4), part(3, 0, piece)), [id(2)]);
        assert_eq!(assembly.bytes(), 3 * each);
        // One that is too large by itself ends itself.
        for (slot, number) in [(5, 1), (6, 2)] {
            let given_up = assembly.take(Slot(slot), part(3, number, piece));
            assert_eq!(given_up, if number == 1 { vec![id(1)] } else { vec![] });
        }
        assert_eq!(assembly.take(Slot(7), part(3, 3, piece)), [id(3)]);
        assert_eq!((assembly.is_empty(), assembly.bytes()), (true, 0));
    }

    #[test]
    fn a_checkpoint_holds_all_of_it() {
        let mut assembly = roomy();
        let _ = assembly.take(Slot(1), part(1, 0, b"a"));
        let _ = assembly.take(Slot(2), part(2, 5, b"b"));
        let _ = assembly.take(Slot(3), part(1, 1, b""));
        let bytes = postcard::to_stdvec(&assembly).unwrap();
        assert_eq!(postcard::from_bytes::<Assembly>(&bytes).unwrap(), assembly);
        for cut in 0..bytes.len() {
            assert!(postcard::from_bytes::<Assembly>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_checkpoint_that_makes_no_sense_is_refused() {
        let refused = |operations: Vec<(OperationId, EncodedParts)>| {
            let bytes = postcard::to_stdvec(&Encoded { bytes_max: 9, lapse_slots: 9, operations }).unwrap();
            postcard::from_bytes::<Assembly>(&bytes).is_err()
        };
        let at = |slot| vec![(0, Slot(slot), Bytes::new())];
        assert!(!refused(vec![(id(1), at(1)), (id(2), at(2))]));
        assert!(refused(vec![(id(1), vec![])]));
        assert!(refused(vec![(id(1), at(1)), (id(2), at(1))]));
        assert!(refused(vec![(id(1), at(1)), (id(1), at(2))]));
    }
}
