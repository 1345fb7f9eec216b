//! COMMIT of a transaction that changed replicated tables (design of tables, sections 3, 5 and 10).
//!
//! At PRE_COMMIT the write set is proposed to the log; then this backend waits until the log has decided and its slot's
//! turn has come, and commits with the slot as the position of the group's replication origin. From the grant to the
//! local commit nothing may lose the transaction: whatever goes wrong in between, the abort callback (or the exit
//! callback of a dying process) hands the slot to the applier, which replays the entry from the log.

use std::cell::RefCell;
use std::ffi::c_void;
use std::time::{Duration, Instant};

use client::{Answer, Certainty, Error, Origin, Refusal, RefusalReason, Request};
use consensus::{GroupId, OperationId, Slot};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::XactEvent;
use pgrx::prelude::*;

use crate::barrier;
use crate::conflict;
use crate::decision::{ask_again, await_decision, milliseconds, Decision};
use crate::engine_connection;
use crate::error_rewrite::{self, Report, Rewrite};
use crate::shared::{Area, Backend, BackendIndex, Group, State};
use crate::{capture, made_elsewhere, replicate_table, settings, statement_hooks, write_set};

/// The transaction that is being committed.
struct Commit {
    group: &'static Group,
    /// The transaction that was proposed, whose outcome an error must not deny. None of an applier, a state copy or a
    /// snapshot mark.
    id: Option<OperationId>,
    /// Set from the moment when it is this backend's turn until the turn is passed.
    in_turn: Option<Turn>,
}

/// What is committed in the turn, and what has to be put back after it.
struct Turn {
    first: Slot,
    last: Slot,
    transaction: pg_sys::TransactionId,
    synchronous_commit: i32,
    /// Whether the commit ends the slots' turn. Not so at the end of a state copy, which has none.
    passes: bool,
}

thread_local! {
    static COMMIT: RefCell<Option<Commit>> = const { RefCell::new(None) };
    static LAST: RefCell<Option<(GroupId, OperationId)>> = const { RefCell::new(None) };
    /// Whether this process has its place in shared memory.
    static OCCUPIED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// Whether the transaction wrote permanent tables that are not replicated.
    static WROTE_LOCAL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// Whether the transaction changed replicated tables while replication was switched off for it.
    static UNREPLICATED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Registers the callbacks. Called once, from `_PG_init`; children of the postmaster inherit them.
pub fn register() {
    // SAFETY: _PG_init runs alone in the postmaster; the callbacks are static.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_callback), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_callback), std::ptr::null_mut());
    }
}

/// The place of this process in shared memory, taken at the first call.
pub fn own_backend() -> (&'static Backend, BackendIndex) {
    let index = Area::own_index();
    let backend = Area::attached().backend(index);
    if !OCCUPIED.get() {
        // SAFETY: MyProcPid and MyLatch are set in every process with a PGPROC; the callback is static.
        unsafe {
            backend.occupy(pg_sys::MyProcPid, pg_sys::MyLatch);
            pg_sys::on_shmem_exit(Some(exit_callback), pg_sys::Datum::from(0usize));
        }
        conflict::install_signal_handler();
        OCCUPIED.set(true);
    }
    (backend, index)
}

/// The place of this process in shared memory, if it has taken one.
pub fn occupied_backend() -> Option<&'static Backend> {
    OCCUPIED.get().then(|| own_backend().0)
}

/// Notes that a transaction runs which may hold locks, so that it can be doomed. Cheap when it was noted before.
pub fn note_running() {
    let (backend, _) = own_backend();
    if backend.word().state == State::Idle {
        backend.begin();
        error_rewrite::begin_transaction();
    }
}

/// Notes that the transaction wrote a permanent table that is not replicated: its acknowledgement then waits for
/// PostgreSQL's own log as well.
pub fn note_local_write() {
    WROTE_LOCAL.set(true);
}

/// Notes that the transaction changed replicated tables with `pg_paxos.enabled = off`, which its COMMIT logs.
pub fn note_unreplicated() {
    UNREPLICATED.set(true);
}

/// The last transaction that this session proposed.
pub fn last_transaction() -> Option<(GroupId, OperationId)> {
    LAST.with_borrow(|last| *last)
}

/// The slot of this session's last committed transaction in a group; 0 if there was none.
pub fn last_committed(group: GroupId) -> Slot {
    barrier::session_position(group)
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_callback(event: XactEvent::Type, _argument: *mut c_void) {
    if !Area::is_attached() {
        return;
    }
    match event {
        XactEvent::XACT_EVENT_PRE_COMMIT => before_commit(),
        XactEvent::XACT_EVENT_COMMIT => after_commit(),
        XactEvent::XACT_EVENT_ABORT => after_abort(),
        XactEvent::XACT_EVENT_PRE_PREPARE => before_prepare(),
        XactEvent::XACT_EVENT_PREPARE => end_transaction(),
        _ => {}
    }
}

/// A statement at the top may have left by an error, into a savepoint.
unsafe extern "C-unwind" fn subtransaction_callback(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        statement_hooks::reset_depth();
    }
}

