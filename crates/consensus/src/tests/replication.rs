//! Replication while everything is well: creation, one round trip, pipelining, forwarding.

use crate::cluster::{member, node, Cluster, GROUP};
use crate::{ChosenRange, Epoch, GroupMessage, Input, LogId, Message, ProposalOutcome, Role, Slot, Token};
use expect_test::expect;
use std::time::Duration;

/// The acceptances of a batch are lost, and others tell its owner that it is chosen: those behind it were counted before.
#[test]
fn what_was_counted_behind_a_gap_is_closed_when_others_close_the_gap() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "first");
    cluster.settle();
    cluster.loses = |to, message| {
        let first_of = |body: &GroupMessage| match body {
            GroupMessage::Accepted { first, .. } => Some(*first),
            _ => None,
        };
        matches!(message, Message::Group { body, .. } if to == node(1) && first_of(body) == Some(Slot(2)))
    };
    for body in ["behind whose back", "counted"] {
        cluster.propose(1, body);
        cluster.settle();
    }
    assert_eq!((cluster.main_status(1).closed, cluster.main_status(1).in_flight), (Slot(1), 2));
    let range = ChosenRange { first: Slot(2), last: Slot(2), ballot: cluster.main_status(1).ballot };
    let body = GroupMessage::Chosen { log: LogId::MAIN, range };
    let message = Message::Group { group: GROUP, epoch: Epoch(1), start: crate::Start(1), body };
    cluster.input(node(1), Input::Message { from: node(2), message });
    cluster.settle();
    assert_eq!((cluster.main_status(1).closed, cluster.main_status(1).in_flight), (Slot(3), 0));
}

#[test]
fn a_group_of_one_chooses_alone() {
    let mut cluster = Cluster::empty();
    cluster.add(1, Vec::new());
    let create = Input::CreateGroup {
        token: Token(7),
        group: GROUP,
        name: "g".into(),
        kind: "tables".into(),
        detail: String::new(),
        discipline: crate::Discipline::Sequences,
        member: member(1, Role::Voter),
    };
    cluster.input(node(1), create);
    cluster.settle();
    assert!(cluster.state(1).changes[&Token(7)].is_ok());

    let id = cluster.propose(1, "x");
    cluster.settle();
    assert_eq!(cluster.state(1).outcomes[&id], ProposalOutcome::Chosen(Slot(1)));
    assert_eq!(cluster.bodies(1), ["x"]);

    let token = cluster.read(1);
    cluster.settle();
    assert_eq!(cluster.state(1).barriers[&token], Ok(Slot(1)));
}

#[test]
fn three_nodes_first_write_then_fast_path() {
    let mut cluster = Cluster::of(3);
    cluster.note("The first write needs both phases.");
    cluster.propose(1, "first");
    cluster.settle();
    cluster.note("The owner's next write takes one round trip.");
    cluster.propose(1, "second");
    cluster.settle();
    cluster.note("Another node's write goes through the owner.");
    cluster.propose(2, "third");
    cluster.settle();
    expect![[r#"

        # The first write needs both phases.
        n1 -> n2: prepare 1.1.1.1 above 0
        n1 -> n3: prepare 1.1.1.1 above 0
        n2 -> n1: promise 1.1.1.1 closed 0 accepted []
        n3 -> n1: promise 1.1.1.1 closed 0 accepted []
        n1 -> n2: accept 1.1.1.1 1: [1.1.1="first"]
        n1 -> n3: accept 1.1.1.1 1: [1.1.1="first"]
        n2 -> n1: accepted 1.1.1.1 1..1
        n3 -> n1: accepted 1.1.1.1 1..1
        n1 -> n2: chosen 1..1 under 1.1.1.1
        n1 -> n3: chosen 1..1 under 1.1.1.1

        # The owner's next write takes one round trip.
        n1 -> n2: accept 1.1.1.1 2: [1.1.2="second"], chosen 1..1 under 1.1.1.1
        n1 -> n3: accept 1.1.1.1 2: [1.1.2="second"], chosen 1..1 under 1.1.1.1
        n2 -> n1: accepted 1.1.1.1 2..2
        n3 -> n1: accepted 1.1.1.1 2..2
        n1 -> n2: chosen 1..2 under 1.1.1.1
        n1 -> n3: chosen 1..2 under 1.1.1.1

        # Another node's write goes through the owner.
        n2 -> n1: forward [2.1.3="third"] hops 0
        n1 -> n2: accept 1.1.1.1 3: [2.1.3="third"], chosen 1..2 under 1.1.1.1
        n1 -> n3: accept 1.1.1.1 3: [2.1.3="third"], chosen 1..2 under 1.1.1.1
        n2 -> n1: accepted 1.1.1.1 3..3
        n3 -> n1: accepted 1.1.1.1 3..3
        n1 -> n2: chosen 1..3 under 1.1.1.1
        n1 -> n3: chosen 1..3 under 1.1.1.1
    "#]]
    .assert_eq(&cluster.take_transcript());
    for number in 1..=3 {
        assert_eq!(cluster.bodies(number), ["first", "second", "third"]);
    }
}

#[test]
fn what_arrives_together_travels_together() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "warm");
    cluster.settle();
    cluster.take_transcript();
    for number in 0..100 {
        cluster.propose(1, &format!("v{number}"));
    }
    cluster.settle();
    let accepts = cluster.take_transcript().lines().filter(|line| line.contains(": accept ")).count();
    assert_eq!(accepts, 2, "one accept per peer");
    for number in 1..=3 {
        assert_eq!(cluster.bodies(number).len(), 101);
    }
}

