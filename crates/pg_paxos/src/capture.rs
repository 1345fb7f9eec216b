//! Capture: what the current transaction changed in replicated tables, row by row, as it happens.
//!
//! An internal trigger on each replicated table fires after every changed row, before any other trigger (its name
//! sorts first), whatever made the change: a statement, COPY, a cascade, a function. What it records lives in this
//! backend's memory; a savepoint that is rolled back takes its part with it. Rows that are locked are seen apart from
//! that ([`crate::row_locks`]), since PostgreSQL may lock a row and leave it as it is.

use std::cell::{Cell, RefCell};

use consensus::{GroupId, Slot};
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;
use tables::{Change, IndexId, Key, KeyHash, Operation, RowVersion, Strength, TableId, WRITE_SET_BYTES_MAX};

use crate::catalog::{self, ReplicatedTable};
use crate::keys::{row_hash, SlotValues};
use crate::{list, refusal, row_codec, settings, shared};

/// The name of the capture trigger. `!` sorts before every letter and digit, so it fires first.
pub const TRIGGER_NAME: &std::ffi::CStr = c"!pg_paxos_capture";

/// Bytes of a key in a write set.
pub(crate) const KEY_BYTES: usize = 23;

/// What the transaction did so far.
#[derive(Default)]
pub(crate) struct Captured {
    /// The group to which it wrote.
    pub(crate) group: Option<GroupId>,
    /// Changed rows in the order in which they were seen.
    pub(crate) changes: Vec<Change>,
    /// Operations that are no changes of rows, in order.
    pub(crate) pushed: Vec<Operation>,
    /// Keys of what it wrote, as they were touched.
    pub(crate) keys: Vec<Key>,
    /// Rows and tables that it locked, with their groups; they count only if it also writes.
    pub(crate) locked: Vec<(GroupId, Key)>,
    /// Bytes that all this will take in the log, at most; without what is locked, most of which is often also changed
    /// and has one key then.
    bytes: usize,
    /// The state at the start of each open savepoint.
    savepoints: Vec<Savepoint>,
}

/// How far a transaction was when a savepoint began.
#[derive(Clone, Copy)]
struct Savepoint {
    id: pg_sys::SubTransactionId,
    group: Option<GroupId>,
    changes: usize,
    pushed: usize,
    keys: usize,
    locked: usize,
    bytes: usize,
}

impl Captured {
    const EMPTY: Captured = Captured {
        group: None,
        changes: Vec::new(),
        pushed: Vec::new(),
        keys: Vec::new(),
        locked: Vec::new(),
        bytes: 0,
        savepoints: Vec::new(),
    };

    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.pushed.is_empty()
    }

    fn mark(&self, id: pg_sys::SubTransactionId) -> Savepoint {
        Savepoint {
            id,
            group: self.group,
            changes: self.changes.len(),
            pushed: self.pushed.len(),
            keys: self.keys.len(),
            locked: self.locked.len(),
            bytes: self.bytes,
        }
    }

    fn cut_back(&mut self, to: &Savepoint) {
        self.group = to.group;
        self.changes.truncate(to.changes);
        self.pushed.truncate(to.pushed);
        self.keys.truncate(to.keys);
        self.locked.truncate(to.locked);
        self.bytes = to.bytes;
    }
}

thread_local! {
    static CAPTURED: RefCell<Captured> = const { RefCell::new(Captured::EMPTY) };
    /// How many bypasses are alive in this backend.
    static BYPASSES: Cell<u32> = const { Cell::new(0) };
}

/// While it lives, nothing is captured and nothing is refused: for what is itself replayed from the log, or local.
#[must_use]
pub struct Bypass(());

/// Turns capture and refusals off in this backend until the value is dropped.
pub fn bypass() -> Bypass {
    BYPASSES.set(BYPASSES.get() + 1);
    Bypass(())
}

/// Turns capture and refusals off in this process for good: for background workers.
pub fn bypass_for_process() {
    std::mem::forget(bypass());
}

impl Drop for Bypass {
    fn drop(&mut self) {
        BYPASSES.set(BYPASSES.get() - 1);
    }
}

/// Whether changes of replicated tables go unseen and unrefused now.
pub fn is_bypassed() -> bool {
    BYPASSES.get() > 0 || !settings::enabled()
}

/// The group to which the transaction has written so far.
pub fn group() -> Option<GroupId> {
    CAPTURED.with_borrow(|captured| captured.group.filter(|_| !captured.is_empty()))
}

