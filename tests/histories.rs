//! What clients see of a cluster is what it promises, whatever happens to its nodes and to the network between them:
//! registers are linearizable, REPEATABLE READ is strong snapshot isolation, READ COMMITTED sees everything that was
//! acknowledged before. Histories are recorded and judged by the `histories` crate, which finds what optimistic reads
//! miss.
//!
//! `make histories` runs it at full size: 100,000 checked steps under each kind of fault.

use anyhow::ensure;
use end_to_end::{pause, step, Cluster, HistoryLoad, Link, Manner, PeerNetwork, Random, Shape, Size, Work};
use histories::{Kind, Order};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const NODES: usize = 3;

/// Clients on each node: enough to contend, on a machine with two cores.
const CLIENTS_PER_NODE: usize = 3;

/// A cluster that makes no progress for its faults fails by this, not by hanging.
const LOAD_TIME_MAX: Duration = Duration::from_secs(3600);

/// Steps of acknowledged transactions to be checked under each kind of fault.
const STEPS: Size = Size { quick: 4_000, full: 100_000 };

/// Faults of each kind that must have happened, whatever the speed.
const FAULTS: Size = Size { quick: 3, full: 30 };

/// As many as SYNOD_HISTORY_STEPS says, or what belongs to the run's size.
fn steps_wanted() -> u64 {
    match std::env::var("SYNOD_HISTORY_STEPS") {
        Ok(given) => given.parse().expect("SYNOD_HISTORY_STEPS is a number"),
        Err(_) => STEPS.now(),
    }
}

/// What happens during a load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    Kill,
    Freeze,
    Partition,
    Delay,
    Clock,
    Everything,
}

#[test]
fn undisturbed() -> anyhow::Result<()> {
    judge("undisturbed", Fault::Nothing)
}

#[test]
fn with_nodes_killed() -> anyhow::Result<()> {
    judge("nodes killed", Fault::Kill)
}

#[test]
fn with_nodes_frozen() -> anyhow::Result<()> {
    judge("nodes frozen", Fault::Freeze)
}

#[test]
fn with_partitions() -> anyhow::Result<()> {
    judge("partitions", Fault::Partition)
}

#[test]
fn with_delays() -> anyhow::Result<()> {
    judge("delays", Fault::Delay)
}

#[test]
fn with_clocks_set() -> anyhow::Result<()> {
    judge("clocks set", Fault::Clock)
}

#[test]
fn with_everything_at_once() -> anyhow::Result<()> {
    judge("everything", Fault::Everything)
}

#[test]
fn what_optimistic_reads_miss_is_found() -> anyhow::Result<()> {
    let (cluster, network) = PeerNetwork::around(Shape::of(NODES))?;
    let load = HistoryLoad::prepare(&cluster)?;
    step("writers on nodes 1 and 2; node 3 hears of them 200 ms later, and reads without waiting");
    for from in [1, 2] {
        network.set(from, 3, Link::Open { delay_ms: 200 });
    }
    let optimistic = Manner { is_reader: true, is_optimistic: true };
    let clients = [(1, Manner::default()), (2, Manner::default()), (3, optimistic), (3, optimistic)];
    run(&load, &clients, 2_000, |_| Ok(()))?;
    network.heal();
    load.read_all()?;
    for work in Work::ALL {
        let verdict = load.verdict(work, Order::RealTime)?;
        let kinds: BTreeMap<Kind, usize> = verdict.anomalies().iter().fold(BTreeMap::new(), |mut kinds, anomaly| {
            *kinds.entry(anomaly.kind).or_default() += 1;
            kinds
        });
        eprintln!("{}: {kinds:?}", work.name());
        if let Some(anomaly) = verdict.anomalies().first() {
            eprintln!("{anomaly}");
        }
        let expected = if work == Work::Registers { Kind::NotLinearizable } else { Kind::StaleRead };
        ensure!(kinds.contains_key(&expected), "{}: no stale read was found: {verdict:?}", work.name());
    }
    step("they are a consistent past all the same");
    for work in [Work::SnapshotLists, Work::ReadCommittedLists] {
        let verdict = load.verdict(work, Order::Any)?;
        ensure!(verdict.is_valid(), "{}: {verdict:?}", work.name());
    }
    drop(network);
    cluster.finish()?;

    step("the same load and delay with strong reads");
    let (cluster, network) = PeerNetwork::around(Shape::of(NODES))?;
    let load = HistoryLoad::prepare(&cluster)?;
    for from in [1, 2] {
        network.set(from, 3, Link::Open { delay_ms: 200 });
    }
    let strong = Manner { is_reader: true, is_optimistic: false };
    let clients = [(1, Manner::default()), (2, Manner::default()), (3, strong), (3, strong)];
    run(&load, &clients, 2_000, |_| Ok(()))?;
    network.heal();
    load.read_all()?;
    load.check("strong reads beside delays")?;
    cluster.finish()
}

