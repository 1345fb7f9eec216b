//! The settings of the extension (`pg_paxos.*`), their ranges and defaults.
//!
//! Every default is such that nothing but `shared_preload_libraries` has to be set. Bounds are
//! checked by PostgreSQL itself; what it cannot check (`data_directory`, addresses) is checked by
//! the engine worker when it starts, with a message that names the setting.

use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;

/// What a transaction waits for before its first statement on a replicated table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, pgrx::PostgresGucEnum)]
pub enum ConsistencyModel {
    /// It sees every transaction acknowledged anywhere before it began.
    #[name = c"strong"]
    Strong,
    /// It sees at least what its own session committed.
    #[name = c"session"]
    Session,
    /// It sees a prefix of the log, however old; nothing is waited for.
    #[name = c"optimistic"]
    Optimistic,
}

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static NODE_ID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static CONSISTENCY_MODEL: GucSetting<ConsistencyModel> = GucSetting::<ConsistencyModel>::new(ConsistencyModel::Strong);
static LISTEN_ADDRESSES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"localhost"));
static PORT: GucSetting<i32> = GucSetting::<i32>::new(0);
static ADVERTISE_ADDRESS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static DATA_DIRECTORY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"pg_paxos"));
static FAILURE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(1000);
static COMMIT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static BARRIER_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static MAX_GROUPS: GucSetting<i32> = GucSetting::<i32>::new(8);
// A client that takes its time between two statements, far away or on a busy machine, is not to lose its session for
// that; only one which is silent for as long as makes a node count as failed.
static IDLE_VICTIM_GRACE: GucSetting<i32> = GucSetting::<i32>::new(1000);
static LOG_KEEP_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1024);

/// How far the engine's port is from PostgreSQL's when `pg_paxos.port` is 0.
const PORT_OFFSET: i32 = 10_000;

/// Registers every setting. Called once, from `_PG_init`, in the postmaster.
pub fn register() {
    GucRegistry::define_bool_guc(
        c"pg_paxos.enabled",
        c"Captures and replicates changes of replicated tables.",
        c"When off, a session changes its own node's copy only; every such transaction is logged.",
        &ENABLED,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_paxos.node_id",
        c"A name shown for this node.",
        c"The node's identity is made at its first start and does not depend on this name.",
        &NODE_ID,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"pg_paxos.consistency_model",
        c"What a transaction waits for before it first reads a replicated table.",
        c"strong: every transaction acknowledged on any node; session: those of this session; optimistic: nothing.",
        &CONSISTENCY_MODEL,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_paxos.listen_addresses",
        c"The addresses on which the engine listens for the other nodes.",
        c"A comma-separated list of host names or addresses; '*' stands for all.",
        &LISTEN_ADDRESSES,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_paxos.port",
        c"The port on which the engine listens for the other nodes.",
        c"0 stands for PostgreSQL's own port plus 10000.",
        &PORT,
        0,
        65_535,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_paxos.advertise_address",
        c"The address by which the other nodes reach this one.",
        c"Empty stands for the host of the connection string given when the group was created or joined.",
        &ADVERTISE_ADDRESS,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_paxos.data_directory",
        c"Where the engine keeps its log, its checkpoints and its key.",
        c"A relative path starts at PostgreSQL's data directory.",
        &DATA_DIRECTORY,
        GucContext::Postmaster,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"pg_paxos.failure_timeout",
        c"After how long without an answer a node counts as failed.",
        c"It decides when another node tries to lead a log; no setting of it can break consistency.",
        &FAILURE_TIMEOUT,
        100,
        60_000,
        GucContext::Postmaster,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pg_paxos.commit_timeout",
        c"How long a COMMIT waits for a majority.",
        c"After that the outcome is reported as unknown, with the transaction's id.",
        &COMMIT_TIMEOUT,
        100,
        3_600_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pg_paxos.barrier_timeout",
        c"How long a strong read waits for a majority and for this node to catch up.",
        c"After that the statement fails; nothing was changed.",
        &BARRIER_TIMEOUT,
        100,
        3_600_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pg_paxos.max_groups",
        c"How many groups this server can be a member of.",
        c"Each takes 140 kB of shared memory and one background worker.",
        &MAX_GROUPS,
        1,
        64,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_paxos.idle_victim_grace",
        c"How long an idle transaction may stand in the way of a replicated one.",
        c"After that its connection is ended with SQLSTATE 40001.",
        &IDLE_VICTIM_GRACE,
        0,
        60_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pg_paxos.log_keep_size",
        c"How much of the log is kept for members that are away.",
        c"A member that was away for longer catches up by a copy of the tables.",
        &LOG_KEEP_SIZE,
        16,
        1_048_576,
        GucContext::Postmaster,
        GucFlags::UNIT_MB,
    );
    // SAFETY: called in _PG_init; the name is a static string.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"pg_paxos".as_ptr()) };
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|value| value.to_string_lossy().trim().to_owned()).unwrap_or_default()
}

