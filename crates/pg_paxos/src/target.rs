//! One replicated table, open for the operations of one entry.

use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use consensus::Slot;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;
use pgrx::PgMemoryContexts;
use tables::{Row, Value};

use crate::catalog::ReplicatedTable;
use crate::keys::SlotValues;
use crate::shared::{Area, Group};
use crate::{list, row_codec};

/// A table that is being changed.
pub struct Target {
    table: Rc<ReplicatedTable>,
    /// The entry's slot, for messages.
    entry: Slot,
    /// Where it is announced what is about to change.
    group: Option<&'static Group>,
    name: String,
    relation: pg_sys::Relation,
    estate: *mut pg_sys::EState,
    result: *mut pg_sys::ResultRelInfo,
    entry_of_range_table: *mut pg_sys::RangeTblEntry,
    /// What to look a row up with, and the row to write.
    written: *mut pg_sys::TupleTableSlot,
    /// The row that was found.
    found: *mut pg_sys::TupleTableSlot,
    /// Values of one operation.
    scratch: PgMemoryContexts,
    /// Rows whose unique keys were taken when they were to be written; whole, to be inserted last.
    put_off: Vec<Row>,
    /// Changes of a table without a primary key, by the stored row that they look for.
    by_whole_row: WholeRows,
}

/// What is to become of rows that are found by their whole value: equal rows are told apart by nothing.
#[derive(Default)]
struct WholeRows {
    wanted: HashMap<Bytes, Vec<Option<Row>>>,
    count: usize,
}

/// Tells those who may be in the way for which entry and table.
fn announce(group: Option<&'static Group>, entry: Slot, table: &str) {
    if let Some(group) = group {
        group.set_changing(entry, table);
    }
}

impl Target {
    /// Opens a table and its indexes.
    pub fn open(table: Rc<ReplicatedTable>, entry: Slot) -> Target {
        let group = Area::attached().group(table.group);
        let name = table.qualified_name();
        announce(group, entry, &name);
        // SAFETY: executor state for one relation, as the executor sets it up for a statement; closed in `finish`,
        // or with the transaction after an error.
        unsafe {
            let relation = pg_sys::table_open(table.relation, pg_sys::RowExclusiveLock as i32);
            let estate = pg_sys::CreateExecutorState();
            let range = range_table_entry(relation, estate);
            pg_sys::ExecInitRangeTable(estate, list::append(std::ptr::null_mut(), range));
            (*estate).es_output_cid = pg_sys::GetCurrentCommandId(true);
            let result = PgMemoryContexts::For((*estate).es_query_cxt)
                .switch_to(|_| pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>());
            pg_sys::InitResultRelInfo(result, relation, 1, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(result, false);
            Target {
                group,
                name,
                table,
                entry,
                relation,
                estate,
                result,
                entry_of_range_table: range,
                written: pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &pg_sys::TTSOpsVirtual),
                found: pg_sys::table_slot_create(relation, std::ptr::null_mut()),
                scratch: PgMemoryContexts::new("pg_paxos row"),
                put_off: Vec::new(),
                by_whole_row: WholeRows::default(),
            }
        }
    }

    /// A row comes in.
    pub fn insert(&mut self, new: &Row) {
        announce(self.group, self.entry, &self.name);
        self.apply_whole_rows();
        self.insert_now(new);
    }

    fn insert_now(&mut self, new: &Row) {
        // SAFETY: `written` holds the row until it is cleared.
        unsafe {
            self.fill(new, None);
            pg_sys::simple_table_tuple_insert(self.relation, self.written);
            self.insert_index_entries(false);
            self.clear();
        }
    }

    /// A row goes.
    pub fn delete(&mut self, old: &Row) {
        announce(self.group, self.entry, &self.name);
        if self.table.primary_key().is_none() {
            self.by_whole_row.want(old, None);
            return;
        }
        self.lock_by_key(old, pg_sys::LockTupleMode::LockTupleExclusive, "delete");
        // SAFETY: `found` holds the row, which is locked.
        unsafe { self.delete_found() };
        self.clear();
    }

    /// A row changes.
    pub fn update(&mut self, old: &Row, new: &Row) {
        announce(self.group, self.entry, &self.name);
        if self.table.primary_key().is_none() {
            self.by_whole_row.want(old, Some(new.clone()));
            return;
        }
        let mode = match self.changes_key(new) {
            true => pg_sys::LockTupleMode::LockTupleExclusive,
            false => pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
        };
        self.lock_by_key(old, mode, "update");
        // SAFETY: `found` holds the row, which is locked.
        unsafe { self.update_found(new) };
        self.clear();
    }

