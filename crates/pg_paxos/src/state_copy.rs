//! Copying a group's state from another member: tables, rounds, and the engine's checkpoint, all of one slot.
//!
//! The donor puts a mark into the log and takes its turn there like a commit: the snapshot that it exports in its turn
//! holds exactly the entries before the mark. The joiner reads the tables under that snapshot, by COPY over an ordinary
//! connection, into one transaction of its own. That transaction's commit record carries the mark's slot as the group's
//! position, so a crash leaves either the whole copy or nothing. Then the engine gets the checkpoint of the same slot,
//! and the log goes on from there. The donor serves all the while; it holds a snapshot and the log from the mark on.
//!
//! What stands in the copied tables came from users. It is read in by table access alone: no trigger fires, and what
//! PostgreSQL evaluates by itself (checks, generated columns, index expressions) runs as the table's owner in a
//! security-restricted operation, as in VACUUM.

use std::cell::RefCell;
use std::ffi::{c_int, c_void, CStr, CString};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{frame::CHECKPOINT_PIECE_BYTES, GroupStatus, Request, Response};
use consensus::{GroupId, Slot};
use pgrx::prelude::*;
use tables::{TableDefinition, TableId};

use crate::applier::StandIn;
use crate::connection_string::ConnectionString;
use crate::copy_worker::{tell, transaction};
use crate::groups::{self, refusal, uuid_of};
use crate::join::raise_remote;
use crate::remote::{CopyData, Remote, RemoteError};
use crate::replicate_table::{self, qualified_name};
use crate::rounds::slot_for_sql;
use crate::{applier, capture, engine_connection, settings, snapshot_mark, table_definition};

/// How often a long copy says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How often a worker that waits for another one's copy looks again, and when it says that it waits: one that is
/// being ended lets go sooner.
const LOCK_POLL: Duration = Duration::from_millis(50);
const TELL_AFTER: Duration = Duration::from_secs(1);

/// The class of the advisory locks that keep two copies of one group apart; an arbitrary number of this extension's.
const LOCK_CLASS: i32 = 0x7078_6f73;

/// The group's state in the engine; none if it has no such group.
pub fn status(group: GroupId) -> Option<GroupStatus> {
    match engine_connection::call(&Request::Status, settings::barrier_timeout()) {
        Ok(Response::Status(status)) => status.groups.into_iter().find(|known| known.group == group),
        Ok(other) => groups::unexpected("ask the engine for its status", &other),
        Err(error) => engine_connection::raise("could not ask the engine for its status", &error),
    }
}

/// Whether the group waits for a copy here.
pub fn is_needed(group: GroupId) -> bool {
    status(group).is_some_and(|status| status.needs_state.is_some())
}

/// Keeps other copies of the group away until this process ends. False if one is under way.
pub fn try_lock(group: GroupId) -> bool {
    let number = (group.0 >> 96) as i32 ^ group.0 as i32;
    Spi::get_one_with_args::<bool>("SELECT pg_try_advisory_lock($1, $2)", &[LOCK_CLASS.into(), number.into()])
        .ok()
        .flatten()
        .unwrap_or(false)
}

/// As [`try_lock`], waiting for a copy that is under way: it serves this one's purpose too.
pub fn lock(group: GroupId) {
    let began = Instant::now();
    let mut is_told = false;
    while !try_lock(group) {
        if !is_told && began.elapsed() >= TELL_AFTER {
            tell("waiting for a copy of this group's state that is under way on this server".to_owned());
            is_told = true;
        }
        engine_connection::pause(LOCK_POLL);
    }
}

/// A table as the donor describes it.
struct DonorTable {
    table: TableId,
    definition: TableDefinition,
    /// Whether every column's type has a binary format.
    binary: bool,
    /// Its size there, for the progress lines.
    bytes: u64,
}

