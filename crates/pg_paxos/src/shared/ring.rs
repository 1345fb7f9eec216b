//! Whose turn a slot is: the order in which transactions commit on this node (design of tables, section 5).
//!
//! The engine writes each decided slot once, before it raises the group's *decided* position; whoever commits or passes
//! slot *s* sets the *applied* position to *s* and looks up the owner of *s + 1*. Writer and passer each write their
//! word before they read the other's, so at least one of them sees that the next turn may start.
//!
//! A slot that is decided and has no word in the ring belongs to the applier. So the ring can be smaller than the
//! distance by which certification runs ahead: what does not fit is simply the applier's.

use std::sync::atomic::{AtomicU64, Ordering};

use consensus::Slot;

use super::BackendIndex;

/// Slots that the ring has room for. Local transactions in flight are at most one per backend, a few hundred; the rest
/// is room for remote and empty slots between them. 16384 words are 128 KiB per group.
pub const RING_SLOTS: usize = 16_384;

/// Bits of a word that name the owner; the remaining 40 name the slot, which repeat only after 2^40 slots while the
/// ring turns over every 2^14.
const OWNER_BITS: u32 = 24;
const OWNER_MASK: u64 = (1 << OWNER_BITS) - 1;
const SLOT_MASK: u64 = (1 << (64 - OWNER_BITS)) - 1;

const NOTHING: u64 = 1;
const APPLIER: u64 = 2;
const BACKEND_BASE: u64 = 3;

/// Who ends a slot's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nobody: the slot has no effect and is passed by whoever comes by.
    Nothing,
    /// The group's applier.
    Applier,
    /// The backend that proposed it.
    Backend(BackendIndex),
}

impl Turn {
    fn to_bits(self) -> u64 {
        match self {
            Turn::Nothing => NOTHING,
            Turn::Applier => APPLIER,
            Turn::Backend(index) => BACKEND_BASE + u64::from(index.0),
        }
    }

    fn from_bits(bits: u64) -> Turn {
        match bits {
            NOTHING => Turn::Nothing,
            APPLIER => Turn::Applier,
            bits => Turn::Backend(BackendIndex(u32::try_from(bits - BACKEND_BASE).expect("owners have 24 bits"))),
        }
    }
}

/// The ring itself, in shared memory. All zero means empty: slot 0 is before the log and never looked up.
#[repr(C)]
pub struct TurnRing {
    words: [AtomicU64; RING_SLOTS],
}

impl TurnRing {
    fn word(&self, slot: Slot) -> &AtomicU64 {
        let position = slot.0 % RING_SLOTS as u64;
        &self.words[position as usize]
    }

    fn pack(slot: Slot, turn: Turn) -> u64 {
        let owner = turn.to_bits();
        assert!(owner <= OWNER_MASK, "a backend's index has 24 bits");
        ((slot.0 & SLOT_MASK) << OWNER_BITS) | owner
    }

    /// Whose turn the slot is, if the ring says so.
    pub fn turn(&self, slot: Slot) -> Option<Turn> {
        let word = self.word(slot).load(Ordering::SeqCst);
        if word >> OWNER_BITS == slot.0 & SLOT_MASK && word & OWNER_MASK != 0 {
            Some(Turn::from_bits(word & OWNER_MASK))
        } else {
            None
        }
    }

    /// Writes a decided slot, whose place in the ring must be free: that is the caller's to check, against the applied
    /// position.
    pub fn publish(&self, slot: Slot, turn: Turn) {
        self.word(slot).store(Self::pack(slot, turn), Ordering::SeqCst);
    }

    /// Gives a backend's slot to the applier. Whether it was the backend's until now.
    pub fn hand_over(&self, slot: Slot, from: BackendIndex) -> bool {
        self.word(slot)
            .compare_exchange(
                Self::pack(slot, Turn::Backend(from)),
                Self::pack(slot, Turn::Applier),
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .is_ok()
    }

    /// Empties the ring, for a group that takes a free place in shared memory.
    pub fn clear(&self) {
        for word in &self.words {
            word.store(0, Ordering::SeqCst);
        }
    }
}