    /// Becomes the table's owner, who may do nothing but what an operation needs: index expressions are a user's code.
    /// The caller becomes again who it was.
    pub fn become_owner(&self) {
        // SAFETY: an error restores the user with its transaction.
        unsafe {
            let owner = (*(*self.relation).rd_rel).relowner;
            pg_sys::SetUserIdAndSecContext(owner, pg_sys::SECURITY_RESTRICTED_OPERATION as i32);
        }
    }

    /// Does what was put off, and closes the table.
    pub fn finish(mut self) {
        announce(self.group, self.entry, &self.name);
        self.apply_whole_rows();
        for row in std::mem::take(&mut self.put_off) {
            self.insert_now(&row);
        }
        // SAFETY: all that `open` opened, once.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.written);
            pg_sys::ExecDropSingleTupleTableSlot(self.found);
            pg_sys::ExecCloseIndices(self.result);
            pg_sys::FreeExecutorState(self.estate);
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        }
    }

    /// Whether a change touches columns of a unique index that others may refer to.
    fn changes_key(&self, new: &Row) -> bool {
        let changed = self.changed_columns(new);
        let plain = self.table.keys.iter().filter(|key| !key.is_computed);
        plain.flat_map(|key| &key.attributes).any(|column| changed.contains(column))
    }

    /// Fills `written` with a row; unchanged columns come from `before`, or stay NULL where nothing was before.
    unsafe fn fill(&mut self, row: &Row, before: Option<SlotValues>) {
        if row.column_count() != self.table.columns.len() {
            self.fail_columns(row);
        }
        let slot = self.written;
        clear_slot(slot);
        let count = usize::try_from((*(*slot).tts_tupleDescriptor).natts).expect("a table has a number of columns");
        let values = std::slice::from_raw_parts_mut((*slot).tts_values, count);
        let nulls = std::slice::from_raw_parts_mut((*slot).tts_isnull, count);
        // Dropped columns stay NULL.
        nulls.fill(true);
        let table = Rc::clone(&self.table);
        self.scratch.switch_to(|_| {
            for (column, value) in table.columns.iter().zip(row.values()) {
                let place = usize::from(column.attribute as u16) - 1;
                let datum = match (&value, before) {
                    (Value::Unchanged, None) => None,
                    (Value::Unchanged, Some(before)) => before.value(column.attribute),
                    _ => column.codec.borrow_mut().datum(&value),
                };
                nulls[place] = datum.is_none();
                values[place] = datum.unwrap_or(Datum::null());
            }
        });
        pg_sys::ExecStoreVirtualTuple(slot);
    }

    fn clear(&mut self) {
        // SAFETY: slots and contexts of this target; nothing points into them any more.
        unsafe {
            clear_slot(self.written);
            clear_slot(self.found);
            self.scratch.reset();
            let context = (*self.estate).es_per_tuple_exprcontext;
            if !context.is_null() {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
        }
    }

    /// Finds the row by the primary key and locks it; waits for transactions that hold it.
    fn lock_by_key(&mut self, old: &Row, mode: pg_sys::LockTupleMode::Type, what: &str) {
        let index = self.table.primary_key().expect("looked up by the primary key").index;
        // SAFETY: `written` holds the key's columns, `found` takes the row.
        let is_found = unsafe {
            self.fill(old, None);
            pg_sys::RelationFindReplTupleByIndex(self.relation, index, mode, self.written, self.found)
        };
        if !is_found {
            self.fail_missing(old, what);
        }
    }

    unsafe fn delete_found(&mut self) {
        let place = std::ptr::addr_of_mut!((*self.found).tts_tid);
        pg_sys::simple_table_tuple_delete(self.relation, place, pg_sys::GetActiveSnapshot());
    }

    unsafe fn update_found(&mut self, new: &Row) {
        let before = SlotValues::of(self.found);
        self.fill(new, Some(before));
        if self.key_is_taken(new) {
            // Whole and free of pointers to the row that goes now.
            let whole = row_codec::whole_row(&self.table, SlotValues::of(self.written));
            self.put_off.push(whole);
            self.delete_found();
            return;
        }
        self.note_changed_columns(new);
        let place = std::ptr::addr_of_mut!((*self.found).tts_tid);
        let mut needs_index_entries = false;
        pg_sys::simple_table_tuple_update(
            self.relation,
            place,
            self.written,
            pg_sys::GetActiveSnapshot(),
            &mut needs_index_entries,
        );
        if needs_index_entries {
            self.insert_index_entries(true);
        }
    }

    /// Tells the indexes which columns changed, which they take as a hint.
    unsafe fn note_changed_columns(&mut self, new: &Row) {
        let offset = pg_sys::FirstLowInvalidHeapAttributeNumber;
        let mut columns = std::ptr::null_mut();
        for column in self.changed_columns(new) {
            columns = pg_sys::bms_add_member(columns, i32::from(column) - offset);
        }
        pg_sys::bms_free((*self.entry_of_range_table).updatedCols);
        (*self.entry_of_range_table).updatedCols = columns;
    }

    unsafe fn insert_index_entries(&mut self, is_update: bool) {
        if (*self.result).ri_NumIndices > 0 {
            pg_sys::ExecInsertIndexTuples(
                self.result,
                self.written,
                self.estate,
                is_update,
                false,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            );
        }
    }

    /// Whether another row has a unique key that the row in `written` takes: one that is changed later in this entry.
    unsafe fn key_is_taken(&mut self, new: &Row) -> bool {
        let own = (*self.found).tts_tid;
        let table = Rc::clone(&self.table);
        let changed = self.changed_columns(new);
        table.keys.iter().filter(|key| key.is_immediate).any(|key| {
            let may_change = key.is_computed || key.attributes.iter().any(|column| changed.contains(column));
            if !may_change || key.hash(SlotValues::of(self.found)) == key.hash(SlotValues::of(self.written)) {
                return false;
            }
            self.prepare_check(key.index);
            let mut holder = pg_sys::ItemPointerData::default();
            let index = pg_sys::lappend_oid(std::ptr::null_mut(), key.index);
            let is_free = pg_sys::ExecCheckIndexConstraints(self.result, self.written, self.estate, &mut holder, index);
            !is_free && !same_place(&holder, &own)
        })
    }

    /// Sets up what PostgreSQL needs to look for the holder of an index's key; only few updates do.
    unsafe fn prepare_check(&mut self, index: pg_sys::Oid) {
        let count = usize::try_from((*self.result).ri_NumIndices).expect("a table has a number of indexes");
        for place in 0..count {
            let relation = *(*self.result).ri_IndexRelationDescs.add(place);
            let info = *(*self.result).ri_IndexRelationInfo.add(place);
            if (*relation).rd_id == index && (*info).ii_UniqueOps.is_null() {
                let context = (*self.estate).es_query_cxt;
                PgMemoryContexts::For(context).switch_to(|_| pg_sys::BuildSpeculativeIndexInfo(relation, info));
            }
        }
    }

    /// The numbers of the columns that a change sends.
    fn changed_columns(&self, new: &Row) -> Vec<i16> {
        let columns = self.table.columns.iter().zip(new.values());
        columns.filter(|(_, value)| *value != Value::Unchanged).map(|(column, _)| column.attribute).collect()
    }

    /// Finds, in one scan, the rows that are looked for by their whole value, and changes them.
    fn apply_whole_rows(&mut self) {
        if self.by_whole_row.count == 0 {
            return;
        }
        // SAFETY: a scan of the open table under a snapshot of now, ended below.
        unsafe {
            pg_sys::CommandCounterIncrement();
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let routine = (*self.relation).rd_tableam;
            let begin = (*routine).scan_begin.expect("every table can be scanned");
            let next = (*routine).scan_getnextslot.expect("every table can be scanned");
            let end = (*routine).scan_end.expect("every table can be scanned");
            let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN | pg_sys::ScanOptions::SO_ALLOW_STRAT;
            let (relation, found) = (self.relation, self.found);
            let scan = guard(|| begin(relation, snapshot, 0, std::ptr::null_mut(), std::ptr::null_mut(), flags));
            while self.by_whole_row.count > 0
                && guard(|| next(scan, pg_sys::ScanDirection::ForwardScanDirection, found))
            {
                self.change_if_wanted();
            }
            guard(|| end(scan));
            pg_sys::UnregisterSnapshot(snapshot);
        }
        if let Some(missing) = self.by_whole_row.any() {
            self.fail_missing(&missing, "change");
        }
    }

    /// Changes the row in `found` if its whole value is looked for.
    unsafe fn change_if_wanted(&mut self) {
        let table = Rc::clone(&self.table);
        let stored = self.scratch.switch_to(|_| row_codec::whole_row(&table, SlotValues::of(self.found)));
        if let Some(change) = self.by_whole_row.take(&stored) {
            if self.lock_found() {
                match change {
                    None => self.delete_found(),
                    Some(new) => self.update_found(&new),
                }
            } else {
                // It went while it was locked: another, equal row may stand further on.
                self.by_whole_row.want(&stored, change);
            }
        }
        self.scratch.reset();
        clear_slot(self.written);
    }

    /// Locks the row in `found`, whichever transaction holds it; false if it is not there any more.
    unsafe fn lock_found(&mut self) -> bool {
        let lock = (*(*self.relation).rd_tableam).tuple_lock.expect("every table can lock a row");
        let mut place = (*self.found).tts_tid;
        let mut failure = pg_sys::TM_FailureData::default();
        let (relation, found) = (self.relation, self.found);
        let result = guard(|| {
            lock(
                relation,
                &mut place,
                pg_sys::GetActiveSnapshot(),
                found,
                pg_sys::GetCurrentCommandId(false),
                pg_sys::LockTupleMode::LockTupleExclusive,
                pg_sys::LockWaitPolicy::LockWaitBlock,
                0,
                &mut failure,
            )
        });
        result == pg_sys::TM_Result::TM_Ok
    }

    fn fail_columns(&self, row: &Row) -> ! {
        self.fail(
            format!("an operation has {} columns instead of {}", row.column_count(), self.table.columns.len()),
            format!("Slot {} of the log, table {}.", self.entry, self.table.qualified_name()),
        )
    }

    fn fail_missing(&self, old: &Row, what: &str) -> ! {
        self.fail(
            format!("a row to {what} is missing in replicated table {}", self.table.qualified_name()),
            format!("Slot {} of the log, row {}.", self.entry, self.describe(old)),
        )
    }

    fn fail(&self, message: String, detail: String) -> ! {
        ErrorReport::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message, "pg_paxos")
            .set_detail(detail)
            .set_hint(
                "This server's table differs from the group's, and nothing more is applied here. \
                 Leave the group and join it anew to copy its tables.",
            )
            .report(PgLogLevel::ERROR);
        unreachable!("an error does not return")
    }

    /// The columns of a row that were sent, by name and value.
    fn describe(&self, row: &Row) -> String {
        let parts = self.table.columns.iter().zip(row.values()).filter_map(|(column, value)| {
            let datum = match value {
                Value::Unchanged => return None,
                Value::Null => return Some(format!("{} = NULL", column.name)),
                value => column.codec.borrow_mut().datum(&value)?,
            };
            // SAFETY: a value of the column's type, printed by that type's own function.
            let text = unsafe { column_text(self.relation, column.attribute, datum) };
            Some(format!("{} = {text}", column.name))
        });
        parts.collect::<Vec<_>>().join(", ")
    }
}

