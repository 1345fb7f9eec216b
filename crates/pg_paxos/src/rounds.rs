//! The log by hand: `paxos`, `paxos_append` and their kin.
//!
//! A group is used either for tables or for values given by hand, never both; whichever came first in its log decides.
//! Rounds are a numbering of their own over the log's slots: the first value for a round wins, in log order, so a far
//! round leaves no gap to fill. Values are opaque: nothing ever executes them.
//!
//! A proposal is an entry of its own, outside the transaction that calls: what it returns was decided by the log and
//! stays so after ROLLBACK.

use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Answer, Error, GroupDescription, Outcome, RefusalReason, Request, Response, Verdict};
use consensus::{GroupId, OperationId, Slot};
use pgrx::prelude::*;
use tables::{IndexId, Key, KeyHash, Operation, Strength, TableId, WriteSet};

use crate::groups::{self, refusal, uuid_of};
use crate::shared::{self, Area};
use crate::{barrier, engine_connection, latest, settings};

/// The highest round that a person may name: half of the range, so that appended rounds never run out after it.
const ROUND_MAX: i64 = 1 << 62;

/// How often a proposal is made again when others change at the same moment what kind of group it is.
const ATTEMPTS_MAX: usize = 5;

/// How often to look whether a round was decided.
const ROUND_POLL: Duration = Duration::from_millis(20);

#[pg_extern]
fn paxos(
    current_proposer_id: Option<&str>,
    current_group_id: Option<&str>,
    current_round_num: Option<i64>,
    proposed_value: Option<&str>,
) -> TableIterator<'static, (name!(accepted_value, Option<String>), name!(value_changed, bool))> {
    let group = groups::named(required("the group", current_group_id));
    let round = check_round(required("the round", current_round_num));
    let proposer = required("the proposer", current_proposer_id);
    refuse_tables(&group);
    if let Some(value) = proposed_value {
        propose(&group, || Operation::DecideRound {
            round,
            proposer: proposer.to_owned(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        });
    } else {
        barrier::wait(group.group);
    }
    let accepted = latest::text(
        "SELECT value FROM pgp_metadata.raw_round WHERE group_id = $1 AND round_num = $2",
        group.group,
        round,
    );
    let changed = accepted.as_deref() != proposed_value;
    TableIterator::once((accepted, changed))
}

#[pg_extern]
fn paxos_append(current_proposer_id: &str, current_group_id: &str, proposed_value: &str) -> i64 {
    append(current_proposer_id, current_group_id, proposed_value)
}

#[pg_extern]
fn paxos_apply_and_append(current_proposer_id: &str, current_group_id: &str, proposed_value: &str) -> i64 {
    // Appending always waits for everything before it: the round number is known only then.
    append(current_proposer_id, current_group_id, proposed_value)
}

fn append(proposer: &str, group: &str, value: &str) -> i64 {
    let group = groups::named(group);
    let slot = propose(&group, || Operation::AppendRound {
        proposer: proposer.to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    });
    latest::number(
        "SELECT round_num FROM pgp_metadata.raw_round WHERE group_id = $1 AND slot = $2",
        group.group,
        slot_for_sql(slot),
    )
    .expect("an applied append has a round")
}

#[pg_extern]
fn paxos_max_group_round(current_group_id: &str, accepted_only: bool) -> i64 {
    // What was proposed and not chosen is no round of anybody's; pg_paxos' second argument has nothing to add here.
    let _ = accepted_only;
    let group = groups::named(current_group_id);
    let barrier = barrier::wait(group.group);
    if holds_tables(group.group) {
        return slot_for_sql(barrier);
    }
    highest_round(group.group)
}

#[pg_extern]
fn paxos_apply_log(current_proposer_id: &str, current_group_id: &str, max_round_num: i64) -> i64 {
    let _ = current_proposer_id;
    let group = groups::named(current_group_id);
    let deadline = Instant::now() + settings::barrier_timeout();
    loop {
        let applied = if holds_tables(group.group) {
            slot_for_sql(shared::applied(group.group))
        } else {
            highest_round(group.group)
        };
        if applied >= max_round_num {
            return max_round_num;
        }
        if Instant::now() >= deadline {
            refusal(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("round {max_round_num} of group \"{current_group_id}\" was not applied in time"),
            )
            .detail(format!("This server has applied rounds up to {applied}."))
            .hint("The round may not have been proposed yet: compare paxos_max_group_round.")
            .raise()
        }
        engine_connection::pause(ROUND_POLL);
    }
}

