//! Certification: the first in log order wins (design-tables, section 4).
//!
//! The certifier is a function of the log alone. Every node gives it the same entries in the same order and gets the
//! same verdicts. It remembers the keys of accepted entries within a *window*; what falls out of the window raises the
//! *floor*, and an entry with a key read below the floor is rejected, because nobody can tell any more what happened
//! to that key since. Rejected entries leave nothing behind.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use consensus::{NodeId, Slot};

use crate::conflict_matrix::{relation, Relation};
use crate::encoding::{put_count, DecodeError, Reader};
use crate::key::{IndexId, Key, KeyName, Strength};
use crate::verdict::{Conflict, Reason, Verdict};

/// The default bound of the window, in bytes of memory that its keys take on every node. At a key's 96 bytes that is
/// 2.8 million keys: over a minute of 10,000 transactions per second with four keys each, so a transaction may
/// last that long before it is rejected for its age alone.
pub const WINDOW_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;

/// What a key in the window costs in memory: 24 bytes in its entry, and in the index 16 of name and 24 of slots at
/// the fill of a hash table, which is half at worst just after it grew. The bound must be the same everywhere, so this
/// is a number and not a measurement.
const KEY_COST_BYTES: u64 = 96;

/// What the key of a whole table costs: there is one such key per table in the index, and one in almost every entry.
const TABLE_KEY_COST_BYTES: u64 = 24;

/// What an entry in the window costs beside its keys.
const ENTRY_COST_BYTES: u64 = 64;

/// The format that this program writes, and the only one that it reads.
const CHECKPOINT_VERSION: u8 = 1;

/// Slots are numbered from one; zero stands for *never*.
const NEVER: Slot = Slot(0);

/// Why a checkpoint cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The bytes are no checkpoint.
    #[error("certification checkpoint: {0}")]
    Bytes(#[from] DecodeError),
    /// The bytes are a checkpoint of a state that cannot be.
    #[error("certification checkpoint: {0}")]
    State(&'static str),
}

/// The last slots that touched a key, one per strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Touched([Slot; 3]);

const STRENGTHS: [Strength; 3] = [Strength::Reference, Strength::Update, Strength::Exclusive];

/// An accepted entry whose keys are still remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    slot: Slot,
    origin: NodeId,
    keys: Box<[(KeyName, Strength)]>,
}

impl Entry {
    fn cost(&self) -> u64 {
        let of_key = |(name, _): &(KeyName, Strength)| match name.index {
            IndexId::TABLE => TABLE_KEY_COST_BYTES,
            _ => KEY_COST_BYTES,
        };
        ENTRY_COST_BYTES + self.keys.iter().map(of_key).sum::<u64>()
    }
}

/// The certification state of a group at a slot.
#[derive(Debug, Clone)]
pub struct Certifier {
    /// The bound of the window; part of the group's state, so that it is the same on every member.
    window_bytes_max: u64,
    /// What the entries in the window cost.
    window_bytes: u64,
    /// The slot of the last entry that fell out of the window.
    floor: Slot,
    /// The last slot that was certified or passed.
    last: Slot,
    /// Accepted entries, oldest first.
    window: VecDeque<Entry>,
    /// For each key in the window, who touched it last. Only looked up, never walked: its order decides nothing.
    index: HashMap<KeyName, Touched>,
}

impl Certifier {
    /// The state of a group before its first slot. `window_bytes_max` is a constant of the group.
    pub fn new(window_bytes_max: u64) -> Certifier {
        Certifier {
            window_bytes_max,
            window_bytes: 0,
            floor: NEVER,
            last: NEVER,
            window: VecDeque::new(),
            index: HashMap::new(),
        }
    }

    /// The lowest position that is still accepted.
    pub fn floor(&self) -> Slot {
        self.floor
    }

    /// The last slot that was certified.
    pub fn last(&self) -> Slot {
        self.last
    }

    /// Decides over the entry at `slot`, proposed by `origin`, and remembers its keys if it is accepted. Panics if
    /// slots do not rise.
    pub fn certify(&mut self, slot: Slot, origin: NodeId, keys: &[Key]) -> Verdict {
        assert!(slot > self.last, "slot {slot:?} is certified after {:?}", self.last);
        self.last = slot;
        if let Some(conflict) = self.conflict(keys) {
            return Verdict::Rejected(conflict);
        }
        if !keys.is_empty() {
            let keys = keys.iter().map(|key| (key.name(), key.strength)).collect();
            self.remember(Entry { slot, origin, keys });
            self.forget();
        }
        Verdict::Accepted
    }

    /// What an entry with these keys would meet if it came next; changes nothing.
    pub fn conflict(&self, keys: &[Key]) -> Option<Conflict> {
        keys.iter().find_map(|key| self.conflict_of(key).map(|reason| Conflict { key: *key, reason }))
    }

