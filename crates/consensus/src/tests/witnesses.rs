//! Members that vote and hold no state (design, sections 1 and 4).

use crate::cluster::{configuration, member, node, Cluster, GROUP};
use crate::{Change, CoreOptions, GroupMessage, Input, LogId, Message, ProposalOutcome, Refusal, Role, Slot, Token};
use std::sync::Arc;
use std::time::Duration;

/// Voters from 1 on, then witnesses.
fn group(voters: u128, witnesses: u128, set: impl Fn(&mut CoreOptions)) -> Cluster {
    let mut all = configuration(1, &(1..=voters + witnesses).collect::<Vec<_>>());
    all.members.iter_mut().skip(voters as usize).for_each(|member| member.role = Role::Witness);
    all.check().expect("a legal group");
    Cluster::with_configuration(&Arc::new(all), set)
}

fn two_and_a_witness() -> Cluster {
    group(2, 1, |_| {})
}

/// The face of a node has made durable what it was given.
fn holds_all(cluster: &mut Cluster, number: u128) {
    let slot = cluster.main_status(number).delivered;
    cluster.nodes.get_mut(&node(number)).expect("it exists").applied = slot;
    cluster.input(node(number), Input::Held { group: GROUP, log: LogId::MAIN, slot });
    cluster.run(Duration::from_millis(300));
}

fn write(cluster: &mut Cluster, number: u128, body: &str) -> ProposalOutcome {
    let id = cluster.propose(number, body);
    cluster.run(Duration::from_secs(2));
    cluster.state(number).outcomes[&id].clone()
}

fn write_many(cluster: &mut Cluster, number: u128, count: u32) {
    for round in 0..count {
        cluster.propose(number, &format!("w{round}"));
        cluster.run(Duration::from_millis(20));
    }
    cluster.run(Duration::from_millis(500));
}

fn role(cluster: &Cluster, at: u128, number: u128) -> Role {
    let status = cluster.state(at).core.status(cluster.now);
    status.groups[0].configuration.member(node(number)).expect("a member").role
}

fn is_joint(cluster: &Cluster, at: u128) -> bool {
    cluster.state(at).core.status(cluster.now).groups[0].configuration.is_joint()
}

#[test]
fn with_a_witness_either_of_two_voters_can_be_lost() {
    for lost in 1..=2 {
        let mut cluster = two_and_a_witness();
        assert!(matches!(write(&mut cluster, 1, "both"), ProposalOutcome::Chosen(_)));
        cluster.kill(lost);
        let left = 3 - lost;
        assert!(matches!(write(&mut cluster, left, "one"), ProposalOutcome::Chosen(_)), "without {lost}");
        let read = cluster.read(left);
        cluster.run(Duration::from_millis(500));
        assert!(cluster.state(left).barriers[&read].is_ok());
        assert_eq!(cluster.owners(), [node(left)], "never the witness");
        cluster.restart(lost);
        cluster.run(Duration::from_secs(1));
        assert_eq!(cluster.bodies(lost), ["both", "one"]);
        assert!(cluster.state(3).delivered.is_empty(), "nothing is delivered at a witness");
    }
}

#[test]
fn a_witness_is_not_asked_for_anything() {
    let mut cluster = two_and_a_witness();
    let id = cluster.propose(3, "at the witness");
    let read = cluster.read(3);
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.state(3).outcomes[&id], ProposalOutcome::Failed(Refusal::Witness));
    assert_eq!(cluster.state(3).barriers[&read], Err(Refusal::Witness));
}

/// In a sync pass a witness counts as having what the voters' states hold, and it need not have it.
#[test]
fn a_read_covers_what_a_witness_never_had() {
    let mut cluster = two_and_a_witness();
    fn is_content(body: &GroupMessage) -> bool {
        matches!(body, GroupMessage::Accept { .. } | GroupMessage::Chosen { .. } | GroupMessage::Fetched { .. })
    }
    cluster.loses = |to, message| matches!(message, Message::Group { body, .. } if to == node(3) && is_content(body));
    write_many(&mut cluster, 1, 5);
    holds_all(&mut cluster, 1);
    let chosen = cluster.main_status(1).closed;
    assert!(chosen >= Slot(5) && cluster.main_status(3).closed == Slot::ZERO, "{chosen}");
    cluster.kill(2);
    cluster.change(3, Change::SetAway(node(2)));
    let mut reads = Vec::new();
    while role(&cluster, 1, 2) != Role::Away || reads.len() < 100 {
        reads.push(cluster.read(1));
        cluster.run(Duration::from_millis(1));
        assert!(reads.len() < 5000, "2 is set aside");
    }
    cluster.run(Duration::from_secs(1));
    let barriers: Vec<_> = reads.iter().filter_map(|read| cluster.state(1).barriers[read].clone().ok()).collect();
    assert!(!barriers.is_empty() && barriers.iter().all(|barrier| *barrier >= chosen), "{barriers:?} of {chosen}");
}

