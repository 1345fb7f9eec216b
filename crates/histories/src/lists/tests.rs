//! One history by hand for each anomaly, and the clean ones beside them.

use crate::{check_lists, History, Isolation, Kind, Level, Order};

/// A transaction per line: begin, end, outcome, steps; each its own client unless it says otherwise.
fn history(lines: &[(u64, u64, &str, &str)]) -> History {
    let mut text = String::new();
    for (process, (begin, end, outcome, steps)) in lines.iter().enumerate() {
        text.push_str(&format!("{begin} p{process} n1 invoke {steps}\n{end} p{process} n1 {outcome} {steps}\n"));
    }
    History::parse(&text).unwrap()
}

fn kinds(history: &History, isolation: Isolation, order: Order) -> Vec<Kind> {
    let verdict = check_lists(history, Level { isolation, order }).unwrap();
    verdict.anomalies().iter().map(|anomaly| anomaly.kind).collect()
}

/// Asserts what each level says of it, all transactions being concurrent.
fn expect(history: &History, read_committed: &[Kind], snapshot: &[Kind], serializable: &[Kind]) {
    assert_eq!(kinds(history, Isolation::ReadCommitted, Order::RealTime), read_committed, "read committed");
    assert_eq!(kinds(history, Isolation::Snapshot, Order::RealTime), snapshot, "snapshot");
    assert_eq!(kinds(history, Isolation::Serializable, Order::RealTime), serializable, "serializable");
}

#[test]
fn a_clean_history_is_valid_everywhere() {
    let history = history(&[
        (0, 10, "ok", "a 1 1 a 2 1"),
        (5, 15, "ok", "l 1 - l 2 -"),
        (6, 16, "ok", "l 1 1 a 1 2 l 1 1,2 l 2 1"),
        (20, 30, "ok", "l 1 1,2 l 2 1"),
    ]);
    expect(&history, &[], &[], &[]);
}

#[test]
fn g0_write_cycle() {
    let history =
        history(&[(0, 9, "ok", "a 1 1 a 2 1"), (0, 9, "ok", "a 1 2 a 2 2"), (20, 30, "ok", "l 1 1,2 l 2 2,1")]);
    let found = [Kind::WriteCycle];
    expect(&history, &found, &found, &found);
}

#[test]
fn g1a_aborted_read() {
    let history = history(&[(0, 9, "fail", "a 1 1"), (0, 9, "ok", "l 1 1")]);
    let found = [Kind::AbortedRead];
    expect(&history, &found, &found, &found);
}

#[test]
fn g1b_intermediate_read() {
    let history = history(&[(0, 9, "ok", "a 1 1 a 1 2"), (0, 9, "ok", "l 1 1"), (20, 30, "ok", "l 1 1,2")]);
    assert!(kinds(&history, Isolation::ReadCommitted, Order::RealTime).contains(&Kind::IntermediateRead));
}

#[test]
fn g1c_circular_information_flow() {
    let history = history(&[(0, 9, "ok", "a 1 1 l 2 1"), (0, 9, "ok", "a 2 1 l 1 1")]);
    let found = [Kind::CircularInformationFlow];
    expect(&history, &found, &found, &found);
}

#[test]
fn reading_the_future_is_a_circle_with_real_time() {
    let history = history(&[(0, 1, "ok", "l 1 1"), (2, 3, "ok", "a 1 1")]);
    let found = [Kind::CircularInformationFlow];
    expect(&history, &found, &found, &found);
}

#[test]
fn lost_update() {
    let history = history(&[(0, 9, "ok", "l 1 - a 1 1"), (0, 9, "ok", "l 1 - a 1 2"), (20, 30, "ok", "l 1 1,2")]);
    // Two statements at READ COMMITTED promise nothing to each other.
    expect(&history, &[], &[Kind::LostUpdate], &[Kind::LostUpdate]);
}

#[test]
fn g_single_read_skew() {
    let history = history(&[(0, 9, "ok", "a 1 1 a 2 1"), (0, 9, "ok", "l 1 - l 2 1"), (20, 30, "ok", "l 1 1 l 2 1")]);
    expect(&history, &[], &[Kind::SingleAntiDependency], &[Kind::SingleAntiDependency]);
}

#[test]
fn long_fork() {
    let history = history(&[
        (0, 9, "ok", "a 1 1"),
        (0, 9, "ok", "a 2 1"),
        (0, 9, "ok", "l 1 1 l 2 -"),
        (0, 9, "ok", "l 1 - l 2 1"),
        (20, 30, "ok", "l 1 1 l 2 1"),
    ]);
    expect(&history, &[], &[Kind::LongFork], &[Kind::LongFork]);
}

#[test]
fn g2_write_skew_is_for_serializable_only() {
    let history = history(&[(0, 9, "ok", "l 1 - a 2 1"), (0, 9, "ok", "l 2 - a 1 1"), (20, 30, "ok", "l 1 1 l 2 1")]);
    expect(&history, &[], &[], &[Kind::AntiDependencyCycle]);
}