/// A load under one kind of fault, and the judgement.
fn judge(name: &str, fault: Fault) -> anyhow::Result<()> {
    let shape = match fault {
        Fault::Clock | Fault::Everything => Shape::of(NODES).with_clocks(),
        _ => Shape::of(NODES),
    };
    let (cluster, network) = PeerNetwork::around(shape)?;
    let load = HistoryLoad::prepare(&cluster)?;
    let target = steps_wanted();
    step(format!("{name}: {target} steps of {CLIENTS_PER_NODE} clients on each node"));
    let clients: Vec<(usize, Manner)> =
        cluster.all().into_iter().flat_map(|node| [(node, Manner::default()); CLIENTS_PER_NODE]).collect();
    let mut random = Random::announced(name);
    let mut injected: BTreeMap<&str, u64> = BTreeMap::new();
    let begin = Instant::now();
    run(&load, &clients, target, |is_enough| {
        if fault == Fault::Nothing {
            return Ok(());
        }
        while !(is_enough() && injected.values().sum::<u64>() >= FAULTS.now()) {
            ensure!(begin.elapsed() < LOAD_TIME_MAX, "only {} steps in {LOAD_TIME_MAX:?}", load.steps());
            std::thread::sleep(between(&mut random, 300, 1500));
            for what in inject(&cluster, &network, fault, &mut random)? {
                *injected.entry(what).or_default() += 1;
            }
        }
        Ok(())
    })?;
    let time = begin.elapsed();
    step(format!("{name}: the faults are over; every key is read on every node"));
    network.heal();
    load.read_all()?;
    let judged = load.check(name)?;
    let sum = |of: fn(&histories::Counts) -> usize| judged.iter().map(|(_, counts)| of(counts)).sum::<usize>();
    // A row of the table in docs/histories.md.
    println!(
        "| {name} | {} | {} | {} | {} ({}) | {} | {:.0} s |",
        load.steps(),
        sum(|counts| counts.committed),
        sum(|counts| counts.failed),
        sum(|counts| counts.unknown),
        sum(|counts| counts.unknown_but_seen),
        injected.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", "),
        time.as_secs_f64()
    );
    cluster.finish()
}

/// Runs clients until so many steps are acknowledged and the disturbance has ended.
fn run(
    load: &HistoryLoad,
    clients: &[(usize, Manner)],
    target: u64,
    disturb: impl FnOnce(&dyn Fn() -> bool) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for (node, manner) in clients {
            scope.spawn(move || load.run_client(*node, *manner));
        }
        let disturbed = disturb(&|| load.steps() >= target);
        while disturbed.is_ok() && load.steps() < target && begin.elapsed() < LOAD_TIME_MAX {
            pause(load, Duration::from_millis(100));
        }
        load.stop();
        disturbed
    })?;
    ensure!(load.steps() >= target, "only {} of {target} steps in {:?}", load.steps(), begin.elapsed());
    Ok(())
}

