//! The hooks around statements: the read barrier before the first statement on a replicated table, and the refusal of
//! doomed transactions. What would make servers differ is refused by the guard, which the hook of utility statements asks.
//!
//! The functions that PostgreSQL calls pass errors through untouched: they are plain functions without a guard and
//! without destructors in their frame, and call PostgreSQL's own functions directly. What may fail by itself stands in
//! guarded functions that they call before.

use std::cell::Cell;
use std::ffi::{c_char, CStr};
use std::time::{Duration, Instant};

use consensus::{GroupId, Slot};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::barrier;
use crate::commit;
use crate::conflict;
use crate::engine_connection;
use crate::error_rewrite::{self, Report, Rewrite};
use crate::guard;
use crate::key_access;
use crate::settings::{self, ConsistencyModel};
use crate::shared::{self, Area};
use crate::touched::{changes_catalogs, groups_of_copy, groups_of_database, groups_of_lock, Touched};

mod raw {
    //! PostgreSQL's functions without pgrx's guard, which would catch and rethrow every error.
    use pgrx::pg_sys;
    use std::ffi::c_char;

    extern "C-unwind" {
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: i32);
        pub fn standard_ExecutorRun(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
            once: bool,
        );
        pub fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
        pub fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            text: *const c_char,
            read_only_tree: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            parameters: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            destination: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
    }
}

static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS_RUN: pg_sys::ExecutorRun_hook_type = None;
static mut PREVIOUS_FINISH: pg_sys::ExecutorFinish_hook_type = None;
static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;

thread_local! {
    /// How many executor calls are under way: a statement inside a function is not at the top.
    static EXECUTOR_DEPTH: Cell<u32> = const { Cell::new(0) };
    /// The certified statement under way at the top.
    static CERTIFIED: Cell<Option<Certified>> = const { Cell::new(None) };
    /// Of utility statements.
    static UTILITY_DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// A statement that runs without a barrier, because certification proves what it reads.
#[derive(Clone, Copy)]
struct Certified {
    query: *mut pg_sys::QueryDesc,
    group: GroupId,
    /// What was applied when it began, at most as new as its snapshot or newer by what commits meanwhile.
    applied: Slot,
}

/// How long a failed statement waits to learn whether it failed on an old state.
const STALE_ERROR_WAIT: Duration = Duration::from_secs(1);

/// Installs the hooks. Called once, from `_PG_init`.
pub fn register() {
    // SAFETY: _PG_init runs alone in the postmaster.
    unsafe {
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        PREVIOUS_RUN = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(executor_run);
        PREVIOUS_FINISH = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(executor_finish);
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// An error left the statements that were counted: called when a transaction, or a subtransaction at the top, ends.
pub fn reset_depth() {
    // SAFETY: a plain pointer of this process.
    if unsafe { pg_sys::ActivePortal.is_null() } {
        EXECUTOR_DEPTH.set(0);
        UTILITY_DEPTH.set(0);
        CERTIFIED.set(None);
    }
}

unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: as PostgreSQL calls it; nothing here has a destructor.
    unsafe {
        before_statement(query, flags);
        match PREVIOUS_START {
            Some(previous) => previous(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
        }
    }
}

unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: as above.
    unsafe {
        let depth = EXECUTOR_DEPTH.get();
        EXECUTOR_DEPTH.set(depth + 1);
        match PREVIOUS_RUN {
            Some(previous) => previous(query, direction, count, once),
            None => raw::standard_ExecutorRun(query, direction, count, once),
        }
        EXECUTOR_DEPTH.set(depth);
        after_statement(query);
    }
}

unsafe extern "C-unwind" fn executor_finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as above.
    unsafe {
        let depth = EXECUTOR_DEPTH.get();
        EXECUTOR_DEPTH.set(depth + 1);
        match PREVIOUS_FINISH {
            Some(previous) => previous(query),
            None => raw::standard_ExecutorFinish(query),
        }
        EXECUTOR_DEPTH.set(depth);
        if depth == 0 {
            end_certified();
        }
        after_finish();
    }
}

/// A cancel may have come too late for the statement. Told now, the client need not lose its session when it is idle.
#[pg_guard]
unsafe extern "C-unwind" fn after_finish() {
    conflict::raise_if_doomed();
}

/// The statement that ran without a barrier is over.
fn end_certified() {
    if CERTIFIED.take().is_some() {
        error_rewrite::end_letting_through();
    }
}

#[allow(clippy::too_many_arguments, reason = "PostgreSQL's signature")]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: as above.
    unsafe {
        let depth = UTILITY_DEPTH.get();
        guard::before_utility((*statement).utilityStmt);
        before_utility(statement);
        UTILITY_DEPTH.set(depth + 1);
        match PREVIOUS_UTILITY {
            Some(previous) => {
                previous(statement, text, read_only_tree, context, parameters, environment, destination, completion)
            }
            None => raw::standard_ProcessUtility(
                statement,
                text,
                read_only_tree,
                context,
                parameters,
                environment,
                destination,
                completion,
            ),
        }
        UTILITY_DEPTH.set(depth);
        after_utility(statement);
        guard::after_utility((*statement).utilityStmt);
    }
}