#[test]
fn writes_on_every_node_at_once() {
    let mut cluster = Cluster::of(5);
    for round in 0..20 {
        for number in 1..=5 {
            cluster.propose(number, &format!("{number}.{round}"));
        }
        cluster.run(Duration::from_millis(1));
    }
    cluster.run(Duration::from_secs(3));
    for number in 1..=5 {
        assert_eq!(cluster.bodies(number), cluster.bodies(1));
        assert_eq!(cluster.state(number).outcomes.len(), 20);
    }
    assert!(cluster.bodies(1).len() >= 100);
}

#[test]
fn what_arrives_while_the_owners_disk_writes_travels_together() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "warm");
    cluster.settle();
    cluster.cut(1, 3);
    cluster.nodes.get_mut(&node(1)).expect("it exists").hold_disk = true;
    cluster.take_transcript();
    for number in 0..10 {
        cluster.propose(1, &format!("v{number}"));
        cluster.settle();
    }
    cluster.sync(1);
    cluster.settle();
    let accepts = cluster.take_transcript().lines().filter(|line| line.contains("n1 -> n2: accept ")).count();
    assert_eq!(accepts, 2, "the first alone, then nine together");
    cluster.sync(1);
    cluster.settle();
    assert_eq!(cluster.bodies(1).len(), 11);
    // A disk that hangs holds up the log for a hundredth of the failure time-out only.
    for number in 0..3 {
        cluster.propose(1, &format!("w{number}"));
        cluster.run(Duration::from_millis(11));
    }
    let accepts = cluster.take_transcript().lines().filter(|line| line.contains("n1 -> n2: accept ")).count();
    assert_eq!(accepts, 3);
}

/// Readers finished a part of what the owner has in flight; then everybody but the owner restarts. What the owner sends again
/// must not begin with slots that are closed, or they refuse all of it for ever.
#[test]
fn a_batch_that_others_finished_in_part_is_sent_again_from_there() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    let ballot = cluster.main_status(1).ballot;
    let ids: Vec<_> = (2..=5).map(|number| cluster.propose(1, &format!("v{number}"))).collect();
    cluster.poll(node(1));
    assert!(cluster.deliver_one() && cluster.deliver_one(), "both get all four");
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    cluster.settle();
    for (from, to) in [(2, 1), (3, 2), (2, 3)] {
        let range = ChosenRange { first: Slot(2), last: Slot(3), ballot };
        let body = GroupMessage::Chosen { log: LogId::MAIN, range };
        let message = Message::Group { group: GROUP, epoch: Epoch(1), start: crate::Start(1), body };
        cluster.input(node(to), Input::Message { from: node(from), message });
    }
    cluster.settle();
    assert!((1..=3).all(|number| cluster.main_status(number).closed == Slot(3)));
    (2..=3).for_each(|number| cluster.kill(number));
    (2..=3).for_each(|number| cluster.restart(number));
    cluster.heal();
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.owners(), [node(1)], "it stays the owner");
    for (id, slot) in ids.iter().zip(2..) {
        assert_eq!(cluster.state(1).outcomes.get(id), Some(&ProposalOutcome::Chosen(Slot(slot))));
    }
    assert_eq!(cluster.main_status(1).in_flight, 0);
    cluster.propose(2, "six");
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.bodies(3).last().map(String::as_str), Some("six"));
}
