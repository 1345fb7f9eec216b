//! What became of a transaction whose client was told 08007 (design of tables, section 10).

use client::{Request, Response, Settled};
use consensus::{GroupId, OperationId};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::decision::milliseconds;
use crate::shared::{Area, Group};
use crate::{commit, engine_connection, settings};

/// What became of a transaction whose outcome was unknown: `committed`, `aborted` or `expired`. If the log has not
/// decided, it is closed first, so the answer is final.
#[pg_extern(sql = false)]
fn paxos_transaction_status(transaction_id: &str) -> String {
    let id: OperationId = transaction_id.parse().unwrap_or_else(|error| {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("invalid transaction id: {error}"),
            "pg_paxos",
        )
        .set_hint("The id stands in the message of the error whose SQLSTATE is 08007.")
        .report(PgLogLevel::ERROR);
        unreachable!("an error was reported")
    });
    let wait = settings::commit_timeout();
    let groups: Vec<GroupId> = Area::attached().groups().iter().filter_map(Group::identity).collect();
    let mut last = None;
    for group in &groups {
        // The id does not name its group. Only a group that has seen ids of that node can hold it, but asking closes an
        // id that the group lacks; that harms nobody, because an id is used in one group only.
        let request = Request::OutcomeOf { group: *group, id, wait_ms: milliseconds(wait) };
        match engine_connection::call(&request, wait) {
            Ok(Response::Settled(Settled::Decided(outcome))) => {
                return if outcome.verdict.is_accepted() { "committed" } else { "aborted" }.to_string();
            }
            Ok(Response::Settled(Settled::Closed { .. })) => last = Some("aborted"),
            Ok(Response::Settled(Settled::Expired)) => last = last.or(Some("expired")),
            Ok(other) => pgrx::error!("unexpected answer of the engine: {other:?}"),
            Err(error) => engine_connection::raise("cannot tell what became of the transaction", &error),
        }
    }
    let Some(status) = last else {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "this server is not a member of any group",
            "pg_paxos",
        )
        .report(PgLogLevel::ERROR);
        unreachable!("an error was reported");
    };
    status.to_string()
}

/// The id of the last transaction that this session proposed; null if there was none.
#[pg_extern(sql = false)]
fn paxos_last_transaction_id() -> Option<String> {
    commit::last_transaction().map(|(_, id)| id.to_string())
}
