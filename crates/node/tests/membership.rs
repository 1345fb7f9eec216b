//! Members come and go while the group serves.

mod cluster;

use client::{Error, RefusalReason, Request};
use cluster::{propose, wait_until, Cluster, PATIENCE};
use node::Limits;
use std::time::Instant;

#[test]
fn a_fourth_member_joins_by_copy_while_the_group_serves() {
    let mut cluster = Cluster::group(3, Limits::default());
    for n in 0..10 {
        cluster.propose(n % 3, &format!("before {n}")).unwrap();
    }
    let fourth = cluster.add_engine(Limits::default());
    cluster.join_by_copy(fourth, 1);
    for n in 0..8 {
        cluster.propose(n % 4, &format!("after {n}")).unwrap();
    }
    assert_eq!(cluster.agree(&[0, 1, 2, 3]).len(), 18);
    // It comes back after a restart like everybody else.
    cluster.members[fourth].stop();
    cluster.members[fourth].start();
    assert_eq!(cluster.agree(&[0, 1, 2, 3]).len(), 18);
}

#[test]
fn a_dead_member_is_replaced_without_a_failed_proposal() {
    let mut cluster = Cluster::group(3, Limits::default());
    cluster.propose(2, "from the one that dies").unwrap();
    let dead = cluster.members[2].engine.as_ref().unwrap().node();
    cluster.members[2].stop();
    let mut connection = cluster.members[0].connect();
    propose(&mut connection, cluster.group, "one is dead").unwrap();
    cluster.remove(dead, 0);
    propose(&mut connection, cluster.group, "two are left").unwrap();
    let replacement = cluster.add_engine(Limits::default());
    cluster.join_by_copy(replacement, 0);
    propose(&mut connection, cluster.group, "three again").unwrap();
    // Now one of the old ones may go.
    cluster.members[0].stop();
    cluster.propose(replacement, "served by the new majority").unwrap();
    assert_eq!(cluster.agree(&[1, replacement]).len(), 5);
}

#[test]
fn a_removed_member_is_told_and_refused() {
    let cluster = Cluster::group(3, Limits::default());
    let removed = cluster.members[2].engine.as_ref().unwrap().node();
    cluster.remove(removed, 0);
    wait_until(Instant::now() + PATIENCE, "the removed member knows", || {
        cluster.members[2].status().groups[0].role.is_none()
    });
    let refused = cluster.propose(2, "too late").unwrap_err();
    assert!(matches!(refused, Error::Refused(refusal) if refusal.reason == RefusalReason::NotAMember));
    // It may forget the group, and the name is free again.
    cluster.members[2].connect().done(&Request::Forget { group: cluster.group }, PATIENCE).unwrap();
    assert!(cluster.members[2].status().groups.is_empty());
    cluster.propose(0, "the others go on").unwrap();
    cluster.agree(&[0, 1]);
}

#[test]
fn a_member_that_was_removed_while_it_was_away_finds_out() {
    let mut cluster = Cluster::group(3, Limits::default());
    let removed = cluster.members[2].engine.as_ref().unwrap().node();
    cluster.members[2].stop();
    cluster.remove(removed, 0);
    // Started anew, the others keep no link for it to be told by.
    for n in 0..2 {
        cluster.members[n].stop();
        cluster.members[n].start();
    }
    cluster.members[2].start();
    assert!(cluster.members[2].status().groups[0].role.is_some(), "how could it know?");
    wait_until(Instant::now() + 2 * PATIENCE, "the removed member knows", || {
        cluster.members[2].status().groups[0].role.is_none()
    });
    let refused = cluster.propose(2, "too late").unwrap_err();
    assert!(matches!(refused, Error::Refused(refusal) if refusal.reason == RefusalReason::NotAMember));
    cluster.members[2].connect().done(&Request::Forget { group: cluster.group }, PATIENCE).unwrap();
    assert!(cluster.members[2].status().groups.is_empty());
    cluster.propose(0, "the others go on").unwrap();
    cluster.agree(&[0, 1]);
}

#[test]
fn a_member_may_leave_by_itself() {
    let cluster = Cluster::group(3, Limits::default());
    let leaving = cluster.members[1].engine.as_ref().unwrap().node();
    cluster.remove(leaving, 1);
    cluster.propose(0, "two are enough").unwrap();
    cluster.agree(&[0, 2]);
}

#[test]
fn an_interrupted_join_can_be_repeated() {
    let mut cluster = Cluster::group(1, Limits::default());
    cluster.propose(0, "one").unwrap();
    let joiner = cluster.add_engine(Limits::default());
    // It dies between being told of the group and the copy.
    cluster.learn(joiner, 0, true);
    assert!(cluster.members[joiner].status().groups[0].needs_state.is_some());
    cluster.members[joiner].stop();
    cluster.members[joiner].start();
    assert!(cluster.members[joiner].status().groups.is_empty());
    cluster.propose(0, "a learner that is away holds nobody up").unwrap();
    cluster.join_by_copy(joiner, 0);
    cluster.propose(joiner, "two").unwrap();
    assert_eq!(cluster.agree(&[0, joiner]).len(), 3);
}
