//! The read barrier: what a transaction waits for before it first reads a replicated table (design of tables,
//! section 7).
//!
//! A barrier is a slot such that everything completed anywhere before it was asked for is at or below it. Once this
//! server has applied it, a snapshot taken afterwards shows all of that.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use client::{shown, Error, Refusal, RefusalReason, Request, Response};
use consensus::{GroupId, Slot};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{pg_sys, PgLogLevel, PgSqlErrorCode};

use crate::engine_connection;
use crate::settings::{self, ConsistencyModel};
use crate::shared::Area;

thread_local! {
    /// The groups whose barrier this transaction has passed.
    static PASSED: RefCell<Vec<GroupId>> = const { RefCell::new(Vec::new()) };
    /// The slot of this session's last commit in each group.
    static SESSION: RefCell<Vec<(GroupId, Slot)>> = const { RefCell::new(Vec::new()) };
    /// Set in the extension's own workers, whose transactions wait for nothing.
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

/// Transactions of this process wait for no barrier: it is one of the extension's own workers.
pub fn exempt_process() {
    EXEMPT.set(true);
}

/// Whether transactions of this process wait for no barrier.
pub fn is_exempt() -> bool {
    EXEMPT.get()
}

/// Notes that this session committed at a slot.
pub fn note_commit(group: GroupId, slot: Slot) {
    SESSION.with_borrow_mut(|positions| match positions.iter_mut().find(|(known, _)| *known == group) {
        Some((_, position)) => *position = (*position).max(slot),
        None => positions.push((group, slot)),
    });
}

/// The slot of this session's last commit in a group.
pub fn session_position(group: GroupId) -> Slot {
    SESSION.with_borrow(|positions| {
        positions.iter().find(|(known, _)| *known == group).map_or(Slot::ZERO, |(_, slot)| *slot)
    })
}

/// Forgets what the transaction has waited for.
pub fn end_transaction() {
    PASSED.with_borrow_mut(Vec::clear);
}

/// Whether this transaction has passed the group's barrier.
pub fn has_passed(group: GroupId) -> bool {
    PASSED.with_borrow(|passed| passed.contains(&group))
}

/// Notes that this transaction has passed the group's barrier.
pub fn note_passed(group: GroupId) {
    PASSED.with_borrow_mut(|passed| {
        if !passed.contains(&group) {
            passed.push(group);
        }
    });
}

/// Asks the group for a barrier and waits until this server has applied it; the barrier. Raises an error if there is
/// no majority or it takes too long.
pub fn wait(group: GroupId) -> Slot {
    let deadline = Instant::now() + settings::barrier_timeout();
    let slot = ask(group, deadline);
    wait_applied_until(group, slot, deadline);
    slot
}

/// What the session's consistency model asks a transaction to wait for: a slot, which may be applied already.
pub fn required(group: GroupId, deadline: Instant) -> Slot {
    match settings::consistency_model() {
        ConsistencyModel::Strong => ask(group, deadline),
        ConsistencyModel::Session => session_position(group),
        ConsistencyModel::Optimistic => Slot::ZERO,
    }
}

/// Asks the group for a barrier.
pub fn ask(group: GroupId, deadline: Instant) -> Slot {
    loop {
        let wait = deadline.saturating_duration_since(Instant::now());
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        match engine_connection::call(&Request::Barrier { group, wait_ms }, wait) {
            Ok(Response::Barrier { slot }) => return slot,
            Ok(other) => {
                let error = Error::Malformed { what: format!("unexpected answer to a barrier: {other:?}") };
                raise_unreadable(&error)
            }
            // The engine is being restarted: asking again has no effect that could be doubled.
            Err(Error::Lost { .. } | Error::Connect { .. }) if !wait.is_zero() => {
                engine_connection::pause(Duration::from_millis(20));
            }
            Err(error) => raise_unreadable(&error),
        }
    }
}

/// Raises a failure to learn the latest state as 57P03, with who answers; where waiting is no use, as what it is.
pub fn raise_unreadable(error: &Error) -> ! {
    if matches!(error, Error::Refused(refusal) if refusal.reason == RefusalReason::NotAMember) {
        engine_connection::raise("cannot read the latest state of the group", error);
    }
    // A read has no effect that could be unknown.
    let mut report = ErrorReport::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        shown(&format!("cannot read the latest state of the group: {error}")).into_owned(),
        "pg_paxos",
    );
    if let Error::Refused(refusal) = error {
        let contact = refusal.contact();
        if !contact.is_empty() {
            report = report.set_detail(shown(&contact));
        }
    }
    report
        .set_hint("SET pg_paxos.consistency_model = 'optimistic' reads this server's own copy without waiting for a majority.".to_string())
        .report(PgLogLevel::ERROR);
    unreachable!("an error was reported");
}

/// Waits until this server has applied a slot of a group. Raises an error if that takes longer than
/// `pg_paxos.barrier_timeout`.
pub fn wait_applied(group: GroupId, slot: Slot) {
    wait_applied_until(group, slot, Instant::now() + settings::barrier_timeout());
}

/// Waits until this server has applied a slot of a group. Raises an error if that takes longer than `deadline`.
pub fn wait_applied_until(group: GroupId, slot: Slot, deadline: Instant) {
    let Some(shared) = Area::attached().group(group) else {
        let error: Error =
            Refusal::definite(RefusalReason::UnknownGroup, "this server is not a member of the group").into();
        engine_connection::raise("cannot wait for the group", &error);
    };
    if shared.applied() >= slot {
        return;
    }
    let (backend, _) = crate::commit::own_backend();
    let _registration = Registration::new(shared, backend, slot);
    while shared.applied() < slot {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            raise_behind(shared.applied(), slot);
        }
        engine_connection::pause(remaining.min(Duration::from_secs(1)));
    }
}

fn raise_behind(applied: Slot, slot: Slot) -> ! {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        "this server has not applied the latest state of the group in time",
        "pg_paxos",
    )
    .set_detail(format!("It has applied the log up to slot {applied}; slot {slot} is needed."))
    .set_hint(
        "pg_stat_paxos shows how far each member is; pg_paxos.barrier_timeout is how long a read waits.".to_string(),
    )
    .report(PgLogLevel::ERROR);
    unreachable!("an error was reported");
}

/// The entry of a waiting process in shared memory, taken back when the wait ends, by an error too.
struct Registration {
    group: &'static crate::shared::Group,
    backend: &'static crate::shared::Backend,
}

impl Registration {
    fn new(group: &'static crate::shared::Group, backend: &'static crate::shared::Backend, slot: Slot) -> Registration {
        group.add_waiter();
        backend.wait_for(Area::attached().place_of(group), slot);
        Registration { group, backend }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.backend.wait_for(0, Slot::ZERO);
        self.group.remove_waiter();
    }
}

/// Whether a snapshot shows everything up to a slot that is applied by now.
///
/// # Safety
/// `snapshot` is an MVCC snapshot of this process.
pub unsafe fn covers(group: GroupId, snapshot: pg_sys::Snapshot, slot: Slot) -> bool {
    let Some(shared) = Area::attached().group(group) else {
        return true;
    };
    match shared.transaction_at(slot) {
        // So long ago that it precedes whatever this statement could have begun with.
        None => true,
        // SAFETY: the caller's snapshot.
        Some(transaction) => unsafe { !pg_sys::XidInMVCCSnapshot(transaction, snapshot) },
    }
}
