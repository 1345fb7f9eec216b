//! `paxos_replicate_table`: a table, with the rows it has, becomes the group's.
//!
//! Called once, on any member. It is part of the calling transaction like any other change: the table's definition and
//! its rows are operations of the transaction's write set, so ROLLBACK undoes it, and a member that is away finds the
//! whole in the log. Under SHARE ROW EXCLUSIVE nobody writes the table meanwhile; readers go on.
//!
//! Its commit is acknowledged when the members in contact have made the table ([`crate::made_elsewhere`]).
//!
//! Two checks end what would make members differ. Before anything is proposed, each member that answers is asked
//! over its connection string whether a table stands in the way there. And when the entry is applied, the applier looks
//! again: it then stops with an error that says what to remove, rather than mixing strange rows with the group's.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use client::{GroupDescription, MemberDescription};
use consensus::{GroupId, NodeId, Slot};
use pgrx::prelude::*;
use tables::{Operation, Strength, TableDefinition, TableId};

use crate::connection_string::ConnectionString;
use crate::groups::{self, current_database, refusal, uuid_of};
use crate::remote::{Remote, RemoteError};
use crate::rounds::{holds_values, use_key};
use crate::shared::{self, Area};
use crate::staged_rows::{self, Lot};
use crate::{barrier, capture, catalog, latest, made_elsewhere, state_copy, table_definition, write_set};

/// How long a member may take to say whether a table stands in the way there. It is asked for a courtesy: the applier
/// checks again, so a member that does not answer holds nobody up for longer than this.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Up to this size on disk a table's rows travel in the transaction's own entry: half of what that may hold, since
/// compressed values grow on the way.
const INLINE_BYTES_MAX: i64 = 32 << 20;

thread_local! {
    /// The tables that this transaction has made replicated, for the checks at its end. Those of a savepoint that was
    /// rolled back are recognized by their missing row of metadata.
    static TAKEN_IN: RefCell<Vec<pg_sys::Oid>> = const { RefCell::new(Vec::new()) };
    /// In an applier: who proposed the entry that is being applied.
    static ORIGIN: Cell<Option<NodeId>> = const { Cell::new(None) };
    /// In an applier: tables made by the entry that is being applied whose foreign keys are still to come.
    static UNBOUND: RefCell<Vec<TableDefinition>> = const { RefCell::new(Vec::new()) };
}

#[pg_extern]
fn paxos_replicate_table(current_group_id: &str, new_table_oid: pg_sys::Oid) {
    let group = groups::named(current_group_id);
    lock(new_table_oid);
    barrier::wait(group.group);
    // Before the checks below: what changes the group's list of tables after it, they may not have seen.
    let position = shared::applied(group.group);
    refuse_replicated(new_table_oid, &group);
    if holds_values(group.group) {
        refusal(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("group \"{}\" holds values given by hand and takes no tables", group.name),
        )
        .hint("Use a group of its own for tables: make one with paxos_create_group.")
        .raise()
    }
    table_definition::refuse_unsupported(&with_neighbours(new_table_oid));
    let definition = table_definition::describe(new_table_oid);
    check_members(&group, &definition);

    let table = next_table(group.group);
    register(group.group, table, new_table_oid);
    write_set::push_key(group.group, use_key(Strength::Exclusive, position));
    write_set::push(group.group, Operation::ReplicateTable { table, definition: Box::new(definition) });
    push_rows(&group, table, new_table_oid);
    TAKEN_IN.with_borrow_mut(|taken| taken.push(new_table_oid));
}

/// Checks, before the transaction is proposed, that no foreign key binds a table that it took in to a local one.
/// Tables bound to each other are so replicated in one transaction, in any order.
pub fn check_before_commit() {
    let taken = TAKEN_IN.with_borrow(|taken| taken.clone());
    if taken.is_empty() {
        return;
    }
    // SAFETY: in a transaction, on the main thread; at its end there is no statement whose snapshot could serve.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let kept: Vec<pg_sys::Oid> = taken.into_iter().filter(|relation| is_registered(*relation)).collect();
    if !kept.is_empty() {
        table_definition::refuse_unsupported(&kept);
    }
    // SAFETY: the one pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
}