/// Copies the group's state from the member that `existing` reaches; `control` is a connection to it.
pub fn copy(group: GroupId, existing: &ConnectionString, control: &mut Remote) {
    let started = Instant::now();
    let stand_in = StandIn::take(group);
    prepare(control);
    run(control, "begin", "BEGIN");
    let rows = ask(control.query(
        "take a snapshot",
        "SELECT slot, snapshot, checkpoint FROM pgp_metadata.mark_snapshot($1::uuid)",
        &[&uuid_of(group.0).to_string()],
    ));
    let slot = rows.value(0, 0).and_then(|slot| slot.parse().ok()).map(Slot);
    let (Some(slot), Some(snapshot), Some(checkpoint)) = (slot, rows.value(0, 1), rows.bytes(0, 2)) else {
        refusal(
            PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
            format!("{} gave a snapshot that makes no sense", control.server()),
        )
        .raise()
    };
    tell(format!("copying the state at slot {} from {}", slot.0, control.server()));

    let mut reader = ask(Remote::connect(existing));
    prepare(&mut reader);
    run(&mut reader, "begin", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    // The name came from the donor's own pg_export_snapshot; quoted all the same.
    let quoted = snapshot.replace('\'', "''");
    run(&mut reader, "use the snapshot", &format!("SET TRANSACTION SNAPSHOT '{quoted}'"));

    let copied = transaction(|| {
        let copied = copy_tables(group, &mut reader);
        applier::install(group, slot);
        copied
    });
    stand_in.committed();
    // The copy must be on disk before the engine counts the state as installed and trims its log by it.
    // SAFETY: the end of the commit just done.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastCommitEnd) };
    install_checkpoint(group, slot, &checkpoint);
    stand_in.finish();
    run(
        control,
        "release the snapshot",
        &format!("SELECT pgp_metadata.release_mark('{}'::uuid, {})", uuid_of(group.0), slot.0),
    );
    run(control, "commit", "COMMIT");
    tell(format!(
        "copied {} tables, {} rows, {} in {:.1} s",
        copied.tables,
        copied.rows,
        readable(copied.bytes),
        started.elapsed().as_secs_f64()
    ));
}

fn ask<T>(answer: Result<T, RemoteError>) -> T {
    answer.unwrap_or_else(|error| raise_remote(&error))
}

fn run(remote: &mut Remote, doing: &str, command: &str) {
    ask(remote.query(doing, command, &[]));
}

/// Frees a donor's session from what its role or database may have set.
fn prepare(remote: &mut Remote) {
    for setting in [
        "statement_timeout = 0",
        "lock_timeout = 0",
        "idle_in_transaction_session_timeout = 0",
        "search_path = ''",
        "row_security = off",
        "datestyle = 'ISO, DMY'",
        "intervalstyle = 'postgres'",
        "bytea_output = 'hex'",
        "extra_float_digits = 3",
        "pg_paxos.consistency_model = 'optimistic'",
    ] {
        run(remote, "set up the session", &format!("SET {setting}"));
    }
}

/// Settings of the copying transaction.
struct SetLocal;

impl SetLocal {
    fn set(name: &CStr, value: &CStr) {
        // SAFETY: a setting for the rest of the transaction, as SET LOCAL makes it.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_LOCAL,
                true,
                0,
                false,
            );
        }
    }

    /// For copying: no trigger and no foreign-key check fires, nothing times out, names mean what they say.
    fn copying() {
        Self::set(c"session_replication_role", c"replica");
        Self::set(c"search_path", c"pg_catalog, pg_temp");
        Self::set(c"statement_timeout", c"0");
        Self::set(c"lock_timeout", c"0");
        // The watchdog frees the way; a deadlock check would make this its own victim.
        Self::set(c"deadlock_timeout", c"3600000");
        Self::set(c"datestyle", c"ISO, DMY");
        Self::set(c"intervalstyle", c"postgres");
    }
}

/// What was copied.
#[derive(Default)]
struct Copied {
    tables: usize,
    rows: u64,
    bytes: u64,
}

