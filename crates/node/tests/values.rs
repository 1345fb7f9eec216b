//! A group of logs of values: thousands of them, few in memory, all of them there after a crash.

mod cluster;

use bytes::Bytes;
use client::{Certainty, Error, LogId, RefusalReason, Slot};
use cluster::{Cluster, PATIENCE, VALUES};
use node::Limits;

/// Logs, and how many of them a node may have in memory.
const LOGS: u128 = 3_000;
const IN_MEMORY: usize = 200;

fn log(number: u128) -> LogId {
    LogId(1_000 + number)
}

fn value(number: u128, version: u32) -> Bytes {
    Bytes::from(format!("value {number} in version {version}"))
}

#[test]
fn thousands_of_values_of_which_few_are_in_memory_survive_a_crash() {
    let mut cluster = Cluster::engines(1, Limits { values_in_memory: IN_MEMORY, ..Limits::default() });
    let mut connection = cluster.members[0].connect();
    cluster.group = connection.create_group("objects", VALUES, "first", "test", PATIENCE).unwrap().group;
    let group = cluster.group;
    for number in 0..LOGS {
        let id = connection.operation_id(PATIENCE).unwrap();
        let slot = connection.put_value((group, log(number)), id, Slot::ZERO, value(number, 1), PATIENCE).unwrap();
        assert_eq!(slot, Slot(1));
    }
    // Some are written again, the first ones after they had left memory.
    for number in 0..100 {
        let (slot, known) = connection.value(group, log(number), PATIENCE).unwrap();
        assert_eq!((slot, known), (Slot(1), value(number, 1)));
        let id = connection.operation_id(PATIENCE).unwrap();
        connection.put_value((group, log(number)), id, slot, value(number, 2), PATIENCE).unwrap();
    }
    let metrics = cluster.members[0].status().metrics;
    assert!(metrics.values_in_memory as usize <= IN_MEMORY, "{} in memory", metrics.values_in_memory);
    assert!(metrics.values_unloaded as u128 >= LOGS - IN_MEMORY as u128, "{} unloaded", metrics.values_unloaded);

    // A value made from an older one is refused for good.
    let id = connection.operation_id(PATIENCE).unwrap();
    let stale = connection.put_value((group, log(5)), id, Slot(1), value(5, 9), PATIENCE);
    let Err(Error::Refused(refusal)) = stale else { panic!("unexpected {stale:?}") };
    assert_eq!((refusal.reason, refusal.certainty), (RefusalReason::Conflict, Certainty::Definite));
    drop(connection);

    // At the start none is read; each is when it is used.
    cluster.members[0].stop();
    cluster.members[0].start();
    assert_eq!(cluster.members[0].status().metrics.values_in_memory, 0);
    let mut connection = cluster.members[0].connect();
    for number in 0..LOGS {
        let (slot, found) = connection.value(group, log(number), PATIENCE).unwrap();
        let version = if number < 100 { 2 } else { 1 };
        assert_eq!((slot, found), (Slot(u64::from(version)), value(number, version)), "log {number}");
    }
    assert_eq!(connection.value(group, log(LOGS), PATIENCE).unwrap(), (Slot::ZERO, Bytes::new()));
    assert!(cluster.members[0].status().metrics.values_in_memory as usize <= IN_MEMORY);
}

#[test]
fn three_members_put_and_read_values_and_one_that_was_away_catches_up() {
    let mut cluster = Cluster::engines(3, Limits::default());
    cluster.group =
        cluster.members[0].connect().create_group("objects", VALUES, "first", "test", PATIENCE).unwrap().group;
    let group = cluster.group;
    (1..3).for_each(|index| cluster.join_by_log(index, 0));
    let put = |cluster: &Cluster, index: usize, number: u128, version: u32| {
        let mut connection = cluster.members[index].connect();
        let (slot, _) = connection.value(group, log(number), PATIENCE).unwrap();
        let id = connection.operation_id(PATIENCE).unwrap();
        connection.put_value((group, log(number)), id, slot, value(number, version), PATIENCE).unwrap()
    };
    for number in 0..30 {
        assert_eq!(put(&cluster, number as usize % 3, number, 1), Slot(1));
    }
    cluster.members[2].stop();
    for number in 0..30 {
        assert_eq!(put(&cluster, number as usize % 2, number, 2), Slot(2));
    }
    cluster.members[2].start();
    // With another member gone, what the returned one holds counts.
    cluster.members[0].stop();
    for number in 0..30 {
        let mut connection = cluster.members[2].connect();
        assert_eq!(connection.value(group, log(number), PATIENCE).unwrap(), (Slot(2), value(number, 2)));
        assert_eq!(put(&cluster, 1, number, 3), Slot(3));
    }
}