/// Forgets what the ended transaction took in. Never fails.
pub fn reset() {
    made_elsewhere::reset();
    TAKEN_IN.with_borrow_mut(Vec::clear);
    UNBOUND.with_borrow_mut(Vec::clear);
}

/// Tells an applier who proposed the entry that it is about to apply.
pub fn set_origin(origin: NodeId) {
    ORIGIN.set(Some(origin));
}

fn lock(relation: pg_sys::Oid) {
    // SAFETY: takes a lock as any command does, held to the transaction's end; the name is null for what is gone.
    unsafe {
        pg_sys::LockRelationOid(relation, pg_sys::ShareRowExclusiveLock as i32);
        if pg_sys::get_rel_name(relation).is_null() {
            refusal(
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                format!("relation with OID {} does not exist", relation.to_u32()),
            )
            .raise()
        }
    }
}

fn is_registered(relation: pg_sys::Oid) -> bool {
    group_of(relation).is_some()
}

/// The group that replicates a relation, as this transaction sees it.
pub fn group_of(relation: pg_sys::Oid) -> Option<GroupId> {
    Spi::get_one_with_args::<pgrx::Uuid>(
        "SELECT group_id FROM pgp_metadata.local_table WHERE relation = $1",
        &[relation.into()],
    )
    .ok()
    .flatten()
    .map(|uuid| GroupId(groups::identity_of(uuid)))
}

fn refuse_replicated(relation: pg_sys::Oid, group: &GroupDescription) {
    let Some(holder) = group_of(relation) else { return };
    let name = groups::all()
        .into_iter()
        .find(|other| other.group == holder)
        .map_or_else(|| uuid_of(holder.0).to_string(), |other| other.name);
    let table = qualified_name(relation);
    let report = if holder == group.group {
        refusal(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {table} is already replicated by group \"{name}\""),
        )
        .hint("paxos_replicate_table is called once, on any member; pgp_metadata.replicated_tables shows what is replicated.")
    } else {
        refusal(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {table} is replicated by another group, \"{name}\""),
        )
        .detail("A table belongs to at most one group.")
        .hint("Replicate another table, or use that group.")
    };
    report.raise()
}

/// A relation's name with its schema, as messages show it.
pub fn qualified_name(relation: pg_sys::Oid) -> String {
    Spi::get_one_with_args::<String>(
        "SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
         WHERE pg_class.oid = $1",
        &[relation.into()],
    )
    .ok()
    .flatten()
    .unwrap_or_else(|| format!("with OID {}", relation.to_u32()))
}

/// A table and those that foreign keys bind to it, so that only what is wrong with itself is refused at once.
fn with_neighbours(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut tables = vec![relation];
    Spi::connect(|spi| {
        let rows = spi
            .select(
                "SELECT DISTINCT CASE WHEN conrelid = $1 THEN confrelid ELSE conrelid END
                 FROM pg_constraint WHERE contype = 'f' AND (conrelid = $1 OR confrelid = $1)",
                None,
                &[relation.into()],
            )
            .expect("catalogs can be read");
        tables
            .extend(rows.filter_map(|row| row.get::<pg_sys::Oid>(1).ok().flatten()).filter(|other| *other != relation));
    });
    tables
}

/// The number of the group's next table. Two members that choose the same meet on the key of the group's list.
fn next_table(group: GroupId) -> TableId {
    let highest =
        latest::number("SELECT max(table_id) FROM pgp_metadata.local_table WHERE group_id = $1 AND $2 = 0", group, 0);
    TableId(u32::try_from(highest.unwrap_or(0) + 1).expect("a group has fewer tables than a database"))
}

