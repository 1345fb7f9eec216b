//! What became of a transaction whose client was told 08007 (design of tables, section 10).
//!
//! Everybody may ask. Settling what the log has not decided closes the transaction's id, so that it can never commit:
//! that is for those whose transaction it is, or may as well be, and for `pg_paxos_admin`. Others learn that it is
//! still in progress, and change nothing.

use client::{GroupStatus, Request, Response, Settled, Status};
use consensus::OperationId;
use pgrx::prelude::*;

use crate::decision::milliseconds;
use crate::groups::refusal;
use crate::shared::{Area, State};
use crate::{commit, engine_connection, groups, settings};

/// What became of a transaction whose outcome was unknown: `committed`, `aborted`, `expired` or `in progress`. If the
/// log has not decided and the caller may settle it, it is closed first, so that the answer is final.
#[pg_extern(sql = false)]
fn paxos_transaction_status(transaction_id: &str) -> &'static str {
    let id: OperationId = transaction_id.parse().unwrap_or_else(|error| {
        refusal(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, format!("invalid transaction id: {error}"))
            .hint("The id stands in the message of the error whose SQLSTATE is 08007.")
            .raise()
    });
    let status = match engine_connection::call(&Request::Status, settings::barrier_timeout()) {
        Ok(Response::Status(status)) => *status,
        Ok(other) => groups::unexpected("ask the engine for its status", &other),
        Err(error) => engine_connection::raise("cannot tell what became of the transaction", &error),
    };
    let is_to_come = id.node == status.engine.node
        && (id.start > status.engine.start
            || (id.start == status.engine.start && id.sequence > Area::attached().last_sequence()));
    if is_to_come {
        // Closed, it would make this server's own transactions expire before they began.
        refusal(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, "no transaction has had that id yet")
            .hint("The id stands in the message of the error whose SQLSTATE is 08007.")
            .raise()
    }
    // The id does not name its group. Only one that its server is a member of can hold it, and an id is used in one
    // group only.
    let may_hold: Vec<&GroupStatus> =
        status.groups.iter().filter(|group| group.members.iter().any(|member| member.node == id.node)).collect();
    if may_hold.is_empty() {
        refusal(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "this server is in no group with the one that the transaction began on",
        )
        .hint("Ask on a member of the group whose tables the transaction wrote.")
        .raise()
    }
    let known = may_hold.iter().filter_map(|group| ask(&Request::LookUp { group: group.group, id }));
    if let Some(answer) = foremost(known) {
        return answer;
    }
    if !may_settle(id, &status) {
        return "in progress";
    }
    let wait_ms = milliseconds(settings::commit_timeout());
    let settled = may_hold.iter().filter_map(|group| ask(&Request::OutcomeOf { group: group.group, id, wait_ms }));
    foremost(settled).expect("the engine settles it or refuses")
}

/// Of what several groups say, what counts: the group that holds the transaction decides.
fn foremost(answers: impl Iterator<Item = Settled>) -> Option<&'static str> {
    let answers = answers.map(|settled| match settled {
        Settled::Decided(outcome) if outcome.verdict.is_accepted() => (0, "committed"),
        Settled::Decided(_) | Settled::Closed { .. } => (1, "aborted"),
        Settled::Expired => (2, "expired"),
    });
    answers.min().map(|(_, answer)| answer)
}

fn ask(request: &Request) -> Option<Settled> {
    match engine_connection::call(request, settings::commit_timeout()) {
        Ok(Response::Settled(settled)) => Some(settled),
        Ok(Response::Undecided) => None,
        Ok(other) => groups::unexpected("tell what became of the transaction", &other),
        Err(error) => engine_connection::raise("cannot tell what became of the transaction", &error),
    }
}

/// Whether the caller may close an undecided transaction: as an administrator, as the role whose transaction it is, or
/// because no session waits for it any more, which only its own server knows.
fn may_settle(id: OperationId, status: &Status) -> bool {
    let is_own = commit::last_transaction().is_some_and(|(_, last)| last == id);
    let is_unattended =
        || id.node == status.engine.node && waiting_role(id, status).is_none_or(|role| role == own_role());
    is_own || is_administrator() || is_unattended()
}

fn is_administrator() -> bool {
    // SAFETY: reads the session's own state and catalogs, in a transaction.
    unsafe {
        let administrators = pg_sys::get_role_oid(c"pg_paxos_admin".as_ptr(), true);
        pg_sys::superuser()
            || (administrators != pg_sys::InvalidOid && pg_sys::has_privs_of_role(pg_sys::GetUserId(), administrators))
    }
}

/// The role whose session on this server waits for the transaction's outcome.
fn waiting_role(id: OperationId, status: &Status) -> Option<pg_sys::Oid> {
    if id.start != status.engine.start {
        return None;
    }
    let backends = Area::attached().backends().iter();
    let (place, _) = backends.enumerate().find(|(_, backend)| {
        backend.process() != 0
            && backend.proposed(id)
            && matches!(backend.word().state, State::Proposed | State::Granted)
    })?;
    // SAFETY: the array of processes stays in shared memory; the field is one word, read whole.
    Some(unsafe { std::ptr::read_volatile(&raw const (*(*pg_sys::ProcGlobal).allProcs.add(place)).roleId) })
}

fn own_role() -> pg_sys::Oid {
    // SAFETY: a backend has a process entry.
    unsafe { (*pg_sys::MyProc).roleId }
}

/// The id of the last transaction that this session proposed; null if there was none.
#[pg_extern(sql = false)]
fn paxos_last_transaction_id() -> Option<String> {
    commit::last_transaction().map(|(_, id)| id.to_string())
}
