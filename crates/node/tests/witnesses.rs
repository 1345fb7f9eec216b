//! A member that votes and keeps entries, and is given none of them.

mod cluster;

use client::{Error, MemberRole, NewMember, RefusalReason, Request, Response};
use cluster::{propose, small, wait_until, Cluster, PATIENCE};
use node::Limits;
use std::time::Instant;

/// Two members with a state, and a witness as number 2.
fn two_and_a_witness(limits: Limits) -> Cluster {
    let mut cluster = Cluster::group(2, limits);
    cluster.propose(0, "before there was a witness").unwrap();
    let witness = cluster.add_engine(limits);
    let member = NewMember { witness: true, ..cluster.members[witness].new_member() };
    let wait_ms = PATIENCE.as_millis() as u32;
    let request = Request::JoinRequest { group: cluster.group, member, wait_ms };
    let Response::Group(group) = cluster.members[0].connect().call(&request, PATIENCE).unwrap() else {
        panic!("a group is the answer")
    };
    cluster.members[witness].connect().done(&Request::LearnGroup { group, await_state: false }, PATIENCE).unwrap();
    cluster.promote(witness, 0);
    cluster
}

fn role(cluster: &Cluster, at: usize, of: usize) -> Option<MemberRole> {
    let node = cluster.members[of].engine.as_ref().map(|engine| engine.node())?;
    let groups = cluster.members[at].status().groups;
    groups[0].members.iter().find(|member| member.node == node).map(|member| member.role)
}

#[test]
fn either_of_two_members_can_be_lost() {
    let mut cluster = two_and_a_witness(Limits::default());
    for lost in [0, 1] {
        cluster.members[lost].stop();
        cluster.propose(1 - lost, &format!("without {lost}")).unwrap();
        cluster.members[1 - lost].connect().barrier(cluster.group, PATIENCE).unwrap();
        cluster.members[lost].start();
        cluster.agree(&[0, 1]);
    }
    cluster.members[2].stop();
    cluster.propose(0, "without the witness").unwrap();
    cluster.members[2].start();
    cluster.members[0].stop();
    cluster.propose(1, "with it, after its restart").unwrap();
    cluster.members[0].start();
    assert_eq!(cluster.agree(&[0, 1]).len(), 5);
    assert_eq!(cluster.members[2].list.list.lock().unwrap().applied.0, 0, "a witness is given nothing");
}

#[test]
fn a_witness_says_that_it_has_nothing() {
    let cluster = two_and_a_witness(Limits::default());
    assert_eq!(role(&cluster, 2, 2), Some(MemberRole::Witness));
    let refused = cluster.propose(2, "at the witness").unwrap_err();
    assert!(matches!(refused, Error::Refused(refusal) if refusal.reason == RefusalReason::NoState));
    let refused = cluster.members[2].connect().barrier(cluster.group, PATIENCE).unwrap_err();
    assert!(matches!(refused, Error::Refused(refusal) if refusal.reason == RefusalReason::NoState));
    let node = cluster.members[2].engine.as_ref().unwrap().node();
    cluster.remove(node, 0);
    wait_until(Instant::now() + PATIENCE, "the witness knows", || cluster.members[2].status().groups[0].role.is_none());
}

#[test]
fn a_member_that_is_away_for_too_long_is_set_aside_and_comes_back() {
    let mut cluster = two_and_a_witness(Limits { witness_keep_bytes: 8 << 20, ..small() });
    let away = cluster.members[1].engine.as_ref().unwrap().node();
    cluster.members[1].stop();
    let mut connection = cluster.members[0].connect();
    let body = "x".repeat(256 << 10);
    let is_away = |cluster: &Cluster| {
        let groups = cluster.members[0].status().groups;
        groups[0].members.iter().any(|member| member.node == away && member.role == MemberRole::Away)
    };
    let deadline = Instant::now() + PATIENCE;
    while !is_away(&cluster) {
        match propose(&mut connection, cluster.group, &body) {
            // So much is written here that the witness may be full before the change is made.
            Ok(_) => {}
            Err(Error::Refused(refusal)) if refusal.reason == RefusalReason::Full => {}
            Err(other) => panic!("{other}"),
        }
        assert!(Instant::now() < deadline, "the member is not set aside");
    }
    wait_until(deadline, "there is room again", || propose(&mut connection, cluster.group, &body).is_ok());
    // Nobody needs what the witness kept for it.
    for _ in 0..40 {
        propose(&mut connection, cluster.group, &body).unwrap();
    }
    let log = |cluster: &Cluster| cluster.members[2].status().groups[0].log;
    wait_until(deadline, "the witness trims", || log(&cluster).chosen.0 - log(&cluster).trimmed.0 < 32);

    cluster.members[1].start();
    wait_until(Instant::now() + PATIENCE, "it asks for a state", || {
        cluster.members[1].status().groups[0].needs_state.is_some()
    });
    cluster.copy_state(1, 0);
    wait_until(Instant::now() + PATIENCE, "it votes again", || {
        role(&cluster, 1, 1) == Some(MemberRole::Voter) && !cluster.members[1].status().groups[0].changing
    });
    cluster.members[0].stop();
    cluster.propose(1, "the other one may go now").unwrap();
}
