//! Members that were away: from the log, from the disk, or by a copy of the state.

use crate::cluster::{node, Cluster, GROUP};
use crate::{Input, LogId, Message, Record, Slot};
use std::time::Duration;

fn hold(cluster: &mut Cluster, number: u128, slot: u64) {
    cluster.input(node(number), Input::Held { group: GROUP, log: LogId::MAIN, slot: Slot(slot) });
    cluster.nodes.get_mut(&node(number)).expect("it exists").applied = Slot(slot);
    cluster.settle();
}

#[test]
fn a_member_that_was_away_fetches_what_it_missed() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "seen");
    cluster.settle();
    cluster.kill(3);
    for number in 0..5000 {
        cluster.propose(1, &format!("v{number}"));
    }
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.bodies(1).len(), 5001);
    cluster.restart(3);
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.bodies(3), cluster.bodies(1));
}

#[test]
fn a_restarted_donor_serves_from_its_disk() {
    let mut cluster = Cluster::of(3);
    cluster.kill(3);
    for number in 0..300 {
        cluster.propose(1, &format!("v{number}"));
    }
    cluster.run(Duration::from_secs(1));
    for number in 1..=2 {
        let up_to = cluster.state(number).delivered.last().expect("delivered").0;
        hold(&mut cluster, number, up_to.0);
        cluster.kill(number);
    }
    (1..=3).for_each(|number| cluster.restart(number));
    cluster.run(Duration::from_secs(4));
    assert_eq!(cluster.bodies(3).len(), 300);
}

#[test]
fn a_log_that_no_longer_reaches_back_asks_for_a_copy() {
    let mut cluster = Cluster::with_options(3, |options| options.log_keep_entries = 10);
    cluster.propose(1, "seen");
    cluster.settle();
    cluster.kill(3);
    for number in 0..100 {
        cluster.propose(1, &format!("v{number}"));
    }
    cluster.run(Duration::from_secs(1));
    (1..=2).for_each(|number| hold(&mut cluster, number, 101));
    assert_eq!(cluster.main_status(1).trimmed, Slot(91), "ten are kept for laggards");
    // Both restart, so that nothing is left in memory either.
    for number in 1..=2 {
        cluster.kill(number);
        cluster.restart(number);
    }
    cluster.restart(3);
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.state(3).needs_state, Some(Slot(2)));
    assert!(cluster.main_status(3).needs_state);

    cluster.nodes.get_mut(&node(3)).expect("it exists").applied = Slot(95);
    cluster.input(node(3), Input::Installed { group: GROUP, log: LogId::MAIN, slot: Slot(95) });
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.main_status(3).delivered, Slot(101));
    let id = cluster.propose(3, "again");
    cluster.run(Duration::from_secs(2));
    assert!(cluster.state(3).outcomes.contains_key(&id));
}

/// Node 1 has trimmed, node 2 knows the slots chosen and its disk has lost them: node 3 must not ask node 2 for ever.
#[test]
fn a_member_that_cannot_give_what_it_knows_chosen_does_not_keep_others_from_a_copy() {
    let mut cluster = Cluster::with_options(3, |options| options.log_keep_entries = 1);
    cluster.propose(1, "seen");
    cluster.settle();
    cluster.kill(3);
    for number in 0..20 {
        cluster.propose(1, &format!("v{number}"));
    }
    cluster.run(Duration::from_secs(1));
    hold(&mut cluster, 1, 21);
    assert_eq!(cluster.main_status(1).trimmed, Slot(20));
    cluster.kill(1);
    cluster.restart(1);
    cluster.nodes.get_mut(&node(2)).expect("it exists").damaged.extend((1..=21).map(Slot));
    cluster.kill(2);
    cluster.restart(2);
    cluster.restart(3);
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.state(2).needs_state, Some(Slot(2)), "node 3 has the first");
    assert_eq!(cluster.state(3).needs_state, Some(Slot(2)));
}

/// Node 1 has trimmed. Node 2 has said that it knows the slots chosen, and knows it no more since it crashed: node 3 must not ask
/// node 2 for ever.
#[test]
fn a_member_that_forgot_what_it_knew_chosen_does_not_keep_others_from_a_copy() {
    let mut cluster = Cluster::with_options(3, |options| options.log_keep_entries = 1);
    cluster.propose(1, "seen");
    cluster.settle();
    // Node 3 hears where the others stand, and nothing else.
    cluster.loses = |to, message| to == node(3) && matches!(message, Message::Group { .. });
    for number in 0..20 {
        cluster.propose(1, &format!("v{number}"));
    }
    cluster.run(Duration::from_secs(1));
    hold(&mut cluster, 1, 21);
    assert_eq!(cluster.main_status(1).trimmed, Slot(20));
    cluster.kill(2);
    cluster.restart_with(2, |recovered| {
        let log = recovered.groups.get_mut(&GROUP).expect("it is there").log(LogId::MAIN);
        log.closed = Slot(1);
        log.accepted.retain(|slot, _| *slot == Slot(1));
    });
    cluster.loses = |_, _| false;
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.state(3).needs_state, Some(Slot(2)));
}

