//! Never two decisions (rules 1, 2 and 9): histories in which other systems decided twice, and damage on the disk.

use crate::cluster::{configuration, node, Cluster, GROUP};
use crate::{
    Ballot, ChosenRange, Entry, Epoch, GroupMessage, Input, LogId, Message, OperationId, ProposalOutcome, Record,
    RecoveredEntry, Renewal, Sequence, Slot, Start, StopReason,
};
use std::sync::Arc;
use std::time::Duration;

fn ballot(round: u64, proposer: u128) -> Ballot {
    Ballot { epoch: Epoch(1), round, node: node(proposer), start: Start(1) }
}

fn value(text: &str) -> Entry {
    let sequence = text.bytes().map(u64::from).sum::<u64>() + 1000;
    Entry::operation(OperationId { node: node(9), start: Start(1), sequence }, text.as_bytes())
}

fn accepted(round: u64, proposer: u128, first: u64, values: &[&str]) -> Record {
    let entries: Vec<Entry> = values.iter().map(|text| value(text)).collect();
    Record::Accepted {
        group: GROUP,
        log: LogId::MAIN,
        ballot: ballot(round, proposer),
        first: Slot(first),
        entries: entries.into(),
    }
}

/// Three nodes whose disks hold these records beside the configuration.
fn with_disks(disks: [Vec<Record>; 3]) -> Cluster {
    let mut cluster = Cluster::empty();
    for (number, records) in (1..).zip(disks) {
        let configured = Record::Configured { configuration: Arc::new(configuration(1, &[1, 2, 3])) };
        let disk = [configured]
            .into_iter()
            .chain(records)
            .zip(1..)
            .map(|(record, sequence)| (Sequence(sequence), record))
            .collect();
        cluster.add(number, disk);
    }
    cluster
}

/// pg_paxos, defect 1: V@1 on node 1, W@2 on node 3, V@3 on node 2. "A majority reports V" proves nothing.
#[test]
fn equal_values_under_different_ballots_are_not_chosen() {
    let mut cluster =
        with_disks([vec![accepted(1, 1, 1, &["V"])], vec![accepted(3, 2, 1, &["V"])], vec![accepted(2, 3, 1, &["W"])]]);
    cluster.kill(3);
    let token = cluster.read(1);
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.state(1).barriers[&token], Ok(Slot(1)));
    assert_eq!(cluster.bodies(1), ["V"]);
    let under = cluster.state(1).disk.iter().rev().find_map(|(_, record)| match record {
        Record::Accepted { ballot, .. } => Some(*ballot),
        _ => None,
    });
    assert!(under >= Some(ballot(3, 2)), "the recovered value went through phase 2 before it was taken as chosen");

    cluster.kill(2);
    cluster.restart(3);
    cluster.run(Duration::from_secs(3));
    let id = cluster.propose(3, "next");
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.state(3).outcomes[&id], ProposalOutcome::Chosen(Slot(2)));
    assert_eq!(cluster.bodies(3), ["V", "next"], "W never replaces V");
}

/// pg_paxos, defect 2: a chosen value must win over another with an equal proposal number, whatever their contents.
#[test]
fn a_chosen_value_survives_a_rival_with_the_same_round() {
    // "b" was chosen by nodes 2 and 3 under round 1 of node 2; node 1 accepted "z" under round 1 of its own, a lower ballot.
    let mut cluster =
        with_disks([vec![accepted(1, 1, 1, &["z"])], vec![accepted(1, 2, 1, &["b"])], vec![accepted(1, 2, 1, &["b"])]]);
    cluster.kill(3);
    let id = cluster.propose(1, "next");
    cluster.run(Duration::from_secs(4));
    assert_eq!(cluster.state(1).outcomes[&id], ProposalOutcome::Chosen(Slot(2)));
    assert_eq!(cluster.bodies(1), ["b", "next"]);
}

#[test]
fn gaps_below_the_highest_accepted_slot_become_no_ops() {
    let mut cluster = with_disks([vec![], vec![accepted(1, 1, 3, &["three"])], vec![]]);
    cluster.settle();
    let id = cluster.propose(2, "next");
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.state(2).outcomes[&id], ProposalOutcome::Chosen(Slot(4)));
    assert_eq!(cluster.bodies(2), ["three", "next"]);
}