#[test]
fn what_a_voter_lacks_is_at_the_witness_when_the_other_one_is_lost() {
    let mut cluster = two_and_a_witness();
    write(&mut cluster, 1, "all");
    holds_all(&mut cluster, 1);
    holds_all(&mut cluster, 2);
    assert_eq!(cluster.main_status(3).trimmed, cluster.main_status(1).closed, "every voter has it");

    cluster.kill(2);
    write_many(&mut cluster, 1, 5);
    holds_all(&mut cluster, 1);
    assert!(cluster.main_status(3).trimmed < cluster.main_status(3).closed, "2 lacks it");

    // 1 is lost, with its state; 2 and the witness have everything.
    cluster.kill(1);
    cluster.restart(2);
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.bodies(2).len(), 1 + 5);
    assert!(matches!(write(&mut cluster, 2, "on"), ProposalOutcome::Chosen(_)));
    assert_eq!(cluster.bodies(2).last().map(String::as_str), Some("on"));

    // After a restart the witness still knows what it keeps.
    holds_all(&mut cluster, 2);
    cluster.restart(3);
    cluster.run(Duration::from_secs(1));
    let status = cluster.main_status(3);
    assert!(status.closed == cluster.main_status(2).closed && status.trimmed < status.closed);
}

#[test]
fn at_a_witness_bound_the_absent_voter_is_set_aside_until_it_has_caught_up() {
    let mut cluster = group(2, 1, |options| options.witness_keep_entries = 20);
    cluster.kill(2);
    write_many(&mut cluster, 1, 30);
    assert_eq!(role(&cluster, 1, 2), Role::Voter, "1 holds no more than 2 does: nothing is won");
    holds_all(&mut cluster, 1);
    cluster.run(Duration::from_secs(10));
    assert_eq!(role(&cluster, 1, 2), Role::Away);
    assert_eq!(cluster.main_status(3).trimmed, cluster.main_status(1).held, "nobody needs it");
    assert!(matches!(write(&mut cluster, 1, "on"), ProposalOutcome::Chosen(_)));

    cluster.restart(2);
    cluster.run(Duration::from_secs(3));
    assert_eq!(role(&cluster, 2, 2), Role::Away, "its state does not hold it yet");
    holds_all(&mut cluster, 2);
    cluster.run(Duration::from_secs(10));
    assert_eq!((role(&cluster, 1, 2), role(&cluster, 3, 2)), (Role::Voter, Role::Voter));
    cluster.kill(1);
    assert!(matches!(write(&mut cluster, 2, "back"), ProposalOutcome::Chosen(_)));
}

/// The state of 2 holds nothing durably; it is set aside all the same, and the witness drops what 1 holds.
#[test]
fn a_voter_that_was_set_aside_has_its_state_made_durable_before_it_is_one_again() {
    let mut cluster = two_and_a_witness();
    write_many(&mut cluster, 1, 10);
    holds_all(&mut cluster, 1);
    cluster.change(1, Change::SetAway(node(2)));
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.main_status(3).trimmed, Slot(10));
    assert!(cluster.state(2).asked_to_hold, "nothing else is written");
    assert_eq!(role(&cluster, 1, 2), Role::Away);
    holds_all(&mut cluster, 2);
    cluster.run(Duration::from_secs(3));
    assert_eq!((role(&cluster, 1, 2), is_joint(&cluster, 1)), (Role::Voter, false));
}

