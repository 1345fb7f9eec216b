//! Local transactions in the way of the log (design of tables, section 6).
//!
//! An applier that waits for a lock waits for a local transaction which will be rejected at its COMMIT anyway, or for
//! one that never touches the log. The engine worker's main thread watches appliers, finds whom they wait for, and
//! *dooms* those transactions: their word says so, and a signal makes them look. An active one is cancelled, an idle
//! one loses its connection after a grace; both see SQLSTATE 40001. A signal acts only if the word dooms the current
//! transaction, so that the next, innocent one of the same session is never hit.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::{Outcome, Verdict};
use consensus::Slot;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{pg_sys, PgLogLevel, PgSqlErrorCode};

use crate::commit;
use crate::error_rewrite::{self, Report, Rewrite};
use crate::settings;
use crate::shared::{Area, Backend, BackendIndex, Group, State, Word};

/// After how long of waiting a proposed or granted transaction in an applier's way is made to leave its slot. The
/// certification keys are meant to exclude this case, so it is long against a round trip and short for a person.
const DISPLACE_AFTER: Duration = Duration::from_secs(2);

/// Whether the handler has asked PostgreSQL to cancel the current transaction.
static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Lets this process be doomed. Called once per process, on its main thread. Only for processes that run statements:
/// others use SIGUSR2 for purposes of their own.
pub fn install_signal_handler() {
    // SAFETY: ordinary backends and background workers ignore SIGUSR2; a WAL sender ends by it.
    unsafe {
        if !pg_sys::am_walsender {
            pg_sys::pqsignal(libc::SIGUSR2, Some(signal_handler));
        }
    }
}

/// Ends the statement if the current transaction was doomed: by a cancel, which no `WHEN OTHERS` of a function catches,
/// and which is worded as 40001 where it is reported.
pub fn raise_if_doomed() {
    // A process without a place was never doomed; the launcher of autovacuum must not get one.
    let Some(backend) = commit::occupied_backend() else { return };
    if backend.word().state == State::Doomed {
        error_rewrite::let_errors_through();
        Rewrite { code: PgSqlErrorCode::ERRCODE_QUERY_CANCELED, ..doomed_words(backend) }.raise();
    }
}

/// What is said instead of the interrupt that ends a doomed transaction.
pub fn words_for(report: &Report) -> Option<Rewrite> {
    report.is_interrupt().then(words_if_doomed).flatten()
}

/// What is said of the current transaction if it was doomed.
pub fn words_if_doomed() -> Option<Rewrite> {
    let backend = commit::occupied_backend()?;
    (backend.word().state == State::Doomed).then(|| doomed_words(backend))
}

fn doomed_words(backend: &Backend) -> Rewrite {
    let (slot, table) = backend.doomed_by();
    let table = if table.is_empty() { String::new() } else { format!(" on table {table}") };
    Rewrite {
        code: PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        message: "could not serialize access due to a concurrent transaction in the group".to_string(),
        detail: format!(
            "This transaction held a lock{table} that the transaction at slot {slot}, which came first in the group's log, needs."
        ),
        hint: "Run the transaction again.".to_string(),
    }
}

/// The transaction is over, and its word says so: takes back a cancel that was meant for it and that nobody has served
/// yet. The next statement is innocent.
pub fn forgive() {
    if CANCELLED.swap(false, Ordering::SeqCst) {
        // SAFETY: a plain flag of this process.
        unsafe { pg_sys::QueryCancelPending = 0 };
    }
}

/// Raises 40001 for a transaction that the log rejected: which table, key, node and slot it met.
pub fn raise_rejected(group: &Group, outcome: &Outcome) -> ! {
    let Verdict::Rejected(bytes) = &outcome.verdict else {
        panic!("the outcome of {} is not a rejection", outcome.id);
    };
    raise_conflict(group, bytes);
}

/// Raises 40001 for a conflict in the encoding of [`tables::Verdict`].
pub fn raise_conflict(group: &Group, bytes: &[u8]) -> ! {
    let detail = match tables::Verdict::decode(bytes) {
        Ok(tables::Verdict::Rejected(conflict)) => describe(group, &conflict),
        _ => client::shown(&String::from_utf8_lossy(bytes)).into_owned(),
    };
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not serialize access due to a concurrent transaction in the group",
        "pg_paxos",
    )
    .set_detail(detail)
    .set_hint("Run the transaction again.".to_string())
    .report(PgLogLevel::ERROR);
    unreachable!("an error was reported");
}

fn describe(group: &Group, conflict: &tables::Conflict) -> String {
    let identity = group.identity().expect("the group is in use");
    let (table, key) = crate::catalog::describe_key(identity, &conflict.key);
    let position = conflict.key.position;
    match conflict.reason {
        tables::Reason::Touched { slot, origin, .. } => format!(
            "Table {table}, {key}: the transaction at slot {slot} from node {origin} came first; this one had seen the log up to slot {position}."
        ),
        tables::Reason::BelowFloor { floor } => format!(
            "Table {table}, {key}: this transaction had seen the log up to slot {position}, and what happened before slot {floor} is no longer remembered."
        ),
        _ => format!("Table {table}, {key}."),
    }
}

