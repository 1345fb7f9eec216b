//! A new table is on every member in contact before the client hears that it is replicated.
//!
//! PostgreSQL looks up a statement's names before any hook could make the statement wait, so a member that has not
//! applied the entry yet answers 42P01 (no such relation) instead of waiting for it. The session that replicates the
//! table therefore waits for them: after its commit, because the slot is known only then, and once its locks are
//! released, so that it holds up nobody but its own client.
//!
//! There PostgreSQL allows no error any more: it would end the whole server. So the connections are made before, when
//! the members are asked whether a table stands in the way; and the wait itself calls libpq and `poll` only, which raise
//! nothing. A cancel or the end of the session ends it, and so does a bound. Whoever has not made the table by then is
//! named in a warning.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use consensus::{GroupId, NodeId, Slot};
use pgrx::prelude::*;

use crate::barrier;
use crate::groups::{identity_of, refusal, uuid_of};
use crate::remote::Remote;

/// How long the others are waited for at most. A member in contact makes a table of the largest entry, 64 MiB of rows,
/// within a second or two; one that takes longer is behind by more than this entry, or has stopped applying.
const MADE_WAIT: Duration = Duration::from_secs(3);

/// How long `poll` sleeps at most: a cancel that comes just before it is seen after this.
const POLL_SLICE: Duration = Duration::from_millis(50);

const DOING: &str = "wait for the new table";

/// A member that was asked whether a table stands in the way there, and the connection to it.
struct Member {
    node: NodeId,
    label: String,
    remote: Remote,
}

/// The members to wait for, and what for.
struct Wait {
    group: GroupId,
    slot: Slot,
    members: Vec<Member>,
}

thread_local! {
    /// Those that this transaction has asked.
    static ASKED: RefCell<Vec<Member>> = const { RefCell::new(Vec::new()) };
    /// Set by the commit, taken when its locks are released.
    static DUE: Cell<Option<Wait>> = const { Cell::new(None) };
}

/// Registers the callback. Called once, from `_PG_init`; children of the postmaster inherit it.
pub fn register() {
    // SAFETY: _PG_init runs alone in the postmaster; the callback is static.
    unsafe { pg_sys::RegisterResourceReleaseCallback(Some(release_callback), std::ptr::null_mut()) };
}

/// The connection to a member that this transaction has asked before.
pub fn take(node: NodeId) -> Option<Remote> {
    ASKED.with_borrow_mut(|asked| {
        let place = asked.iter().position(|member| member.node == node)?;
        Some(asked.swap_remove(place).remote)
    })
}

/// Keeps the connection to a member: it is waited for if the transaction commits.
pub fn keep(node: NodeId, label: &str, remote: Remote) {
    ASKED.with_borrow_mut(|asked| asked.push(Member { node, label: label.to_owned(), remote }));
}

/// The transaction is committed at that slot. Never fails.
pub fn note_committed(group: GroupId, slot: Slot) {
    let members = ASKED.take();
    if !members.is_empty() {
        DUE.set(Some(Wait { group, slot, members }));
    }
}

/// The transaction is over. Never fails.
pub fn reset() {
    ASKED.with_borrow_mut(Vec::clear);
}

unsafe extern "C-unwind" fn release_callback(
    phase: pg_sys::ResourceReleasePhase::Type,
    is_commit: bool,
    is_top: bool,
    _: *mut std::ffi::c_void,
) {
    if phase != pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS || !is_commit || !is_top {
        return;
    }
    if let Some(wait) = DUE.take() {
        // No panic may leave: the transaction is committed. The client then is not told what it would have been.
        drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| finish(wait))));
    }
}

fn finish(wait: Wait) {
    let late = await_members(wait);
    if !late.is_empty() {
        refusal(PgSqlErrorCode::ERRCODE_WARNING, "the table is replicated, but not every member has made it yet")
            .detail(late.join("\n"))
            .hint("Until it has, a member answers 42P01 (no such relation). pg_stat_paxos there shows how far it is.")
            .warn();
    }
}

/// Asks all at once and waits for their answers; what is to be said of those that did not give one.
fn await_members(wait: Wait) -> Vec<String> {
    let deadline = Instant::now() + MADE_WAIT;
    let (group, slot) = (uuid_of(wait.group.0).to_string(), wait.slot.0.to_string());
    let mut late = Vec::new();
    let mut open = Vec::new();
    for mut member in wait.members {
        let command = "SELECT pgp_metadata.await_applied($1::uuid, $2::bigint)";
        match member.remote.start(DOING, command, &[&group, &slot]) {
            Ok(()) => open.push(member),
            Err(error) => late.push(format!("Member \"{}\": {error}.", member.label)),
        }
    }
    loop {
        open.retain_mut(|member| match member.remote.arrived(DOING) {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(error)) => {
                late.push(format!("Member \"{}\": {error}.", member.label));
                false
            }
        });
        if open.is_empty() {
            return late;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || is_interrupted() {
            let reason = match left.is_zero() {
                true => format!("it has not made it within {} s", MADE_WAIT.as_secs()),
                false => "the wait for it was cancelled".to_owned(),
            };
            late.extend(open.iter().map(|member| format!("Member \"{}\": {reason}.", member.label)));
            return late;
        }
        poll(&open, left.min(POLL_SLICE));
    }
}

/// Whether the client wants no more of the wait. A cancel is served by ending it: the transaction is committed, and an
/// error would deny that.
fn is_interrupted() -> bool {
    // SAFETY: plain flags of this process.
    unsafe {
        let is_cancelled = pg_sys::QueryCancelPending != 0;
        pg_sys::QueryCancelPending = 0;
        is_cancelled || pg_sys::ProcDiePending != 0
    }
}

/// Sleeps until a member has answered, a signal came, or the time is over.
fn poll(members: &[Member], time: Duration) {
    let mut sockets: Vec<libc::pollfd> = members
        .iter()
        .map(|member| libc::pollfd { fd: member.remote.socket(), events: libc::POLLIN, revents: 0 })
        .collect();
    let time_ms = i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: an array of this frame. Whatever came, the caller looks at every member again.
    unsafe { libc::poll(sockets.as_mut_ptr(), sockets.len() as libc::nfds_t, time_ms) };
}

/// Waits until this server has applied a slot: what the session that replicated a table asks the others.
#[pg_extern(sql = false)]
fn paxos_await_applied(group_id: pgrx::Uuid, slot: i64) {
    let Ok(slot) = u64::try_from(slot) else {
        refusal(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, format!("slot {slot} is out of range")).raise()
    };
    barrier::wait_applied(GroupId(identity_of(group_id)), Slot(slot));
}