fn copy_tables(group: GroupId, reader: &mut Remote) -> Copied {
    let _quiet = capture::bypass();
    SetLocal::copying();
    let donor = describe(group, reader);
    let relations = make_room(group, &donor);
    let mut copied = Copied::default();
    let mut made = Vec::new();
    for (table, relation) in donor.iter().zip(relations) {
        let relation = relation.unwrap_or_else(|| {
            made.push(&table.definition);
            table_definition::create(&table.definition)
        });
        if !is_registered(group, table.table) {
            replicate_table::register(group, table.table, relation);
        }
        let (rows, bytes) = copy_table(reader, table, relation);
        copied.tables += 1;
        copied.rows += rows;
        copied.bytes += bytes;
    }
    for definition in made {
        table_definition::add_foreign_keys(definition);
    }
    copy_metadata(group, reader, "pgp_metadata.raw_round", &["group_id", "round_num", "slot", "proposer_id", "value"]);
    copy_metadata(group, reader, "pgp_metadata.staged_rows", &["group_id", "lot", "part", "slot", "rows"]);
    copied
}

fn describe(group: GroupId, reader: &mut Remote) -> Vec<DonorTable> {
    let rows = ask(reader.query(
        "describe the tables",
        "SELECT table_id, definition, is_binary, bytes FROM pgp_metadata.describe_tables($1::uuid)",
        &[&uuid_of(group.0).to_string()],
    ));
    (0..rows.len())
        .map(|row| {
            let table = rows.value(row, 0).and_then(|number| number.parse().ok()).map(TableId);
            let definition = rows.bytes(row, 1).and_then(|bytes| TableDefinition::decode(&bytes).ok());
            let (Some(table), Some(definition)) = (table, definition) else {
                refusal(
                    PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
                    format!("{} described a table in a way that makes no sense", reader.server()),
                )
                .raise()
            };
            DonorTable {
                table,
                definition,
                binary: rows.value(row, 2) == Some("t"),
                bytes: rows.value(row, 3).and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
            }
        })
        .collect()
}

fn is_registered(group: GroupId, table: TableId) -> bool {
    relation_of(group, table).is_some()
}

fn relation_of(group: GroupId, table: TableId) -> Option<pg_sys::Oid> {
    Spi::get_one_with_args::<pg_sys::Oid>(
        "SELECT relation::oid FROM pgp_metadata.local_table WHERE group_id = $1 AND table_id = $2",
        &[uuid_of(group.0).into(), i64::from(table.0).into()],
    )
    .ok()
    .flatten()
}

/// Empties the group's tables of an earlier copy, lets those go that are no longer the group's, and refuses what
/// stands in the way. For each of the donor's tables the relation that takes its rows; none where it must be made.
fn make_room(group: GroupId, donor: &[DonorTable]) -> Vec<Option<pg_sys::Oid>> {
    let known: Vec<i64> = Spi::connect(|spi| {
        let rows = spi
            .select(
                "SELECT table_id FROM pgp_metadata.local_table WHERE group_id = $1",
                None,
                &[uuid_of(group.0).into()],
            )
            .expect("the extension's own table can be read");
        rows.filter_map(|row| row.get::<i64>(1).ok().flatten()).collect()
    });
    for number in known {
        let table = TableId(u32::try_from(number).expect("checked by the table's constraint"));
        if !donor.iter().any(|other| other.table == table) {
            replicate_table::remove(group, Slot(0), table);
        }
    }
    let relations: Vec<Option<pg_sys::Oid>> = donor
        .iter()
        .map(|table| {
            relation_of(group, table.table).or_else(|| {
                let found = table_definition::find(&table.definition)?;
                raise_obstacle(found, &table.definition);
                Some(found)
            })
        })
        .collect();
    let names: Vec<String> = relations.iter().flatten().map(|relation| qualified_name(*relation)).collect();
    if !names.is_empty() {
        Spi::run(&format!("TRUNCATE ONLY {}", names.join(", "))).expect("tables can be emptied");
    }
    relations
}

fn raise_obstacle(found: pg_sys::Oid, definition: &TableDefinition) {
    if let Some(obstacle) = replicate_table::obstacle(found, definition) {
        refusal(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {} cannot be copied to this server", definition.qualified_name()),
        )
        .detail(obstacle)
        .hint("Drop or rename the table here; then join again.")
        .raise()
    }
}