/// Whether nothing of this extension concerns the process: a parallel worker, one of our own workers. That no group is
/// known says nothing: the engine may be starting.
fn is_unconcerned() -> bool {
    // SAFETY: plain reads of this process's own state.
    let in_worker = unsafe { pg_sys::ParallelWorkerNumber >= 0 };
    in_worker || !Area::is_attached() || barrier::is_exempt()
}

#[pg_guard]
unsafe extern "C-unwind" fn before_statement(query: *mut pg_sys::QueryDesc, flags: i32) {
    if is_unconcerned() || flags as u32 & pg_sys::EXEC_FLAG_EXPLAIN_ONLY != 0 {
        return;
    }
    commit::note_running();
    conflict::raise_if_doomed();
    // SAFETY: PostgreSQL gives a query with a plan.
    let statement = unsafe { &*(*query).plannedstmt };
    let touched = Touched::of(statement, EXECUTOR_DEPTH.get() == 0);
    if touched.writes_local {
        commit::note_local_write();
    }
    if touched.groups.is_empty() {
        return;
    }
    // SAFETY: a plain variable.
    if touched.is_direct && unsafe { pg_sys::XactIsoLevel } == pg_sys::XACT_SERIALIZABLE as i32 {
        refuse_serializable();
    }
    if EXECUTOR_DEPTH.get() == 0 {
        CERTIFIED.set(None);
    }
    for group in touched.groups {
        if barrier::has_passed(group) || settings::consistency_model() == ConsistencyModel::Optimistic {
            continue;
        }
        // SAFETY: the plan is about to run.
        if EXECUTOR_DEPTH.get() == 0 && knows_latest(group) && unsafe { key_access::is_certified(statement) } {
            // SAFETY: the query is about to start.
            unsafe { see_known(group, query) };
            let applied = shared::applied(group);
            CERTIFIED.set(Some(Certified { query, group, applied }));
            error_rewrite::let_errors_through();
            continue;
        }
        // Inside such a statement only checks of foreign keys run, whose keys are certified.
        if EXECUTOR_DEPTH.get() > 0 && CERTIFIED.get().is_some_and(|certified| certified.group == group) {
            continue;
        }
        // SAFETY: the query is about to start.
        unsafe { pass_barrier(group, query) };
    }
}

/// Asks for the barrier and makes sure that the statement sees what is before it.
unsafe fn pass_barrier(group: GroupId, query: *mut pg_sys::QueryDesc) {
    let deadline = Instant::now() + settings::barrier_timeout();
    let slot = barrier::required(group, deadline);
    // SAFETY: the caller's query.
    unsafe { see(group, query, slot, deadline) };
    barrier::note_passed(group);
}

/// Whether this server knows, without asking the others, what is acknowledged: else a certified statement of a client
/// that has just written elsewhere would find an old row and be rejected, though nobody else is there. The owner of the
/// log does, since every entry passes it; and who does not ask for the latest state needs no more than this server has.
fn knows_latest(group: GroupId) -> bool {
    settings::consistency_model() != ConsistencyModel::Strong
        || Area::attached().group(group).is_some_and(shared::Group::is_owned)
}

/// Makes sure that the statement sees what this server knows to have been changed by others.
unsafe fn see_known(group: GroupId, query: *mut pg_sys::QueryDesc) {
    let slot = Area::attached().group(group).map_or(Slot::ZERO, shared::Group::foreign);
    // SAFETY: the query's snapshot is registered.
    unsafe {
        let snapshot = (*query).snapshot;
        let is_old = !snapshot.is_null() && !barrier::covers(group, snapshot, slot);
        if is_old || shared::applied(group) < slot {
            see(group, query, slot, Instant::now() + settings::barrier_timeout());
        }
    }
}

/// Waits until this server has applied a slot, and gives the query a snapshot that shows it.
unsafe fn see(group: GroupId, query: *mut pg_sys::QueryDesc, slot: Slot, deadline: Instant) {
    barrier::wait_applied_until(group, slot, deadline);
    // SAFETY: the query's snapshot is registered and, where it was pushed for this query, active.
    unsafe {
        if may_swap(query) {
            pg_sys::UnregisterSnapshot((*query).snapshot);
            renew_active_snapshot();
            pg_sys::UpdateActiveSnapshotCommandId();
            (*query).snapshot = pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot());
        } else if !(*query).snapshot.is_null() && !barrier::covers(group, (*query).snapshot, slot) {
            raise_too_old(slot);
        }
    }
}

