//! What a backend's transaction is doing, as the engine, the applier and the watchdog see it.
//!
//! One word holds the transaction's generation and its state and changes only by compare-and-swap, so that whoever
//! dooms, grants or takes over a transaction does it to that very transaction or not at all (design of tables,
//! sections 5 and 6).

use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use consensus::{OperationId, Slot};
use pgrx::pg_sys;

use super::TableName;

/// The place of a process in [`super::Area`]: its number in PostgreSQL's array of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendIndex(pub u32);

/// What a transaction is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// No transaction, or one that has not touched a replicated table.
    Idle = 0,
    /// It may be rolled back by anybody who needs its locks.
    Running = 1,
    /// It stands in the way of an entry of the log and must roll back.
    Doomed = 2,
    /// Its write set was given to the engine; the outcome is open.
    Proposed = 3,
    /// It is chosen and certified: it must commit at its slot.
    Granted = 4,
    /// It was chosen, but the backend could not commit it: the applier replays it from the log.
    HandedOver = 5,
}

/// A transaction's generation and state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Counts the backend's transactions.
    pub generation: u64,
    /// What that transaction is doing.
    pub state: State,
}

impl Word {
    const STATE_BITS: u32 = 8;

    fn pack(self) -> u64 {
        (self.generation << Self::STATE_BITS) | self.state as u64
    }

    fn unpack(bits: u64) -> Word {
        let state = match bits & ((1 << Self::STATE_BITS) - 1) {
            0 => State::Idle,
            1 => State::Running,
            2 => State::Doomed,
            3 => State::Proposed,
            4 => State::Granted,
            5 => State::HandedOver,
            other => panic!("the word of a backend holds the unknown state {other}"),
        };
        Word { generation: bits >> Self::STATE_BITS, state }
    }
}

/// One process of the server. Aligned so that two backends share no cache line.
#[repr(C, align(128))]
pub struct Backend {
    word: AtomicU64,
    /// The start and the sequence of the operation that this backend proposed last: tells a grant for an older one
    /// apart. The node is this one.
    operation_start: AtomicU64,
    operation_sequence: AtomicU64,
    /// The slot at which the granted transaction commits.
    granted: AtomicU64,
    /// The applied position that this process waits for, in the group of `waiting_group`; 0 if none.
    waiting_for: AtomicU64,
    /// The place of the group waited for.
    waiting_group: AtomicU32,
    process: AtomicI32,
    latch: AtomicPtr<pg_sys::Latch>,
    /// Why it was doomed: the slot of the entry in whose way it stands.
    doomed_by: AtomicU64,
    /// The table that the entry changes; empty if not known.
    doomed_on: TableName,
    /// The generation of the transaction that was doomed, did not react, and whose session must end; 0 if none.
    condemned: AtomicU64,
    /// The generation of the proposed or granted transaction that must give up its locks to an earlier entry.
    displaced: AtomicU64,
}

impl Backend {
    /// Takes the place for the calling process.
    pub fn occupy(&self, process: i32, latch: *mut pg_sys::Latch) {
        let generation = self.word().generation + 1;
        self.word.store(Word { generation, state: State::Idle }.pack(), Ordering::SeqCst);
        self.waiting_for.store(0, Ordering::SeqCst);
        self.latch.store(latch, Ordering::SeqCst);
        self.process.store(process, Ordering::SeqCst);
    }

    /// Leaves the place free. The word stays, so that generations do not repeat.
    pub fn vacate(&self) {
        self.process.store(0, Ordering::SeqCst);
        self.latch.store(std::ptr::null_mut(), Ordering::SeqCst);
    }

    /// The process in this place; 0 if none.
    pub fn process(&self) -> i32 {
        self.process.load(Ordering::SeqCst)
    }

    /// What its transaction is doing.
    pub fn word(&self) -> Word {
        Word::unpack(self.word.load(Ordering::SeqCst))
    }