    fn conflict_of(&self, key: &Key) -> Option<Reason> {
        if key.position < self.floor {
            return Some(Reason::BelowFloor { floor: self.floor });
        }
        let touched = self.index.get(&key.name())?;
        STRENGTHS
            .into_iter()
            .filter(|earlier| relation(*earlier, key.strength) == Relation::Conflict)
            .map(|earlier| (touched.0[earlier as usize], earlier))
            .filter(|(slot, _)| *slot > key.position)
            .max()
            .map(|(slot, strength)| Reason::Touched { slot, origin: self.origin(slot), strength })
    }

    /// Who proposed the entry at a slot above the floor that is in the index.
    fn origin(&self, slot: Slot) -> NodeId {
        let place = self.window.binary_search_by_key(&slot, |entry| entry.slot);
        self.window[place.expect("a slot in the index above the floor is in the window")].origin
    }

    fn remember(&mut self, entry: Entry) {
        for (name, strength) in &entry.keys {
            let touched = self.index.entry(*name).or_insert(Touched([NEVER; 3]));
            touched.0[*strength as usize] = entry.slot;
        }
        self.window_bytes += entry.cost();
        self.window.push_back(entry);
    }

    /// Lets the oldest entries go until the window fits its bound. The newest may go too, if it alone is too large.
    fn forget(&mut self) {
        while self.window_bytes > self.window_bytes_max {
            let entry = self.window.pop_front().expect("a window without entries costs nothing");
            self.window_bytes -= entry.cost();
            self.floor = entry.slot;
            for (name, _) in &entry.keys {
                let gone = self.index.get(name).is_some_and(|touched| touched.0.iter().all(|slot| *slot <= entry.slot));
                if gone {
                    self.index.remove(name);
                }
            }
        }
    }

    /// The whole state as bytes: the same on every node at the same slot.
    ///
    /// Format, little-endian: version (1), bound of the window (8), floor (8), last slot (8), count of entries (4),
    /// and per entry slot (8), origin (16), count of keys (4), and per key table (4), index (2), hash (8), strength (1).
    pub fn checkpoint(&self) -> Vec<u8> {
        let keys: usize = self.window.iter().map(|entry| entry.keys.len()).sum();
        let mut out = Vec::with_capacity(29 + self.window.len() * ENTRY_ENCODED_BYTES + keys * KEY_ENCODED_BYTES);
        out.push(CHECKPOINT_VERSION);
        out.extend_from_slice(&self.window_bytes_max.to_le_bytes());
        out.extend_from_slice(&self.floor.0.to_le_bytes());
        out.extend_from_slice(&self.last.0.to_le_bytes());
        put_count(&mut out, self.window.len());
        for entry in &self.window {
            out.extend_from_slice(&entry.slot.0.to_le_bytes());
            out.extend_from_slice(&entry.origin.0.to_le_bytes());
            put_count(&mut out, entry.keys.len());
            for (name, strength) in &entry.keys {
                out.extend_from_slice(&name.table.0.to_le_bytes());
                out.extend_from_slice(&name.index.0.to_le_bytes());
                out.extend_from_slice(&name.hash.0.to_le_bytes());
                out.push(*strength as u8);
            }
        }
        out
    }

    /// The inverse of [`Certifier::checkpoint`].
    pub fn restore(bytes: &[u8]) -> Result<Certifier, CheckpointError> {
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
        let version = reader.u8("the checkpoint's version")?;
        if version != CHECKPOINT_VERSION {
            return Err(DecodeError::Version(version).into());
        }
        let mut certifier = Certifier::new(reader.u64("the window's bound")?);
        certifier.floor = Slot(reader.u64("the floor")?);
        certifier.last = Slot(reader.u64("the last slot")?);
        let count = reader.count(ENTRY_ENCODED_BYTES, "the number of entries")?;
        let mut before = certifier.floor;
        for _ in 0..count {
            let entry = read_entry(&mut reader)?;
            if entry.slot <= before || entry.slot > certifier.last {
                return Err(CheckpointError::State("its entries are not in slot order"));
            }
            before = entry.slot;
            certifier.remember(entry);
        }
        reader.finish()?;
        if certifier.window_bytes > certifier.window_bytes_max || certifier.floor > certifier.last {
            return Err(CheckpointError::State("its window is larger than its bound"));
        }
        Ok(certifier)
    }
}

const ENTRY_ENCODED_BYTES: usize = 8 + 16 + 4;
const KEY_ENCODED_BYTES: usize = 4 + 2 + 8 + 1;

fn read_entry(reader: &mut Reader) -> Result<Entry, DecodeError> {
    let slot = Slot(reader.u64("an entry's slot")?);
    let origin = NodeId(reader.u128("an entry's origin")?);
    let count = reader.count(KEY_ENCODED_BYTES, "an entry's number of keys")?;
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        keys.push(KeyName::decode(reader)?);
    }
    Ok(Entry { slot, origin, keys: keys.into_boxed_slice() })
}
