//! Few logs of values in memory, and many in which something is open: everybody sees to them one after the other, and nobody
//! keeps the others from it.

use crate::cluster::{configuration, node, Cluster, GROUP};
use crate::{
    Ballot, Change, Discipline, Entry, Epoch, GroupMessage, LogId, Message, OperationId, Record, Sequence, Slot, Start,
};
use std::sync::Arc;
use std::time::Duration;

const OPEN: std::ops::Range<u128> = 10..40;

fn ballot_of_one() -> Ballot {
    Ballot { epoch: Epoch(1), round: 1, node: node(1), start: Start(1) }
}

/// What node 1 proposed in a log, as a record of a member that accepted it and heard nothing more.
fn accepted(log: u128) -> Record {
    let id = OperationId { node: node(1), start: Start(1), sequence: u64::try_from(log).expect("it is small") };
    let entries = [Entry::value(id, Slot::ZERO, b"left open")].into();
    Record::Accepted { group: GROUP, log: LogId(log), ballot: ballot_of_one(), first: Slot(1), entries }
}

/// Nodes 2 and 3 without node 1, which proposed in many logs before it was lost; what each of them accepted is open.
fn what_a_lost_member_left(in_memory: usize, accepted_by: impl Fn(u128, u128) -> bool) -> Cluster {
    let configuration = Arc::new(configuration(1, &[1, 2, 3]).with_discipline(Discipline::Values));
    let mut cluster = Cluster::empty_with(|options| options.resident_logs_max = in_memory);
    for number in 2..=3 {
        let mut records = vec![Record::Configured { configuration: configuration.clone() }];
        records.extend(OPEN.filter(|log| accepted_by(number, *log)).map(accepted));
        cluster.add(number, (1..).map(Sequence).zip(records).collect());
    }
    cluster.quiet = true;
    cluster.settle();
    cluster
}

fn closed(cluster: &Cluster, number: u128, log: u128) -> Slot {
    cluster.state(number).stored(LogId(log)).closed
}

#[test]
fn a_change_of_members_settles_many_open_logs_however_few_may_be_in_memory() {
    for in_memory in 1..=4 {
        // A third of the logs is open on both, the others on one of them; nobody can tell whether node 1 accepted it as well.
        let mut cluster =
            what_a_lost_member_left(in_memory, |number, log| log % 3 == 0 || log % 3 == number.rem_euclid(2) + 1);
        let token = cluster.change(2, Change::Remove(node(1)));
        cluster.run(Duration::from_secs(19));
        let configuration = cluster.state(2).core.status(cluster.now).groups[0].configuration.clone();
        let answer = cluster.state(2).changes.get(&token);
        assert!(answer.is_some_and(Result::is_ok), "{in_memory} in memory: {answer:?}, {configuration:?}");
        for log in OPEN.filter(|log| log % 3 == 0) {
            assert_eq!(
                (closed(&cluster, 2, log), closed(&cluster, 3, log)),
                (Slot(1), Slot(1)),
                "log {log} was chosen"
            );
        }
        for number in 2..=3 {
            assert!(cluster.loaded(number).len() <= 2 * in_memory + 1, "{:?}", cluster.loaded(number));
        }
        // Once all is settled nobody looks at anything any more.
        cluster.quiet = false;
        cluster.take_transcript();
        cluster.run(Duration::from_secs(60));
        assert_eq!(cluster.take_transcript(), "");
    }
}

#[test]
fn the_log_that_has_the_turn_stays_while_others_are_asked_for_and_used() {
    let mut cluster = what_a_lost_member_left(1, |_, log| log == 10);
    // A user of node 3 waits for as long as a caller may: nobody answers, and the one place in memory is taken.
    cluster.loses = |to, message| {
        let Message::Group { body, .. } = message else { return false };
        to == node(3) && matches!(body, GroupMessage::ReadAnswer { log: LogId(50), .. })
    };
    let waits = cluster.read_log(3, 50);
    // And node 2 asks about a log after the other.
    for log in 60..66 {
        cluster.read_log(2, log);
        cluster.run(Duration::from_millis(100));
        assert!(cluster.loaded(3).contains(&50) && cluster.loaded(3).len() <= 3, "{:?}", cluster.loaded(3));
    }
    assert!(!cluster.state(3).barriers.contains_key(&waits));
    assert_eq!(closed(&cluster, 3, 10), Slot(1));
}

#[test]
fn answers_to_who_has_let_go_of_a_log_load_nothing() {
    let mut cluster = Cluster::of_values(3, 1);
    cluster.put(1, 7, "one");
    cluster.settle();
    cluster.put(1, 8, "two");
    cluster.settle();
    assert!(!cluster.loaded(1).contains(&7));
    let state = cluster.nodes.get_mut(&node(1)).expect("it exists");
    state.hold_loads = true;
    state.loads.clear();
    let (log, ballot, closed) = (LogId(7), ballot_of_one(), Slot(1));
    let position = Sequence(1);
    let (first, last, accepted) = (Slot(1), Slot(1), Vec::new());
    for body in [
        GroupMessage::ReadAnswer { log, round: 1, closed, highest: closed, ballot, promised: ballot },
        GroupMessage::Promise {
            log,
            ballot,
            closed,
            above: closed,
            part: 0,
            last: true,
            accepted: Vec::new(),
            position,
        },
        GroupMessage::Refused { log, ballot, promised: ballot, closed },
        GroupMessage::Accepted { log, ballot, first, last, closed, position },
        GroupMessage::HasAccepted { log, closed, accepted },
    ] {
        let message = Message::Group { group: GROUP, epoch: Epoch(1), start: Start(1), body };
        cluster.input(node(1), crate::Input::Message { from: node(2), message });
        cluster.settle();
    }
    assert!(cluster.state(1).loads.is_empty());
}
