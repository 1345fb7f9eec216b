//! The applier of a group: replays what other nodes committed, in log order (design of tables, section 6).
//!
//! One background worker per group, in the group's database. It reads the decided entries from the engine, changes the
//! rows ahead of its turn where it can, and commits consecutive entries in one local transaction when their turn comes.
//! Transactions of this node are committed by their own backends; the applier replays those that were handed over.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{DecidedBatch, Error, Request, RequestNumber, Response};
use consensus::{GroupId, OperationId, Slot};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use tables::WriteSet;

use crate::shared::{ApplierState, Area, BackendIndex, Group, Turn};
use crate::{barrier, capture, commit, engine_connection, origins, row_apply};

/// Entries that one local transaction replays at most: enough to make its commit cheap, few enough that readers who
/// wait for the first do not notice the last.
const BATCH_ENTRIES_MAX: usize = 64;

/// Bytes of write sets that one local transaction replays, unless a single one is larger.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Bytes of entries kept here while they wait for their turn; beyond, the socket is left full and the engine waits.
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// The pause after a failure that may pass by itself, doubled up to the second.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long an idle applier sleeps at most: everything that concerns it wakes it, this is for what would be forgotten.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// How long to wait for a single entry that the engine has.
const ENTRY_WAIT: Duration = Duration::from_secs(10);

/// The group's replication origin, made if it is missing. In a transaction.
pub fn origin_of(group: GroupId) -> pg_sys::RepOriginId {
    match origins::origin_of(group) {
        Ok(origin) => origin,
        Err(error) => {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_IO_ERROR,
                format!("cannot note the replication origin of a group in pg_paxos.data_directory: {error}")
            );
        }
    }
}

/// Makes the commit of the current transaction that of a copy of the group's tables as of `slot`. Called inside the
/// last transaction of a state copy; the engine's checkpoint is installed after it.
pub fn install(group: GroupId, slot: Slot) {
    let shared = Area::attached().group(group).expect("the group was learnt before it is copied");
    shared.set_origin(origin_of(group));
    commit::commit_as_copy(shared, slot);
}

thread_local! {
    /// In a process that stands in for an applier: what the applier did before.
    static BEFORE: Cell<Option<ApplierState>> = const { Cell::new(None) };
}

/// How often a process that wants the applier's place asks for it.
const PLACE_POLL: Duration = Duration::from_millis(50);

/// A process that has taken the applier's place, to copy the tables anew. No applier changes them meanwhile, and the
/// watchdog frees this process's way as it does an applier's.
pub struct StandIn {
    group: &'static Group,
    index: BackendIndex,
}

impl StandIn {
    /// Ends the group's applier and takes its place until [`StandIn::finish`], or until this process ends: then the
    /// applier goes on from where it was, unless the copy was committed.
    pub fn take(identity: GroupId) -> StandIn {
        let area = Area::attached();
        let place = area.groups().iter().position(|group| group.identity() == Some(identity));
        let place = place.expect("the group was learnt before it is copied");
        let group = &area.groups()[place];
        let (_, index) = commit::own_backend();
        BEFORE.set(Some(group.applier_state()));
        group.set_applier_state(ApplierState::Copying);
        // SAFETY: the callback is static; it runs before the place of the process is given up.
        unsafe { pg_sys::on_shmem_exit(Some(end_standing_in), pg_sys::Datum::from(place)) };
        while !group.claim_applier(index) {
            let applier = group.applier_process().map(|applier| area.backend(applier).process());
            if let Some(process) = applier.filter(|process| *process != 0) {
                // SAFETY: a process of this server or one that is gone.
                unsafe { libc::kill(process, libc::SIGTERM) };
            }
            engine_connection::pause(PLACE_POLL);
        }
        StandIn { group, index }
    }

    /// The copy is committed: the tables are ahead of what the engine knows until it has the checkpoint, too.
    pub fn committed(&self) {
        BEFORE.set(None);
    }

    /// The engine has the checkpoint: an applier goes on from the copy.
    pub fn finish(self) {
        change_from_copying(self.group, ApplierState::Starting);
        self.group.release_applier(self.index);
        Area::attached().wake_engine();
    }
}

/// Not if the group is left or the node was removed meanwhile.
fn change_from_copying(group: &Group, to: ApplierState) {
    if group.applier_state() == ApplierState::Copying {
        group.set_applier_state(to);
    }
}