impl WholeRows {
    fn want(&mut self, old: &Row, new: Option<Row>) {
        self.wanted.entry(Bytes::copy_from_slice(old.as_bytes())).or_default().push(new);
        self.count += 1;
    }

    fn take(&mut self, stored: &Row) -> Option<Option<Row>> {
        let changes = self.wanted.get_mut(stored.as_bytes())?;
        let change = changes.pop()?;
        self.count -= 1;
        Some(change)
    }

    /// A row that was not found.
    fn any(&self) -> Option<Row> {
        let (bytes, _) = self.wanted.iter().find(|(_, changes)| !changes.is_empty())?;
        Row::from_bytes(bytes.clone()).ok()
    }
}

fn same_place(one: &pg_sys::ItemPointerData, other: &pg_sys::ItemPointerData) -> bool {
    let parts = |place: &pg_sys::ItemPointerData| (place.ip_blkid.bi_hi, place.ip_blkid.bi_lo, place.ip_posid);
    parts(one) == parts(other)
}

/// `ExecClearTuple`, which is inline in C.
unsafe fn clear_slot(slot: *mut pg_sys::TupleTableSlot) {
    let clear = (*(*slot).tts_ops).clear.expect("every slot can be cleared");
    guard(|| clear(slot));
}

/// Calls into PostgreSQL through a function pointer, which the generated bindings do not guard.
unsafe fn guard<T>(call: impl FnOnce() -> T) -> T {
    pg_sys::submodules::ffi::pg_guard_ffi_boundary(call)
}

unsafe fn range_table_entry(relation: pg_sys::Relation, estate: *mut pg_sys::EState) -> *mut pg_sys::RangeTblEntry {
    PgMemoryContexts::For((*estate).es_query_cxt).switch_to(|_| {
        let entry = pg_sys::palloc0(size_of::<pg_sys::RangeTblEntry>()).cast::<pg_sys::RangeTblEntry>();
        (*entry).type_ = pg_sys::NodeTag::T_RangeTblEntry;
        (*entry).rtekind = pg_sys::RTEKind::RTE_RELATION;
        (*entry).relid = (*relation).rd_id;
        (*entry).relkind = (*(*relation).rd_rel).relkind;
        (*entry).rellockmode = pg_sys::AccessShareLock as i32;
        entry
    })
}

unsafe fn column_text(relation: pg_sys::Relation, attribute: i16, value: Datum) -> String {
    let place = usize::from(attribute as u16) - 1;
    let type_oid = (*(*(*relation).rd_att).attrs.as_ptr().add(place)).atttypid;
    let (mut output, mut is_varlena) = (pg_sys::Oid::INVALID, false);
    pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut is_varlena);
    let text = pg_sys::OidOutputFunctionCall(output, value);
    std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned()
}