fn before_prepare() {
    conflict::raise_if_doomed();
    if write_set::take().is_some() {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot PREPARE a transaction that changed replicated tables",
            "pg_paxos",
        )
        .set_hint("Use COMMIT.".to_string())
        .report(PgLogLevel::ERROR);
    }
}

fn before_commit() {
    if barrier::is_exempt() {
        return;
    }
    conflict::raise_if_doomed();
    if UNREPLICATED.get() {
        pgrx::log!("a transaction changes replicated tables on this server only, because pg_paxos.enabled is off");
    }
    replicate_table::check_before_commit();
    let Some((group_id, writes)) = write_set::take() else {
        return;
    };
    // Until the engine serves, shared memory does not name the groups.
    if let Err(error) = engine_connection::await_engine(Instant::now() + settings::commit_timeout()) {
        engine_connection::raise("cannot commit", &error);
    }
    let Some(group) = Area::attached().group(group_id) else {
        raise_no_group();
    };
    // A transaction without an id writes no commit record, and its slot would leave no trace.
    // SAFETY: a transaction is in progress.
    unsafe { pg_sys::GetTopTransactionId() };
    let body = writes.encode();
    drop(writes);
    propose(group, group_id, body);
    take_turn();
}

/// Raises 55000: the group is not here.
pub fn raise_no_group() -> ! {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "this server is not a member of the table's group any more",
        "pg_paxos",
    )
    .report(PgLogLevel::ERROR);
    unreachable!("an error was reported");
}

/// Proposes the write set and waits until it is this backend's turn; raises an error for every other end.
fn propose(group: &'static Group, group_id: GroupId, body: bytes::Bytes) {
    let (backend, index) = own_backend();
    let area = Area::attached();
    let wait = settings::commit_timeout();
    let deadline = Instant::now() + wait;
    if let Err(error) = engine_connection::await_engine(deadline) {
        engine_connection::raise("cannot commit", &error);
    }
    if group.origin() == 0 {
        await_origin(group, deadline);
    }
    note_running();
    let hold = group.hold();
    if !hold.is_zero() {
        // Whoever goes first meanwhile may doom this transaction: that is the point, and the pause ends then.
        engine_connection::pause(hold);
        conflict::raise_if_doomed();
    }
    let id = OperationId { node: area.node(), start: area.start(), sequence: area.next_sequence() };
    let request = Request::Propose {
        group: group_id,
        id,
        body,
        origin: Some(Origin(index.0)),
        answer: Answer::OnRefusal,
        wait_ms: milliseconds(wait),
    };
    backend.note_operation(id);
    let running = backend.word();
    if running.state != State::Running || !backend.change(running, State::Proposed) {
        conflict::raise_if_doomed();
        panic!("a transaction that is {:?} cannot be proposed", running.state);
    }
    LAST.set(Some((group_id, id)));
    COMMIT.set(Some(Commit { group, id: Some(id), in_turn: None }));
    error_rewrite::let_errors_through();
    let end = engine_connection::with(|connection| {
        let number = connection.send(&request)?;
        await_decision(connection, backend, group, id, number, deadline)
    });
    let end = match end {
        Err(error) if error.certainty() == Certainty::Unknown && !matches!(error, Error::Refused(_)) => {
            ask_again(backend, group, group_id, id, deadline, error)
        }
        end => end,
    };
    match end {
        Ok(Decision::Turn) => {}
        Ok(Decision::Rejected(outcome)) => {
            withdraw_word(backend);
            conflict::raise_rejected(group, &outcome);
        }
        Ok(Decision::Withdrawn) => {
            withdraw_word(backend);
            pgrx::check_for_interrupts!();
            // The interrupt was taken back in the meantime; the transaction cannot go on all the same.
            raise_canceled();
        }
        Ok(Decision::Interrupted) => {
            // This report serves the cancel; the end of a session is served after it.
            // SAFETY: a plain flag of this process.
            unsafe { pg_sys::QueryCancelPending = 0 };
            raise_open(backend, id, "The wait was interrupted.");
        }
        Ok(Decision::Displaced) => raise_open(backend, id, "It held a lock that an earlier one needs."),
        Ok(Decision::LateTurn) => raise_open(backend, id, "Its turn did not come before the wait ended."),
        Err(error) => {
            if error.certainty() != Certainty::Definite {
                raise_open(backend, id, &format!("The wait ended with: {error}."));
            }
            withdraw_word(backend);
            if let Error::Refused(refusal) = &error {
                if refusal.reason == RefusalReason::Conflict {
                    conflict::raise_conflict(group, &refusal.detail);
                }
            }
            engine_connection::raise("cannot commit", &error);
        }
    }
}