/// A member that joins has everything from the log, and the witness has dropped it.
#[test]
fn a_new_voter_has_its_state_made_durable_for_the_witness() {
    let mut cluster = two_and_a_witness();
    write_many(&mut cluster, 1, 10);
    cluster.add(4, Vec::new());
    let token = cluster.change(1, Change::AddLearner(member(4, Role::Learner)));
    cluster.run(Duration::from_millis(500));
    let configuration = cluster.state(1).changes[&token].clone().expect("added");
    cluster.input(node(4), Input::LearnGroup { token: Token(9001), configuration });
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.bodies(4).len(), 10);
    (1..=2).for_each(|number| holds_all(&mut cluster, number));
    assert_eq!(cluster.main_status(3).trimmed, Slot(10));
    let token = cluster.change(1, Change::Promote(node(4)));
    cluster.run(Duration::from_secs(3));
    assert!(cluster.state(4).asked_to_hold, "nothing else is written");
    holds_all(&mut cluster, 4);
    cluster.run(Duration::from_secs(3));
    assert!(cluster.state(1).changes[&token].is_ok() && !is_joint(&cluster, 1));
}

#[test]
fn a_group_that_cannot_set_a_voter_aside_admits_nothing_new_at_the_bound() {
    let mut cluster = group(2, 2, |options| options.witness_keep_entries = 10);
    cluster.kill(2);
    write_many(&mut cluster, 1, 30);
    holds_all(&mut cluster, 1);
    cluster.run(Duration::from_secs(10));
    assert_eq!(role(&cluster, 1, 2), Role::Voter, "the witnesses would be a quorum by themselves");
    assert!(matches!(write(&mut cluster, 1, "more"), ProposalOutcome::Failed(Refusal::Full(_))));

    cluster.restart(2);
    cluster.run(Duration::from_secs(2));
    holds_all(&mut cluster, 2);
    cluster.run(Duration::from_secs(2));
    assert!(matches!(write(&mut cluster, 1, "room again"), ProposalOutcome::Chosen(_)));
}

#[test]
fn a_witness_is_admitted_to_a_group_whose_logs_are_trimmed() {
    let mut cluster = Cluster::with_options(2, |options| options.log_keep_entries = 0);
    write_many(&mut cluster, 1, 10);
    holds_all(&mut cluster, 1);
    holds_all(&mut cluster, 2);
    cluster.add(3, Vec::new());
    let token = cluster.change(1, Change::AddWitness(member(3, Role::Witness)));
    cluster.run(Duration::from_millis(500));
    let configuration = cluster.state(1).changes[&token].clone().expect("added");
    cluster.input(node(3), Input::LearnGroup { token: Token(9001), configuration });
    cluster.run(Duration::from_secs(1));
    assert_eq!(role(&cluster, 1, 3), Role::NewWitness);
    assert!(cluster.state(3).needs_state.is_none(), "a witness never asks for a state");
    let token = cluster.change(1, Change::Promote(node(3)));
    cluster.run(Duration::from_secs(3));
    cluster.state(1).changes[&token].clone().unwrap_or_else(|why| panic!("{why}\n{}", cluster.transcript));
    cluster.kill(1);
    assert!(matches!(write(&mut cluster, 2, "with the witness"), ProposalOutcome::Chosen(_)));
}

#[test]
fn a_witness_that_was_away_needs_nothing_that_every_voter_holds() {
    let mut cluster = group(2, 1, |options| options.log_keep_entries = 0);
    cluster.kill(3);
    write_many(&mut cluster, 1, 10);
    holds_all(&mut cluster, 1);
    holds_all(&mut cluster, 2);
    cluster.restart(3);
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.main_status(3).closed, cluster.main_status(1).closed);
    cluster.kill(2);
    assert!(matches!(write(&mut cluster, 1, "on"), ProposalOutcome::Chosen(_)));
}

#[test]
fn a_witness_that_lacks_what_an_absent_voter_may_lack_has_it_set_aside() {
    let mut cluster = group(2, 1, |options| options.log_keep_entries = 0);
    cluster.isolate(3);
    write_many(&mut cluster, 1, 10);
    holds_all(&mut cluster, 1);
    // 2 has accepted everything, and its state holds none of it; 1 has trimmed.
    cluster.kill(2);
    cluster.heal();
    cluster.run(Duration::from_secs(10));
    assert_eq!(role(&cluster, 1, 2), Role::Away);
    assert_eq!(cluster.main_status(3).closed, cluster.main_status(1).closed);
    assert!(matches!(write(&mut cluster, 1, "on"), ProposalOutcome::Chosen(_)));
}

