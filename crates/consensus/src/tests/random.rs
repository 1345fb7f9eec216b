//! Random schedules on a small scale: loss, doubling, reordering, crashes, restarts; agreement and exactly one order always.
//! The large-scale simulation stands in a crate of its own.

use crate::cluster::{node, Cluster};
use crate::random::Random;
use crate::{Entry, Message, NodeId, ProposalOutcome, Slot};
use std::collections::BTreeMap;
use std::time::Duration;

/// What every node ever delivered agrees, slot by slot.
fn check_agreement(cluster: &Cluster, seed: u64, decided: &mut BTreeMap<Slot, Entry>) {
    for (id, state) in &cluster.nodes {
        assert!(state.stopped.is_none(), "seed {seed}: {id} stopped: {:?}", state.stopped);
        for (slot, entry) in &state.delivered {
            let known = decided.entry(*slot).or_insert_with(|| entry.clone());
            assert_eq!(known, entry, "seed {seed}: two values at slot {slot}");
        }
    }
}

fn schedule(seed: u64, count: u128) {
    let mut random = Random::new(seed);
    let mut cluster = Cluster::of(count);
    let mut decided = BTreeMap::new();
    let mut proposed = 0;
    for _ in 0..400 {
        let number = u128::from(random.next()) % count + 1;
        let up = cluster.state(number).up;
        match random.next() % 20 {
            0 if up => cluster.kill(number),
            0..=2 if !up => cluster.restart(number),
            1 => cluster.cut(number, u128::from(random.next()) % count + 1),
            2 | 3 => cluster.heal(),
            4..=8 if up => {
                proposed += 1;
                cluster.propose(number, &format!("{proposed}"));
            }
            9 if up => {
                cluster.read(number);
            }
            10 => {
                let state = cluster.nodes.get_mut(&node(number)).expect("it exists");
                state.applied = state.delivered.last().map_or(state.applied, |(slot, _)| *slot);
            }
            _ => cluster.run(Duration::from_micros(random.next() % 100_000)),
        }
        shake(&mut cluster, &mut random);
        check_agreement(&cluster, seed, &mut decided);
    }
    cluster.heal();
    for number in 1..=count {
        if !cluster.state(number).up {
            cluster.restart(number);
        }
    }
    cluster.run(Duration::from_secs(8));
    let last = cluster.propose(1, "last");
    cluster.run(Duration::from_secs(4));
    check_agreement(&cluster, seed, &mut decided);
    assert!(
        matches!(cluster.state(1).outcomes.get(&last), Some(ProposalOutcome::Chosen(_))),
        "seed {seed}: no progress: {:?}",
        cluster.state(1).outcomes.get(&last)
    );
    for number in 1..=count {
        assert_eq!(
            cluster.main_status(number).delivered,
            cluster.main_status(1).delivered,
            "seed {seed}: {number} lags"
        );
    }
}

/// Takes a few effects and messages in a random order, some lost, some twice.
fn shake(cluster: &mut Cluster, random: &mut Random) {
    let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    for _ in 0..30 {
        let id = ids[(random.next() % ids.len() as u64) as usize];
        cluster.poll(id);
        let waiting = cluster.in_flight.len() as u64;
        if waiting == 0 {
            continue;
        }
        let index = (random.next() % waiting) as usize;
        let message = cluster.in_flight.remove(index).expect("in range");
        match random.next() % 20 {
            0 => {}
            1 => {
                cluster.in_flight.push_back(message.clone());
                cluster.in_flight.push_front(message);
                cluster.deliver_one();
            }
            _ => {
                cluster.in_flight.push_front(message);
                cluster.deliver_one();
            }
        }
    }
    let heartbeat = |message: &Message| matches!(message, Message::Heartbeat(_));
    if cluster.in_flight.len() > 500 {
        cluster.in_flight.retain(|(_, _, message)| !heartbeat(message));
    }
}

#[test]
fn random_schedules_of_three_nodes_agree() {
    (0..300).for_each(|seed| schedule(seed, 3));
}

#[test]
fn random_schedules_of_five_nodes_agree() {
    (1000..1100).for_each(|seed| schedule(seed, 5));
}
