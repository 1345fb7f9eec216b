//! Owners that die, freeze, restart or are cut off (rules 2 to 4, 8).

use crate::cluster::{member, node, Cluster};
use crate::{Change, Epoch, GroupMessage, Message, ProposalOutcome, Refusal, Role, Slot};
use std::time::Duration;

#[test]
fn a_dead_owner_delays_others_by_the_failure_timeout_once() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "before");
    cluster.settle();
    assert_eq!(cluster.owners(), [node(1)]);
    cluster.kill(1);
    let id = cluster.propose(2, "during");
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.state(2).outcomes[&id], ProposalOutcome::Chosen(Slot(2)), "one failure time-out, then done");

    let id = cluster.propose(2, "after");
    cluster.settle();
    assert_eq!(cluster.state(2).outcomes[&id], ProposalOutcome::Chosen(Slot(3)), "then no delay at all");
    let id = cluster.propose(3, "after on 3");
    cluster.settle();
    assert_eq!(cluster.state(3).outcomes[&id], ProposalOutcome::Chosen(Slot(4)));

    cluster.restart(1);
    cluster.run(Duration::from_secs(2));
    for number in 1..=3 {
        assert_eq!(cluster.bodies(number), ["before", "during", "after", "after on 3"]);
    }
}

/// However the silence falls between heartbeats, whoever waits, and whoever notices first.
#[test]
fn a_silent_owner_is_replaced_within_the_failure_timeout() {
    for phase in 0..26 {
        for noticed_later in [0, 60, 130] {
            for writer in [2, 3] {
                let mut cluster = Cluster::of(3);
                cluster.propose(1, "before");
                cluster.run(Duration::from_millis(1000 + 5 * phase));
                assert_eq!(cluster.owners(), [node(1)]);
                // It is lost to one member a little before it is lost to the other, which would pass its proposals on to it.
                cluster.cut(1, 2);
                cluster.run(Duration::from_millis(noticed_later));
                cluster.cut(1, 3);
                let id = cluster.propose(writer, "during");
                cluster.run(Duration::from_millis(950));
                let outcome = cluster.state(writer).outcomes.get(&id);
                let what = format!("phase {phase}, noticed {noticed_later} ms later, writer {writer}");
                assert!(matches!(outcome, Some(ProposalOutcome::Chosen(_))), "{what}: {outcome:?}");
            }
        }
    }
}

/// Its own standstill says nothing about the others: it does not take over from an owner whose heartbeats are still unread.
#[test]
fn a_member_that_stood_still_does_not_take_the_others_for_dead() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "before");
    cluster.run(Duration::from_secs(1));
    cluster.now = cluster.now + Duration::from_millis(2500);
    let id = cluster.propose(2, "at once after it");
    cluster.settle();
    assert!(matches!(cluster.state(2).outcomes.get(&id), Some(ProposalOutcome::Chosen(_))));
    assert_eq!(cluster.owners(), [node(1)]);
}

#[test]
fn an_owner_cut_off_never_decides_alone_and_steps_down() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "before");
    cluster.settle();
    cluster.isolate(1);
    let lost = cluster.propose(1, "sent into the void");
    cluster.settle();
    let kept = cluster.propose(2, "majority");
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.state(2).outcomes[&kept], ProposalOutcome::Chosen(Slot(2)));
    assert!(!cluster.state(1).outcomes.contains_key(&lost));
    let refused = cluster.propose(1, "never sent");
    cluster.run(Duration::from_secs(6));
    assert_eq!(cluster.state(1).outcomes[&lost], ProposalOutcome::Unknown);
    let silent = vec![node(2), node(3)];
    let why = Refusal::NoQuorum { answering: vec![node(1)], silent };
    assert_eq!(cluster.state(1).outcomes[&refused], ProposalOutcome::Failed(why));
    cluster.heal();
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.bodies(1), cluster.bodies(2));
    assert!(!cluster.bodies(2).contains(&"never sent".to_owned()));
}