unsafe extern "C-unwind" fn end_standing_in(_: i32, argument: pg_sys::Datum) {
    let group = &Area::attached().groups()[argument.value()];
    if let Some(before) = BEFORE.take() {
        change_from_copying(group, before);
    }
    group.release_applier(Area::own_index());
    Area::attached().wake_engine();
}

/// Why a group's applier stopped, if it did.
pub fn error_of(group: GroupId) -> Option<String> {
    Area::attached().group(group)?.failure()
}

/// Starts the applier of the group in that place. Called by the engine worker.
pub fn launch(place: usize) {
    let group = &Area::attached().groups()[place];
    let started = pgrx::bgworkers::BackgroundWorkerBuilder::new(&format!("pg_paxos applier of group {}", group.name()))
        .set_type("pg_paxos applier")
        .set_library("pg_paxos")
        .set_function("pg_paxos_applier_main")
        .set_argument(Some(pg_sys::Datum::from(place)))
        .set_restart_time(None)
        .enable_spi_access()
        .load_dynamic();
    if started.is_err() {
        pgrx::log!("could not start the applier of group \"{}\": raise max_worker_processes", group.name());
    }
}

extern "C-unwind" {
    // PostgreSQL's own handlers; pgrx's wrappers of them cannot be handed to the kernel.
    fn die(signal: i32);
    fn SignalHandlerForConfigReload(signal: i32);
}

