//! Row locks as keys: a lock that a transaction holds must be seen by the other nodes too, or it and an entry that
//! comes before it in the log can block each other.
//!
//! A row is locked by SELECT FOR UPDATE and its kin, by an UPDATE, DELETE or MERGE that has waited for it, by INSERT ON
//! CONFLICT DO UPDATE, and before a BEFORE trigger is asked. In each of them it may stay as it is, locked to the
//! transaction's end, and then no trigger tells of it. All of them lock by one function of the heap, so that one is
//! exchanged ([`crate::heap_routine`]).
//!
//! The function that errors of others pass through is plain and has nothing to drop: a guard there would strip schema,
//! table and constraint names from those errors.

use pgrx::pg_sys;
use pgrx::{prelude::*, PgMemoryContexts};
use tables::{IndexId, Key, KeyHash, Strength};

use crate::catalog::{self, ReplicatedTable};
use crate::heap_routine::{self, TupleLock};
use crate::keys::{row_hash, SlotValues};
use crate::{capture, refusal, row_codec, shared};

static mut PREVIOUS: Option<TupleLock> = None;

/// Exchanges the function that locks rows.
///
/// # Safety
/// Called once, from `_PG_init`.
pub unsafe fn install() {
    PREVIOUS = Some(heap_routine::tuple_lock());
    if let Err(error) = heap_routine::set_tuple_lock(tuple_lock) {
        refusal::fail(
            PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
            format!("pg_paxos cannot see row locks: {error}"),
            "It exchanges a pointer in the server's constant data, which this system must allow: mprotect() and /proc.",
        );
    }
}

unsafe extern "C-unwind" fn tuple_lock(
    relation: pg_sys::Relation,
    place: pg_sys::ItemPointer,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
    command: pg_sys::CommandId,
    mode: pg_sys::LockTupleMode::Type,
    wait_policy: pg_sys::LockWaitPolicy::Type,
    flags: u8,
    failure: *mut pg_sys::TM_FailureData,
) -> pg_sys::TM_Result::Type {
    let previous = PREVIOUS.expect("set before this function was");
    let result = previous(relation, place, snapshot, slot, command, mode, wait_policy, flags, failure);
    if result == pg_sys::TM_Result::TM_Ok {
        record_locked_row(relation, slot, mode);
    }
    result
}

/// Records the row in `slot`, which was just locked.
#[pg_guard]
unsafe extern "C-unwind" fn record_locked_row(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    mode: pg_sys::LockTupleMode::Type,
) {
    if capture::is_bypassed() {
        return;
    }
    let Some(table) = catalog::of_relation((*relation).rd_id) else { return };
    // The row is locked: nobody changes it any more, so what was applied up to now is what the lock has seen.
    let position = shared::applied(table.group);
    if let Some(hash) = hash_of(&table, slot) {
        let key = Key { table: table.table, index: IndexId::ROW, hash, strength: strength(mode), position };
        capture::push_locked(table.group, key);
    }
}

/// The key of the row in `slot`, and nothing left in memory: a statement may lock any number of rows.
unsafe fn hash_of(table: &ReplicatedTable, slot: *mut pg_sys::TupleTableSlot) -> Option<KeyHash> {
    // Of the sizes that PostgreSQL keeps for the next one, so that it costs next to nothing.
    let scratch = pg_sys::AllocSetContextCreateExtended(
        pg_sys::CurrentMemoryContext,
        c"pg_paxos locked row".as_ptr(),
        pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
        pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
        pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
    );
    let hash = PgMemoryContexts::For(scratch).switch_to(|_| {
        let row = SlotValues::of(slot);
        match table.primary_key() {
            Some(key) => key.hash(row),
            None => Some(row_hash(&row_codec::whole_row(table, row))),
        }
    });
    pg_sys::MemoryContextDelete(scratch);
    hash
}

/// The strength of a row lock as a key. FOR SHARE keeps the row from changing, which only an update's key does.
fn strength(mode: pg_sys::LockTupleMode::Type) -> Strength {
    match mode {
        pg_sys::LockTupleMode::LockTupleKeyShare => Strength::Reference,
        pg_sys::LockTupleMode::LockTupleShare | pg_sys::LockTupleMode::LockTupleNoKeyExclusive => Strength::Update,
        _ => Strength::Exclusive,
    }
}