/// Refuses a table of this server in the way of a group's, unless an earlier copy of that group made it.
pub fn refuse_obstacle(group: &str, definition: &TableDefinition) {
    let Some(found) = table_definition::find(definition) else { return };
    let holder = replicate_table::group_of(found).map(|holder| uuid_of(holder.0).to_string());
    if holder.as_deref() != Some(group) {
        raise_obstacle(found, definition);
    }
}

/// Copies the group's rows of a table of this extension.
fn copy_metadata(group: GroupId, reader: &mut Remote, name: &str, columns: &[&str]) {
    Spi::run_with_args(&format!("DELETE FROM {name} WHERE group_id = $1"), &[uuid_of(group.0).into()])
        .expect("the extension's own table can be changed");
    let relation = Spi::get_one_with_args::<pg_sys::Oid>("SELECT $1::regclass::oid", &[name.into()])
        .ok()
        .flatten()
        .expect("the extension's own table is there");
    let command =
        format!("COPY (SELECT {} FROM {name} WHERE group_id = '{}') TO STDOUT", columns.join(", "), uuid_of(group.0));
    ask(reader.start_copy_out(&format!("copy {name}"), &command));
    let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
    load(reader, name, 0, relation, &columns, false);
}

/// Copies one table's rows; how many, and their bytes on the way.
fn copy_table(reader: &mut Remote, table: &DonorTable, relation: pg_sys::Oid) -> (u64, u64) {
    let name = table.definition.qualified_name();
    let columns: Vec<String> =
        table.definition.columns.iter().filter(|column| !column.generated).map(|column| column.name.clone()).collect();
    let list: Vec<String> = columns.iter().map(pgrx::spi::quote_identifier).collect();
    let format = if table.binary { " (FORMAT binary)" } else { "" };
    let source = if list.is_empty() { name.clone() } else { format!("{name} ({})", list.join(", ")) };
    ask(reader.start_copy_out(&format!("copy table {name}"), &format!("COPY {source} TO STDOUT{format}")));
    let (rows, bytes) = load(reader, &name, table.bytes, relation, &columns, table.binary);
    tell(format!("copied {name}: {rows} rows, {}", readable(bytes)));
    (rows, bytes)
}

/// A COPY that is being read in; PostgreSQL pulls its bytes through a function without arguments of ours.
struct Stream {
    reader: *mut Remote,
    name: String,
    expected_bytes: u64,
    piece: Option<CopyData>,
    ended: bool,
    taken: usize,
    bytes: u64,
    reported: Instant,
}

thread_local! {
    static STREAM: RefCell<Option<Stream>> = const { RefCell::new(None) };
}

impl Stream {
    /// Fills `out`; fewer bytes than it has only at the end.
    fn read(&mut self, out: &mut [u8]) -> Result<usize, RemoteError> {
        let mut filled = 0;
        while filled < out.len() && !self.ended {
            if self.piece.as_ref().is_none_or(|piece| self.taken == piece.len()) {
                // SAFETY: `load` keeps the connection borrowed as long as the stream is in place.
                let reader = unsafe { &mut *self.reader };
                self.piece = reader.next_copy_data(&format!("copy table {}", self.name))?;
                self.taken = 0;
                self.report();
            }
            let Some(piece) = &self.piece else {
                self.ended = true;
                break;
            };
            let length = (piece.len() - self.taken).min(out.len() - filled);
            out[filled..filled + length].copy_from_slice(&piece[self.taken..self.taken + length]);
            self.taken += length;
            filled += length;
        }
        self.bytes += filled as u64;
        Ok(filled)
    }

    fn report(&mut self) {
        if self.reported.elapsed() >= REPORT_EVERY {
            tell(format!(
                "copying {}: {} of about {}",
                self.name,
                readable(self.bytes),
                readable(self.expected_bytes.max(self.bytes))
            ));
            self.reported = Instant::now();
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn read_stream(out: *mut c_void, _at_least: c_int, at_most: c_int) -> c_int {
    let length = usize::try_from(at_most).expect("PostgreSQL asks for some bytes");
    // SAFETY: PostgreSQL's buffer has room for `at_most` bytes.
    let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), length) };
    let result = STREAM.with_borrow_mut(|stream| stream.as_mut().expect("a copy is under way").read(out));
    match result {
        Ok(filled) => filled as c_int,
        Err(error) => raise_remote(&error),
    }
}