/// Runs in the doomed process, at any point of its main thread: stores plain flags and reads shared memory, no more.
unsafe extern "C-unwind" fn signal_handler(_: i32) {
    let saved = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    // SAFETY: flags of this process, as PostgreSQL's own handlers set them.
    unsafe {
        if !pg_sys::MyProc.is_null() && Area::is_attached() {
            let backend = Area::attached().backend(Area::own_index());
            let word = backend.word();
            if word.state == State::Doomed {
                error_rewrite::let_errors_through();
                if backend.is_condemned(word) && waits_for_client() {
                    pg_sys::ProcDiePending = 1;
                } else {
                    CANCELLED.store(true, Ordering::SeqCst);
                    pg_sys::QueryCancelPending = 1;
                }
                pg_sys::InterruptPending = 1;
            }
        }
        if !pg_sys::MyLatch.is_null() {
            crate::shared::set_latch(pg_sys::MyLatch);
        }
        *libc::__errno_location() = saved;
    }
}

/// Whether this process waits for its client: for the next statement, the next row of a COPY, or the client to take
/// what it was sent. There PostgreSQL serves no cancel, only the end of the session.
unsafe fn waits_for_client() -> bool {
    // SAFETY: points to a word of this process's own, read whole.
    let event = unsafe { std::ptr::read_volatile(pg_sys::my_wait_event_info) };
    event == pg_sys::WaitEventClient::WAIT_EVENT_CLIENT_READ
        || event == pg_sys::WaitEventClient::WAIT_EVENT_CLIENT_WRITE
}

/// What the watchdog remembers between two looks.
#[derive(Default)]
pub struct Watchdog {
    doomed: Vec<Doomed>,
    blocked: Vec<(BackendIndex, Slot, Instant)>,
    outsiders: Vec<Outsider>,
}

/// A process that is in the way though it runs no transaction that a hook has seen.
#[derive(Clone, Copy)]
struct Outsider {
    process: i32,
    /// The generation of its word; 0 if it has none.
    generation: u64,
    since: Instant,
    /// Whether the look under way saw it.
    is_seen: bool,
}

/// How long an outsider must be in the way before it is cancelled. A session is idle by its word just before it lets its
/// locks go, and a cancel sent then would hit its next, innocent statement; that moment is far shorter.
const OUTSIDER_GRACE: Duration = Duration::from_millis(100);

/// How often a doomed transaction is told again: a function may catch the cancel, and PostgreSQL drops one that comes
/// between two statements.
const SIGNAL_EVERY: Duration = Duration::from_millis(100);

/// A transaction that was told to roll back and has not done so yet.
struct Doomed {
    index: BackendIndex,
    word: Word,
    since: Instant,
    signalled: Instant,
}

impl Watchdog {
    /// Looks once at every group's applier, and at those that were doomed before. Runs on the main thread of the engine
    /// worker.
    pub fn look(&mut self) {
        let area = Area::attached();
        let mut blocked = Vec::new();
        for group in area.groups().iter().filter(|group| group.identity().is_some()) {
            let Some(applier) = group.applier_process() else { continue };
            if !waits_for_lock(applier) {
                continue;
            }
            let slot = group.applied().next();
            let since = self
                .blocked
                .iter()
                .find(|(index, at, _)| *index == applier && *at == slot)
                .map_or_else(Instant::now, |(_, _, since)| *since);
            blocked.push((applier, slot, since));
            self.clear_way(group, applier, since);
        }
        self.blocked = blocked;
        self.outsiders.retain(|outsider| outsider.is_seen);
        self.outsiders.iter_mut().for_each(|outsider| outsider.is_seen = false);
        self.pursue();
    }

    /// Whether there is somebody to look after.
    pub fn is_busy(&self) -> bool {
        !self.blocked.is_empty() || !self.doomed.is_empty()
    }

    /// Dooms whomever the applier waits for, and whomever those wait for: freeing one of them would only let the next
    /// waiter have the lock.
    fn clear_way(&mut self, group: &Group, applier: BackendIndex, since: Instant) {
        let area = Area::attached();
        let mut seen = vec![area.backend(applier).process()];
        let mut open = seen.clone();
        while let Some(process) = open.pop() {
            for blocker in blocking_processes(process) {
                if blocker == 0 || seen.contains(&blocker) {
                    continue;
                }
                seen.push(blocker);
                open.push(blocker);
                self.doom(group, blocker, since);
            }
        }
    }

