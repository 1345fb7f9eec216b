//! Groups that grow, shrink and lose members (rule 6).

use crate::cluster::{configuration, member, node, Cluster, GROUP};
use crate::{
    Ballot, Change, Entry, Epoch, GroupMessage, Input, LogId, Message, OperationId, ProposalOutcome, Record, Refusal,
    Role, Sequence, Slot, Start, Token,
};
use std::sync::Arc;
use std::time::Duration;

/// A group of node 1 alone, with nodes 2 and 3 beside it.
fn alone() -> Cluster {
    let mut cluster = Cluster::empty();
    (1..=3).for_each(|number| cluster.add(number, Vec::new()));
    let create = Input::CreateGroup {
        token: Token(9000),
        group: GROUP,
        name: "g".into(),
        kind: "tables".into(),
        detail: String::new(),
        discipline: crate::Discipline::Sequences,
        member: member(1, Role::Voter),
    };
    cluster.input(node(1), create);
    cluster.settle();
    cluster
}

/// Adds `number` as a learner at node `at` and tells it so, as a join does.
fn join(cluster: &mut Cluster, at: u128, number: u128) {
    let token = cluster.change(at, Change::AddLearner(member(number, Role::Learner)));
    cluster.run(Duration::from_millis(500));
    let configuration = cluster.state(at).changes[&token].clone().expect("the learner is added");
    cluster.input(node(number), Input::LearnGroup { token: Token(9001), configuration });
    cluster.run(Duration::from_millis(500));
    let token = cluster.change(at, Change::Promote(node(number)));
    cluster.run(Duration::from_secs(2));
    cluster.state(at).changes[&token].clone().unwrap_or_else(|why| panic!("{why}\n{}", cluster.transcript));
}

#[test]
fn a_group_grows_from_one_to_three_while_it_serves() {
    let mut cluster = alone();
    cluster.propose(1, "alone");
    cluster.settle();
    join(&mut cluster, 1, 2);
    cluster.propose(2, "two of two");
    cluster.run(Duration::from_millis(100));
    join(&mut cluster, 2, 3);
    cluster.propose(3, "three");
    cluster.run(Duration::from_millis(100));
    for number in 1..=3 {
        assert_eq!(cluster.bodies(number), ["alone", "two of two", "three"]);
    }
    cluster.kill(1);
    let id = cluster.propose(3, "without the first");
    cluster.run(Duration::from_secs(2));
    assert!(matches!(cluster.state(3).outcomes[&id], ProposalOutcome::Chosen(_)));
}

#[test]
fn a_joiner_reads_and_writes_as_soon_as_it_is_a_learner() {
    let mut cluster = alone();
    cluster.propose(1, "one");
    cluster.settle();
    let token = cluster.change(1, Change::AddLearner(member(2, Role::Learner)));
    cluster.run(Duration::from_millis(500));
    let configuration = cluster.state(1).changes[&token].clone().expect("added");
    cluster.input(node(2), Input::LearnGroup { token: Token(9001), configuration });
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.bodies(2), ["one"]);
    let id = cluster.propose(2, "from the learner");
    let read = cluster.read(2);
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.state(2).outcomes[&id], ProposalOutcome::Chosen(Slot(2)));
    assert!(cluster.state(2).barriers[&read].is_ok());
}

#[test]
fn a_dead_member_is_removed_and_refused_when_it_comes_back() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.kill(3);
    let token = cluster.change(1, Change::Remove(node(3)));
    cluster.run(Duration::from_secs(3));
    let configuration = cluster.state(1).changes[&token].clone().expect("removed");
    assert_eq!(configuration.members.len(), 2);
    let id = cluster.propose(2, "two");
    cluster.run(Duration::from_millis(500));
    assert!(matches!(cluster.state(2).outcomes[&id], ProposalOutcome::Chosen(_)));
    cluster.restart(3);
    cluster.run(Duration::from_secs(2));
    let refused = cluster.propose(3, "three");
    cluster.run(Duration::from_secs(1));
    assert!(
        matches!(cluster.state(3).outcomes[&refused], ProposalOutcome::Failed(Refusal::Removed(_))),
        "{:?}",
        cluster.state(3).outcomes
    );
    assert_eq!(cluster.bodies(1), ["one", "two"]);
}

