//! The background worker that hosts the engine (design of tables, section 13).
//!
//! The engine runs on its own threads, made while all signals are blocked, and calls nothing of PostgreSQL. This
//! worker's main thread does what only it may: reads the replication origins, starts appliers, tells how far
//! PostgreSQL's own log is on disk, and clears the appliers' way. A fatal error of the engine ends the worker with
//! code 1, which makes the postmaster start it again without touching anybody else; backends then ask anew.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use consensus::{GroupId, Slot};
use node::{Engine, EngineFailure, EngineHandle, EngineOptions, Limits};
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags};
use pgrx::prelude::*;

use crate::applier;
use crate::conflict::Watchdog;
use crate::engine_log;
use crate::membership_watch::MembershipWatch;
use crate::origins;
use crate::settings;
use crate::shared::{ApplierState, Area, Group};
use crate::tables_face::{Progress, TablesFaces};

/// The pause between two looks at the appliers while the log moves or somebody stands in the way.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// The same when nothing happens.
const IDLE_PAUSE: Duration = Duration::from_millis(50);

/// How often it is noted how far PostgreSQL's log is on disk. Its WAL writer writes every 200 ms.
const HELD_EVERY: Duration = Duration::from_millis(100);

/// How long to wait before the applier of a group is started again.
const RELAUNCH_AFTER: Duration = Duration::from_secs(1);

/// Set by the engine's threads when the engine has failed.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Registers the worker. Called once, from `_PG_init`.
pub fn register() {
    BackgroundWorkerBuilder::new("pg_paxos engine")
        .set_type("pg_paxos engine")
        .set_library("pg_paxos")
        .set_function("pg_paxos_engine_main")
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .enable_spi_access()
        .load();
}

/// The worker's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_paxos_engine_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    refuse_unsafe_settings();
    // SAFETY: once per worker; no database, so only what all databases share can be read.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    let area = Area::attached();
    // SAFETY: the process's own latch, in shared memory.
    area.set_engine_process(unsafe { pg_sys::MyProcPid }, unsafe { pg_sys::MyLatch });
    // SAFETY: the callback is static.
    unsafe { pg_sys::on_shmem_exit(Some(engine_gone), pg_sys::Datum::from(0usize)) };
    let progress = origins::progress().unwrap_or_else(|error| {
        fatal_setting(format!("cannot read how far each group was applied: {error}"), "Check pg_paxos.data_directory.")
    });
    engine_log::install();
    let engine = start(progress);
    area.set_engine(engine.node(), engine.start());
    log!("pg_paxos engine: node {}, start {}", engine.node(), engine.start());
    serve(&engine);
    area.clear_engine();
    let failure = engine.failure();
    engine.stop();
    engine_log::write();
    if let Some(failure) = failure {
        log!("the pg_paxos engine failed: {failure}");
    }
    // Code 0 would mean that the worker is never to be started again.
    // SAFETY: the end of the process; nothing of ours is in the middle of anything.
    unsafe { pg_sys::proc_exit(1) };
}

unsafe extern "C-unwind" fn engine_gone(_: i32, _: pg_sys::Datum) {
    Area::attached().clear_engine();
    Area::attached().set_engine_process(0, std::ptr::null_mut());
}

/// With `fsync = off` PostgreSQL's tables may come back from a crash in any state, and replay would build on it.
fn refuse_unsafe_settings() {
    // SAFETY: a plain setting.
    if !unsafe { pg_sys::enableFsync } {
        pgrx::pg_sys::panic::ErrorReport::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pg_paxos does not run with fsync = off",
            "pg_paxos",
        )
        .set_hint("Set fsync = on.".to_string())
        .report(PgLogLevel::FATAL);
    }
    // SAFETY: as above.
    if unsafe { pg_sys::max_replication_slots } < 1 {
        pgrx::pg_sys::panic::ErrorReport::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pg_paxos needs max_replication_slots to be at least 1",
            "pg_paxos",
        )
        .set_hint("It keeps a replication origin for each group, for which PostgreSQL needs this setting.".to_string())
        .report(PgLogLevel::FATAL);
    }
}

fn start(progress: Progress) -> EngineHandle {
    let Some(port) = settings::port() else {
        fatal_setting("pg_paxos.port is 0 and PostgreSQL's port plus 10000 is no port", "Set pg_paxos.port.");
    };
    let listen: Vec<String> = settings::listen_addresses()
        .into_iter()
        .map(|host| if host == "*" { format!("0.0.0.0:{port}") } else { join_host(&host, port) })
        .collect();
    if listen.is_empty() {
        fatal_setting(
            "pg_paxos.listen_addresses is empty",
            "Set it to the addresses on which other nodes reach this one.",
        );
    }
    let advertised = settings::advertise_address().unwrap_or_else(|| {
        match settings::listen_addresses().first().map(String::as_str) {
            Some("*") | None => "localhost".to_string(),
            Some(host) => host.to_string(),
        }
    });
    let advertise_address = if has_port(&advertised) { advertised } else { join_host(&advertised, port) };
    let area = Area::attached();
    let options = EngineOptions {
        data_directory: settings::data_directory(),
        socket_directory: settings::data_directory().join("socket"),
        listen_address: listen.join(","),
        advertise_address,
        failure_timeout: settings::failure_timeout(),
        environment: environment(),
        faces: Box::new(TablesFaces::new(progress)),
        sequence: Some(Box::new(|| Area::attached().next_sequence())),
        on_failure: Some(Box::new(|_| {
            FAILED.store(true, Ordering::SeqCst);
            Area::attached().wake_engine();
        })),
        limits: Limits { log_keep_bytes: settings::log_keep_bytes(), ..Limits::default() },
    };
    area.clear_engine();
    match with_signals_blocked(|| Engine::start(options)) {
        Ok(engine) => engine,
        Err(failure) => {
            engine_log::write();
            let hint = match &failure {
                EngineFailure::Setup { hint, .. } => hint.clone(),
                _ => String::new(),
            };
            fatal_setting(format!("the pg_paxos engine cannot start: {failure}"), &hint)
        }
    }
}