#[test]
fn laggards_hold_the_log_within_the_bound_only() {
    let mut cluster = Cluster::with_options(3, |options| options.log_keep_entries = 50);
    cluster.isolate(3);
    for number in 0..40 {
        cluster.propose(1, &format!("v{number}"));
    }
    cluster.run(Duration::from_secs(1));
    hold(&mut cluster, 1, 40);
    assert_eq!(cluster.main_status(1).trimmed, Slot::ZERO, "node 3 needs it");
    for number in 0..40 {
        cluster.propose(1, &format!("w{number}"));
    }
    cluster.run(Duration::from_secs(1));
    hold(&mut cluster, 1, 80);
    assert_eq!(cluster.main_status(1).trimmed, Slot(30), "not beyond the bound");
    cluster.heal();
    cluster.run(Duration::from_secs(4));
    assert_eq!(cluster.bodies(3).len(), 80);
    hold(&mut cluster, 1, 80);
    cluster.run(Duration::from_secs(1));
    hold(&mut cluster, 1, 80);
    assert_eq!(cluster.main_status(1).trimmed, Slot(80), "nobody needs it any more");
}

#[test]
fn the_face_may_hold_more_than_the_log_knew_closed() {
    let mut cluster = Cluster::of(3);
    for number in 0..20 {
        cluster.propose(1, &format!("v{number}"));
        cluster.settle();
    }
    for number in 1..=3 {
        let state = cluster.nodes.get_mut(&node(number)).expect("it exists");
        state
            .disk
            .retain(|(_, record)| !matches!(record, crate::Record::Chosen { .. } | crate::Record::PeerSeen { .. }));
        state.applied = Slot(20);
        cluster.kill(number);
    }
    (1..=3).for_each(|number| cluster.restart(number));
    cluster.run(Duration::from_secs(1));
    let id = cluster.propose(2, "on");
    cluster.run(Duration::from_secs(4));
    assert_eq!(cluster.state(2).outcomes[&id], crate::ProposalOutcome::Chosen(Slot(21)));
}

/// Slots that records of node `number` brought since its disk had `from` records, as learnt or as accepted.
fn written_again(cluster: &Cluster, number: u128, from: usize) -> Vec<u64> {
    let mut slots = Vec::new();
    for (_, record) in &cluster.state(number).disk[from..] {
        match record {
            Record::Learnt { log: LogId::MAIN, first, entries, .. } => {
                slots.extend(first.0..first.0 + entries.len() as u64);
            }
            Record::Accepted { log: LogId::MAIN, first, entries, .. } => {
                slots.extend(first.0..first.0 + entries.len() as u64);
            }
            _ => {}
        }
    }
    slots.sort_unstable();
    slots
}

#[test]
fn damage_that_nobody_read_is_healed_from_memory_or_from_a_member() {
    let mut cluster = Cluster::of(3);
    for number in 0..30 {
        cluster.propose(1, &format!("v{number}"));
    }
    cluster.run(Duration::from_secs(1));
    let damaged = |slot| Input::Damaged { group: GROUP, log: LogId::MAIN, slot: Slot(slot) };

    // What memory still has is written again at once.
    let before = cluster.state(3).disk.len();
    cluster.input(node(3), damaged(7));
    cluster.settle();
    assert_eq!(written_again(&cluster, 3, before), [7]);

    // After a restart nothing of it is in memory; it comes from the others, those slots and no more.
    cluster.nodes.get_mut(&node(3)).expect("it exists").applied = Slot(30);
    cluster.kill(3);
    cluster.restart(3);
    cluster.run(Duration::from_secs(1));
    let before = cluster.state(3).disk.len();
    for slot in [4, 5, 6, 20] {
        cluster.input(node(3), damaged(slot));
    }
    cluster.run(Duration::from_secs(2));
    assert_eq!(written_again(&cluster, 3, before), [4, 5, 6, 20]);

    // If no member has it any more, this node does not ask for ever, and needs no copy: its face has it.
    (1..=2).for_each(|number| hold(&mut cluster, number, 30));
    assert_eq!(cluster.main_status(1).trimmed, Slot(30));
    let before = cluster.state(3).disk.len();
    cluster.input(node(3), damaged(10));
    cluster.run(Duration::from_secs(4));
    assert_eq!(written_again(&cluster, 3, before), [0u64; 0]);
    assert!(!cluster.main_status(3).needs_state);
    cluster.propose(3, "and it goes on");
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.main_status(3).delivered, Slot(31));
    assert!(cluster.main_status(3).closed >= Slot(31));
}

#[test]
fn a_damaged_open_entry_is_written_again_as_it_was_accepted() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "first");
    cluster.run(Duration::from_secs(1));
    cluster.isolate(1);
    cluster.propose(1, "open");
    cluster.settle();
    let before = cluster.state(1).disk.len();
    cluster.input(node(1), Input::Damaged { group: GROUP, log: LogId::MAIN, slot: Slot(2) });
    cluster.settle();
    assert_eq!(written_again(&cluster, 1, before), [2]);
    assert!(matches!(cluster.state(1).disk.last(), Some((_, Record::Accepted { .. }))));
}

/// A read that fails once is no damage; and if nobody else has the entry, it must not be taken for it for ever.
#[test]
fn what_could_not_be_read_and_nobody_else_has_is_read_again() {
    let mut cluster = Cluster::of(1);
    for text in ["one", "two", "three"] {
        cluster.propose(1, text);
    }
    cluster.run(Duration::from_millis(100));
    cluster.kill(1);
    cluster.nodes.get_mut(&node(1)).expect("it exists").damaged.insert(Slot(2));
    cluster.restart(1);
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.bodies(1), ["one"]);
    cluster.nodes.get_mut(&node(1)).expect("it exists").damaged.clear();
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.bodies(1), ["one", "two", "three"]);
}