    /// Changes the word if it still is what the caller saw.
    pub fn change(&self, from: Word, to: State) -> bool {
        let next = Word { generation: from.generation, state: to };
        self.word.compare_exchange(from.pack(), next.pack(), Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Begins a new transaction, which only the owner of the place does. The previous one must be over.
    pub fn begin(&self) -> Word {
        let old = self.word();
        assert!(old.state == State::Idle, "a transaction began while the last one was {:?}", old.state);
        let word = Word { generation: old.generation + 1, state: State::Running };
        self.word.store(word.pack(), Ordering::SeqCst);
        word
    }

    /// Ends whatever transaction there was, which only the owner of the place does, when no entry depends on it.
    pub fn end(&self) {
        let generation = self.word().generation;
        self.word.store(Word { generation, state: State::Idle }.pack(), Ordering::SeqCst);
    }

    /// Notes which operation is about to be proposed, before the word says so.
    pub fn note_operation(&self, operation: OperationId) {
        self.operation_start.store(operation.start.0, Ordering::SeqCst);
        self.operation_sequence.store(operation.sequence, Ordering::SeqCst);
    }

    /// Whether that operation of this node is the one proposed last.
    pub fn proposed(&self, operation: OperationId) -> bool {
        self.operation_start.load(Ordering::SeqCst) == operation.start.0
            && self.operation_sequence.load(Ordering::SeqCst) == operation.sequence
    }

    /// Grants the proposed operation its slot. The word to look for again once the slot is published, or `None` if the
    /// backend no longer waits for it. Granting the same again is harmless (the engine was restarted).
    pub fn grant(&self, operation: OperationId, slot: Slot) -> Option<Word> {
        let word = self.word();
        if !self.proposed(operation) {
            return None;
        }
        let granted = Word { generation: word.generation, state: State::Granted };
        match word.state {
            State::Granted if self.granted() == slot => Some(granted),
            State::Proposed => {
                self.granted.store(slot.0, Ordering::SeqCst);
                self.change(word, State::Granted).then_some(granted)
            }
            _ => None,
        }
    }

    /// The slot of the granted transaction.
    pub fn granted(&self) -> Slot {
        Slot(self.granted.load(Ordering::SeqCst))
    }

    /// Notes that the process waits for a position of a group, or for none (0).
    pub fn wait_for(&self, group_place: usize, slot: Slot) {
        let place = u32::try_from(group_place).expect("places are few");
        self.waiting_group.store(place, Ordering::SeqCst);
        self.waiting_for.store(slot.0, Ordering::SeqCst);
    }

    /// Whether the process waits for a position of that group which `applied` has reached.
    pub fn is_satisfied(&self, group_place: usize, applied: Slot) -> bool {
        let slot = self.waiting_for.load(Ordering::SeqCst);
        slot != 0 && slot <= applied.0 && self.waiting_group.load(Ordering::SeqCst) as usize == group_place
    }

    /// Dooms the transaction seen in `word` for standing in the way of the entry at `slot`, which changes `table`.
    /// Whether it was still running.
    pub fn doom(&self, word: Word, slot: Slot, table: &TableName) -> bool {
        if word.state != State::Running {
            return false;
        }
        self.doomed_by.store(slot.0, Ordering::SeqCst);
        self.doomed_on.copy_from(table);
        self.change(word, State::Doomed)
    }

    /// The slot and the table for which it was doomed; the table's name is empty if it is not known.
    pub fn doomed_by(&self) -> (Slot, String) {
        (Slot(self.doomed_by.load(Ordering::SeqCst)), self.doomed_on.text())
    }

    /// Condemns the session of a doomed transaction that has not reacted.
    pub fn condemn(&self, word: Word) {
        self.condemned.store(word.generation, Ordering::SeqCst);
    }

    /// Whether the session of this very transaction must end.
    pub fn is_condemned(&self, word: Word) -> bool {
        self.condemned.load(Ordering::SeqCst) == word.generation
    }

    /// Asks a proposed or granted transaction, which nobody may doom, to leave its slot to the applier.
    pub fn displace(&self, word: Word) {
        self.displaced.store(word.generation, Ordering::SeqCst);
        self.wake();
    }

    /// Whether this very transaction was asked to leave its slot to the applier.
    pub fn is_displaced(&self, word: Word) -> bool {
        self.displaced.load(Ordering::SeqCst) == word.generation
    }

    /// Wakes the process, if there is one. May be called from any thread.
    pub fn wake(&self) {
        let latch = self.latch.load(Ordering::SeqCst);
        if !latch.is_null() {
            // SAFETY: only latches of PGPROC entries are stored, which live in shared memory as long as the server.
            unsafe { super::set_latch(latch) };
        }
    }
}