#[test]
fn any_majority_serves_again_after_all_died_at_once() {
    let mut cluster = Cluster::of(3);
    for number in 1..=3 {
        cluster.propose(number, &format!("v{number}"));
        cluster.settle();
    }
    (1..=3).for_each(|number| cluster.kill(number));
    cluster.restart(2);
    cluster.restart(3);
    cluster.run(Duration::from_secs(1));
    let id = cluster.propose(3, "again");
    cluster.run(Duration::from_secs(3));
    assert!(matches!(cluster.state(3).outcomes[&id], ProposalOutcome::Chosen(_)));
    cluster.restart(1);
    cluster.run(Duration::from_secs(3));
    for number in 1..=3 {
        assert_eq!(cluster.bodies(number), ["v1", "v2", "v3", "again"]);
    }
}

#[test]
fn a_restarted_owner_runs_phase_one_before_it_proposes() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.kill(1);
    cluster.restart(1);
    cluster.run(Duration::from_millis(300));
    assert!(cluster.owners().is_empty(), "never after a restart");
    cluster.take_transcript();
    let id = cluster.propose(1, "two");
    cluster.run(Duration::from_millis(50));
    assert!(cluster.take_transcript().contains("prepare"));
    assert_eq!(cluster.state(1).outcomes[&id], ProposalOutcome::Chosen(Slot(2)));
}

#[test]
fn members_that_cannot_reach_the_owner_forward_through_one_that_does() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.cut(1, 2);
    cluster.run(Duration::from_secs(2));
    let id = cluster.propose(2, "round about");
    cluster.run(Duration::from_secs(1));
    assert!(matches!(cluster.state(2).outcomes[&id], ProposalOutcome::Chosen(_)), "{:?}", cluster.state(2).outcomes);
    assert_eq!(cluster.owners(), [node(1)], "the owner reaches a quorum: nobody takes over");
}

#[test]
fn an_invitation_hands_the_log_over_without_a_timeout() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    let hand_over = crate::Input::HandOver { group: crate::cluster::GROUP, log: crate::LogId::MAIN, to: node(3) };
    cluster.input(node(1), hand_over);
    cluster.settle();
    assert_eq!(cluster.owners(), [node(3)]);
    cluster.propose(1, "two");
    cluster.settle();
    assert_eq!(cluster.bodies(2), ["one", "two"]);
}

/// The invitation overtakes the news of the epoch that it is of.
#[test]
fn an_invitation_of_an_epoch_that_the_invited_does_not_know_yet_is_void() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.loses =
        |to, message| to == node(3) && matches!(message, Message::Group { body: GroupMessage::Configured { .. }, .. });
    cluster.add(4, Vec::new());
    cluster.change(1, Change::AddLearner(member(4, Role::Learner)));
    cluster.run(Duration::from_millis(300));
    cluster.propose(1, "two");
    cluster.settle();
    let epoch =
        |cluster: &Cluster, number| cluster.state(number).core.status(cluster.now).groups[0].configuration.epoch;
    assert_eq!((epoch(&cluster, 1), epoch(&cluster, 3)), (Epoch(2), Epoch(1)));
    let hand_over = crate::Input::HandOver { group: crate::cluster::GROUP, log: crate::LogId::MAIN, to: node(3) };
    cluster.input(node(1), hand_over);
    cluster.run(Duration::from_millis(100));
    cluster.loses = |_, _| false;
    cluster.run(Duration::from_secs(2));
    assert_eq!((epoch(&cluster, 3), cluster.owners()), (Epoch(2), vec![node(1)]));
    let id = cluster.propose(3, "three");
    cluster.settle();
    assert!(matches!(cluster.state(3).outcomes[&id], ProposalOutcome::Chosen(_)));
}

/// A client of one node writes, `per_second` times for so many seconds.
fn write_steadily(cluster: &mut Cluster, number: u128, seconds: u64, per_second: u64) {
    for written in 0..seconds * per_second {
        let id = cluster.propose(number, &format!("{number}: {written}"));
        cluster.run(Duration::from_millis(1000 / per_second));
        assert!(matches!(cluster.state(number).outcomes[&id], ProposalOutcome::Chosen(_)), "{written}");
    }
}

