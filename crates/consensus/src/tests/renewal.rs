//! A node that lost its promises votes again past a change that was begun after the loss (rule 9): what counts as one.

use crate::cluster::{configuration, node, Cluster, GROUP};
use crate::{Change, Configuration, Epoch, Input, Record, Recovered, Refusal, Renewal, Sequence, Start, Token};
use std::sync::Arc;
use std::time::Duration;

fn lose_promises(recovered: &mut Recovered) {
    recovered.groups.get_mut(&GROUP).expect("it is there").promises_lost = true;
}

fn votes(cluster: &Cluster, number: u128) -> bool {
    cluster.state(number).core.status(cluster.now).groups[0].may_vote
}

/// What the newest configuration that a node knows says of the renewal of node 2.
fn known_renewal(cluster: &Cluster, number: u128) -> Option<Renewal> {
    let group = cluster.state(number).core.status(cluster.now).groups[0].clone();
    group.configuration.renewed.get(&node(2)).copied()
}

fn renew(cluster: &mut Cluster, through: u128) -> Result<Arc<Configuration>, Refusal> {
    let token = cluster.change(through, Change::Renew(vec![node(2)]));
    cluster.run(Duration::from_secs(2));
    cluster.state(through).changes[&token].clone()
}

/// Three nodes; the second lost its promises, which it found in its second start, and was renewed.
fn renewed_once() -> Cluster {
    let mut cluster = Cluster::of(3);
    cluster.kill(2);
    cluster.restart_with(2, lose_promises);
    cluster.run(Duration::from_secs(1));
    assert!(!votes(&cluster, 2));
    renew(&mut cluster, 1).expect("it is in contact");
    assert_eq!(known_renewal(&cluster, 2), Some(Renewal { joint: Epoch(2), start: Start(2) }));
    assert!(votes(&cluster, 2));
    cluster
}

/// Node 2 loses records again, and this time all that came since the first loss: both configurations, the bar, every promise.
#[test]
fn a_renewal_of_before_the_loss_does_not_count_although_every_trace_of_it_is_lost() {
    let mut cluster = renewed_once();
    cluster.propose(2, "promised and accepted since");
    cluster.run(Duration::from_secs(1));
    cluster.kill(2);
    let disk = &mut cluster.nodes.get_mut(&node(2)).expect("it exists").disk;
    let (position, _) = *disk.last().expect("it wrote something");
    disk.truncate(1);
    cluster.restart_with(2, |recovered| {
        recovered.position = position;
        lose_promises(recovered);
    });
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.state(2).core.status(cluster.now).groups[0].configuration.epoch, Epoch(3));
    assert_eq!(known_renewal(&cluster, 2), Some(Renewal { joint: Epoch(2), start: Start(2) }));
    assert!(!votes(&cluster, 2), "the change that it was told of was begun before this loss");

    // It stays barred when it starts again, and votes after a renewal of now.
    cluster.kill(2);
    cluster.restart(2);
    cluster.run(Duration::from_secs(1));
    assert!(!votes(&cluster, 2));
    renew(&mut cluster, 1).expect("it is in contact");
    assert_eq!(known_renewal(&cluster, 2), Some(Renewal { joint: Epoch(4), start: Start(4) }));
    assert!(votes(&cluster, 2));
}

/// A renewal of node 2's first start is joint, and node 2 starts again before it is final: with what it had, or with less.
#[test]
fn a_start_within_the_joint_epoch_counts_unless_more_was_lost() {
    for lost_again in [false, true] {
        let mut joint = configuration(2, &[1, 2, 3]);
        joint.old_voters = Some(vec![node(1), node(2), node(3)]);
        joint.renewed.insert(node(2), Renewal { joint: Epoch(2), start: Start(1) });
        let joint = Record::Configured { configuration: Arc::new(joint) };
        let mut cluster = Cluster::empty();
        for number in 1..=3 {
            let barred = Record::VotingBarred { group: GROUP, start: Start(1) };
            let records = [Some(joint.clone()), (number == 2).then_some(barred)];
            cluster.add(number, (1..).map(Sequence).zip(records.into_iter().flatten()).collect());
        }
        assert!(!votes(&cluster, 2), "the joint epoch is not enough");
        cluster.kill(2);
        cluster.restart_with(2, |recovered| {
            if lost_again {
                lose_promises(recovered);
            }
        });
        assert!(!votes(&cluster, 2));
        cluster.run(Duration::from_secs(5));
        assert_eq!(cluster.state(2).core.status(cluster.now).groups[0].configuration.epoch, Epoch(3));
        assert_eq!(votes(&cluster, 2), !lost_again);
    }
}

/// Node 2 is renewed while its disk has not written yet that it does not vote; then it dies, and finds the loss again.
#[test]
fn a_loss_that_is_found_again_needs_a_renewal_of_the_later_start() {
    let mut cluster = Cluster::of(3);
    cluster.kill(2);
    cluster.restart_with(2, lose_promises);
    cluster.nodes.get_mut(&node(2)).expect("it exists").hold_disk = true;
    cluster.settle();
    let token = cluster.change(1, Change::Renew(vec![node(2)]));
    cluster.run(Duration::from_millis(200));
    assert!(cluster.state(1).changes[&token].is_ok(), "{:?}", cluster.state(1).changes[&token]);
    cluster.kill(2);
    assert!(cluster.state(2).disk.iter().all(|(_, record)| !matches!(record, Record::VotingBarred { .. })));
    cluster.restart_with(2, lose_promises);
    cluster.run(Duration::from_secs(1));
    assert_eq!(known_renewal(&cluster, 2), Some(Renewal { joint: Epoch(2), start: Start(2) }));
    assert!(!votes(&cluster, 2), "it names the start before");
    renew(&mut cluster, 3).expect("it is in contact");
    assert!(votes(&cluster, 2));
}

#[test]
fn a_node_that_is_not_in_contact_cannot_be_renewed() {
    let mut cluster = Cluster::of(3);
    cluster.kill(2);
    cluster.run(Duration::from_secs(2));
    assert_eq!(renew(&mut cluster, 1), Err(Refusal::NotInContact(node(2))));
    cluster.restart_with(2, lose_promises);
    cluster.run(Duration::from_secs(1));
    assert!(renew(&mut cluster, 1).is_ok());
    assert!(votes(&cluster, 2));
}

/// Node 2 was renewed in its present start, voted, and forgets the group: the renewal says nothing of what it promised since.
#[test]
fn what_a_start_forgot_is_renewed_in_a_later_start_only() {
    let mut cluster = renewed_once();
    let known = cluster.state(1).core.status(cluster.now).groups[0].configuration.clone();
    cluster.input(node(2), Input::Forget { group: GROUP });
    cluster.input(node(2), Input::LearnGroup { token: Token(9001), configuration: known });
    cluster.run(Duration::from_secs(1));
    assert!(cluster.state(2).changes[&Token(9001)].is_ok());
    assert!(!votes(&cluster, 2));
    cluster.kill(2);
    cluster.restart(2);
    cluster.run(Duration::from_secs(1));
    assert!(!votes(&cluster, 2));
    renew(&mut cluster, 1).expect("it is in contact");
    assert!(votes(&cluster, 2));
}
