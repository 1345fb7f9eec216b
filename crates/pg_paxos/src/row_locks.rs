//! Row locks of SELECT FOR UPDATE and its kin, as keys: a lock that a transaction relies on must be seen by the other
//! nodes too. PostgreSQL has no hook for row locks, but its row-locking plan node remembers which row it locked last;
//! so that node is wrapped when a statement starts.
//!
//! The functions that errors of others pass through are plain and have nothing to drop: a guard there would strip
//! schema, table and constraint names from those errors.

use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;
use tables::{IndexId, Key, Strength};

use crate::catalog::{self, ReplicatedTable};
use crate::keys::{row_hash, SlotValues};
use crate::{capture, list, row_codec, shared};

static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;

/// The executor's own function of the row-locking node, once one was seen: the same for all.
static EXECUTE_LOCK_ROWS: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Sets up the hook.
///
/// # Safety
/// Called once, from `_PG_init`.
pub unsafe fn install() {
    PREVIOUS = pg_sys::ExecutorStart_hook;
    pg_sys::ExecutorStart_hook = Some(executor_start);
}

unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    match PREVIOUS {
        Some(previous) => previous(query, flags),
        None => c::standard_ExecutorStart(query, flags),
    }
    let explains_only = flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0;
    if !(*(*query).plannedstmt).rowMarks.is_null() && !explains_only {
        wrap_lock_rows((*query).planstate);
    }
}

mod c {
    use pgrx::pg_sys;
    extern "C-unwind" {
        /// Without the guard of the generated binding, so that errors pass untouched.
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: i32);
    }
}

/// Finds the row-locking nodes of a plan and wraps those that lock rows of replicated tables.
#[pg_guard]
unsafe extern "C-unwind" fn wrap_lock_rows(node: *mut pg_sys::PlanState) {
    if !capture::is_bypassed() {
        walk(node, std::ptr::null_mut());
    }
}

unsafe extern "C-unwind" fn walk(node: *mut pg_sys::PlanState, context: *mut std::ffi::c_void) -> bool {
    if node.is_null() {
        return false;
    }
    if (*node).type_ == pg_sys::NodeTag::T_LockRowsState && locks_replicated_rows(node.cast()) {
        // The executor copies this function into the node at its first call.
        let original = (*node).ExecProcNodeReal.expect("an initialized node can be executed");
        EXECUTE_LOCK_ROWS.store(original as *mut (), Ordering::Relaxed);
        (*node).ExecProcNodeReal = Some(execute_lock_rows);
    }
    pg_sys::planstate_tree_walker(node, Some(walk), context)
}

unsafe fn marks(node: *mut pg_sys::LockRowsState) -> impl Iterator<Item = *mut pg_sys::ExecRowMark> {
    // SAFETY: an executor state's marks live as long as it does.
    list::pointers::<pg_sys::ExecAuxRowMark>((*node).lr_arowMarks).map(|mark| unsafe { (*mark).rowmark })
}

unsafe fn locks_replicated_rows(node: *mut pg_sys::LockRowsState) -> bool {
    marks(node).any(|mark| strength((*mark).markType).is_some() && catalog::of_relation((*mark).relid).is_some())
}

/// The strength of a row lock as a key. FOR SHARE keeps the row from changing, which only an update's key does.
fn strength(mark: pg_sys::RowMarkType::Type) -> Option<Strength> {
    match mark {
        pg_sys::RowMarkType::ROW_MARK_EXCLUSIVE => Some(Strength::Exclusive),
        pg_sys::RowMarkType::ROW_MARK_NOKEYEXCLUSIVE | pg_sys::RowMarkType::ROW_MARK_SHARE => Some(Strength::Update),
        pg_sys::RowMarkType::ROW_MARK_KEYSHARE => Some(Strength::Reference),
        _ => None,
    }
}

unsafe extern "C-unwind" fn execute_lock_rows(node: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    let original: unsafe extern "C-unwind" fn(*mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot =
        std::mem::transmute(EXECUTE_LOCK_ROWS.load(Ordering::Relaxed));
    let slot = original(node);
    let is_empty = slot.is_null() || (*slot).tts_flags & pg_sys::TTS_FLAG_EMPTY as u16 != 0;
    if !is_empty {
        record_locked_rows(node.cast());
    }
    slot
}

#[pg_guard]
unsafe extern "C-unwind" fn record_locked_rows(node: *mut pg_sys::LockRowsState) {
    for mark in marks(node) {
        let Some(strength) = strength((*mark).markType) else { continue };
        if !(*mark).ermActive || (*mark).curCtid.ip_posid == 0 {
            continue;
        }
        if let Some(table) = catalog::of_relation((*mark).relid) {
            record_locked_row(&table, (*mark).relation, &mut (*mark).curCtid, strength);
        }
    }
}

unsafe fn record_locked_row(
    table: &ReplicatedTable,
    relation: pg_sys::Relation,
    place: pg_sys::ItemPointer,
    strength: Strength,
) {
    // The row is locked: nobody changes it any more, so what was applied up to now is what the lock has seen.
    let position = shared::applied(table.group);
    let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
    let fetch = (*(*relation).rd_tableam).tuple_fetch_row_version.expect("every table can fetch a row by its place");
    let any = std::ptr::addr_of_mut!(pg_sys::SnapshotAnyData);
    let found = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| fetch(relation, place, any, slot));
    if found {
        let row = SlotValues::of(slot);
        let hash = match table.primary_key() {
            Some(key) => key.hash(row),
            None => Some(row_hash(&row_codec::whole_row(table, row))),
        };
        if let Some(hash) = hash {
            capture::push_locked(
                table.group,
                Key { table: table.table, index: IndexId::ROW, hash, strength, position },
            );
        }
    }
    pg_sys::ExecDropSingleTupleTableSlot(slot);
}