/// Puts a new snapshot in the place of the active one. That of the portal itself keeps its level and the portal's word
/// for it: PostgreSQL takes it off by both.
unsafe fn renew_active_snapshot() {
    // SAFETY: the caller found the active snapshot to be one that may be exchanged.
    unsafe {
        let portal = pg_sys::ActivePortal;
        let is_portals = !portal.is_null() && (*portal).portalSnapshot == pg_sys::GetActiveSnapshot();
        pg_sys::PopActiveSnapshot();
        if is_portals {
            pg_sys::PushActiveSnapshotWithLevel(pg_sys::GetTransactionSnapshot(), (*portal).createLevel);
            (*portal).portalSnapshot = pg_sys::GetActiveSnapshot();
        } else {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
    }
}

/// Whether the query's snapshot was pushed for this very query, at this nesting level, in a transaction whose
/// statements each take a new one.
unsafe fn may_swap(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: plain reads.
    unsafe {
        let uses_transaction_snapshot = pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32;
        !uses_transaction_snapshot
            && EXECUTOR_DEPTH.get() == 0
            && UTILITY_DEPTH.get() <= 1
            && pg_sys::ActiveSnapshotSet()
            && (*query).snapshot == pg_sys::GetActiveSnapshot()
    }
}

fn raise_too_old(slot: Slot) -> ! {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not serialize access: the snapshot is older than a transaction that was acknowledged before",
        "pg_paxos",
    )
    .set_detail(format!("The snapshot was taken before the transaction at slot {slot} was applied here."))
    .set_hint("Run the transaction again; one that starts with BEGIN waits before it takes its snapshot.".to_string())
    .report(PgLogLevel::ERROR);
    unreachable!("an error was reported");
}

fn refuse_serializable() -> ! {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "replicated tables cannot be used in a SERIALIZABLE transaction",
        "pg_paxos",
    )
    .set_hint("Use REPEATABLE READ.".to_string())
    .report(PgLogLevel::ERROR);
    unreachable!("an error was reported");
}

/// A statement ended. If it went without a barrier and changed no row, nothing is certified, and the barrier is asked for
/// now.
#[pg_guard]
unsafe extern "C-unwind" fn after_statement(query: *mut pg_sys::QueryDesc) {
    let Some(certified) = CERTIFIED.get().filter(|certified| certified.query == query) else { return };
    // SAFETY: the query has run and was not ended yet.
    unsafe {
        let changed = !(*query).estate.is_null() && (*(*query).estate).es_processed > 0;
        if changed || !key_access::needs_a_row(&*(*query).plannedstmt) {
            // Its foreign keys are checked at its end.
            return;
        }
        end_certified();
        let slot = barrier::required(certified.group, Instant::now() + settings::barrier_timeout());
        if slot > certified.applied || !barrier::covers(certified.group, (*query).snapshot, slot) {
            raise_too_old(slot);
        }
    }
    barrier::note_passed(certified.group);
}

/// What is said instead of the error of a statement that went without a barrier, if it failed on an old state.
pub fn words_for(report: &Report) -> Option<Rewrite> {
    let certified = CERTIFIED.get()?;
    if is_own_error(report.code) {
        return None;
    }
    CERTIFIED.set(None);
    // No PostgreSQL function may be called that could fail here; the engine is asked over its socket alone.
    let slot = match settings::consistency_model() {
        ConsistencyModel::Strong => engine_connection::ask_barrier(certified.group, STALE_ERROR_WAIT),
        ConsistencyModel::Session => Some(barrier::session_position(certified.group)),
        ConsistencyModel::Optimistic => Some(Slot::ZERO),
    };
    if slot.is_some_and(|slot| slot <= certified.applied) {
        return None;
    }
    Some(Rewrite {
        code: PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        message: "could not serialize access: the statement failed on a state that is not the latest".to_string(),
        detail: format!("This server had applied the log up to slot {}.", certified.applied),
        hint: "Run the transaction again.".to_string(),
    })
}

/// Errors that say nothing about the rows that were read.
fn is_own_error(code: i32) -> bool {
    [
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED,
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
        PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN,
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
    ]
    .into_iter()
    .any(|own| own as i32 == code)
}

