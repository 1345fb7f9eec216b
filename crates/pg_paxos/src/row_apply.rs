//! Apply: what the log decided, done to this server's tables.
//!
//! Rows go straight into tables and indexes. No trigger fires and no CHECK, default, domain or generated expression is
//! evaluated: the origin did all that once, and evaluated here they would run a user's code as the applier. Only
//! expressions and predicates of indexes are evaluated, as the table's owner in a security-restricted operation.
//!
//! A row that is to be changed is found by the primary key, or by its whole stored value in a table without one, and
//! locked no more strongly than the change needs. If another row still has a unique key that a changed row takes (two
//! rows that swap keys), the changed row is deleted first and inserted last.

use std::collections::HashMap;
use std::rc::Rc;

use consensus::{GroupId, Slot};
use pgrx::pg_sys;
use pgrx::prelude::*;
use tables::{Operation, TableId};

use crate::catalog::{self, ReplicatedTable};
use crate::target::Target;
use crate::{capture, refusal, replicate_table, rounds, staged_rows};

/// Does one entry's operations in the current transaction. Raises a PostgreSQL error if it cannot; [`is_transient`]
/// tells whether trying again may help.
pub fn apply(group: GroupId, slot: Slot, operations: &[Operation]) {
    let _quiet = capture::bypass();
    let mut targets = Targets { group, slot, open: HashMap::new(), user: current_user() };
    // SAFETY: a snapshot for index expressions and TOAST, popped below; an error pops it with its transaction.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
    }
    for operation in operations {
        match operation {
            Operation::Insert { table, new } => targets.of(*table).insert(new),
            Operation::Update { table, old, new } => targets.of(*table).update(old, new),
            Operation::Delete { table, old } => targets.of(*table).delete(old),
            other => {
                targets.close();
                apply_other(group, slot, other);
            }
        }
    }
    targets.close();
    // SAFETY: the snapshot pushed above.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommandCounterIncrement();
    }
}

fn apply_other(group: GroupId, slot: Slot, operation: &Operation) {
    match operation {
        Operation::ReplicateTable { table, definition } => replicate_table::apply(group, slot, *table, definition),
        Operation::UnreplicateTable { table } => replicate_table::remove(group, slot, *table),
        Operation::StageRows { lot, part, rows } => staged_rows::keep(group, slot, *lot, *part, rows),
        Operation::TakeStaged { lot, parts } => staged_rows::take(group, slot, *lot, *parts),
        Operation::DecideRound { .. } | Operation::AppendRound { .. } => rounds::apply(group, slot, operation),
        other => refusal::fail(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("slot {slot} holds an operation that this version does not know: {other:?}"),
            "Upgrade pg_paxos on this server.",
        ),
    }
}

/// The tables that an entry changes, open.
struct Targets {
    group: GroupId,
    slot: Slot,
    open: HashMap<TableId, Target>,
    /// Who the applier is when it does not act as a table's owner.
    user: (pg_sys::Oid, i32),
}

fn current_user() -> (pg_sys::Oid, i32) {
    let (mut user, mut context) = (pg_sys::Oid::INVALID, 0);
    // SAFETY: fills in two variables.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
    (user, context)
}

impl Targets {
    fn of(&mut self, table: TableId) -> &mut Target {
        let (group, slot) = (self.group, self.slot);
        let target = self.open.entry(table).or_insert_with(|| Target::open(find(group, slot, table), slot));
        target.become_owner();
        target
    }

    /// Does what was put off, and closes the tables.
    fn close(&mut self) {
        // In the order of their numbers, so that all nodes lock alike.
        let mut open: Vec<(TableId, Target)> = self.open.drain().collect();
        open.sort_by_key(|(table, _)| *table);
        for (_, target) in open {
            target.become_owner();
            target.finish();
        }
        // SAFETY: who the applier was before.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user.0, self.user.1) };
    }
}

fn find(group: GroupId, slot: Slot, table: TableId) -> Rc<ReplicatedTable> {
    catalog::of_table(group, table).unwrap_or_else(|| {
        refusal::fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("slot {slot} changes table {} of the group, which this server does not have", table.0),
            "This server's tables differ from the group's: leave the group and join it anew.",
        )
    })
}

/// Whether an error with this SQLSTATE may go away by itself, so that applying the entry is tried again: lock
/// time-outs, deadlocks, cancels, lack of memory, disk or other resources, failing input and output, a shutdown.
/// Every other error is the entry's own.
pub fn is_transient(sqlstate: i32) -> bool {
    let code = PgSqlErrorCode::from(sqlstate as isize);
    let own = [
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED,
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
    ];
    let classes = [
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        PgSqlErrorCode::ERRCODE_OPERATOR_INTERVENTION,
        PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
    ];
    // A SQLSTATE has six bits per character; the first two characters are its class.
    own.contains(&code) || classes.iter().any(|class| (*class as i32) & 0xFFF == sqlstate & 0xFFF)
}

/// Settings that ALTER ROLE, ALTER DATABASE or the configuration may change and on which the outcome must not depend.
const PINNED: &[(&std::ffi::CStr, &std::ffi::CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"statement_timeout", c"0"),
    (c"lock_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"row_security", c"off"),
    (c"datestyle", c"ISO, YMD"),
    (c"intervalstyle", c"postgres"),
    (c"timezone", c"UTC"),
    (c"extra_float_digits", c"3"),
    (c"bytea_output", c"hex"),
    (c"xmlbinary", c"base64"),
    (c"xmloption", c"content"),
    (c"lc_monetary", c"C"),
    (c"lc_numeric", c"C"),
    (c"check_function_bodies", c"off"),
    (c"default_tablespace", c""),
    (c"default_table_access_method", c"heap"),
];

/// Pins the settings of a background worker that applies entries. Called once, after it has connected.
pub fn pin_settings() {
    for (name, value) in PINNED {
        // SAFETY: constant strings; the settings exist and the values are valid.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}