#[test]
fn witnesses_are_never_a_quorum_by_themselves() {
    let mut cluster = two_and_a_witness();
    cluster.add(4, Vec::new());
    let token = cluster.change(1, Change::Remove(node(2)));
    cluster.run(Duration::from_secs(2));
    assert!(cluster.state(1).changes[&token].is_ok(), "one of each is legal");
    let token = cluster.change(1, Change::Remove(node(1)));
    cluster.run(Duration::from_secs(2));
    assert!(matches!(cluster.state(1).changes[&token], Err(Refusal::Unfit(_))));
    let token = cluster.change(1, Change::AddWitness(member(4, Role::Witness)));
    cluster.run(Duration::from_secs(2));
    let configuration = cluster.state(1).changes[&token].clone().expect("added");
    cluster.input(node(4), Input::LearnGroup { token: Token(9001), configuration });
    cluster.run(Duration::from_secs(1));
    let token = cluster.change(1, Change::Promote(node(4)));
    cluster.run(Duration::from_secs(2));
    assert!(matches!(cluster.state(1).changes[&token], Err(Refusal::Unfit(_))), "{:?}", cluster.state(1).changes);
    let token = cluster.change(1, Change::AddLearner(member(3, Role::Learner)));
    cluster.run(Duration::from_secs(2));
    assert!(matches!(cluster.state(1).changes[&token], Err(Refusal::Unfit(_))), "a witness stays one");
    let token = cluster.change(1, Change::Remove(node(3)));
    cluster.run(Duration::from_secs(2));
    assert!(cluster.state(1).changes[&token].is_ok(), "a witness can leave");
}

/// Two voters of which only the second has a durable state, and has trimmed; and a new witness, that may reach it alone.
fn new_witness_beside_a_trimmed_log(reaches_both: bool) -> Cluster {
    let mut cluster = Cluster::with_options(2, |options| options.log_keep_entries = 0);
    write_many(&mut cluster, 1, 10);
    holds_all(&mut cluster, 2);
    assert!(cluster.main_status(2).trimmed == Slot(10) && cluster.main_status(1).trimmed == Slot(0));
    cluster.run(Duration::from_secs(10));
    cluster.add(3, Vec::new());
    let token = cluster.change(2, Change::AddWitness(member(3, Role::Witness)));
    cluster.run(Duration::from_millis(500));
    let configuration = cluster.state(2).changes[&token].clone().expect("added");
    if !reaches_both {
        cluster.cut(1, 3);
    }
    cluster.input(node(3), Input::LearnGroup { token: Token(9001), configuration });
    cluster.run(Duration::from_secs(3));
    cluster.heal();
    cluster.run(Duration::from_secs(10));
    cluster
}

fn promoted(cluster: &mut Cluster) -> bool {
    let token = cluster.change(2, Change::Promote(node(3)));
    cluster.run(Duration::from_secs(3));
    cluster.state(2).changes[&token].is_ok()
}

#[test]
fn a_new_witness_takes_from_the_log_that_is_left_what_another_one_lacks() {
    let mut cluster = new_witness_beside_a_trimmed_log(true);
    assert_eq!((cluster.main_status(3).closed, cluster.main_status(3).trimmed), (Slot(10), Slot(0)));
    assert!(promoted(&mut cluster));
}

#[test]
fn a_new_witness_that_could_not_has_the_states_made_durable() {
    let mut cluster = new_witness_beside_a_trimmed_log(false);
    assert_eq!(cluster.main_status(3).trimmed, Slot(10));
    assert!(!promoted(&mut cluster), "1 may lack what it has not");
    assert!(cluster.state(1).asked_to_hold);
    holds_all(&mut cluster, 1);
    assert!(promoted(&mut cluster));
}

/// Both voters' states hold ten slots, so the witness has trimmed them. One voter is gone, and the other's log lost what its state
/// has: nobody can give it those slots, and nobody need.
#[test]
fn a_voter_whose_state_is_ahead_of_its_log_needs_nothing_that_the_witness_trimmed() {
    let mut cluster = two_and_a_witness();
    write_many(&mut cluster, 1, 10);
    (1..=2).for_each(|number| holds_all(&mut cluster, number));
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.main_status(3).trimmed, Slot(10));
    (1..=2).for_each(|number| cluster.kill(number));
    cluster.restart_with(1, |recovered| {
        let log = recovered.groups.get_mut(&GROUP).expect("it is there").log(LogId::MAIN);
        log.accepted.clear();
        (log.closed, log.trimmed) = (Slot(4), Slot(4));
    });
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.main_status(1).closed, Slot(10));
    assert!(matches!(write(&mut cluster, 1, "next"), ProposalOutcome::Chosen(_)));
}