#[test]
fn a_notice_counts_only_for_the_ballot_it_names() {
    let mut cluster = with_disks([vec![], vec![accepted(1, 1, 1, &["stale"])], vec![]]);
    cluster.settle();
    let range = ChosenRange { first: Slot(1), last: Slot(1), ballot: ballot(2, 3) };
    let body = GroupMessage::Chosen { log: LogId::MAIN, range };
    cluster.input(
        node(2),
        Input::Message {
            from: node(3),
            message: Message::Group { group: GROUP, epoch: Epoch(1), start: Start(1), body },
        },
    );
    cluster.take_transcript();
    cluster.settle();
    assert!(cluster.bodies(2).is_empty(), "accepted under another ballot: not known chosen");
    assert!(cluster.take_transcript().contains("n2 -> n3: fetch 1..1"));
}

#[test]
fn two_values_under_one_ballot_stop_the_acceptor() {
    let mut cluster = with_disks([vec![], vec![accepted(1, 1, 1, &["a"])], vec![]]);
    cluster.settle();
    let entries = vec![value("b")].into();
    let body = GroupMessage::Accept {
        log: LogId::MAIN,
        ballot: ballot(1, 1),
        first: Slot(1),
        entries,
        chosen: None,
        answer_to: node(1),
    };
    cluster.input(
        node(2),
        Input::Message {
            from: node(1),
            message: Message::Group { group: GROUP, epoch: Epoch(1), start: Start(1), body },
        },
    );
    cluster.settle();
    assert!(matches!(cluster.state(2).stopped, Some(StopReason::TwoValues { slot: Slot(1), .. })));
}

#[test]
fn a_damaged_acceptance_is_not_taken_for_nothing() {
    // "v" may have been chosen by nodes 1 and 2. Node 2's copy is damaged, node 1 is away: nodes 2 and 3 must not decide the slot.
    let mut cluster = with_disks([vec![accepted(1, 1, 1, &["v"])], vec![accepted(1, 1, 1, &["v"])], vec![]]);
    cluster.kill(1);
    cluster.restart_with(2, |recovered| {
        let log = recovered.groups.get_mut(&GROUP).expect("it is there").log(LogId::MAIN);
        log.accepted.insert(Slot(1), RecoveredEntry { ballot: ballot(1, 1), entry: None });
    });
    let id = cluster.propose(3, "other");
    cluster.run(Duration::from_secs(3));
    assert!(!cluster.state(3).outcomes.contains_key(&id), "nothing is decided over the damage");
    cluster.restart(1);
    cluster.run(Duration::from_secs(4));
    let id = cluster.propose(3, "after");
    cluster.run(Duration::from_secs(3));
    assert!(matches!(cluster.state(3).outcomes[&id], ProposalOutcome::Chosen(_)));
    assert_eq!(cluster.bodies(3)[0], "v", "the intact copy heals the damage");
    assert_eq!(cluster.bodies(2), cluster.bodies(3));
}

#[test]
fn a_node_that_lost_its_promises_votes_again_only_after_a_renewal() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.kill(2);
    cluster.restart_with(2, |recovered| recovered.groups.get_mut(&GROUP).expect("it is there").promises_lost = true);
    cluster.run(Duration::from_secs(1));
    cluster.kill(3);
    cluster.run(Duration::from_secs(2));
    let id = cluster.propose(1, "two");
    cluster.run(Duration::from_secs(6));
    assert!(!matches!(cluster.state(1).outcomes[&id], ProposalOutcome::Chosen(_)), "node 2 does not vote");
    cluster.restart(3);
    cluster.run(Duration::from_secs(2));
    let token = cluster.change(1, crate::Change::Renew(vec![node(2)]));
    cluster.run(Duration::from_secs(3));
    assert!(cluster.state(1).changes[&token].is_ok(), "{:?}", cluster.state(1).changes[&token]);
    cluster.kill(3);
    let id = cluster.propose(1, "three");
    cluster.run(Duration::from_secs(3));
    assert!(matches!(cluster.state(1).outcomes[&id], ProposalOutcome::Chosen(_)), "node 2 votes again");
    cluster.kill(2);
    cluster.restart(2);
    let id = cluster.propose(1, "four");
    cluster.run(Duration::from_secs(3));
    assert!(matches!(cluster.state(1).outcomes[&id], ProposalOutcome::Chosen(_)), "also after another restart");
}