/// Gives the captured changes away and starts anew.
pub(crate) fn take() -> Option<Captured> {
    CAPTURED.with_borrow_mut(|captured| {
        let taken = std::mem::replace(captured, Captured::EMPTY);
        (!taken.is_empty()).then_some(taken)
    })
}

/// Forgets the transaction. Called when it ends, either way; cannot fail.
pub fn reset() {
    CAPTURED.with(|captured| {
        if let Ok(mut captured) = captured.try_borrow_mut() {
            *captured = Captured::EMPTY;
        }
    });
}

/// Sets up the hooks of capture.
///
/// # Safety
/// Called once, from `_PG_init` in the postmaster.
pub unsafe fn install() {
    pg_sys::RegisterSubXactCallback(Some(savepoint_event), std::ptr::null_mut());
    pg_sys::RegisterXactCallback(Some(transaction_event), std::ptr::null_mut());
    crate::row_locks::install();
}

/// Savepoints: their beginning is marked, their rollback cuts back. Cannot fail.
unsafe extern "C-unwind" fn savepoint_event(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    CAPTURED.with(|captured| {
        let Ok(mut captured) = captured.try_borrow_mut() else { return };
        match event {
            pg_sys::SubXactEvent::SUBXACT_EVENT_START_SUB => {
                let mark = captured.mark(own);
                captured.savepoints.push(mark);
            }
            pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
                captured.savepoints.pop_if(|mark| mark.id == own);
            }
            pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
                if let Some(mark) = captured.savepoints.pop_if(|mark| mark.id == own) {
                    captured.cut_back(&mark);
                }
            }
            _ => {}
        }
    });
}

unsafe extern "C-unwind" fn transaction_event(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => refuse_prepare(),
        pg_sys::XactEvent::XACT_EVENT_COMMIT
        | pg_sys::XactEvent::XACT_EVENT_ABORT
        | pg_sys::XactEvent::XACT_EVENT_PREPARE => reset(),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn refuse_prepare() {
    if group().is_some() {
        refusal::not_supported(
            "cannot prepare a transaction that has written to replicated tables",
            "End it with COMMIT: it is durable on a majority of the group's members then.",
        );
    }
}

/// The trigger function.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn paxos_capture_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    let context = (*fcinfo).context;
    if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
        refusal::fail(
            PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "pgp_metadata.capture is called by triggers only",
            "Replicate a table with paxos_replicate_table.",
        );
    }
    if !is_bypassed() {
        capture_row(&*context.cast::<pg_sys::TriggerData>());
    } else if BYPASSES.get() == 0 {
        crate::commit::note_unreplicated();
    }
    Datum::null()
}

/// The calling convention of the trigger function.
#[no_mangle]
pub extern "C" fn pg_finfo_paxos_capture_wrapper() -> &'static pg_sys::Pg_finfo_record {
    const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

unsafe fn capture_row(trigger: &pg_sys::TriggerData) {
    // A trigger that is left on a table which is no longer replicated has nothing to do.
    let Some(table) = catalog::of_relation((*trigger.tg_relation).rd_id) else { return };
    admit(table.group);
    let position = shared::applied(table.group);
    let mut touched = Touched { table: &table, position, keys: Vec::new() };
    let change = match trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => inserted(&mut touched, SlotValues::of(trigger.tg_trigslot)),
        pg_sys::TRIGGER_EVENT_DELETE => deleted(&mut touched, SlotValues::of(trigger.tg_trigslot)),
        pg_sys::TRIGGER_EVENT_UPDATE => {
            updated(&mut touched, SlotValues::of(trigger.tg_trigslot), SlotValues::of(trigger.tg_newslot))
        }
        // TRUNCATE has no row triggers; the guard sees it.
        _ => return,
    };
    // A change may have no key of its own (an insert without a primary key); LOCK TABLE must meet it all the same.
    if touched.keys.is_empty() {
        touched.keys.push(Key::of_table(table.table, Strength::Reference, position));
    }
    record(table.group, change, touched.keys);
}

/// Refuses what a transaction on a group's tables may not do.
fn admit(group: GroupId) {
    // SAFETY: a plain variable of this backend.
    if unsafe { pg_sys::XactIsoLevel } == pg_sys::XACT_SERIALIZABLE as i32 {
        refuse_serializable();
    }
    let other = CAPTURED.with_borrow(|captured| captured.group.is_some_and(|other| other != group));
    if other {
        refuse_second_group();
    }
}