fn required<T>(what: &str, value: Option<T>) -> T {
    value.unwrap_or_else(|| {
        refusal(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{what} must not be null"))
            .hint("Only the value may be null: then the round is read and nothing is proposed.")
            .raise()
    })
}

fn check_round(round: i64) -> i64 {
    if !(1..=ROUND_MAX).contains(&round) {
        refusal(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, format!("round {round} is out of range"))
            .hint(format!("Rounds are numbered from 1 to {ROUND_MAX}."))
            .raise()
    }
    round
}

/// Whether the group replicates tables, as of what this server has applied.
pub fn holds_tables(group: GroupId) -> bool {
    latest::number("SELECT count(*) FROM pgp_metadata.local_table WHERE group_id = $1 AND $2 = 0", group, 0)
        .is_some_and(|count| count > 0)
}

/// Whether the group has values given by hand, as of what this server has applied.
pub fn holds_values(group: GroupId) -> bool {
    highest_round(group) > 0
}

fn highest_round(group: GroupId) -> i64 {
    latest::number("SELECT max(round_num) FROM pgp_metadata.raw_round WHERE group_id = $1 AND $2 = 0", group, 0)
        .unwrap_or(0)
}

fn refuse_tables(group: &GroupDescription) {
    if holds_tables(group.group) {
        refusal(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("group \"{}\" replicates tables and takes no values by hand", group.name),
        )
        .hint("Use a group of its own for values: make one with paxos_create_group.")
        .raise()
    }
}

/// The key under which taking in tables and proposing values meet.
pub fn use_key(strength: Strength, position: Slot) -> Key {
    Key { table: TableId::CATALOG, index: IndexId::ROW, hash: KeyHash(0), strength, position }
}

/// Proposes one operation and waits until it is applied here; its slot.
fn propose(group: &GroupDescription, operation: impl Fn() -> Operation) -> Slot {
    for _ in 0..ATTEMPTS_MAX {
        barrier::wait(group.group);
        // Before the check: whatever changed the group's use after this position, the check may not have seen.
        let position = shared::applied(group.group);
        refuse_tables(group);
        let write_set = WriteSet::new([use_key(Strength::Reference, position)], vec![operation()]);
        let outcome = propose_now(group, write_set.encode());
        if matches!(outcome.verdict, Verdict::Accepted) {
            barrier::wait_applied(group.group, outcome.slot);
            return outcome.slot;
        }
    }
    refusal(
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("could not propose to group \"{}\": its use is being changed at the same time", group.name),
    )
    .hint("Try again.")
    .raise()
}

/// Proposes an entry of its own, outside this transaction, and waits for its outcome. The applier applies it.
pub fn propose_now(group: &GroupDescription, body: Bytes) -> Outcome {
    let area = Area::attached();
    let wait = settings::commit_timeout();
    engine_connection::await_engine(Instant::now() + wait).unwrap_or_else(|error| failed(group, &error));
    let id = OperationId { node: area.node(), start: area.start(), sequence: area.next_sequence() };
    let request = Request::Propose {
        group: group.group,
        id,
        body,
        origin: None,
        answer: Answer::Always,
        wait_ms: groups::milliseconds(wait),
    };
    match engine_connection::call(&request, wait) {
        Ok(Response::Outcome(outcome)) => outcome,
        Ok(other) => groups::unexpected("propose", &other),
        // Foreseen rather than met at a slot, which comes to the same.
        Err(Error::Refused(refused)) if refused.reason == RefusalReason::Conflict => {
            Outcome { id, slot: Slot(0), verdict: Verdict::Rejected(Bytes::from(refused.detail)) }
        }
        Err(error) => failed(group, &error),
    }
}

fn failed(group: &GroupDescription, error: &Error) -> ! {
    engine_connection::raise(&format!("could not propose to group \"{}\"", group.name), error)
}

/// Applies a decided value, in the applier's transaction.
pub fn apply(group: GroupId, slot: Slot, operation: &Operation) {
    let (round, proposer, value) = match operation {
        Operation::DecideRound { round, proposer, value } => (Some(*round), proposer, value),
        Operation::AppendRound { proposer, value } => (None, proposer, value),
        other => panic!("{other:?} is no operation of a raw group"),
    };
    // PostgreSQL's text holds no NUL; whoever proposed past SQL must not stop the appliers.
    let proposer = proposer.replace('\0', "\u{fffd}");
    let value = String::from_utf8_lossy(value).replace('\0', "\u{fffd}");
    // One statement for both: an append takes the round after the highest, which nothing else can take meanwhile,
    // because entries are applied one after the other.
    Spi::run_with_args(
        "INSERT INTO pgp_metadata.raw_round (group_id, round_num, slot, proposer_id, value)
         SELECT $1, coalesce($2, (SELECT coalesce(max(round_num), 0) + 1 FROM pgp_metadata.raw_round WHERE group_id = $1)),
                $3, $4, $5
         ON CONFLICT DO NOTHING",
        &[
            uuid_of(group.0).into(),
            round.into(),
            slot_for_sql(slot).into(),
            proposer.clone().into(),
            value.into(),
        ],
    )
    .expect("the extension's own table can be changed");
}

/// A slot as SQL shows it.
pub fn slot_for_sql(slot: Slot) -> i64 {
    i64::try_from(slot.0).expect("slots are far fewer")
}
