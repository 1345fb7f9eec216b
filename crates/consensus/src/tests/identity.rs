//! A node is its log (rule 7): one that came back with less, or runs twice, is refused.

use crate::cluster::{node, Cluster};
use crate::{Impostor, Input, Message, ProposalOutcome, Sequence, Start, StopReason};
use std::time::Duration;

#[test]
fn a_node_whose_log_went_back_is_refused_and_stops() {
    let mut cluster = Cluster::of(3);
    let copy = cluster.state(2).disk.clone();
    for number in 0..10 {
        cluster.propose(1, &format!("v{number}"));
        cluster.settle();
    }
    cluster.run(Duration::from_secs(1));
    cluster.kill(2);
    cluster.nodes.get_mut(&node(2)).expect("it exists").disk = copy;
    cluster.restart(2);
    cluster.run(Duration::from_secs(1));
    assert!(
        matches!(cluster.state(2).stopped, Some(StopReason::Impostor(Impostor::LogWentBack { .. }))),
        "{:?}",
        cluster.state(2).stopped
    );
}

#[test]
fn the_votes_of_a_node_that_went_back_count_for_nothing() {
    let mut cluster = Cluster::of(3);
    let copy = cluster.state(2).disk.clone();
    for number in 0..10 {
        cluster.propose(1, &format!("v{number}"));
        cluster.settle();
    }
    cluster.run(Duration::from_secs(1));
    cluster.kill(2);
    cluster.kill(3);
    cluster.nodes.get_mut(&node(2)).expect("it exists").disk = copy;
    cluster.restart(2);
    let id = cluster.propose(1, "with the help of whoever forgot");
    cluster.run(Duration::from_secs(3));
    assert!(!matches!(cluster.state(1).outcomes.get(&id), Some(ProposalOutcome::Chosen(_))));
    assert!(cluster.state(2).stopped.is_some());
}

/// What a node answers may overtake the heartbeat that would have shown that it went back.
#[test]
fn a_read_takes_no_answer_of_a_node_that_has_not_shown_where_its_log_stands() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "first");
    cluster.run(Duration::from_secs(1));
    let copy = cluster.state(2).disk.clone();
    cluster.loses = |to, message| to == node(3) && matches!(message, Message::Group { .. });
    let id = cluster.propose(1, "not known to the third");
    cluster.run(Duration::from_secs(1));
    let Some(ProposalOutcome::Chosen(slot)) = cluster.state(1).outcomes.get(&id).cloned() else {
        panic!("it is chosen")
    };
    cluster.kill(1);
    cluster.kill(2);
    cluster.nodes.get_mut(&node(2)).expect("it exists").disk = copy;
    cluster.loses = |_, message| matches!(message, Message::Heartbeat(_));
    cluster.restart(2);
    let token = cluster.read(3);
    cluster.run(Duration::from_secs(3));
    let barrier = cluster.state(3).barriers.get(&token);
    assert!(!matches!(barrier, Some(Ok(barrier)) if *barrier < slot), "{barrier:?}, but {slot} was acknowledged");
}

#[test]
fn a_node_that_went_back_stops_even_if_its_log_has_grown_since() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "seen");
    cluster.run(Duration::from_secs(1));
    let seen = cluster.state(2).core.status(cluster.now).position;
    cluster.kill(2);
    cluster.restart(2);
    let under = Start(1);
    for number in 0..20 {
        cluster.propose(1, &format!("v{number}"));
        cluster.run(Duration::from_millis(50));
    }
    assert!(cluster.state(2).core.status(cluster.now).position > Sequence(seen.0 + 10));
    let tell = |cluster: &mut Cluster, seen| {
        let impostor = Impostor::LogWentBack { seen, under, found: Sequence(1) };
        let message = Message::Impostor(impostor);
        cluster.input(node(2), Input::Message { from: node(1), message });
        cluster.settle();
    };
    tell(&mut cluster, seen);
    assert!(cluster.state(2).stopped.is_none(), "it began with all that was seen of the start before");
    tell(&mut cluster, Sequence(seen.0 + 10));
    assert!(cluster.state(2).stopped.is_some(), "it began with less");
}

#[test]
fn what_was_seen_of_others_outlives_a_restart_of_all_others() {
    let mut cluster = Cluster::of(3);
    let copy = cluster.state(2).disk.clone();
    for number in 0..10 {
        cluster.propose(1, &format!("v{number}"));
        cluster.settle();
    }
    cluster.run(Duration::from_secs(1));
    (1..=3).for_each(|number| cluster.kill(number));
    cluster.nodes.get_mut(&node(2)).expect("it exists").disk = copy;
    (1..=3).for_each(|number| cluster.restart(number));
    cluster.run(Duration::from_secs(1));
    assert!(cluster.state(2).stopped.is_some());
    assert!(cluster.state(1).stopped.is_none() && cluster.state(3).stopped.is_none());
}

#[test]
fn an_ordinary_restart_is_welcome() {
    let mut cluster = Cluster::of(3);
    for number in 0..10 {
        cluster.propose(1, &format!("v{number}"));
        cluster.settle();
        cluster.kill(2);
        cluster.restart(2);
        cluster.run(Duration::from_millis(300));
        assert!(cluster.state(2).stopped.is_none());
    }
    assert_eq!(cluster.bodies(2).len(), 10);
}