#[test]
fn a_log_moves_to_the_node_where_its_entries_come_from() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    write_steadily(&mut cluster, 3, 7, 20);
    assert_eq!(cluster.owners(), [node(1)], "one dwell time may be an accident");
    write_steadily(&mut cluster, 3, 5, 20);
    assert_eq!(cluster.owners(), [node(3)], "two are not, and no write waited for the change");
    write_steadily(&mut cluster, 1, 7, 20);
    assert_eq!(cluster.owners(), [node(3)], "nor does it go back at once");
    write_steadily(&mut cluster, 1, 8, 20);
    assert_eq!(cluster.owners(), [node(1)]);
}

#[test]
fn a_log_that_two_nodes_write_stays_where_it_is() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    for _ in 0..20 {
        write_steadily(&mut cluster, 3, 1, 20);
        write_steadily(&mut cluster, 2, 1, 20);
    }
    assert_eq!(cluster.owners(), [node(1)]);
}

#[test]
fn an_owner_whose_invitation_comes_to_nothing_resumes() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    let hand_over = crate::Input::HandOver { group: crate::cluster::GROUP, log: crate::LogId::MAIN, to: node(3) };
    cluster.input(node(1), hand_over);
    cluster.kill(3);
    let id = cluster.propose(2, "two");
    cluster.run(Duration::from_millis(1100));
    assert!(matches!(cluster.state(2).outcomes[&id], ProposalOutcome::Chosen(_)));
    assert_eq!(cluster.owners(), [node(1)]);
}

/// Both nodes' disks, node 1's held back: nothing that it says about a promise or an acceptance may leave before the sync (rule 3).
#[test]
fn nothing_is_promised_or_accepted_before_it_is_durable() {
    let mut cluster = Cluster::of(3);
    for number in [2, 3] {
        cluster.nodes.get_mut(&node(number)).expect("it exists").hold_disk = true;
    }
    let id = cluster.propose(1, "x");
    cluster.settle();
    let transcript = cluster.take_transcript();
    assert!(transcript.contains("prepare") && !transcript.contains("promise"), "{transcript}");
    cluster.sync(2);
    cluster.settle();
    let transcript = cluster.take_transcript();
    assert!(
        transcript.contains("n2 -> n1: promise")
            && transcript.contains("accept ")
            && !transcript.contains(": accepted "),
        "{transcript}"
    );
    assert!(!cluster.state(1).outcomes.contains_key(&id));
    cluster.sync(2);
    cluster.settle();
    assert_eq!(cluster.state(1).outcomes[&id], ProposalOutcome::Chosen(Slot(1)));
}

#[test]
fn a_proposer_counts_its_own_acceptor_only_when_durable() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "warm");
    cluster.settle();
    cluster.isolate(3);
    cluster.nodes.get_mut(&node(1)).expect("it exists").hold_disk = true;
    let id = cluster.propose(1, "x");
    cluster.settle();
    assert!(!cluster.state(1).outcomes.contains_key(&id), "node 2's acceptance alone is no quorum");
    cluster.sync(1);
    cluster.settle();
    assert!(cluster.state(1).outcomes.contains_key(&id));
}

#[test]
fn withdrawing_is_definite_only_before_anything_was_sent() {
    let mut cluster = Cluster::of(3);
    cluster.isolate(1);
    cluster.run(Duration::from_secs(2));
    let unsent = cluster.propose(1, "x");
    cluster.settle();
    let withdraw = |id| crate::Input::Withdraw { group: crate::cluster::GROUP, log: crate::LogId::MAIN, id };
    cluster.input(node(1), withdraw(unsent));
    cluster.settle();
    assert_eq!(cluster.state(1).outcomes[&unsent], ProposalOutcome::Failed(Refusal::Withdrawn));
    cluster.heal();
    cluster.run(Duration::from_secs(2));
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    let sent = cluster.propose(1, "y");
    cluster.settle();
    cluster.input(node(1), withdraw(sent));
    cluster.settle();
    assert_eq!(
        cluster.state(1).outcomes[&sent],
        ProposalOutcome::Failed(Refusal::Withdrawn),
        "the first write still waited for promises"
    );
    cluster.heal();
    cluster.propose(1, "z");
    cluster.run(Duration::from_secs(2));
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    let sent = cluster.propose(1, "w");
    cluster.settle();
    cluster.input(node(1), withdraw(sent));
    cluster.settle();
    assert_eq!(cluster.state(1).outcomes[&sent], ProposalOutcome::Unknown, "the owner had sent it");
}