/// Parts of two answers to one prepare, given at different times, must not be put together.
#[test]
fn parts_of_different_promises_stay_apart() {
    let mut cluster = Cluster::of(3);
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    cluster.propose(1, "x");
    cluster.settle();
    let prepared = ballot(1, 1);
    let promise = |above: u64, closed: u64, part: u32, last: bool, slots: std::ops::RangeInclusive<u64>| {
        let accepted = slots
            .map(|slot| crate::Accepted { slot: Slot(slot), ballot: ballot(0, 0), entry: Some(value("v")) })
            .collect();
        let position = Sequence(1);
        let body = GroupMessage::Promise {
            log: LogId::MAIN,
            ballot: prepared,
            closed: Slot(closed),
            above: Slot(above),
            part,
            last,
            accepted,
            position,
        };
        Input::Message {
            from: node(2),
            message: Message::Group { group: GROUP, epoch: Epoch(1), start: Start(1), body },
        }
    };
    cluster.input(node(1), promise(0, 0, 0, false, 1..=10));
    cluster.input(node(1), promise(5, 0, 1, true, 16..=20));
    cluster.settle();
    assert!(cluster.owners().is_empty(), "slots 11 to 15 were never answered");
    cluster.input(node(1), promise(5, 0, 0, false, 6..=15));
    cluster.settle();
    assert_eq!(cluster.owners(), [node(1)]);
}

#[test]
fn a_voter_that_is_told_of_its_own_group_has_lost_its_promises() {
    let mut cluster = Cluster::of(3);
    cluster.kill(2);
    cluster.restart_with(2, |recovered| recovered.groups.get_mut(&GROUP).expect("it is there").configuration = None);
    let told = Arc::new(configuration(1, &[1, 2, 3]));
    cluster.input(node(2), Input::LearnGroup { token: crate::Token(5), configuration: told });
    cluster.run(Duration::from_secs(1));
    assert!(cluster.state(2).changes[&crate::Token(5)].is_ok());
    let status = cluster.state(2).core.status(cluster.now);
    assert!(status.groups[0].is_member && !status.groups[0].may_vote);
}

/// An owner that was cut off gets a copy of the state: what others chose meanwhile it must not claim for its own ballot.
#[test]
fn an_owner_vouches_for_no_slot_that_it_did_not_choose() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    cluster.propose(1, "two");
    cluster.settle();
    cluster.input(node(1), Input::Installed { group: GROUP, log: LogId::MAIN, slot: Slot(5) });
    cluster.settle();
    assert!(cluster.owners().is_empty());
    assert!(!cluster.take_transcript().contains("chosen 1..5"));
}

/// Node 1 alone knows slot 1 chosen, and its disk lost the content. Node 2 accepted it and does not know; node 3 was away,
/// and has something that came to nothing.
#[test]
fn an_entry_that_only_one_knows_chosen_is_healed_from_an_acceptance_of_another() {
    let chosen = Record::Chosen { group: GROUP, log: LogId::MAIN, up_to: Slot(1) };
    let disks = |other: Record| {
        [vec![accepted(3, 1, 1, &["v"]), chosen.clone()], vec![other], vec![accepted(2, 3, 1, &["stale"])]]
    };
    for (other, healed) in
        [(accepted(3, 1, 1, &["v"]), true), (accepted(4, 2, 1, &["v"]), true), (accepted(2, 3, 1, &["stale"]), false)]
    {
        let mut cluster = with_disks(disks(other));
        cluster.nodes.get_mut(&node(1)).expect("it exists").damaged.insert(Slot(1));
        cluster.restart_with(1, |recovered| {
            let log = recovered.groups.get_mut(&GROUP).expect("it is there").log(LogId::MAIN);
            log.accept(Slot(1), ballot(3, 1), None);
            assert_eq!(log.lost.get(&Slot(1)), Some(&ballot(3, 1)));
        });
        cluster.run(Duration::from_secs(3));
        let id = cluster.propose(2, "next");
        cluster.run(Duration::from_secs(3));
        assert_eq!(matches!(cluster.state(2).outcomes.get(&id), Some(ProposalOutcome::Chosen(_))), healed);
        let bodies = if healed { vec!["v", "next"] } else { vec![] };
        assert!(
            (1..=3).all(|number| cluster.bodies(number) == bodies),
            "what stands under a lower ballot heals nothing"
        );
    }
}