/// Reads a COPY into a relation, as its owner; rows and bytes.
fn load(
    reader: &mut Remote,
    name: &str,
    expected_bytes: u64,
    relation: pg_sys::Oid,
    columns: &[String],
    binary: bool,
) -> (u64, u64) {
    let stream = Stream {
        reader,
        name: name.to_owned(),
        expected_bytes,
        piece: None,
        ended: false,
        taken: 0,
        bytes: 0,
        reported: Instant::now(),
    };
    STREAM.set(Some(stream));
    // SAFETY: as PostgreSQL's own table synchronization does it. The user is switched back before anything else runs;
    // after an error the worker ends.
    let rows = unsafe {
        pg_sys::CommandCounterIncrement();
        let open = pg_sys::table_open(relation, pg_sys::RowExclusiveLock as c_int);
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(
            (*(*open).rd_rel).relowner,
            context | pg_sys::SECURITY_RESTRICTED_OPERATION as c_int,
        );
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        pg_sys::addRangeTableEntryForRelation(
            state,
            open,
            pg_sys::RowExclusiveLock as c_int,
            std::ptr::null_mut(),
            false,
            false,
        );
        let mut list = std::ptr::null_mut();
        for column in columns {
            let column = CString::new(column.as_str()).expect("names hold no zero byte");
            list = pg_sys::lappend(list, pg_sys::makeString(pg_sys::pstrdup(column.as_ptr())).cast());
        }
        let mut options = std::ptr::null_mut();
        if binary {
            let value = pg_sys::makeString(pg_sys::pstrdup(c"binary".as_ptr())).cast();
            options =
                pg_sys::lappend(options, pg_sys::makeDefElem(pg_sys::pstrdup(c"format".as_ptr()), value, -1).cast());
        }
        let copy = pg_sys::BeginCopyFrom(
            state,
            open,
            std::ptr::null_mut(),
            std::ptr::null(),
            false,
            Some(read_stream),
            list,
            options,
        );
        let rows = pg_sys::CopyFrom(copy);
        pg_sys::EndCopyFrom(copy);
        pg_sys::SetUserIdAndSecContext(user, context);
        pg_sys::table_close(open, pg_sys::NoLock as c_int);
        pg_sys::CommandCounterIncrement();
        rows
    };
    let mut stream = STREAM.take().expect("put there above");
    // Whether PostgreSQL reads on to the protocol's own end depends on the format; the connection must be past it.
    let mut rest = [0; 1];
    match stream.read(&mut rest) {
        Ok(0) => {}
        Ok(_) => {
            refusal(PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION, format!("{name} has bytes after its last row")).raise()
        }
        Err(error) => raise_remote(&error),
    }
    (rows, stream.bytes)
}

fn readable(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} bytes"),
        10_000..=9_999_999 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

fn install_checkpoint(group: GroupId, slot: Slot, checkpoint: &[u8]) {
    let length = checkpoint.len() as u64;
    let mut offset = 0;
    loop {
        let end = checkpoint.len().min(offset + CHECKPOINT_PIECE_BYTES);
        let request = Request::InstallCheckpoint {
            group,
            slot,
            offset: offset as u64,
            length,
            piece: Bytes::copy_from_slice(&checkpoint[offset..end]),
        };
        groups::done("install the copied state", &request);
        offset = end;
        if offset == checkpoint.len() {
            return;
        }
    }
}