#[test]
fn an_owner_can_be_removed_under_load() {
    let mut cluster = Cluster::of(4);
    cluster.propose(1, "one");
    cluster.settle();
    assert_eq!(cluster.owners(), [node(1)]);
    let token = cluster.change(2, Change::Remove(node(1)));
    let mut ids = Vec::new();
    for round in 0..50 {
        ids.push((2 + round % 3, cluster.propose(2 + round % 3, &format!("w{round}"))));
        cluster.run(Duration::from_millis(20));
    }
    cluster.run(Duration::from_secs(3));
    assert!(cluster.state(2).changes[&token].is_ok());
    for (number, id) in ids {
        assert!(matches!(cluster.state(number).outcomes[&id], ProposalOutcome::Chosen(_)));
    }
    assert_eq!(cluster.bodies(2), cluster.bodies(4));
}

#[test]
fn any_member_resumes_a_change_whose_driver_died() {
    let mut cluster = Cluster::of(4);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.change(1, Change::Remove(node(4)));
    // The joint epoch is chosen, then its driver dies.
    for _ in 0..1000 {
        let joint =
            (2..=3).any(|number| cluster.state(number).core.status(cluster.now).groups[0].configuration.is_joint());
        if joint {
            break;
        }
        (1..=4).for_each(|number| {
            cluster.poll(node(number));
        });
        cluster.deliver_one();
    }
    cluster.kill(1);
    cluster.run(Duration::from_secs(8));
    let configuration = cluster.state(2).core.status(cluster.now).groups[0].configuration.clone();
    assert!(!configuration.is_joint() && configuration.index(node(4)).is_none(), "{configuration:?}");
}

#[test]
fn a_change_can_be_ended_by_going_back() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.add(4, Vec::new());
    let token = cluster.change(1, Change::AddLearner(member(4, Role::Learner)));
    cluster.run(Duration::from_millis(500));
    let configuration = cluster.state(1).changes[&token].clone().expect("added");
    cluster.input(node(4), Input::LearnGroup { token: Token(9001), configuration });
    cluster.run(Duration::from_millis(500));
    // The sync pass cannot end: two of the new four are away.
    cluster.change(1, Change::Promote(node(4)));
    for _ in 0..1000 {
        if cluster.state(1).core.status(cluster.now).groups[0].configuration.is_joint() {
            break;
        }
        (1..=4).for_each(|number| {
            cluster.poll(node(number));
        });
        cluster.deliver_one();
    }
    let joint = cluster.state(1).core.status(cluster.now).groups[0].configuration.clone();
    assert!(joint.is_joint());
    cluster.run(Duration::from_millis(1));
    let token = cluster.change(2, Change::GoBack);
    cluster.run(Duration::from_secs(6));
    assert!(cluster.state(2).changes.contains_key(&token));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut cluster = Cluster::of(1);
    let last = cluster.change(1, Change::Remove(node(1)));
    let unknown = cluster.change(1, Change::Promote(node(77)));
    let back = cluster.change(1, Change::GoBack);
    cluster.settle();
    let refused = |token: &Token| matches!(cluster.state(1).changes[token], Err(Refusal::Unfit(_)));
    assert!(refused(&last) && refused(&unknown) && refused(&back));
}

