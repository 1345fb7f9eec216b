//! From what was captured to what is proposed.

use consensus::GroupId;
use pgrx::pg_sys;
use pgrx::prelude::*;
use tables::{Key, NetEffect, Operation, Strength, WriteSet, WRITE_SET_BYTES_MAX};

use crate::catalog::ReplicatedTable;
use crate::keys::SlotValues;
use crate::{capture, refusal, row_codec};

/// The group to which the transaction has written so far; cheap.
pub fn group() -> Option<GroupId> {
    capture::group()
}

/// Adds an operation that is no change of a row, in order, before the changes of rows. A savepoint that is rolled
/// back takes it with it.
pub fn push(group: GroupId, operation: Operation) {
    capture::push(group, operation);
}

/// Adds a key under which the transaction writes.
pub fn push_key(group: GroupId, key: Key) {
    capture::push_key(group, key);
}

/// What the transaction proposes: its net effect and its keys, and captures nothing more of it. None if it wrote to
/// no replicated table. Raises 54000 if it is too large, 0A000 if it locked rows of another group.
pub fn take() -> Option<(GroupId, WriteSet)> {
    let captured = capture::take()?;
    let group = captured.group.expect("what was captured belongs to a group");
    if captured.locked.iter().any(|(other, _)| *other != group) {
        refuse_foreign_lock();
    }
    let rows = NetEffect::of(&captured.changes).unwrap_or_else(|error| {
        refusal::fail(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            format!("cannot work out what the transaction changed: {error}"),
            "This is a defect of pg_paxos; the transaction has no effect.",
        )
    });
    // Every writer refers to its tables as a whole, so that LOCK TABLE meets it.
    let first_seen = captured.keys.iter().map(|key| Key::of_table(key.table, Strength::Reference, key.position));
    let written: Vec<Key> = first_seen.chain(captured.keys.iter().copied()).collect();
    let locked = captured.locked.into_iter().map(|(_, key)| key);
    let mut operations = captured.pushed;
    operations.extend(rows);
    let write_set = WriteSet::new(written.into_iter().chain(locked), operations);
    if size(&write_set) > WRITE_SET_BYTES_MAX {
        refuse_size();
    }
    Some((group, write_set))
}

fn size(write_set: &WriteSet) -> usize {
    write_set.keys.len() * capture::KEY_BYTES + write_set.operations.iter().map(Operation::encoded_bytes).sum::<usize>()
}

fn refuse_foreign_lock() -> ! {
    refusal::not_supported(
        "cannot write tables of one group under row locks in tables of another",
        "Use one transaction per group.",
    )
}

/// Raises 54000: the transaction is too large.
pub(crate) fn refuse_size() -> ! {
    refusal::fail(
        PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        format!(
            "the transaction changes or locks more than {} MiB of replicated rows and keys",
            WRITE_SET_BYTES_MAX >> 20
        ),
        "Change the rows in several smaller transactions.",
    )
}

/// The insert of a row that is in a slot: for rows that a table has when it becomes replicated.
///
/// # Safety
/// `slot` holds a row of the table.
pub unsafe fn insert_of(table: &ReplicatedTable, slot: *mut pg_sys::TupleTableSlot) -> Operation {
    Operation::Insert { table: table.table, new: row_codec::whole_row(table, SlotValues::of(slot)) }
}