#[pg_guard]
unsafe extern "C-unwind" fn before_utility(statement: *mut pg_sys::PlannedStmt) {
    if is_unconcerned() {
        return;
    }
    // SAFETY: PostgreSQL gives a utility statement.
    unsafe {
        let node = (*statement).utilityStmt;
        if (*node).type_ == pg_sys::NodeTag::T_TransactionStmt {
            return;
        }
        if !pg_sys::IsTransactionState() || pg_sys::IsAbortedTransactionBlockState() {
            return;
        }
        commit::note_running();
        conflict::raise_if_doomed();
        if changes_catalogs((*node).type_) {
            commit::note_local_write();
        }
        if UTILITY_DEPTH.get() > 0 || EXECUTOR_DEPTH.get() > 0 {
            return;
        }
        let groups = match (*node).type_ {
            pg_sys::NodeTag::T_DoStmt | pg_sys::NodeTag::T_CallStmt => groups_of_database(),
            pg_sys::NodeTag::T_CopyStmt => groups_of_copy(node.cast()),
            pg_sys::NodeTag::T_LockStmt => groups_of_lock(node.cast()),
            _ => Vec::new(),
        };
        for group in groups {
            if barrier::has_passed(group) || settings::consistency_model() == ConsistencyModel::Optimistic {
                continue;
            }
            pass_barrier_in_utility(group);
        }
    }
}

unsafe fn pass_barrier_in_utility(group: GroupId) {
    let deadline = Instant::now() + settings::barrier_timeout();
    let slot = barrier::required(group, deadline);
    barrier::wait_applied_until(group, slot, deadline);
    // SAFETY: at the top, the portal's snapshot is the one pushed for this statement.
    unsafe {
        let portal = pg_sys::ActivePortal;
        let snapshot = if pg_sys::ActiveSnapshotSet() { pg_sys::GetActiveSnapshot() } else { std::ptr::null_mut() };
        let per_statement = pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32;
        if !snapshot.is_null() {
            if per_statement && !portal.is_null() && (*portal).portalSnapshot == snapshot {
                renew_active_snapshot();
            } else if !barrier::covers(group, snapshot, slot) {
                raise_too_old(slot);
            }
        }
    }
    barrier::note_passed(group);
}

/// Whether a statement takes over another transaction's snapshot: then the transaction wants to see just that.
unsafe fn imports_snapshot(node: *mut pg_sys::Node) -> bool {
    // SAFETY: a parse tree, told by its tag; names are C strings.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_VariableSetStmt {
            return false;
        }
        let name = (*node.cast::<pg_sys::VariableSetStmt>()).name;
        !name.is_null() && CStr::from_ptr(name) == c"TRANSACTION SNAPSHOT"
    }
}

/// A transaction whose one snapshot serves all its statements waits before it takes it.
#[pg_guard]
unsafe extern "C-unwind" fn after_utility(statement: *mut pg_sys::PlannedStmt) {
    // SAFETY: plain reads; the statement outlives its execution.
    unsafe {
        // As after other statements; a transaction that ends says so itself.
        let ends = (*(*statement).utilityStmt).type_ == pg_sys::NodeTag::T_TransactionStmt
            && matches!(
                (*(*statement).utilityStmt.cast::<pg_sys::TransactionStmt>()).kind,
                pg_sys::TransactionStmtKind::TRANS_STMT_ROLLBACK | pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT
            );
        if !ends && pg_sys::IsTransactionState() && !pg_sys::IsAbortedTransactionBlockState() {
            conflict::raise_if_doomed();
        }
        let keeps_snapshot = pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32;
        if !keeps_snapshot || is_unconcerned() || !pg_sys::IsTransactionState() {
            return;
        }
        if UTILITY_DEPTH.get() > 0 || EXECUTOR_DEPTH.get() > 0 || pg_sys::IsAbortedTransactionBlockState() {
            return;
        }
        let node = (*statement).utilityStmt;
        if imports_snapshot(node) {
            groups_of_database().into_iter().for_each(barrier::note_passed);
            return;
        }
        if pg_sys::FirstSnapshotSet {
            return;
        }
        let begins = match (*node).type_ {
            pg_sys::NodeTag::T_TransactionStmt => matches!(
                (*node.cast::<pg_sys::TransactionStmt>()).kind,
                pg_sys::TransactionStmtKind::TRANS_STMT_BEGIN | pg_sys::TransactionStmtKind::TRANS_STMT_START
            ),
            pg_sys::NodeTag::T_VariableSetStmt => true,
            _ => false,
        };
        if !begins || settings::consistency_model() == ConsistencyModel::Optimistic {
            return;
        }
        for group in groups_of_database() {
            if barrier::has_passed(group) {
                continue;
            }
            let deadline = Instant::now() + settings::barrier_timeout();
            let slot = barrier::required(group, deadline);
            barrier::wait_applied_until(group, slot, deadline);
            barrier::note_passed(group);
        }
    }
}