/// Notes that a relation is the group's table of that number, and captures its changes from now on.
pub fn register(group: GroupId, table: TableId, relation: pg_sys::Oid) {
    let _quiet = capture::bypass();
    Spi::run_with_args(
        "INSERT INTO pgp_metadata.local_table (group_id, table_id, relation) VALUES ($1, $2, $3::oid::regclass)",
        &[uuid_of(group.0).into(), i64::from(table.0).into(), relation.into()],
    )
    .expect("the extension's own table can be changed");
    capture::attach(relation);
    // SAFETY: only queues an invalidation.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
    // A statement's names are looked up before its barrier can wait. A server that crashes must therefore not come back
    // without a table that it has acknowledged, as it may without rows, which it gets from the log before it answers.
    // SAFETY: only sets a flag of the present transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Adds the rows that the table has to the transaction's write set, or sends them ahead if they are many.
fn push_rows(group: &GroupDescription, table: TableId, relation: pg_sys::Oid) {
    let described = catalog::describe_relation(relation, group.group, table);
    let mut lot = (size_of(relation) > INLINE_BYTES_MAX).then(|| {
        staged_rows::refuse_old_snapshot();
        Lot::new(group)
    });
    // The newest snapshot, not the transaction's: under the lock it holds every row that a commit left, also those
    // younger than a transaction of REPEATABLE READ. It includes what this transaction itself did.
    // SAFETY: the usual frame of a sequential scan, every part released before returning; after an error the
    // transaction's end releases them. The lock taken before keeps the relation in place.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let open = pg_sys::table_open(relation, pg_sys::NoLock as i32);
        let methods = &*(*open).rd_tableam;
        let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN
            | pg_sys::ScanOptions::SO_ALLOW_STRAT
            | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
        let scan = methods.scan_begin.expect("a table can be scanned")(
            open,
            pg_sys::GetActiveSnapshot(),
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            flags,
        );
        let slot = pg_sys::table_slot_create(open, std::ptr::null_mut());
        let next = methods.scan_getnextslot.expect("a table can be scanned");
        while next(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
            pgrx::check_for_interrupts!();
            let row = write_set::insert_of(&described, slot);
            match &mut lot {
                Some(lot) => lot.push(row),
                None => write_set::push(group.group, row),
            }
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        methods.scan_end.expect("a table can be scanned")(scan);
        pg_sys::table_close(open, pg_sys::NoLock as i32);
        pg_sys::PopActiveSnapshot();
    }
    if let Some(lot) = lot {
        write_set::push(group.group, lot.finish());
    }
}

/// A table's size on disk, with what is stored out of line.
fn size_of(relation: pg_sys::Oid) -> i64 {
    Spi::get_one_with_args::<i64>("SELECT pg_table_size($1)", &[relation.into()]).ok().flatten().unwrap_or(0)
}

/// Asks every other member that is in contact whether a table stands in the way there; a dead one would only hold up
/// whoever waits for the table.
fn check_members(group: &GroupDescription, definition: &TableDefinition) {
    let own = Area::attached().node();
    let status = state_copy::status(group.group);
    let live: Vec<NodeId> = status
        .map(|status| status.members.iter().filter(|member| member.live).map(|member| member.node).collect())
        .unwrap_or_default();
    for member in group.members.iter().filter(|member| member.node != own && !member.role.is_witness()) {
        let answer = if live.contains(&member.node) {
            obstacle_at(member, definition)
        } else {
            Err(RemoteError::local(&member.label, "it is silent".to_owned()))
        };
        match answer {
            Ok(None) => {}
            Ok(Some(obstacle)) => refusal(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("table {} cannot be replicated to \"{}\"", definition.qualified_name(), member.label),
            )
            .detail(obstacle)
            .hint("Drop or rename the table there, or call paxos_replicate_table on the server whose rows are to be kept.")
            .raise(),
            Err(error) => refusal(
                PgSqlErrorCode::ERRCODE_WARNING,
                format!(
                    "could not check whether \"{}\" has another table {}",
                    member.label,
                    definition.qualified_name()
                ),
            )
            .detail(error.to_string())
            .hint("If a table of that name with rows or of another shape is there, that server stops applying and says so until it is removed. Nobody waits for that server to make the table; until it has, it answers 42P01 (no such relation).")
            .warn(),
        }
    }
}

fn obstacle_at(member: &MemberDescription, definition: &TableDefinition) -> Result<Option<String>, RemoteError> {
    let mut remote = match made_elsewhere::take(member.node) {
        Some(remote) => remote,
        None => connect(member)?,
    };
    let digits: String = definition.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    let rows = remote.query_until(
        "look for a table in the way",
        "SELECT pgp_metadata.table_obstacle($1::bytea)",
        &[&format!("\\x{digits}")],
        Some(Instant::now() + CHECK_TIMEOUT),
    )?;
    let obstacle = (!rows.is_empty()).then(|| rows.value(0, 0).map(str::to_owned)).flatten();
    drop(rows);
    made_elsewhere::keep(member.node, &member.label, remote);
    Ok(obstacle)
}

fn connect(member: &MemberDescription) -> Result<Remote, RemoteError> {
    let string = ConnectionString::parse(&member.label).map_err(|reason| RemoteError::local(&member.label, reason))?;
    Remote::connect(&string.with_default("dbname", &member.database).with_default("connect_timeout", "3"))
}

/// What stands in the way of a table that another member wants to replicate here, as sentences; none if nothing does.
#[pg_extern]
fn paxos_table_obstacle(definition: &[u8]) -> Option<String> {
    let definition = decode(definition);
    let relation = table_definition::find(&definition)?;
    obstacle(relation, &definition)
}

fn decode(bytes: &[u8]) -> TableDefinition {
    TableDefinition::decode(bytes).unwrap_or_else(|error| {
        refusal(PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION, format!("invalid table definition: {error}"))
            .hint("All members must run the same version of pg_paxos.")
            .raise()
    })
}

/// Why an existing table may not become the group's.
pub fn obstacle(relation: pg_sys::Oid, definition: &TableDefinition) -> Option<String> {
    let database = current_database();
    if let Some(group) = group_of(relation) {
        return Some(format!(
            "In database \"{database}\" a table of that name is replicated by group {}.",
            uuid_of(group.0)
        ));
    }
    if let Some(difference) = table_definition::difference(relation, definition) {
        return Some(format!("In database \"{database}\" a table of that name differs: {difference}."));
    }
    if holds_rows(relation) {
        return Some(format!("In database \"{database}\" a table of that name already holds rows."));
    }
    None
}

fn holds_rows(relation: pg_sys::Oid) -> bool {
    let query = format!("SELECT EXISTS (SELECT FROM ONLY {})", qualified_name(relation));
    Spi::get_one::<bool>(&query).ok().flatten().unwrap_or(false)
}

/// Applies the operation on a member that did not propose it: the table is made, or an empty one that fits is taken.
/// Raises an error if a table stands in the way; the applier then stops until a person removes it.
pub fn apply(group: GroupId, slot: Slot, table: TableId, definition: &TableDefinition) {
    let _quiet = capture::bypass();
    let registered = Spi::get_one_with_args::<bool>(
        "SELECT true FROM pgp_metadata.local_table WHERE group_id = $1 AND table_id = $2",
        &[uuid_of(group.0).into(), i64::from(table.0).into()],
    );
    if registered.ok().flatten().is_some() {
        return;
    }
    let relation = match table_definition::find(definition) {
        None => {
            UNBOUND.with_borrow_mut(|unbound| unbound.push(definition.clone()));
            table_definition::create(definition)
        }
        Some(relation) => {
            // The proposer's own rows, whose transaction was lost after it was chosen, come again with this entry.
            if ORIGIN.get() == Some(Area::attached().node()) {
                empty(relation);
            }
            if let Some(obstacle) = obstacle(relation, definition) {
                refusal(
                    PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("table {} of slot {} cannot be made here", definition.qualified_name(), slot.0),
                )
                .detail(obstacle)
                .hint("Drop or rename that table; this server then goes on by itself.")
                .raise()
            }
            relation
        }
    };
    register(group, table, relation);
}

fn empty(relation: pg_sys::Oid) {
    Spi::run(&format!("DELETE FROM ONLY {}", qualified_name(relation))).expect("a table can be emptied");
}

/// After the last operation of an entry: foreign keys of the tables that it made, now that all their rows are there.
pub fn finish() {
    let _quiet = capture::bypass();
    for definition in UNBOUND.take() {
        table_definition::add_foreign_keys(&definition);
    }
}

/// Applies that a table leaves the group; its rows stay.
pub fn remove(group: GroupId, _slot: Slot, table: TableId) {
    let _quiet = capture::bypass();
    let relation = Spi::get_one_with_args::<pg_sys::Oid>(
        "DELETE FROM pgp_metadata.local_table WHERE group_id = $1 AND table_id = $2 RETURNING relation::oid",
        &[uuid_of(group.0).into(), i64::from(table.0).into()],
    );
    if let Some(relation) = relation.ok().flatten() {
        capture::detach(relation);
        // SAFETY: only queues an invalidation.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
    }
}