/// Raises 08007 for a transaction that was proposed and that this backend cannot commit.
fn raise_open(backend: &Backend, id: OperationId, why: &str) -> ! {
    words_while_open(backend, id, None, why).raise();
}

/// The proposal is certain to have no effect: the transaction is an ordinary one again.
fn withdraw_word(backend: &Backend) {
    let word = backend.word();
    assert!(word.state == State::Proposed, "a transaction that is {:?} has no effect in the log", word.state);
    let withdrawn = backend.change(word, State::Running);
    assert!(withdrawn, "nobody grants what is certain to have no effect");
    COMMIT.set(None);
}

fn await_origin(group: &Group, deadline: Instant) {
    while group.origin() == 0 {
        if Instant::now() >= deadline {
            let error = Refusal::definite(RefusalReason::NoState, "this server's copy of the group is not ready")
                .with_hint("Look at pg_stat_paxos and at the server's log for the state of the group's applier.")
                .into();
            engine_connection::raise("cannot commit", &error);
        }
        engine_connection::pause(Duration::from_millis(20));
    }
}

fn raise_canceled() -> ! {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, "canceling statement due to user request", "pg_paxos")
        .report(PgLogLevel::ERROR);
    unreachable!("an error was reported");
}

/// It is this backend's turn: makes the coming local commit the slot's own.
fn take_turn() {
    let (backend, _) = own_backend();
    let slot = backend.granted();
    COMMIT.with_borrow_mut(|commit| {
        let commit = commit.as_mut().expect("the transaction was proposed");
        // SAFETY: in PRE_COMMIT on the main thread. Interrupts are held until the turn is passed; an error resets the
        // count by itself.
        unsafe { pg_sys::InterruptHoldoffCount += 1 };
        commit.in_turn = Some(begin_turn(commit.group, slot, slot, true));
    });
}

/// Sets up the group's replication origin so that the commit record carries the slot, and makes the commit
/// asynchronous: the log is durable already.
fn begin_turn(group: &Group, first: Slot, last: Slot, passes: bool) -> Turn {
    // SAFETY: in a transaction, on the main thread. The origin is free: whoever had the turn before released it before
    // passing on.
    unsafe {
        pg_sys::replorigin_session_setup(group.origin());
        let turn = Turn {
            first,
            last,
            transaction: pg_sys::GetTopTransactionIdIfAny(),
            synchronous_commit: pg_sys::synchronous_commit,
            passes,
        };
        pg_sys::replorigin_session_origin = group.origin();
        pg_sys::replorigin_session_origin_lsn = last.0;
        pg_sys::replorigin_session_origin_timestamp = pg_sys::GetCurrentTimestamp();
        if passes {
            pg_sys::synchronous_commit = pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32;
        }
        turn
    }
}

/// Releases the origin and puts settings back.
fn end_turn(turn: &Turn) {
    // SAFETY: the origin was set up by this process in `begin_turn`.
    unsafe {
        pg_sys::replorigin_session_origin = pg_sys::InvalidRepOriginId as u16;
        pg_sys::replorigin_session_origin_lsn = 0;
        pg_sys::replorigin_session_origin_timestamp = 0;
        pg_sys::replorigin_session_reset();
        pg_sys::synchronous_commit = turn.synchronous_commit;
    }
}

/// Makes the coming commit of an applier's transaction that of the slots from `first` to `last`, whose turn it is.
/// Interrupts are held until it is done.
pub fn commit_as_applier(group: &'static Group, first: Slot, last: Slot) {
    commit_at(group, first, last, true);
}

/// Makes the coming commit that of a copy of the group's tables as of `slot`: after a crash PostgreSQL knows it.
pub fn commit_as_copy(group: &'static Group, slot: Slot) {
    // SAFETY: a transaction is in progress; without an id it would write no commit record.
    unsafe { pg_sys::GetTopTransactionId() };
    commit_at(group, slot, slot, false);
}

/// The turn that the current transaction waits for is that of a snapshot mark.
pub fn note_mark(group: &'static Group) {
    COMMIT.set(Some(Commit { group, id: None, in_turn: None }));
}

/// The mark's turn is ended by whoever calls this: the group whose turn it is.
pub fn forget_mark() -> &'static Group {
    COMMIT.take().expect("a mark was proposed").group
}

