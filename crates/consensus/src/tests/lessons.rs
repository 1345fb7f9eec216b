//! The protocol as text: what is said, in order, in the situations that matter. Read them as an introduction.

use crate::cluster::{member, node, Cluster};
use crate::{Change, Input, Role, Token};
use expect_test::expect;
use std::time::Duration;

#[test]
fn a_take_over() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.take_transcript();
    cluster.note("The owner sends its next entry, which reaches node 2 only, and dies.");
    cluster.cut(1, 3);
    cluster.propose(1, "two");
    cluster.poll(node(1));
    cluster.kill_after_sending(1);
    cluster.heal();
    cluster.run(Duration::from_millis(1000));
    cluster.note("Node 3 wants to write: its entry waits for the owner's failure time-out, then it takes over and finds \"two\".");
    cluster.propose(3, "three");
    cluster.run(Duration::from_millis(300));
    expect![[r#"

        # The owner sends its next entry, which reaches node 2 only, and dies.
        n1 -> n2: accept 1.1.1.1 2: [1.1.2="two"], chosen 1..1 under 1.1.1.1
        n1 -x n3: accept 1.1.1.1 2: [1.1.2="two"], chosen 1..1 under 1.1.1.1
        n2 -x n1: accepted 1.1.1.1 2..2

        # Node 3 wants to write: its entry waits for the owner's failure time-out, then it takes over and finds "two".
        n3 -x n1: prepare 1.2.3.1 above 1
        n3 -> n2: prepare 1.2.3.1 above 1
        n2 -> n3: promise 1.2.3.1 closed 1 accepted [2@1.1.1.1=1.1.2="two"]
        n3 -> n2: accept 1.2.3.1 2: [1.1.2="two"]
        n3 -> n2: accept 1.2.3.1 3: [3.1.3="three"]
        n2 -> n3: accepted 1.2.3.1 2..2
        n2 -> n3: accepted 1.2.3.1 3..3
        n3 -> n2: chosen 2..2 under 1.2.3.1
        n3 -> n2: chosen 2..3 under 1.2.3.1
    "#]]
    .assert_eq(&cluster.take_transcript());
}

#[test]
fn a_read_that_finds_an_open_slot() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.cut(1, 3);
    cluster.propose(1, "two");
    cluster.poll(node(1));
    cluster.kill_after_sending(1);
    cluster.heal();
    cluster.take_transcript();
    cluster.note("Node 2 accepted slot 2, node 3 did not, node 1 is silent: slot 2 may be chosen. It is finished under its own ballot.");
    cluster.read(3);
    cluster.run(Duration::from_millis(600));
    expect![[r#"

        # Node 2 accepted slot 2, node 3 did not, node 1 is silent: slot 2 may be chosen. It is finished under its own ballot.
        n2 -x n1: accepted 1.1.1.1 2..2
        n3 -x n1: read 4294967297?
        n3 -> n2: read 4294967297?
        n2 -> n3: read 4294967297: closed 1, highest 2@1.1.1.1
        n3 -x n1: read 4294967297?
        n3 -x n1: what was accepted in 2..2?
        n3 -> n2: what was accepted in 2..2?
        n2 -> n3: accepted [(2, 1.1.1.1)], closed 1
        n3 -x n1: accept 1.1.1.1 2: [1.1.2="two"]
        n3 -> n2: accept 1.1.1.1 2: [1.1.2="two"]
        n2 -> n3: accepted 1.1.1.1 2..2
        n3 -x n1: chosen 2..2 under 1.1.1.1
        n3 -> n2: chosen 2..2 under 1.1.1.1
    "#]].assert_eq(&cluster.take_transcript());
}

#[test]
fn a_second_member() {
    let mut cluster = Cluster::of(1);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.add(2, Vec::new());
    cluster.take_transcript();
    cluster.note("Node 2 is added as a learner: a new epoch, chosen by node 1 alone.");
    let token = cluster.change(1, Change::AddLearner(member(2, Role::Learner)));
    cluster.settle();
    let configuration = cluster.state(1).changes[&token].clone().expect("added");
    cluster.note("It is told so, and fetches what it lacks.");
    cluster.input(node(2), Input::LearnGroup { token: Token(1), configuration });
    cluster.run(Duration::from_millis(250));
    cluster.note("It is promoted: a joint epoch with its fences and sync pass, then the new epoch.");
    cluster.change(1, Change::Promote(node(2)));
    cluster.run(Duration::from_millis(100));
    cluster.note("The next write runs phase 1 in the new epoch.");
    cluster.propose(1, "two");
    cluster.settle();
    expect![[r#"

        # Node 2 is added as a learner: a new epoch, chosen by node 1 alone.
        n1 -> n2: configuration e2[n1, n2 learner]
        n1 -> n2: closed [1]

        # It is told so, and fetches what it lacks.
        n2 -> n1: closed [0]
        n2 -> n1: fetch 1..1
        n1 -> n2: fetched from 1: 1 entries, closed 1, trimmed 0

        # It is promoted: a joint epoch with its fences and sync pass, then the new epoch.
        n1 -> n2: configuration e3[n1, n2; joint with [n1]]
        n2 -> n1: configuration?
        n2 -> n1: fenced
        n1 -> n2: configuration e3[n1, n2; joint with [n1]]
        n1 -> n2: sync?
        n2 -> n1: fenced
        n2 -> n1: sync [(1, 1)]
        n1 -> n2: control prepare 3.1.1.1 above 3
        n2 -> n1: control promise 3.1.1.1 closed 3 accepted []
        n1 -> n2: control accept 3.1.1.1 4: [e4[n1, n2]]
        n2 -> n1: control accepted 3.1.1.1 4..4
        n1 -> n2: configuration e4[n1, n2]
        n2 -> n1: configuration?
        n2 -> n1: fenced
        n1 -> n2: configuration e4[n1, n2]
        n2 -> n1: fenced

        # The next write runs phase 1 in the new epoch.
        n1 -> n2: prepare 4.1.1.1 above 1
        n2 -> n1: promise 4.1.1.1 closed 1 accepted []
        n1 -> n2: accept 4.1.1.1 2: [1.1.4="two"]
        n2 -> n1: accepted 4.1.1.1 2..2
        n1 -> n2: chosen 2..2 under 4.1.1.1
    "#]]
    .assert_eq(&cluster.take_transcript());
}