/// Three nodes accepted slots 1 to 3 and nobody heard that they were chosen; nobody can read slot 2 any more. A write comes before
/// anybody has finished anything.
#[test]
fn what_stands_before_a_loss_is_finished_although_phase_one_cannot_go_on() {
    let disk = || vec![accepted(1, 1, 1, &["one", "two", "three"])];
    let mut cluster = with_disks([disk(), disk(), disk()]);
    for number in 1..=3 {
        cluster.restart_with(number, |recovered| {
            let log = recovered.groups.get_mut(&GROUP).expect("it is there").log(LogId::MAIN);
            log.accepted.insert(Slot(2), RecoveredEntry { ballot: ballot(1, 1), entry: None });
        });
    }
    let id = cluster.propose(2, "next");
    cluster.run(Duration::from_secs(3));
    assert!((1..=3).all(|number| cluster.bodies(number) == ["one"]), "what is intact before the loss");
    assert!(!matches!(cluster.state(2).outcomes.get(&id), Some(ProposalOutcome::Chosen(_))), "and nothing behind it");
    assert!((1..=3).all(|number| cluster.main_status(number).closed == Slot(1)));
}

/// Slot 1 is damaged on both members that can vote. The third lost its promises, and still has the content.
#[test]
fn a_copy_on_a_member_that_may_not_vote_heals_a_damaged_acceptance() {
    let disk = || vec![accepted(2, 1, 1, &["v"])];
    for (rival, healed) in [(disk(), true), (vec![accepted(1, 3, 1, &["stale"])], false)] {
        let mut cluster = with_disks([disk(), disk(), rival]);
        for number in 1..=2 {
            cluster.restart_with(number, |recovered| {
                let log = recovered.groups.get_mut(&GROUP).expect("it is there").log(LogId::MAIN);
                log.accepted.insert(Slot(1), RecoveredEntry { ballot: ballot(2, 1), entry: None });
            });
        }
        cluster
            .restart_with(3, |recovered| recovered.groups.get_mut(&GROUP).expect("it is there").promises_lost = true);
        // At once: a promise stands in the way of finishing the slot under the ballot that it has.
        let id = cluster.propose(1, "next");
        cluster.run(Duration::from_secs(3));
        let bodies = if healed { vec!["v", "next"] } else { vec![] };
        assert!((1..=2).all(|number| cluster.bodies(number) == bodies), "a copy counts under its very ballot only");
        assert_eq!(matches!(cluster.state(1).outcomes.get(&id), Some(ProposalOutcome::Chosen(_))), healed);
    }
}
/// The same, and node 1 had lost whole records before: it was renewed since, in the joint epoch 2. What it accepted under a
/// ballot of that epoch or a later one came after the loss, so that nothing that replaced it is missing. An older ballot
/// may be that of an entry that lost.
#[test]
fn a_member_that_lost_records_once_heals_what_it_accepted_since_it_was_renewed() {
    let mut renewed = configuration(3, &[1, 2, 3]);
    renewed.renewed.insert(node(1), Renewal { joint: Epoch(2), start: Start(1) });
    let configured = Record::Configured { configuration: Arc::new(renewed) };
    for (epoch, healed) in [(3, true), (2, true), (1, false)] {
        let under = Ballot { epoch: Epoch(epoch), ..ballot(3, 2) };
        let entries: Arc<[Entry]> = [value("v")].into();
        let accepted = Record::Accepted { group: GROUP, log: LogId::MAIN, ballot: under, first: Slot(1), entries };
        let mut cluster = Cluster::empty();
        let barred = Record::VotingBarred { group: GROUP, start: Start(1) };
        let chosen = Record::Chosen { group: GROUP, log: LogId::MAIN, up_to: Slot(1) };
        let of_first = vec![barred, configured.clone(), accepted.clone(), chosen];
        let disks = [of_first, vec![configured.clone(), accepted.clone()], vec![configured.clone()]];
        for (number, records) in (1..).zip(disks) {
            cluster.add(number, (1..).map(Sequence).zip(records).collect());
        }
        cluster.nodes.get_mut(&node(1)).expect("it exists").damaged.insert(Slot(1));
        cluster.restart_with(1, |recovered| {
            let log = recovered.groups.get_mut(&GROUP).expect("it is there").log(LogId::MAIN);
            log.accept(Slot(1), under, None);
            assert_eq!(log.lost.get(&Slot(1)), Some(&under));
        });
        cluster.run(Duration::from_secs(3));
        assert!(cluster.state(1).core.status(cluster.now).groups[0].may_vote);
        let id = cluster.propose(2, "next");
        cluster.run(Duration::from_secs(3));
        assert_eq!(matches!(cluster.state(2).outcomes.get(&id), Some(ProposalOutcome::Chosen(_))), healed);
        let bodies = if healed { vec!["v", "next"] } else { vec![] };
        assert!((1..=3).all(|number| cluster.bodies(number) == bodies), "under epoch {epoch}");
    }
}
