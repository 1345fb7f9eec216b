//! Logs of values: the newest value replaces older ones, and a log is in memory only while it is used.

use crate::cluster::{member, node, Cluster, GROUP};
use crate::{
    Change, Discipline, GroupMessage, Input, LogId, Message, ProposalOutcome, Record, Refusal, Role, Slot, Token,
};
use expect_test::expect;
use std::time::Duration;

/// What a node's disk keeps of a log: positions, and the slots that hold something.
fn kept(cluster: &Cluster, number: u128, log: u128) -> (u64, Vec<u64>) {
    let stored = cluster.state(number).stored(LogId(log));
    (stored.closed.0, stored.accepted.keys().map(|slot| slot.0).collect())
}

/// A transcript without what was lost.
fn arrived(transcript: &str) -> String {
    transcript.lines().filter(|line| !line.contains("-x")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_newest_value_replaces_older_ones_one_slot_in_flight() {
    let mut cluster = Cluster::of_values(3, 10);
    cluster.note("the first value: both phases");
    cluster.put(1, 7, "one");
    cluster.settle();
    cluster.note("two more at once: each waits for the one before, and the second was made from an older value");
    let second = cluster.put(1, 7, "two");
    let stale = cluster.put(1, 7, "lost update");
    cluster.settle();
    assert_eq!(cluster.state(1).outcomes[&second], ProposalOutcome::Chosen(Slot(2)));
    assert_eq!(cluster.state(1).outcomes[&stale], ProposalOutcome::Failed(Refusal::Superseded(Slot(2))));
    expect![[r#"

        # the first value: both phases
        n1 -> n2: prepare 1.1.1.1 above 0
        n1 -> n3: prepare 1.1.1.1 above 0
        n2 -> n1: promise 1.1.1.1 closed 0 accepted []
        n3 -> n1: promise 1.1.1.1 closed 0 accepted []
        n1 -> n2: accept 1.1.1.1 1: [1.1.1="one" after 0]
        n1 -> n3: accept 1.1.1.1 1: [1.1.1="one" after 0]
        n2 -> n1: accepted 1.1.1.1 1..1
        n3 -> n1: accepted 1.1.1.1 1..1
        n1 -> n2: chosen 1..1 under 1.1.1.1
        n1 -> n3: chosen 1..1 under 1.1.1.1

        # two more at once: each waits for the one before, and the second was made from an older value
        n1 -> n2: accept 1.1.1.1 2: [1.1.2="two" after 1], chosen 1..1 under 1.1.1.1
        n1 -> n3: accept 1.1.1.1 2: [1.1.2="two" after 1], chosen 1..1 under 1.1.1.1
        n2 -> n1: accepted 1.1.1.1 2..2
        n3 -> n1: accepted 1.1.1.1 2..2
        n1 -> n2: chosen 1..2 under 1.1.1.1
        n1 -> n3: chosen 1..2 under 1.1.1.1
    "#]]
    .assert_eq(&cluster.take_transcript());
    for number in 1..=3 {
        assert_eq!(cluster.value(number, 7), Some((2, "two".into())));
        assert_eq!(kept(&cluster, number, 7), (2, vec![2]), "the disk keeps the newest only");
    }
}

#[test]
fn a_member_that_is_behind_takes_the_newest_value_in_one_step() {
    let mut cluster = Cluster::of_values(3, 10);
    cluster.put(1, 7, "v1");
    cluster.settle();
    cluster.kill(3);
    for number in 2..=40 {
        cluster.put(1, 7, &format!("v{number}"));
        cluster.settle();
    }
    cluster.restart(3);
    cluster.take_transcript();
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.value(3, 7), Some((40, "v40".into())));
    assert_eq!(kept(&cluster, 3, 7), (40, vec![40]));
    let transcript = cluster.take_transcript();
    assert_eq!(transcript.matches("-> n3: fetched from 40: 1 entries").count(), 1, "{transcript}");
    assert_eq!(transcript.matches("fetched").count(), 1, "{transcript}");
}

#[test]
fn who_missed_values_accepts_the_next_one_after_the_newest() {
    let mut cluster = Cluster::of_values(3, 10);
    cluster.put(1, 7, "v1");
    cluster.settle();
    cluster.cut(1, 3);
    cluster.cut(2, 3);
    cluster.put(1, 7, "v2");
    cluster.settle();
    cluster.heal();
    // Nothing has told node 3 of slot 2, and node 2 is gone: the quorum for slot 3 needs node 3.
    cluster.kill(2);
    cluster.take_transcript();
    let id = cluster.put(1, 7, "v3");
    cluster.settle();
    assert_eq!(cluster.state(1).outcomes.get(&id), Some(&ProposalOutcome::Chosen(Slot(3))));
    expect![[r#"
        n1 -> n3: accept 1.1.1.1 3: [1.1.3="v3" after 2], chosen 1..2 under 1.1.1.1
        n3 -> n1: fetch 2..2
        n1 -> n3: fetched from 2: 1 entries, closed 2, trimmed 0
        n1 -> n3: accept 1.1.1.1 3: [1.1.3="v3" after 2]
        n3 -> n1: accepted 1.1.1.1 3..3
        n1 -> n3: chosen 1..3 under 1.1.1.1
    "#]]
    .assert_eq(&arrived(&cluster.take_transcript()));
}

#[test]
fn logs_leave_memory_when_idle_and_come_back_when_used() {
    let mut cluster = Cluster::of_values(3, 4);
    for log in 10..30 {
        cluster.put(1, log, &format!("value of {log}"));
        cluster.settle();
    }
    cluster.run(Duration::from_secs(5));
    for number in 1..=3 {
        assert!(cluster.loaded(number).len() <= 4, "{:?}", cluster.loaded(number));
        assert!(cluster.state(number).unloaded >= 16);
    }
    // Each can be read and written again, on any node.
    for log in 10..30 {
        let token = cluster.read_log(2, log);
        cluster.settle();
        assert_eq!(cluster.state(2).barriers[&token], Ok(Slot(1)));
        assert_eq!(cluster.value(2, log), Some((1, format!("value of {log}"))));
        let id = cluster.put(2, log, "again");
        cluster.run(Duration::from_millis(50));
        assert_eq!(cluster.state(2).outcomes[&id], ProposalOutcome::Chosen(Slot(2)), "log {log}");
    }
}

#[test]
fn a_log_that_is_being_loaded_answers_nobody_before() {
    let mut cluster = Cluster::of_values(3, 4);
    cluster.put(1, 7, "one");
    cluster.settle();
    for number in 1..=3 {
        cluster.kill(number);
        cluster.restart(number);
    }
    cluster.settle();
    for number in 1..=2 {
        let state = cluster.nodes.get_mut(&node(number)).expect("it exists");
        state.hold_loads = true;
        state.loads.clear();
    }
    cluster.take_transcript();
    let token = cluster.read_log(3, 7);
    cluster.run(Duration::from_millis(100));
    assert!(!cluster.state(3).barriers.contains_key(&token), "one answer is no quorum");
    let transcript = cluster.take_transcript();
    assert!(!transcript.contains("n1 -> n3: read") && !transcript.contains("n2 -> n3: read"), "{transcript}");
    // The disk says what was promised and accepted; then the answer is as it must be.
    cluster.load(1);
    cluster.settle();
    assert_eq!(cluster.state(3).barriers[&token], Ok(Slot(1)));
    assert_eq!(cluster.value(3, 7), Some((1, "one".into())));
}

#[test]
fn a_promise_survives_unloading() {
    let mut cluster = Cluster::of_values(3, 1);
    cluster.put(1, 7, "one");
    cluster.settle();
    let before = cluster.state(2).stored(LogId(7)).promised;
    for log in 20..25 {
        cluster.put(1, log, "other");
        cluster.settle();
    }
    assert!(!cluster.loaded(2).contains(&7));
    // An older ballot is refused although the log was not in memory.
    cluster.take_transcript();
    let body = crate::GroupMessage::Prepare {
        log: LogId(7),
        ballot: crate::Ballot { round: 0, ..before },
        closed: Slot::ZERO,
    };
    let message = crate::Message::Group { group: GROUP, epoch: crate::Epoch(1), start: crate::Start(1), body };
    cluster.input(node(2), Input::Message { from: node(3), message });
    cluster.settle();
    assert!(cluster.take_transcript().contains("promised 1.1.1.1, closed 1"));
}

#[test]
fn what_waits_for_a_load_is_answered_at_its_deadline_and_when_withdrawn() {
    let mut cluster = Cluster::of_values(1, 4);
    cluster.nodes.get_mut(&node(1)).expect("it exists").hold_loads = true;
    let late = cluster.put_after(1, 7, 0, "late");
    let withdrawn = cluster.put_after(1, 7, 0, "withdrawn");
    let token = cluster.read_log(1, 7);
    cluster.settle();
    cluster.input(node(1), Input::Withdraw { group: GROUP, log: LogId(7), id: withdrawn });
    cluster.settle();
    assert_eq!(cluster.state(1).outcomes[&withdrawn], ProposalOutcome::Failed(Refusal::Withdrawn));
    cluster.run(Duration::from_secs(6));
    assert_eq!(cluster.state(1).outcomes[&late], ProposalOutcome::Failed(Refusal::DeadlinePassed));
    assert_eq!(cluster.state(1).barriers[&token], Err(Refusal::DeadlinePassed));
}

#[test]
fn a_log_with_work_under_way_stays_and_new_work_beyond_the_bound_is_refused() {
    let mut cluster = Cluster::of_values(3, 2);
    cluster.isolate(1);
    cluster.run(Duration::from_secs(3));
    let waiting = [cluster.put_after(1, 7, 0, "a"), cluster.put_after(1, 8, 0, "b")];
    cluster.settle();
    let refused = cluster.put_after(1, 9, 0, "c");
    cluster.settle();
    assert_eq!(cluster.state(1).outcomes[&refused], ProposalOutcome::Failed(Refusal::Full("logs in memory")));
    assert_eq!(cluster.loaded(1), [7, 8]);
    cluster.heal();
    cluster.run(Duration::from_secs(3));
    for id in waiting {
        assert_eq!(cluster.state(1).outcomes[&id], ProposalOutcome::Chosen(Slot(1)));
    }
}

#[test]
fn a_log_is_not_unloaded_before_its_records_are_durable() {
    let mut cluster = Cluster::of_values(3, 1);
    cluster.nodes.get_mut(&node(2)).expect("it exists").hold_disk = true;
    cluster.put(1, 7, "one");
    cluster.settle();
    cluster.put(1, 8, "two");
    cluster.settle();
    assert!(cluster.loaded(2).contains(&7), "promised and accepted, and not written yet");
    cluster.sync(2);
    cluster.settle();
    cluster.put(1, 9, "three");
    cluster.settle();
    assert!(!cluster.loaded(2).contains(&7));
}

#[test]
fn a_new_member_learns_logs_that_nobody_uses() {
    let mut cluster = Cluster::of_values(1, 3);
    for log in 10..60 {
        cluster.put(1, log, &format!("value of {log}"));
        cluster.settle();
    }
    cluster.add(2, Vec::new());
    cluster.change(1, Change::AddLearner(member(2, Role::Learner)));
    cluster.settle();
    let configuration = cluster.state(1).core.status(cluster.now).groups[0].configuration.clone();
    assert_eq!(configuration.discipline, Discipline::Values);
    cluster.input(node(2), Input::LearnGroup { token: Token(999), configuration });
    cluster.run(Duration::from_secs(10));
    for log in 10..60 {
        assert_eq!(kept(&cluster, 2, log), (1, vec![1]), "log {log}");
    }
    assert!(cluster.loaded(2).len() <= 3);
}

#[test]
fn a_sync_pass_covers_logs_that_are_not_in_memory() {
    let mut cluster = Cluster::of_values(3, 3);
    // Chosen by nodes 1 and 2 while node 3 was away; then node 1 goes, and only node 2 has the values.
    cluster.isolate(3);
    cluster.run(Duration::from_secs(2));
    for log in 10..40 {
        cluster.put(1, log, &format!("value of {log}"));
        cluster.settle();
    }
    cluster.kill(1);
    cluster.heal();
    cluster.cut(1, 3);
    let token = cluster.change(2, Change::Remove(node(1)));
    cluster.run(Duration::from_secs(15));
    let status = cluster.state(2).core.status(cluster.now);
    assert!(cluster.state(2).changes.get(&token).is_some_and(Result::is_ok), "{status:?}");
    for log in 10..40 {
        assert_eq!(kept(&cluster, 3, log), (1, vec![1]), "log {log}: held by a quorum of the new configuration");
    }
}

#[test]
fn a_member_that_lost_its_promises_votes_in_no_log() {
    let mut cluster = Cluster::of_values(3, 3);
    cluster.put(1, 7, "one");
    cluster.settle();
    cluster.kill(3);
    cluster.restart_with(3, |recovered| recovered.groups.values_mut().for_each(|group| group.promises_lost = true));
    cluster.kill(2);
    let id = cluster.put(1, 7, "two");
    let token = cluster.read_log(1, 7);
    cluster.run(Duration::from_secs(6));
    assert_eq!(cluster.state(1).outcomes[&id], ProposalOutcome::Unknown);
    assert!(cluster.state(1).barriers[&token].is_err());
    let promised = |record: &Record| matches!(record, Record::Promised { log: LogId(7), .. });
    let after = cluster.state(3).disk.iter().filter(|(_, record)| promised(record)).count();
    assert!(after <= 1, "nothing is promised after the loss");
}

#[test]
fn a_value_whose_content_is_lost_comes_from_another_member() {
    let mut cluster = Cluster::of_values(3, 3);
    cluster.put(1, 7, "one");
    cluster.settle();
    cluster.kill(3);
    let state = cluster.nodes.get_mut(&node(3)).expect("it exists");
    // The acceptance rots as a whole; that it was chosen is still known.
    state.disk.retain(|(_, record)| !matches!(record, Record::Accepted { log: LogId(7), .. }));
    let (last, _) =
        *state.disk.last().map(|(sequence, record)| (sequence, record)).as_ref().expect("something is left");
    let closed = Record::Chosen { group: GROUP, log: LogId(7), up_to: Slot(1) };
    let sequence = crate::Sequence(last.0 + 1);
    state.disk.push((sequence, closed));
    cluster.restart(3);
    let token = cluster.read_log(3, 7);
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.state(3).barriers[&token], Ok(Slot(1)));
    assert_eq!(cluster.value(3, 7), Some((1, "one".into())));
}

#[test]
fn what_a_dead_owner_left_in_a_log_of_values_is_finished() {
    let mut cluster = Cluster::of_values(3, 3);
    cluster.put(1, 7, "one");
    cluster.settle();
    cluster.cut(1, 3);
    cluster.put(1, 7, "two");
    cluster.poll(node(1));
    cluster.kill_after_sending(1);
    cluster.heal();
    let token = cluster.read_log(3, 7);
    cluster.run(Duration::from_millis(900));
    assert_eq!(cluster.state(3).barriers.get(&token), Some(&Ok(Slot(2))));
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.value(3, 7), Some((2, "two".into())));
}

#[test]
fn other_entries_do_not_belong_into_a_log_of_values() {
    let mut cluster = Cluster::of_values(1, 3);
    let id = cluster.propose(1, "an operation");
    cluster.settle();
    assert!(matches!(cluster.state(1).outcomes[&id], ProposalOutcome::Failed(Refusal::Unfit(_))));
    let mut tables = Cluster::of(1);
    let id = tables.put_after(1, LogId::MAIN.0, 0, "a value");
    tables.settle();
    assert!(matches!(tables.state(1).outcomes[&id], ProposalOutcome::Failed(Refusal::Unfit(_))));
}

/// Whether a message is news, or brings something of log 7.
fn is_news_or_of_seven(message: &Message) -> bool {
    let Message::Group { body, .. } = message else { return false };
    matches!(body, GroupMessage::Accept { log: LogId(7), .. }) || is_notice_or_news(message)
}

fn is_notice_or_news(message: &Message) -> bool {
    let Message::Group { body, .. } = message else { return false };
    matches!(body, GroupMessage::Chosen { log: LogId(7), .. } | GroupMessage::Newer { .. })
}

#[test]
fn what_is_accepted_after_a_read_began_is_not_void_by_its_answers() {
    let mut cluster = Cluster::of_values(3, 1);
    cluster.put(1, 7, "one");
    cluster.settle();
    // Node 3 asks where the log stands; both others answer, and the answers take a while.
    cluster.read_log(3, 7);
    cluster.poll(node(3));
    while cluster.deliver_one() {}
    for number in 1..=2 {
        cluster.poll(node(number));
    }
    let answers = std::mem::take(&mut cluster.in_flight);
    assert!(!answers.is_empty());
    // Meanwhile it accepts the next value, and the notice that this was chosen gets lost.
    cluster.loses = |to, message| to == node(3) && is_notice_or_news(message);
    cluster.put(1, 7, "two");
    cluster.settle();
    cluster.in_flight.extend(answers);
    cluster.settle();
    for log in 20..24 {
        cluster.put(1, log, "other");
        cluster.settle();
    }
    assert!((1..=3).all(|number| !cluster.loaded(number).contains(&7)));
    assert_eq!(kept(&cluster, 3, 7), (1, vec![1, 2]));
    // It finds out by itself.
    cluster.run(Duration::from_secs(5));
    assert_eq!(kept(&cluster, 3, 7), (2, vec![2]));
}

#[test]
fn who_counted_a_quorum_tells_those_that_lack_the_value_although_it_owns_the_log_no_more() {
    let mut cluster = Cluster::of_values(5, 1);
    cluster.put(1, 7, "one");
    cluster.settle();
    cluster.loses = |to, message| to == node(5) && is_news_or_of_seven(message);
    cluster.put(1, 7, "two");
    cluster.settle();
    // Another ballot takes the log, and all let go of it.
    let before = cluster.state(2).stored(LogId(7)).promised;
    let ballot = crate::Ballot { round: before.round + 1, node: node(2), ..before };
    let body = GroupMessage::Prepare { log: LogId(7), ballot, closed: Slot(2) };
    cluster.input(
        node(1),
        Input::Message {
            from: node(2),
            message: Message::Group { group: GROUP, epoch: crate::Epoch(1), start: crate::Start(1), body },
        },
    );
    cluster.settle();
    for log in 20..24 {
        cluster.put(1, log, "other");
        cluster.settle();
    }
    assert!((1..=5).all(|number| !cluster.loaded(number).contains(&7)));
    assert_eq!(kept(&cluster, 5, 7), (1, vec![1]));
    cluster.loses = |_, _| false;
    cluster.run(Duration::from_secs(5));
    assert_eq!(kept(&cluster, 5, 7), (2, vec![2]));
    // Once all have it nobody speaks of it any more.
    cluster.take_transcript();
    cluster.run(Duration::from_secs(20));
    assert_eq!(cluster.take_transcript(), "");
}

#[test]
fn a_page_of_an_earlier_comparison_says_nothing_of_what_came_since() {
    let mut cluster = Cluster::of_values(3, 10);
    cluster.isolate(3);
    cluster.run(Duration::from_secs(2));
    cluster.put(1, 7, "one");
    cluster.run(Duration::from_secs(10));
    // In contact again it asks what the others have; what comes is a page from before.
    cluster.loses = |to, message| {
        let Message::Group { body, .. } = message else { return false };
        to == node(3) && matches!(body, GroupMessage::Compare { .. } | GroupMessage::Newer { .. })
    };
    cluster.heal();
    cluster.run(Duration::from_secs(1));
    assert_eq!(kept(&cluster, 3, 7), (0, vec![]));
    for from in 1..=2 {
        let body = GroupMessage::Compare { number: 1, after: None, logs: Vec::new(), last: true };
        let message = Message::Group { group: GROUP, epoch: crate::Epoch(1), start: crate::Start(1), body };
        cluster.input(node(3), Input::Message { from: node(from), message });
    }
    cluster.settle();
    cluster.loses = |_, _| false;
    cluster.run(Duration::from_secs(5));
    assert_eq!(kept(&cluster, 3, 7), (1, vec![1]));
}

/// Node 1 loses contact with node 2 for a moment, and node 2 does not notice: it hears node 1 all the time.
#[test]
fn a_member_that_did_not_notice_a_loss_of_contact_is_told_what_it_lacks() {
    let mut cluster = Cluster::of_values(3, 1);
    cluster.put(1, 7, "one");
    cluster.settle();
    cluster.loses = |to, message| to == node(2) && is_news_or_of_seven(message);
    cluster.put(1, 7, "two");
    cluster.settle();
    cluster.put(1, 8, "other");
    cluster.settle();
    assert_eq!(kept(&cluster, 2, 7).0, 1);
    // Node 1's last words before it misses node 2 are lost, too: they would say that it hears node 2 no more.
    cluster.cut.insert((node(2), node(1)));
    cluster.run(Duration::from_millis(700));
    cluster.cut.insert((node(1), node(2)));
    cluster.run(Duration::from_millis(500));
    cluster.cut.remove(&(node(2), node(1)));
    cluster.run(Duration::from_millis(100));
    cluster.heal();
    cluster.loses = |_, _| false;
    cluster.run(Duration::from_secs(5));
    assert_eq!(kept(&cluster, 2, 7).0, 2, "{}", cluster.transcript);
}