/// Raises 0A000: SERIALIZABLE on replicated tables.
pub fn refuse_serializable() -> ! {
    refusal::not_supported(
        "cannot use replicated tables in a SERIALIZABLE transaction",
        "Use REPEATABLE READ, which is snapshot isolation across the whole group; lock rows with FOR UPDATE where \
         what is read decides what is written.",
    )
}

pub(crate) fn refuse_second_group() -> ! {
    refusal::not_supported("cannot write tables of two groups in one transaction", "Use one transaction per group.")
}

/// Adds to the transaction. Refuses it once it is too large to be proposed, before any harm.
fn record(group: GroupId, change: Change, keys: Vec<Key>) {
    let of = |row: &Option<(RowVersion, tables::Row)>| row.as_ref().map_or(0, |(_, row)| row.encoded_bytes());
    // Per operation a kind, a table and two lengths.
    let bytes = of(&change.old) + of(&change.new) + 13 + keys.len() * KEY_BYTES;
    CAPTURED.with_borrow_mut(|captured| {
        captured.group = Some(group);
        captured.bytes += bytes;
        captured.changes.push(change);
        captured.keys.extend(keys);
    });
    check_size();
}

/// Adds an operation that is no change of a row.
pub(crate) fn push(group: GroupId, operation: Operation) {
    admit(group);
    CAPTURED.with_borrow_mut(|captured| {
        captured.group = Some(group);
        captured.bytes += operation.encoded_bytes();
        captured.pushed.push(operation);
    });
    check_size();
}

/// Adds a key that the transaction wrote under.
pub(crate) fn push_key(group: GroupId, key: Key) {
    admit(group);
    CAPTURED.with_borrow_mut(|captured| captured.keys.push(key));
}

/// Adds a key that the transaction locked; it counts if the transaction also writes to the group. Refuses what could
/// not be proposed if it did: three million locked rows.
pub(crate) fn push_locked(group: GroupId, key: Key) {
    CAPTURED.with_borrow_mut(|captured| captured.locked.push((group, key)));
    check_size();
}

fn check_size() {
    let bytes = CAPTURED.with_borrow(|captured| captured.bytes.max(captured.locked.len() * KEY_BYTES));
    if bytes > WRITE_SET_BYTES_MAX {
        crate::write_set::refuse_size();
    }
}

/// The keys that one changed row touches.
struct Touched<'a> {
    table: &'a ReplicatedTable,
    position: Slot,
    keys: Vec<Key>,
}

impl Touched<'_> {
    fn add(&mut self, table: TableId, index: IndexId, hash: KeyHash, strength: Strength) {
        self.keys.push(Key { table, index, hash, strength, position: self.position });
    }

    /// The row came or went: all its keys.
    unsafe fn add_all(&mut self, row: SlotValues) {
        for key in &self.table.keys {
            if let Some(hash) = key.hash(row) {
                self.add(self.table.table, key.id, hash, Strength::Exclusive);
            }
        }
    }

    /// The parents that the row refers to.
    unsafe fn add_parents(&mut self, row: SlotValues, changed: Option<&[i16]>) {
        for reference in &self.table.foreign_keys {
            let is_touched =
                changed.is_none_or(|changed| reference.attributes.iter().any(|column| changed.contains(column)));
            if is_touched {
                if let Some(hash) = reference.hash(row) {
                    self.add(reference.parent, reference.parent_index, hash, Strength::Reference);
                }
            }
        }
    }
}

unsafe fn version(row: SlotValues) -> RowVersion {
    let place = (*row.slot()).tts_tid;
    let block = (u64::from(place.ip_blkid.bi_hi) << 16) | u64::from(place.ip_blkid.bi_lo);
    RowVersion((block << 16) | u64::from(place.ip_posid))
}

unsafe fn inserted(touched: &mut Touched<'_>, new: SlotValues) -> Change {
    touched.add_all(new);
    touched.add_parents(new, None);
    let row = row_codec::whole_row(touched.table, new);
    Change { table: touched.table.table, old: None, new: Some((version(new), row)) }
}

unsafe fn deleted(touched: &mut Touched<'_>, old: SlotValues) -> Change {
    touched.add_all(old);
    let row = row_codec::identity(touched.table, old);
    if touched.table.primary_key().is_none() {
        touched.add(touched.table.table, IndexId::ROW, row_hash(&row), Strength::Exclusive);
    }
    Change { table: touched.table.table, old: Some((version(old), row)), new: None }
}