fn commit_at(group: &'static Group, first: Slot, last: Slot, passes: bool) {
    // SAFETY: counted down in the callback at the end of the transaction, or reset by an error.
    unsafe { pg_sys::InterruptHoldoffCount += 1 };
    let in_turn = Some(begin_turn(group, first, last, passes));
    COMMIT.set(Some(Commit { group, id: None, in_turn }));
}

fn after_commit() {
    if let Some(commit) = COMMIT.take() {
        let turn = commit.in_turn.as_ref().expect("a proposed transaction commits in its turn only");
        end_turn(turn);
        if turn.passes {
            if let Some(group) = commit.group.identity() {
                barrier::note_commit(group, turn.last);
                made_elsewhere::note_committed(group, turn.last);
            }
            commit.group.note_transaction(turn.first, turn.last, turn.transaction);
            commit.group.pass_turn(turn.last);
        }
        // SAFETY: counted up when the turn began.
        unsafe { pg_sys::InterruptHoldoffCount -= 1 };
        if WROTE_LOCAL.get() {
            flush_local_writes();
        }
    }
    end_transaction();
}

/// What the log does not hold must be as durable as PostgreSQL promises; outside the turn.
fn flush_local_writes() {
    // SAFETY: the record's end was noted by the commit just done; this may PANIC but not ERROR.
    unsafe {
        if pg_sys::synchronous_commit > pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32 {
            pg_sys::XLogFlush(pg_sys::XactLastCommitEnd);
        }
    }
}

fn after_abort() {
    error_rewrite::tell_later(|| words_if_open("It was rolled back here.").or_else(conflict::words_if_doomed));
    if let Some(commit) = COMMIT.take() {
        if let Some(turn) = &commit.in_turn {
            end_turn(turn);
        }
        let (backend, index) = own_backend();
        hand_over(backend, index, commit.group);
    }
    end_transaction();
}

fn end_transaction() {
    WROTE_LOCAL.set(false);
    UNREPLICATED.set(false);
    capture::reset();
    replicate_table::reset();
    barrier::end_transaction();
    statement_hooks::reset_depth();
    if let Some(backend) = occupied_backend() {
        backend.end();
        conflict::forgive();
    }
    error_rewrite::end_letting_through();
}

/// Gives whatever the log holds of this backend's transaction to the applier. If the outcome is still open, a later
/// grant finds the word changed and the engine gives the slot to the applier by itself.
fn hand_over(backend: &Backend, index: BackendIndex, group: &Group) {
    loop {
        let word = backend.word();
        match word.state {
            State::Proposed | State::Granted => {
                if backend.change(word, State::HandedOver) {
                    if word.state == State::Granted {
                        group.hand_over(backend.granted(), index);
                    }
                    return;
                }
            }
            _ => return,
        }
    }
}

/// The last chance of a process that ends without an abort callback.
unsafe extern "C-unwind" fn exit_callback(_: i32, _: pg_sys::Datum) {
    if !OCCUPIED.get() {
        return;
    }
    OCCUPIED.set(false);
    let index = Area::own_index();
    let backend = Area::attached().backend(index);
    if let Some(commit) = COMMIT.take() {
        hand_over(backend, index, commit.group);
    }
    backend.vacate();
}

/// What is said instead of an error between the proposal and the local commit.
pub fn words_for(report: &Report) -> Option<Rewrite> {
    if report.is(PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN) {
        return None;
    }
    words_if_open(&format!("What failed: {}.", report.message))
}

/// What is said if the current transaction was proposed and is not committed here.
fn words_if_open(why: &str) -> Option<Rewrite> {
    let backend = occupied_backend()?;
    COMMIT.with(|place| {
        // While the cell is being changed there is nothing to say yet.
        let place = place.try_borrow().ok()?;
        let commit = place.as_ref()?;
        Some(words_while_open(backend, commit.id?, commit.in_turn.as_ref(), why))
    })
}

/// The words for a transaction that was proposed. Definite ends withdraw the word before they raise their error.
fn words_while_open(backend: &Backend, id: OperationId, turn: Option<&Turn>, why: &str) -> Rewrite {
    let slot = match turn {
        Some(turn) => Some(turn.last),
        None => (backend.word().state == State::Granted).then(|| backend.granted()),
    };
    let code = PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN;
    match slot {
        Some(slot) => Rewrite {
            code,
            message: "the transaction is committed, but this session could not finish it".to_string(),
            detail: format!(
                "Transaction {id} stands in the log at slot {slot}; it will be applied on every member. {why}"
            ),
            hint: "Do not repeat the transaction.".to_string(),
        },
        None => Rewrite {
            code,
            message: "the outcome of the transaction is unknown".to_string(),
            detail: format!("Transaction {id} was proposed; its outcome did not arrive before the wait ended. {why}"),
            hint: format!("SELECT paxos_transaction_status('{id}') tells what became of it."),
        },
    }
}