/// Does one fault and undoes it; returns what it was, by name.
fn inject(
    cluster: &Cluster,
    network: &PeerNetwork,
    fault: Fault,
    random: &mut Random,
) -> anyhow::Result<Vec<&'static str>> {
    let node = random.node(NODES);
    match fault {
        Fault::Nothing => Ok(Vec::new()),
        Fault::Kill => {
            cluster.kill(node)?;
            std::thread::sleep(between(random, 100, 2500));
            cluster.start(node)?;
            Ok(vec!["killed and started"])
        }
        Fault::Freeze => {
            cluster.freeze(node)?;
            std::thread::sleep(between(random, 200, 3500));
            cluster.thaw(node)?;
            Ok(vec!["frozen and thawed"])
        }
        Fault::Partition => {
            let what = partition(network, random);
            std::thread::sleep(between(random, 500, 4000));
            network.heal();
            Ok(vec![what])
        }
        Fault::Delay => {
            delay(network, random);
            std::thread::sleep(between(random, 1000, 4000));
            network.heal();
            Ok(vec!["delays of up to 150 ms, by link"])
        }
        Fault::Clock => set_clock(cluster, node, random),
        Fault::Everything => {
            // The network is disturbed while a node is.
            let of_network = match random.below(3) {
                0 => {
                    delay(network, random);
                    "delays of up to 150 ms, by link"
                }
                _ => partition(network, random),
            };
            let of_node = match random.below(3) {
                0 => inject(cluster, network, Fault::Kill, random)?,
                1 => inject(cluster, network, Fault::Freeze, random)?,
                _ => inject(cluster, network, Fault::Clock, random)?,
            };
            network.heal();
            Ok([vec![of_network], of_node].concat())
        }
    }
}

/// Sets a clock forward or back, by a blink or by months; it stays so.
fn set_clock(cluster: &Cluster, node: usize, random: &mut Random) -> anyhow::Result<Vec<&'static str>> {
    const DAY: i64 = 24 * 3600;
    let (most, what) = match random.below(3) {
        0 => (10, "clocks set by seconds"),
        1 => (3 * 3600, "clocks set by hours"),
        _ => (100 * DAY, "clocks set by months"),
    };
    let offset = i64::try_from(random.below(2 * most as u64))? - most;
    cluster.set_clock(node, offset)?;
    Ok(vec![what])
}

/// Begins a partition of some shape, its links held or cut.
fn partition(network: &PeerNetwork, random: &mut Random) -> &'static str {
    let link = match random.below(3) {
        0 => Link::Cut,
        _ => Link::Held,
    };
    let node = random.node(NODES);
    let others = (1..=NODES).filter(|other| *other != node);
    match random.below(6) {
        0 => {
            network.split(&[node], link);
            "one node alone"
        }
        1 => {
            others.for_each(|other| network.set(other, node, link));
            "one node deaf"
        }
        2 => {
            others.for_each(|other| network.set(node, other, link));
            "one node mute"
        }
        3 => {
            // The node is the bridge between the others.
            let [one, other] = others.collect::<Vec<_>>()[..] else { unreachable!("of three, two are others") };
            network.set(one, other, link);
            network.set(other, one, link);
            "a bridge"
        }
        4 => {
            for _ in 0..5 {
                network.split(&[node], link);
                std::thread::sleep(between(random, 50, 400));
                network.heal();
                std::thread::sleep(between(random, 50, 400));
            }
            "one node flapping"
        }
        _ => {
            (1..=NODES).for_each(|one| network.split(&[one], link));
            "everybody alone"
        }
    }
}

fn delay(network: &PeerNetwork, random: &mut Random) {
    for from in 1..=NODES {
        for to in 1..=NODES {
            let delay_ms = u32::try_from(random.below(150)).expect("it is small");
            network.set(from, to, Link::Open { delay_ms });
        }
    }
}

fn between(random: &mut Random, least_ms: u64, most_ms: u64) -> Duration {
    Duration::from_millis(least_ms + random.below(most_ms - least_ms))
}