/// Asked by a joiner: puts a mark into the log and exports, in its turn, the snapshot of exactly that slot.
/// The checkpoint is the engine's for the same slot.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn paxos_mark_snapshot(
    group_id: pgrx::Uuid,
) -> TableIterator<'static, (name!(slot, i64), name!(snapshot, String), name!(checkpoint, Vec<u8>))> {
    let group = GroupId(groups::identity_of(group_id));
    let slot = snapshot_mark::propose(group);
    let snapshot = PgTryBuilder::new(|| {
        // SAFETY: exports the newest snapshot, which in this turn is that of the mark; the name is copied.
        unsafe { CStr::from_ptr(pg_sys::ExportSnapshot(pg_sys::GetLatestSnapshot())).to_string_lossy().into_owned() }
    })
    .finally(snapshot_mark::pass)
    .execute();
    let checkpoint = checkpoint_at(group, slot);
    TableIterator::once((slot_for_sql(slot), snapshot, checkpoint))
}

fn checkpoint_at(group: GroupId, slot: Slot) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let request = Request::Checkpoint { group, slot, offset: whole.len() as u64 };
        match engine_connection::call(&request, settings::commit_timeout()) {
            Ok(Response::CheckpointPiece { length, piece }) => {
                whole.extend_from_slice(&piece);
                if whole.len() as u64 >= length {
                    return whole;
                }
                if piece.is_empty() {
                    refusal(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "the engine's checkpoint ended early").raise()
                }
            }
            Ok(other) => groups::unexpected("read the engine's checkpoint", &other),
            Err(error) => engine_connection::raise("could not read the engine's checkpoint", &error),
        }
    }
}

/// Asked by a joiner when it has what it needs: the log may be trimmed past the mark.
#[pg_extern]
fn paxos_release_mark(group_id: pgrx::Uuid, slot: i64) {
    let group = GroupId(groups::identity_of(group_id));
    let slot = Slot(u64::try_from(slot).unwrap_or(0));
    groups::done("release the snapshot", &Request::ReleaseMark { group, slot });
}

/// Asked by a joiner before it is admitted: what tables it will get.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn paxos_group_tables(
    group_name: &str,
) -> TableIterator<'static, (name!(group_id, pgrx::Uuid), name!(definition, Vec<u8>))> {
    let group = groups::named(group_name).group;
    let tables: Vec<pg_sys::Oid> = Spi::connect(|spi| {
        let rows = spi
            .select(
                "SELECT relation::oid FROM pgp_metadata.local_table WHERE group_id = $1",
                None,
                &[uuid_of(group.0).into()],
            )
            .expect("the extension's own table can be read");
        rows.filter_map(|row| row.get::<pg_sys::Oid>(1).ok().flatten()).collect()
    });
    let described: Vec<_> =
        tables.into_iter().map(|relation| (uuid_of(group.0), table_definition::describe(relation).encode())).collect();
    TableIterator::new(described)
}

/// Asked by a joiner under the exported snapshot: the group's tables.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn paxos_describe_tables(
    group_id: pgrx::Uuid,
) -> TableIterator<'static, (name!(table_id, i64), name!(definition, Vec<u8>), name!(is_binary, bool), name!(bytes, i64))>
{
    let tables: Vec<(i64, pg_sys::Oid, bool, i64)> = Spi::connect(|spi| {
        let rows = spi
            .select(
                "SELECT table_id, relation::oid,
                        (SELECT coalesce(bool_and(typsend <> 0 AND typreceive <> 0), true)
                         FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
                         WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped AND attgenerated = ''),
                        pg_table_size(relation)
                 FROM pgp_metadata.local_table WHERE group_id = $1 ORDER BY table_id",
                None,
                &[group_id.into()],
            )
            .expect("the extension's own table can be read");
        rows.filter_map(|row| {
            Some((
                row.get::<i64>(1).ok().flatten()?,
                row.get::<pg_sys::Oid>(2).ok().flatten()?,
                row.get::<bool>(3).ok().flatten()?,
                row.get::<i64>(4).ok().flatten()?,
            ))
        })
        .collect()
    });
    let described: Vec<_> = tables
        .into_iter()
        .map(|(table, relation, binary, bytes)| (table, table_definition::describe(relation).encode(), binary, bytes))
        .collect();
    TableIterator::new(described)
}