fn fatal_setting(message: impl Into<String>, hint: &str) -> ! {
    let report =
        pgrx::pg_sys::panic::ErrorReport::new(PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, message.into(), "pg_paxos");
    let report = if hint.is_empty() { report } else { report.set_hint(hint.to_string()) };
    report.report(PgLogLevel::FATAL);
    unreachable!("a fatal error was reported")
}

fn join_host(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.contains(':') && port.parse::<u16>().is_ok())
}

/// What this engine's directory belongs to: a copy of it beside another PostgreSQL cluster is another node (design,
/// rule 7).
fn environment() -> String {
    // SAFETY: both are final once recovery has ended.
    unsafe { format!("system {} timeline {}", pg_sys::GetSystemIdentifier(), pg_sys::GetWALInsertionTimeLine()) }
}

/// Runs `action` with all signals blocked, so that the threads made inside never run a handler of PostgreSQL's.
fn with_signals_blocked<T>(action: impl FnOnce() -> T) -> T {
    // SAFETY: plain calls on sets of this function's own.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = action();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}

/// The main thread's duties, until the server stops or the engine fails.
fn serve(engine: &EngineHandle) {
    let area = Area::attached();
    let mut watchdog = Watchdog::default();
    let mut durability = Durability::default();
    let mut membership = MembershipWatch::default();
    let mut launches: BTreeMap<GroupId, Instant> = BTreeMap::new();
    let mut decided = 0;
    let mut pause = IDLE_PAUSE;
    while BackgroundWorker::wait_latch(Some(pause)) {
        // SAFETY: on the main thread.
        unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
        pgrx::check_for_interrupts!();
        engine_log::write();
        if FAILED.load(Ordering::SeqCst) || engine.failure().is_some() {
            return;
        }
        if BackgroundWorker::sighup_received() {
            // SAFETY: on the main thread.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
            refuse_unsafe_settings();
        }
        keep_appliers(area, &mut launches);
        watchdog.look();
        durability.look(area);
        membership.look(area);
        let now = groups_in_use(area).map(|group| group.decided().0).sum();
        let moves = now != decided || watchdog.is_busy();
        decided = now;
        pause = if moves { BUSY_PAUSE } else { IDLE_PAUSE };
    }
}

/// The groups that have a place.
pub fn groups_in_use(area: &'static Area) -> impl Iterator<Item = &'static Group> {
    area.groups().iter().filter(|group| group.identity().is_some())
}

/// Starts the appliers that are missing, and frees the places of groups that have left.
fn keep_appliers(area: &'static Area, launches: &mut BTreeMap<GroupId, Instant>) {
    for (place, group) in area.groups().iter().enumerate() {
        let Some(identity) = group.identity() else { continue };
        if group.applier_process().is_some() {
            continue;
        }
        if group.applier_state() == ApplierState::Leaving {
            group.vacate();
            origins::forget(identity);
            launches.remove(&identity);
            continue;
        }
        if launches.get(&identity).is_some_and(|last| last.elapsed() < RELAUNCH_AFTER) {
            continue;
        }
        launches.insert(identity, Instant::now());
        applier::launch(place);
    }
}

/// Notes which commits PostgreSQL has made durable: what was applied before a position in its log is durable once the
/// log is on disk up to there.
#[derive(Default)]
struct Durability {
    samples: VecDeque<(pg_sys::XLogRecPtr, Vec<(GroupId, Slot)>)>,
    last: Option<Instant>,
}

impl Durability {
    fn look(&mut self, area: &'static Area) {
        if self.last.is_some_and(|last| last.elapsed() < HELD_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        // The positions are read first: what is applied by now has its commit record before the log's present end.
        let applied: Vec<(GroupId, Slot)> = groups_in_use(area)
            .filter(|group| group.applied() > group.held())
            .filter_map(|group| Some((group.identity()?, group.applied())))
            .collect();
        // SAFETY: on the main thread, after recovery.
        let (inserted, flushed) =
            unsafe { (pg_sys::GetXLogInsertRecPtr(), pg_sys::GetFlushRecPtr(std::ptr::null_mut())) };
        if !applied.is_empty() {
            self.samples.push_back((inserted, applied));
        }
        while self.samples.front().is_some_and(|(position, _)| *position <= flushed) {
            let (_, applied) = self.samples.pop_front().expect("there is a front");
            for (identity, slot) in applied {
                if let Some(group) = area.group(identity) {
                    group.set_held(slot);
                }
            }
        }
    }
}