#[test]
fn a_learner_that_was_never_told_of_the_group_is_not_promoted() {
    let mut cluster = alone();
    let token = cluster.change(1, Change::AddLearner(member(2, Role::Learner)));
    cluster.run(Duration::from_secs(1));
    let configuration = cluster.state(1).changes[&token].clone().expect("added");
    let token = cluster.change(1, Change::Promote(node(2)));
    cluster.settle();
    assert_eq!(
        cluster.state(1).changes[&token],
        Err(Refusal::NotInContact(node(2))),
        "links alone do not make a member"
    );
    cluster.input(node(2), Input::LearnGroup { token: Token(9001), configuration });
    cluster.run(Duration::from_secs(1));
    let token = cluster.change(1, Change::Promote(node(2)));
    cluster.run(Duration::from_secs(3));
    assert!(cluster.state(1).changes[&token].is_ok());
    assert!(cluster.state(2).core.status(cluster.now).groups[0].may_vote);
}

#[test]
fn a_learner_told_of_an_idle_group_fetches_what_it_lacks() {
    let mut cluster = alone();
    cluster.propose(1, "long ago");
    cluster.run(Duration::from_secs(1));
    let token = cluster.change(1, Change::AddLearner(member(2, Role::Learner)));
    cluster.run(Duration::from_secs(20));
    let configuration = cluster.state(1).changes[&token].clone().expect("added");
    cluster.input(node(2), Input::LearnGroup { token: Token(9001), configuration });
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.bodies(2), ["long ago"]);
}

#[test]
fn a_member_that_left_and_comes_again_is_not_promoted_before_it_is_told() {
    let mut cluster = alone();
    let join = |cluster: &mut Cluster| {
        let token = cluster.change(1, Change::AddLearner(member(2, Role::Learner)));
        cluster.run(Duration::from_secs(1));
        cluster.state(1).changes[&token].clone().expect("added")
    };
    let configuration = join(&mut cluster);
    cluster.input(node(2), Input::LearnGroup { token: Token(9001), configuration });
    cluster.run(Duration::from_secs(1));
    let token = cluster.change(1, Change::Remove(node(2)));
    cluster.run(Duration::from_secs(1));
    assert!(cluster.state(1).changes[&token].is_ok());
    cluster.input(node(2), Input::Forget { group: GROUP });
    cluster.run(Duration::from_secs(1));
    join(&mut cluster);
    let token = cluster.change(1, Change::Promote(node(2)));
    cluster.settle();
    assert_eq!(cluster.state(1).changes[&token], Err(Refusal::NotInContact(node(2))));
}

/// Node 4 has accepted an entry that came to nothing, far above what was ever chosen. Nobody writes, and the owner's phase 1 does
/// not see it; but the sync pass does, as it does not see node 3.
#[test]
fn a_sync_pass_ends_although_only_the_member_that_leaves_has_accepted_what_it_found() {
    let stale = Record::Accepted {
        group: GROUP,
        log: LogId::MAIN,
        ballot: Ballot { epoch: Epoch(1), round: 1, node: node(4), start: Start(1) },
        first: Slot(9),
        entries: [Entry::operation(OperationId { node: node(4), start: Start(1), sequence: 1 }, b"stale")].into(),
    };
    let later = Ballot { epoch: Epoch(1), round: 5, node: node(1), start: Start(0) };
    let promised = Record::Promised { group: GROUP, log: LogId::MAIN, ballot: later };
    let mut cluster = Cluster::empty();
    cluster.cut(1, 4);
    cluster.cut(2, 3);
    for number in 1..=4 {
        let record = Record::Configured { configuration: Arc::new(configuration(1, &[1, 2, 3, 4])) };
        let more = if number == 4 { stale.clone() } else { promised.clone() };
        cluster.add(number, vec![(Sequence(1), record), (Sequence(2), more)]);
    }
    cluster.settle();
    cluster.propose(1, "one");
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.owners(), [node(1)]);
    cluster.change(2, Change::Remove(node(4)));
    // After two seconds node 1 would take the change up, and not see node 4.
    cluster.run(Duration::from_millis(1500));
    let now = cluster.state(2).core.status(cluster.now).groups[0].configuration.clone();
    assert!(!now.is_joint() && now.index(node(4)).is_none(), "{now:?}\n{}", cluster.take_transcript());
    let closed = cluster.main_status(1).closed;
    assert!(closed >= Slot(9) && closed < Slot(12), "filled, and not by more than that: {closed}");
    assert_eq!(cluster.bodies(1), ["one"]);
    cluster.heal();
    let id = cluster.propose(3, "two");
    cluster.run(Duration::from_secs(2));
    assert!(matches!(cluster.state(3).outcomes[&id], ProposalOutcome::Chosen(_)));
    assert_eq!(cluster.bodies(3), ["one", "two"]);
}