fn milliseconds(setting: &GucSetting<i32>) -> Duration {
    let value = setting.get();
    Duration::from_millis(u64::try_from(value).expect("the setting's minimum is not negative"))
}

/// Whether this session's changes of replicated tables are captured and replicated.
pub fn enabled() -> bool {
    ENABLED.get()
}

/// The name shown for this node; empty if none was given.
pub fn node_name() -> String {
    text(&NODE_ID)
}

/// What this session's transactions wait for before they read.
pub fn consistency_model() -> ConsistencyModel {
    CONSISTENCY_MODEL.get()
}

/// Host names or addresses on which the engine listens; `*` stands for all.
pub fn listen_addresses() -> Vec<String> {
    text(&LISTEN_ADDRESSES).split(',').map(|host| host.trim().to_owned()).filter(|host| !host.is_empty()).collect()
}

/// The engine's port: the setting, or PostgreSQL's port plus 10000; `None` if that is no port.
pub fn port() -> Option<u16> {
    let port = match PORT.get() {
        // SAFETY: PostPortNumber is set before any process of ours runs and never changes.
        0 => unsafe { pg_sys::PostPortNumber }.checked_add(PORT_OFFSET)?,
        port => port,
    };
    u16::try_from(port).ok()
}

/// The address by which the other nodes reach this one, if one was set.
pub fn advertise_address() -> Option<String> {
    Some(text(&ADVERTISE_ADDRESS)).filter(|address| !address.is_empty())
}

/// The engine's directory, absolute.
pub fn data_directory() -> PathBuf {
    // SAFETY: DataDir is set before shared libraries are loaded and never changes.
    let server = unsafe { std::ffi::CStr::from_ptr(pg_sys::DataDir) };
    PathBuf::from(server.to_string_lossy().into_owned()).join(text(&DATA_DIRECTORY))
}

/// After how long without an answer a node counts as failed.
pub fn failure_timeout() -> Duration {
    milliseconds(&FAILURE_TIMEOUT)
}

/// How long a COMMIT waits for its outcome.
pub fn commit_timeout() -> Duration {
    milliseconds(&COMMIT_TIMEOUT)
}

/// How long a strong read waits for its barrier.
pub fn barrier_timeout() -> Duration {
    milliseconds(&BARRIER_TIMEOUT)
}

/// How many groups shared memory has room for.
pub fn max_groups() -> usize {
    usize::try_from(MAX_GROUPS.get()).expect("the setting's minimum is 1")
}

/// How long an idle transaction may stand in an applier's way.
pub fn idle_victim_grace() -> Duration {
    milliseconds(&IDLE_VICTIM_GRACE)
}

/// How many bytes of the log are kept for members that are away.
pub fn log_keep_bytes() -> u64 {
    u64::try_from(LOG_KEEP_SIZE.get()).expect("the setting's minimum is positive") << 20
}