    fn doom(&mut self, group: &Group, process: i32, since: Instant) {
        let area = Area::attached();
        let place = area.backends().iter().position(|backend| backend.process() == process);
        let Some(place) = place else {
            self.note_outsider(process, 0);
            return;
        };
        let index = BackendIndex(u32::try_from(place).expect("places are few"));
        let backend = area.backend(index);
        let word = backend.word();
        match word.state {
            State::Running => {
                let (slot, table) = group.changing();
                if backend.doom(word, slot, table) {
                    let word = Word { state: State::Doomed, ..word };
                    let now = Instant::now();
                    self.doomed.push(Doomed { index, word, since: now, signalled: now });
                    signal(process, libc::SIGUSR2);
                }
            }
            State::Idle => self.note_outsider(process, word.generation),
            State::Proposed | State::Granted if since.elapsed() >= DISPLACE_AFTER => backend.displace(word),
            State::Proposed | State::Granted | State::Doomed | State::HandedOver => {}
        }
    }

    /// Cancels an outsider once it has been in the way for long enough.
    fn note_outsider(&mut self, process: i32, generation: u64) {
        let known = self.outsiders.iter_mut().find(|known| known.process == process && known.generation == generation);
        let Some(known) = known else {
            self.outsiders.push(Outsider { process, generation, since: Instant::now(), is_seen: true });
            return;
        };
        known.is_seen = true;
        if known.since.elapsed() >= OUTSIDER_GRACE {
            known.since = Instant::now();
            cancel_outsider(process);
        }
    }

    /// Signals again whoever has not rolled back yet; ends the sessions of those that are idle past their grace.
    fn pursue(&mut self) {
        let area = Area::attached();
        let grace = settings::idle_victim_grace();
        self.doomed.retain_mut(|doomed| {
            let backend = area.backend(doomed.index);
            if backend.word() != doomed.word || backend.process() == 0 {
                return false;
            }
            let is_past_grace = doomed.since.elapsed() >= grace;
            if is_past_grace && !backend.is_condemned(doomed.word) {
                backend.condemn(doomed.word);
            } else if doomed.signalled.elapsed() < SIGNAL_EVERY {
                return true;
            }
            doomed.signalled = Instant::now();
            signal(backend.process(), libc::SIGUSR2);
            true
        });
    }
}

fn signal(process: i32, number: i32) {
    // SAFETY: a process of this server or one that is gone.
    unsafe { libc::kill(process, number) };
}

/// Cancels what has no word of its own: autovacuum, or a session that runs something no hook sees.
fn cancel_outsider(process: i32) {
    signal(process, libc::SIGINT);
}

/// Whether a process waits for a heavyweight lock.
fn waits_for_lock(index: BackendIndex) -> bool {
    // SAFETY: the array of processes stays in shared memory; the field is one word, read whole.
    unsafe {
        let process = (*pg_sys::ProcGlobal).allProcs.add(index.0 as usize);
        let event = std::ptr::read_volatile(&raw const (*process).wait_event_info);
        event & 0xFF00_0000 == pg_sys::PG_WAIT_LOCK
    }
}

/// The processes that a process waits for: holders of what it wants, and earlier waiters for something that conflicts
/// with it. What `pg_blocking_pids` says, which cannot be called without a database.
fn blocking_processes(process: i32) -> Vec<i32> {
    // SAFETY: on the main thread; the copy of the lock tables is freed again.
    unsafe {
        let data = pg_sys::GetBlockerStatusData(process);
        let mut found = Vec::new();
        for blocked in slice((*data).procs, (*data).nprocs) {
            let locks = slice((*data).locks.add(blocked.first_lock as usize), blocked.num_locks);
            let earlier = slice((*data).waiter_pids.add(blocked.first_waiter as usize), blocked.num_waiters);
            let Some(wanted) = locks.iter().find(|lock| lock.pid == blocked.pid && lock.waitLockMode != 0) else {
                continue;
            };
            for lock in locks.iter().filter(|lock| lock.leaderPid != wanted.leaderPid) {
                let holds = (1..pg_sys::MAX_LOCKMODES as i32).any(|mode| {
                    lock.holdMask & (1 << mode) != 0 && pg_sys::DoLockModesConflict(wanted.waitLockMode, mode)
                });
                let waits = lock.waitLockMode != 0
                    && pg_sys::DoLockModesConflict(wanted.waitLockMode, lock.waitLockMode)
                    && earlier.contains(&lock.pid);
                if (holds || waits) && !found.contains(&lock.leaderPid) {
                    found.push(lock.leaderPid);
                }
            }
        }
        for part in [(*data).procs.cast(), (*data).locks.cast(), (*data).waiter_pids.cast(), data.cast()] {
            let part: *mut c_void = part;
            if !part.is_null() {
                pg_sys::pfree(part);
            }
        }
        found
    }
}

/// A C array as a slice.
unsafe fn slice<'a, T>(first: *const T, count: i32) -> &'a [T] {
    match usize::try_from(count) {
        // SAFETY: the caller gives an array of that many elements.
        Ok(count) if count > 0 => unsafe { std::slice::from_raw_parts(first, count) },
        _ => &[],
    }
}