/// The worker's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_paxos_applier_main(argument: pg_sys::Datum) {
    // SAFETY: the usual beginning of a background worker.
    unsafe {
        pg_sys::pqsignal(libc::SIGTERM, Some(die));
        pg_sys::pqsignal(libc::SIGHUP, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    let group = &Area::attached().groups()[argument.value()];
    let Some(identity) = group.identity() else { return };
    let (_, index) = commit::own_backend();
    if !group.claim_applier(index) {
        return;
    }
    // SAFETY: the callback is static; it runs before the place of the process is given up.
    unsafe { pg_sys::on_shmem_exit(Some(release_at_exit), argument) };
    barrier::exempt_process();
    let database = std::ffi::CString::new(group.database()).expect("names have no NUL");
    // SAFETY: once per worker, before anything else.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(database.as_ptr(), std::ptr::null(), 0) };
    row_apply::pin_settings();
    // The watchdog frees the applier's way; a deadlock check would make the applier its own victim.
    // SAFETY: static strings; the worker is a superuser.
    unsafe {
        pg_sys::SetConfigOption(
            c"deadlock_timeout".as_ptr(),
            c"3600000".as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
    capture::bypass_for_process();
    let mut applier = Applier::new(group, identity);
    if applier.await_state() {
        applier.run();
    }
}

unsafe extern "C-unwind" fn release_at_exit(_: i32, argument: pg_sys::Datum) {
    let group = &Area::attached().groups()[argument.value()];
    group.set_applier_waits(Slot::ZERO);
    group.release_applier(Area::own_index());
    // The engine worker starts a new one.
    Area::attached().wake_engine();
}

/// An accepted entry that was received and not yet applied.
struct Entry {
    slot: Slot,
    id: OperationId,
    /// Missing for operations of this node, which their backends have.
    body: Option<Bytes>,
}

/// Consecutive slots replayed in one local transaction.
#[derive(Clone, Copy, Debug)]
struct Batch {
    first: Slot,
    last: Slot,
}

/// Why a batch was not committed.
enum Failure {
    /// A slot before it was handed over after the batch had begun.
    Overtaken,
    /// PostgreSQL raised an error.
    Error {
        code: i32,
        message: String,
        /// Whether transactions before it were still to commit when it began.
        ahead: bool,
    },
}

struct Applier {
    group: &'static Group,
    identity: GroupId,
    queue: VecDeque<Entry>,
    queue_bytes: usize,
    /// Every decided slot at or below it was received.
    through: Slot,
    stream: Option<RequestNumber>,
    pause: Duration,
    /// What the applier stopped for, if it did.
    stopped_for: Option<String>,
}

impl Applier {
    fn new(group: &'static Group, identity: GroupId) -> Applier {
        Applier {
            group,
            identity,
            queue: VecDeque::new(),
            queue_bytes: 0,
            through: Slot::ZERO,
            stream: None,
            pause: RETRY_PAUSE,
            stopped_for: None,
        }
    }

    /// Waits until the tables hold some state of the group. False if the group is leaving.
    fn await_state(&mut self) -> bool {
        loop {
            match self.group.applier_state() {
                ApplierState::Leaving => return false,
                ApplierState::Copying => engine_connection::pause(IDLE_WAIT),
                _ => break,
            }
        }
        let identity = self.identity;
        let origin = in_transaction(|| origin_of(identity));
        self.group.set_origin(origin);
        self.group.set_failure("");
        self.group.set_applier_state(ApplierState::Running);
        true
    }

    fn run(&mut self) {
        while self.group.applier_state() != ApplierState::Leaving {
            pgrx::check_for_interrupts!();
            reload_settings();
            if self.group.applier_state() == ApplierState::Removed {
                self.leave();
                continue;
            }
            if let Err(error) = self.receive() {
                self.stream = None;
                pgrx::log!("the applier of group \"{}\" lost the engine: {error}", self.group.name());
                self.back_off();
                continue;
            }
            let Some(batch) = self.next_batch() else {
                if let Err(error) = self.idle() {
                    self.stream = None;
                    pgrx::log!("the applier of group \"{}\" lost the engine: {error}", self.group.name());
                    self.back_off();
                }
                continue;
            };
            match self.apply(batch) {
                Ok(()) => self.goes_on(),
                Err(failure) => self.recover(batch, failure),
            }
        }
    }

    /// Takes what has arrived; asks for the entries first, if this connection has not been asked.
    fn receive(&mut self) -> Result<(), Error> {
        let incarnation = Area::attached().engine_incarnation();
        if incarnation.is_none() {
            self.stream = None;
            return Ok(());
        }
        let mut received = Vec::new();
        let (group, stream) = (self.identity, self.stream);
        let from = self.group.applied().next();
        let mut room = QUEUE_BYTES_MAX.saturating_sub(self.queue_bytes);
        let mut is_new = false;
        let number = engine_connection::with_fresh(|connection, is_fresh| {
            let number = match stream {
                Some(number) if !is_fresh => number,
                _ => {
                    is_new = true;
                    connection.send(&Request::Entries { group, from, omit_own: true })?
                }
            };
            while room > 0 {
                let Some((arrived, response)) = connection.try_receive()? else { break };
                if arrived != number {
                    continue;
                }
                match response {
                    Response::Decided(batch) => {
                        let bytes: usize =
                            batch.entries.iter().filter_map(|entry| entry.body.as_ref()).map(Bytes::len).sum();
                        room = room.saturating_sub(bytes);
                        received.push(batch);
                    }
                    Response::Refused(refusal) => return Err(refusal.into()),
                    other => {
                        return Err(Error::Malformed { what: format!("unexpected in a stream of entries: {other:?}") })
                    }
                }
            }
            Ok(number)
        })?;
        // Two connections may give the same number to different streams.
        if is_new {
            self.queue.clear();
            self.queue_bytes = 0;
            self.through = from.previous();
            self.stream = Some(number);
        }
        for batch in received {
            self.take(batch);
        }
        Ok(())
    }

    fn take(&mut self, batch: DecidedBatch) {
        assert!(
            batch.from <= self.through.next(),
            "slots {} to {} arrived after {}",
            batch.from,
            batch.through,
            self.through
        );
        for entry in batch.entries {
            if entry.slot > self.through && entry.verdict.is_accepted() && !entry.mark {
                self.queue_bytes += entry.body.as_ref().map_or(0, Bytes::len);
                self.queue.push_back(Entry { slot: entry.slot, id: entry.id, body: entry.body });
            }
        }
        self.through = self.through.max(batch.through);
    }

    /// Drops what is applied, and finds the next slots that are the applier's own, as far as they are consecutive.
    fn next_batch(&mut self) -> Option<Batch> {
        let applied = self.group.applied();
        while self.queue.front().is_some_and(|entry| entry.slot <= applied) {
            let entry = self.queue.pop_front().expect("there is a front");
            self.queue_bytes -= entry.body.as_ref().map_or(0, Bytes::len);
        }
        self.group.advance();
        let mut slot = self.group.applied().next();
        while slot <= self.through && self.group.turn(slot)? != Turn::Applier {
            slot = slot.next();
        }
        if slot > self.through {
            return None;
        }
        let (first, mut last) = (slot, slot);
        let (mut entries, mut bytes) = (0, 0);
        let mut pending = self.queue.iter().skip_while(|entry| entry.slot < first).peekable();
        while slot <= self.through && !matches!(self.group.turn(slot), None | Some(Turn::Backend(_))) {
            if let Some(entry) = pending.next_if(|entry| entry.slot == slot) {
                entries += 1;
                bytes += entry.body.as_ref().map_or(0, Bytes::len);
            }
            if entries > BATCH_ENTRIES_MAX || (entries > 1 && bytes > BATCH_BYTES_MAX) {
                break;
            }
            last = slot;
            slot = slot.next();
        }
        Some(Batch { first, last })
    }

    /// Nothing to do until something arrives, a slot is handed over, or this worker is to end.
    fn idle(&mut self) -> Result<(), Error> {
        if self.stream.is_none() {
            engine_connection::pause(RETRY_PAUSE);
            return Ok(());
        }
        engine_connection::with(|connection| connection.wait(Some(IDLE_WAIT)).map(drop))
    }

    fn apply(&mut self, batch: Batch) -> Result<(), Failure> {
        let writes = self.fetch(batch)?;
        let (group, identity) = (self.group, self.identity);
        // Asked before the snapshot is taken: afterwards it may have become its turn while it failed.
        let ahead = !group.is_turn(batch.first);
        let applied = PgTryBuilder::new(AssertUnwindSafe(|| {
            // SAFETY: on the main thread, outside a transaction.
            unsafe {
                pg_sys::SetCurrentStatementStartTimestamp();
                pg_sys::StartTransactionCommand();
                pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            }
            for (slot, id, write_set) in &writes {
                crate::replicate_table::set_origin(id.node);
                row_apply::apply(identity, *slot, &write_set.operations);
                crate::replicate_table::finish();
            }
            // SAFETY: the snapshot pushed above.
            unsafe { pg_sys::PopActiveSnapshot() };
            if !await_turn(group, batch.first) {
                return Err(Failure::Overtaken);
            }
            commit::commit_as_applier(group, batch.first, batch.last);
            // SAFETY: in the transaction begun above.
            unsafe { pg_sys::CommitTransactionCommand() };
            Ok(())
        }))
        .catch_others(|error| Err(failure_of(error, ahead)))
        .execute();
        if applied.is_err() {
            // SAFETY: whatever state the transaction is in, this ends it.
            unsafe { pg_sys::AbortCurrentTransaction() };
        }
        group.set_applier_waits(Slot::ZERO);
        applied
    }

    /// The write sets of the batch; those of this node are fetched one by one.
    fn fetch(&mut self, batch: Batch) -> Result<Vec<(Slot, OperationId, WriteSet)>, Failure> {
        let identity = self.identity;
        let mut writes = Vec::new();
        for entry in self.queue.iter_mut().filter(|entry| entry.slot >= batch.first && entry.slot <= batch.last) {
            if entry.body.is_none() {
                let body = fetch_body(identity, entry.slot)?;
                self.queue_bytes += body.len();
                entry.body = Some(body);
            }
            let body = entry.body.clone().expect("just fetched");
            let write_set = WriteSet::decode(body).map_err(|error| Failure::Error {
                code: PgSqlErrorCode::ERRCODE_DATA_CORRUPTED as i32,
                message: format!("the write set at slot {} is malformed: {error}", entry.slot),
                ahead: false,
            })?;
            writes.push((entry.slot, entry.id, write_set));
        }
        Ok(writes)
    }

    fn recover(&mut self, batch: Batch, failure: Failure) {
        let Failure::Error { code, message, ahead } = failure else { return };
        if ahead {
            // It met rows that a transaction before it had yet to make: again, when they are there.
            await_turn(self.group, batch.first);
            self.group.set_applier_waits(Slot::ZERO);
            return;
        }
        if row_apply::is_transient(code) {
            pgrx::log!(
                "the applier of group \"{}\" repeats slots {} to {}: {message}",
                self.group.name(),
                batch.first,
                batch.last
            );
            self.back_off();
            return;
        }
        if batch.first != batch.last {
            // One at a time, so that the entry at fault is the one that is named.
            let single = Batch { first: batch.first, last: batch.first };
            match self.apply(single) {
                Ok(()) => self.goes_on(),
                Err(failure) => self.recover(single, failure),
            }
            return;
        }
        self.stop(format!("slot {}: {message}", batch.first));
    }

    /// Something that a person must see to is in the way. Tried again every few seconds, since nobody tells this worker
    /// that it was seen to.
    fn stop(&mut self, text: String) {
        if self.stopped_for.as_ref() != Some(&text) {
            self.group.set_failure(&text);
            self.group.set_applier_state(ApplierState::Stopped);
            pgrx::warning!(
                "the applier of group \"{}\" stopped: {text}. This server goes on voting, but its tables fall behind. It goes on by itself when the cause is removed.",
                self.group.name()
            );
            self.stopped_for = Some(text);
        }
        let again = Instant::now() + RETRY_PAUSE_MAX;
        while Instant::now() < again {
            if matches!(self.group.applier_state(), ApplierState::Leaving | ApplierState::Removed) {
                return;
            }
            engine_connection::pause(IDLE_WAIT);
        }
    }

    fn goes_on(&mut self) {
        self.pause = RETRY_PAUSE;
        if self.stopped_for.take().is_some() {
            self.group.set_failure("");
            // Unless the server was removed from the group meanwhile, or the copy of a newer state has begun.
            if self.group.applier_state() == ApplierState::Stopped {
                self.group.set_applier_state(ApplierState::Running);
            }
            pgrx::log!("the applier of group \"{}\" goes on", self.group.name());
        }
    }

    /// The other members removed this node: its tables keep their rows and become ordinary ones.
    fn leave(&mut self) {
        let identity = self.identity;
        pgrx::log!("this server was removed from group \"{}\"; its tables become ordinary ones", self.group.name());
        in_transaction(|| {
            // SAFETY: in a transaction, on the main thread.
            unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
            crate::groups::make_tables_local(identity);
            // SAFETY: the one pushed above.
            unsafe { pg_sys::PopActiveSnapshot() };
        });
        if let Err(error) = engine_connection::call(&Request::Forget { group: identity }, ENTRY_WAIT) {
            pgrx::log!("the engine does not forget group \"{}\" yet: {error}", self.group.name());
            engine_connection::pause(RETRY_PAUSE_MAX);
        }
    }

    fn back_off(&mut self) {
        engine_connection::pause(self.pause);
        self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX);
    }
}

fn reload_settings() {
    // SAFETY: on the main thread, outside a transaction.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Waits, with the rows changed, until everything before `first` is applied. False if a slot before it has become the
/// applier's own.
fn await_turn(group: &Group, first: Slot) -> bool {
    group.set_applier_waits(first);
    loop {
        group.advance();
        if group.is_turn(first) {
            return true;
        }
        let mut slot = group.applied().next();
        while slot < first {
            if group.turn(slot) == Some(Turn::Applier) && slot > group.applied() {
                return false;
            }
            slot = slot.next();
        }
        engine_connection::pause(IDLE_WAIT);
    }
}

fn fetch_body(group: GroupId, slot: Slot) -> Result<Bytes, Failure> {
    let answer = engine_connection::call(&Request::Entry { group, slot }, ENTRY_WAIT);
    let found = match answer {
        Ok(Response::Decided(batch)) => {
            batch.entries.into_iter().find(|entry| entry.slot == slot).and_then(|entry| entry.body)
        }
        _ => None,
    };
    found.ok_or(Failure::Error {
        // Worth repeating: the engine has the entry, or will be restarted with it.
        code: PgSqlErrorCode::ERRCODE_QUERY_CANCELED as i32,
        message: format!("the engine did not give out the entry at slot {slot}"),
        ahead: false,
    })
}

fn failure_of(error: CaughtError, ahead: bool) -> Failure {
    let report = match &error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { ereport, .. } => ereport,
    };
    let detail = report.detail().map(|detail| format!("; {detail}")).unwrap_or_default();
    Failure::Error { code: report.sql_error_code() as i32, message: format!("{}{detail}", report.message()), ahead }
}

fn in_transaction<T>(action: impl FnOnce() -> T) -> T {
    // SAFETY: on the main thread, outside a transaction.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        let result = action();
        pg_sys::CommitTransactionCommand();
        result
    }
}