unsafe fn updated(touched: &mut Touched<'_>, old: SlotValues, new: SlotValues) -> Change {
    let table = touched.table;
    let (new_row, changed) = row_codec::changed_columns(table, old, new);
    let old_row = row_codec::identity(table, old);
    if changes_a_key(table, old, new, &changed) {
        // Whoever holds any key of the row waits for it: all keys of both rows.
        touched.add_all(old);
        touched.add_all(new);
    } else if let Some(hash) = table.primary_key().and_then(|key| key.hash(old)) {
        touched.add(table.table, IndexId::ROW, hash, Strength::Update);
    }
    if table.primary_key().is_none() {
        touched.add(table.table, IndexId::ROW, row_hash(&old_row), Strength::Exclusive);
    }
    touched.add_parents(new, Some(&changed));
    Change { table: table.table, old: Some((version(old), old_row)), new: Some((version(new), new_row)) }
}

/// Whether an update changes the row's entry in any unique index.
unsafe fn changes_a_key(table: &ReplicatedTable, old: SlotValues, new: SlotValues, changed: &[i16]) -> bool {
    table.keys.iter().any(|key| match key.is_computed {
        true => !changed.is_empty() && key.hash(old) != key.hash(new),
        false => key.attributes.iter().any(|column| changed.contains(column)),
    })
}

/// Puts the capture trigger on a table.
pub fn attach(relation: pg_sys::Oid) {
    let _quiet = bypass();
    // SAFETY: builds a CREATE TRIGGER statement in the current memory context and runs it on a table that exists.
    unsafe {
        let function = capture_function();
        let statement = pg_sys::palloc0(size_of::<pg_sys::CreateTrigStmt>()).cast::<pg_sys::CreateTrigStmt>();
        (*statement).type_ = pg_sys::NodeTag::T_CreateTrigStmt;
        (*statement).trigname = pg_sys::pstrdup(TRIGGER_NAME.as_ptr());
        (*statement).row = true;
        (*statement).timing = pg_sys::TRIGGER_TYPE_AFTER as i16;
        (*statement).events =
            (pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_DELETE) as i16;
        pg_sys::CreateTriggerFiringOn(
            statement,
            std::ptr::null(),
            relation,
            pg_sys::Oid::INVALID,
            pg_sys::Oid::INVALID,
            pg_sys::Oid::INVALID,
            function,
            pg_sys::Oid::INVALID,
            std::ptr::null_mut(),
            true,
            false,
            pg_sys::TRIGGER_FIRES_ALWAYS as std::ffi::c_char,
        );
        pg_sys::CommandCounterIncrement();
    }
}

/// Takes the capture trigger off a table.
pub fn detach(relation: pg_sys::Oid) {
    let _quiet = bypass();
    // SAFETY: looks the trigger up in the open table's description and drops it as its owner would, with what depends
    // on it being there; the table must not be open any more by then.
    unsafe {
        let open = pg_sys::table_open(relation, pg_sys::ShareRowExclusiveLock as i32);
        let triggers = capture_triggers(open);
        pg_sys::table_close(open, pg_sys::NoLock as i32);
        for trigger in triggers {
            let address =
                pg_sys::ObjectAddress { classId: pg_sys::TriggerRelationId, objectId: trigger, objectSubId: 0 };
            pg_sys::performDeletion(
                &address,
                pg_sys::DropBehavior::DROP_RESTRICT,
                pg_sys::PERFORM_DELETION_INTERNAL as i32,
            );
        }
        pg_sys::CommandCounterIncrement();
    }
}

unsafe fn capture_function() -> pg_sys::Oid {
    let schema = pg_sys::makeString(pg_sys::pstrdup(c"pgp_metadata".as_ptr()));
    let function = pg_sys::makeString(pg_sys::pstrdup(c"capture".as_ptr()));
    let name = list::append(list::append(std::ptr::null_mut(), schema), function);
    pg_sys::LookupFuncName(name, 0, std::ptr::null(), false)
}

/// The capture triggers of an open table: one, or none. Found by their function, since a name can be changed.
///
/// # Safety
/// `relation` is open.
pub(crate) unsafe fn capture_triggers(relation: pg_sys::Relation) -> Vec<pg_sys::Oid> {
    let description = (*relation).trigdesc;
    if description.is_null() {
        return Vec::new();
    }
    let function = capture_function();
    let count = usize::try_from((*description).numtriggers).expect("a table has a number of triggers");
    let triggers = std::slice::from_raw_parts((*description).triggers, count);
    triggers.iter().filter(|trigger| trigger.tgfoid == function).map(|trigger| trigger.tgoid).collect()
}
