//! A node is its log (rule 7): one that came back with less, or runs twice, is refused.

use crate::cluster::{node, Cluster};
use crate::{Impostor, StopReason};
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
