//! Reads without writing (rule 5), and the finishing of what an owner left behind.

use crate::cluster::{node, Cluster};
use crate::{Refusal, Slot};
use std::time::Duration;

#[test]
fn a_read_on_any_node_takes_one_round_trip_and_writes_nothing() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    let before: Vec<usize> = (1..=3).map(|number| cluster.state(number).disk.len()).collect();
    cluster.take_transcript();
    let token = cluster.read(3);
    cluster.settle();
    assert_eq!(cluster.state(3).barriers[&token], Ok(Slot(1)));
    let after: Vec<usize> = (1..=3).map(|number| cluster.state(number).disk.len()).collect();
    assert_eq!(before, after);
    assert_eq!(cluster.owners(), [node(1)], "a read moves no ownership");
    assert!(!cluster.take_transcript().contains("prepare"));
}

#[test]
fn a_read_sees_what_was_acknowledged_although_its_node_missed_it() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.cut(1, 3);
    cluster.propose(1, "two");
    cluster.settle();
    assert_eq!(cluster.bodies(3), ["one"]);
    let token = cluster.read(3);
    cluster.settle();
    assert_eq!(cluster.state(3).barriers[&token], Ok(Slot(2)));
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.bodies(3), ["one", "two"]);
}

#[test]
fn a_reader_joins_the_next_round_never_one_already_sent() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.take_transcript();
    let first = cluster.read(2);
    cluster.poll(node(2));
    // The round is on its way; a write completes before the second reader asks.
    let second = cluster.read(2);
    let third = cluster.read(2);
    cluster.settle();
    let rounds = cluster.take_transcript().lines().filter(|line| line.contains("n2 -> n1: read")).count();
    assert_eq!(rounds, 2, "the second and third reader share one");
    for token in [first, second, third] {
        assert_eq!(cluster.state(2).barriers[&token], Ok(Slot(1)));
    }
}

#[test]
fn what_a_dead_owner_left_is_finished_under_its_own_ballot() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    // The owner's second entry reaches node 2 only, then the owner dies.
    cluster.cut(1, 3);
    cluster.propose(1, "two");
    cluster.poll(node(1));
    cluster.kill_after_sending(1);
    cluster.heal();
    cluster.take_transcript();
    let token = cluster.read(3);
    cluster.run(Duration::from_millis(900));
    let transcript = cluster.take_transcript();
    assert_eq!(cluster.state(3).barriers.get(&token), Some(&Ok(Slot(2))), "{transcript}");
    assert!(!transcript.contains("prepare"), "finishing starts no ballot:\n{transcript}");
    assert_eq!(cluster.bodies(2), ["one", "two"]);
}

#[test]
fn without_a_quorum_a_read_fails_in_time_and_names_who_answers() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.isolate(3);
    cluster.run(Duration::from_secs(2));
    let token = cluster.read(3);
    cluster.run(Duration::from_secs(6));
    let why = Refusal::NoQuorum { answering: vec![node(3)], silent: vec![node(1), node(2)] };
    assert_eq!(cluster.state(3).barriers[&token], Err(why));
}

#[test]
fn open_slots_are_settled_without_anybody_asking() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.cut(1, 3);
    cluster.propose(1, "two");
    cluster.poll(node(1));
    cluster.kill_after_sending(1);
    cluster.heal();
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.bodies(2), ["one", "two"]);
    assert_eq!(cluster.bodies(3), ["one", "two"]);
}