#[test]
fn a_stale_read_is_one_only_in_real_time() {
    let history = history(&[(0, 1, "ok", "a 1 1"), (2, 3, "ok", "l 1 -"), (4, 5, "ok", "l 1 1")]);
    let found = [Kind::StaleRead];
    expect(&history, &found, &found, &found);
    assert_eq!(kinds(&history, Isolation::Snapshot, Order::Any), []);
}

#[test]
fn a_stale_second_statement_is_found_too() {
    let history = history(&[(0, 1, "ok", "a 1 1"), (2, 3, "ok", "l 2 - l 1 -"), (4, 5, "ok", "l 1 1")]);
    assert_eq!(kinds(&history, Isolation::ReadCommitted, Order::RealTime), [Kind::StaleRead]);
}

#[test]
fn an_acknowledged_append_that_nobody_ever_sees_is_found() {
    let history = history(&[(0, 1, "ok", "a 1 1"), (2, 3, "ok", "a 1 2"), (4, 5, "ok", "l 1 2")]);
    // Unseen means after all that was seen, but it was acknowledged before that began.
    assert_eq!(kinds(&history, Isolation::Snapshot, Order::RealTime), [Kind::CircularInformationFlow]);
}

#[test]
fn a_client_that_does_not_see_its_own_commit() {
    let text = "0 p1 n1 invoke a 1 1\n1 p1 n1 ok a 1 1\n2 p1 n2 invoke l 1 ?\n3 p1 n2 ok l 1 -\n";
    let history = History::parse(text).unwrap();
    assert_eq!(kinds(&history, Isolation::Snapshot, Order::Session), [Kind::StaleRead]);
    assert_eq!(kinds(&history, Isolation::Snapshot, Order::Any), []);
}

#[test]
fn unknown_outcomes_are_unknown() {
    let may_not_have_been = history(&[(0, 1, "unknown", "a 1 1"), (2, 3, "ok", "l 1 -")]);
    let may_come_late = history(&[(0, 1, "unknown", "a 1 1"), (2, 3, "ok", "l 1 -"), (4, 5, "ok", "l 1 1")]);
    let went_away = history(&[(0, 1, "unknown", "a 1 1"), (2, 3, "ok", "l 1 1"), (4, 5, "ok", "l 1 -")]);
    let half = history(&[(0, 1, "unknown", "a 1 1 a 2 1"), (2, 3, "ok", "l 1 1 l 2 -"), (4, 5, "ok", "l 2 1")]);
    expect(&may_not_have_been, &[], &[], &[]);
    expect(&may_come_late, &[], &[], &[]);
    let found = [Kind::StaleRead];
    expect(&went_away, &found, &found, &found);
    assert_eq!(kinds(&half, Isolation::Snapshot, Order::RealTime), [Kind::SingleAntiDependency]);
}

#[test]
fn what_a_list_cannot_hold_is_found() {
    for (steps, kind) in [("l 1 1,1", Kind::Duplicate), ("l 1 1,7", Kind::Garbage)] {
        let history = history(&[(0, 1, "ok", "a 1 1"), (2, 3, "ok", steps)]);
        assert!(kinds(&history, Isolation::ReadCommitted, Order::RealTime).contains(&kind), "{steps}");
    }
    let contradiction =
        history(&[(0, 9, "ok", "a 1 1"), (0, 9, "ok", "a 1 2"), (10, 20, "ok", "l 1 1,2"), (10, 20, "ok", "l 1 2,1")]);
    assert!(kinds(&contradiction, Isolation::ReadCommitted, Order::Any).contains(&Kind::IncompatibleOrder));
}

#[test]
fn a_transaction_must_agree_with_itself() {
    let own_missing = history(&[(0, 1, "ok", "a 1 1 l 1 -")]);
    let from_its_future = history(&[(0, 1, "ok", "l 1 1 a 1 1")]);
    let not_repeatable = history(&[(0, 9, "ok", "a 1 1"), (0, 9, "ok", "l 1 - l 1 1")]);
    assert!(kinds(&own_missing, Isolation::ReadCommitted, Order::Any).contains(&Kind::Internal));
    assert!(kinds(&from_its_future, Isolation::ReadCommitted, Order::Any).contains(&Kind::Internal));
    assert!(kinds(&not_repeatable, Isolation::Snapshot, Order::Any).contains(&Kind::Internal));
    assert_eq!(kinds(&not_repeatable, Isolation::ReadCommitted, Order::Any), []);
}

#[test]
fn a_report_names_the_transactions_and_why_each_is_before_the_next() {
    let history = history(&[(0, 1, "ok", "a 1 1"), (2, 3, "ok", "l 1 -"), (4, 5, "ok", "l 1 1")]);
    let verdict = check_lists(&history, Level::STRONG_SNAPSHOT).unwrap();
    assert_eq!(
        verdict.anomalies()[0].to_string(),
        "stale read or lost write\n    \
         T0: process 0 on node 1, from 0 to 1, committed: a 1 1\n    \
         T1: process 1 on node 1, from 2 to 3, committed: l 1 -\n    \
         T0 is before T1: (real time) it was acknowledged before T1 began\n    \
         T1 is before T0: (rw) it read list 1 without 1, which T0 appended"
    );
}