#[test]
fn a_new_member_whose_first_word_was_lost_is_asked_for_another() {
    let mut cluster = alone();
    let token = cluster.change(1, Change::AddLearner(member(2, Role::Learner)));
    cluster.run(Duration::from_millis(500));
    let configuration = cluster.state(1).changes[&token].clone().expect("added");
    cluster.input(node(2), Input::LearnGroup { token: Token(9001), configuration });
    // All that it says of the group until now is lost, and nothing is written.
    let is_heartbeat = |message: &Message| matches!(message, Message::Heartbeat(_));
    loop {
        let polled = cluster.poll(node(1)) | cluster.poll(node(2));
        cluster.in_flight.retain(|(from, _, message)| *from != node(2) || is_heartbeat(message));
        if !cluster.deliver_one() && !polled {
            break;
        }
    }
    let early = cluster.change(1, Change::Promote(node(2)));
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.state(1).changes[&early], Err(Refusal::NotInContact(node(2))));
    let token = cluster.change(1, Change::Promote(node(2)));
    cluster.run(Duration::from_secs(1));
    assert!(cluster.state(1).changes[&token].is_ok(), "{:?}", cluster.state(1).changes);
}

/// Whether that node knows that node 1 was removed.
fn knows_the_removal(cluster: &Cluster, number: u128) -> bool {
    cluster.state(number).core.status(cluster.now).groups[0].configuration.index(node(1)).is_none()
}

fn tells_of_the_removal(message: &Message) -> bool {
    let Message::Group { body: GroupMessage::Configured { configuration }, .. } = message else { return false };
    configuration.index(node(1)).is_none()
}

#[test]
fn a_member_that_leaves_hears_so_from_those_that_stay() {
    let mut cluster = Cluster::of(2);
    cluster.propose(1, "one");
    cluster.settle();
    // Node 1 finds by itself that it is decided, and node 2 does not hear of it.
    cluster.loses = |to, message| to == node(2) && tells_of_the_removal(message);
    let token = cluster.change(1, Change::Remove(node(1)));
    cluster.run(Duration::from_millis(500));
    assert!(!knows_the_removal(&cluster, 1), "{}", cluster.transcript);
    assert!(!cluster.state(1).changes.contains_key(&token), "{}", cluster.transcript);
    cluster.loses = |_, _| false;
    cluster.run(Duration::from_secs(1));
    assert!(cluster.state(1).changes[&token].is_ok() && knows_the_removal(&cluster, 1), "{}", cluster.transcript);
    cluster.kill(1);
    let id = cluster.propose(2, "alone");
    cluster.run(Duration::from_secs(3));
    assert!(matches!(cluster.state(2).outcomes[&id], ProposalOutcome::Chosen(_)), "{}", cluster.transcript);
}

#[test]
fn a_removal_is_answered_when_a_quorum_of_those_that_stay_knows() {
    let mut cluster = Cluster::of(4);
    cluster.propose(1, "one");
    cluster.settle();
    cluster.loses = |to, message| to != node(2) && tells_of_the_removal(message);
    let token = cluster.change(2, Change::Remove(node(1)));
    cluster.run(Duration::from_millis(500));
    assert!(knows_the_removal(&cluster, 2), "{}", cluster.transcript);
    assert!(!cluster.state(2).changes.contains_key(&token), "{}", cluster.transcript);
    cluster.loses = |to, message| to == node(4) && tells_of_the_removal(message);
    cluster.run(Duration::from_millis(500));
    assert!(cluster.state(2).changes[&token].is_ok() && knows_the_removal(&cluster, 1), "{}", cluster.transcript);
}
