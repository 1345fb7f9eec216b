//! What was acknowledged on one node is seen on every other at once, also while nodes are killed
//! and frozen.

use anyhow::{bail, ensure};
use end_to_end::{describe, is_serialization_failure, is_unknown_outcome, sqlstate, step, Cluster, Random, Size};
use postgres::Client;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PAIRS: usize = 4;

/// How long a reader goes on asking for a node that answers.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a disturbed node stays so, and how long the cluster then gets between disturbances.
const DISTURBANCE: Duration = Duration::from_secs(2);

#[test]
fn an_acknowledged_row_is_seen_on_every_node_at_once() -> anyhow::Result<()> {
    let target = Size { quick: 20_000, full: 100_000 }.now();
    let cluster = Cluster::of(3)?;
    cluster.replicate("CREATE TABLE seen (id bigint PRIMARY KEY)", &["seen"])?;

    step(format!("{target} rows are written on one node and looked for on another"));
    let stop = AtomicBool::new(false);
    let found = AtomicU64::new(0);
    let result = std::thread::scope(|scope| {
        let (cluster, stop, found) = (&cluster, &stop, &found);
        let pairs: Vec<_> = (0..PAIRS)
            .map(|pair| {
                scope.spawn(move || {
                    let result = write_and_look(cluster, pair, stop, found, target);
                    stop.store(true, Ordering::Relaxed);
                    result
                })
            })
            .collect();
        let disturbed = disturb(cluster, stop);
        stop.store(true, Ordering::Relaxed);
        for pair in pairs {
            pair.join().expect("a pair does not panic")?;
        }
        disturbed
    });
    eprintln!("{} rows found", found.load(Ordering::Relaxed));
    result?;
    ensure!(found.load(Ordering::Relaxed) >= target);
    cluster.settle("INSERT INTO seen SELECT min(id) - 1 FROM seen")?;
    cluster.equal_checksums(&[1, 2, 3], "seen")?;
    cluster.finish()
}

/// Kills or freezes one node after another until the pairs have done their work.
fn disturb(cluster: &Cluster, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut random = Random::announced("read_your_write");
    while !stop.load(Ordering::Relaxed) {
        let node = random.node(cluster.nodes());
        let is_kill = random.below(2) == 0;
        match is_kill {
            true => cluster.kill(node)?,
            false => cluster.freeze(node)?,
        }
        std::thread::sleep(DISTURBANCE);
        match is_kill {
            true => cluster.start(node)?,
            false => cluster.thaw(node)?,
        }
        std::thread::sleep(DISTURBANCE);
    }
    Ok(())
}

fn write_and_look(
    cluster: &Cluster,
    pair: usize,
    stop: &AtomicBool,
    found: &AtomicU64,
    target: u64,
) -> anyhow::Result<()> {
    let mut random = Random::from_seed(pair as u64);
    let mut connections: Vec<Option<Client>> = (0..=cluster.nodes()).map(|_| None).collect();
    let mut id = (pair as i64) << 32;
    while !stop.load(Ordering::Relaxed) && found.load(Ordering::Relaxed) < target {
        id += 1;
        let writer = random.node(cluster.nodes());
        let written =
            ask(cluster, &mut connections, writer, |client| client.execute("INSERT INTO seen VALUES ($1)", &[&id]));
        match written {
            Some(Ok(_)) => {}
            // Frozen, killed, or without the others: not acknowledged, so nothing to look for.
            None => continue,
            Some(Err(error)) if is_unknown_outcome(&error) || sqlstate(&error) == "57P03" => continue,
            Some(Err(error)) if sqlstate(&error) == "57014" || is_serialization_failure(&error) => continue,
            Some(Err(error)) => bail!("node {writer}: {}", describe(&error)),
        }
        look(cluster, &mut connections, &mut random, id, writer)?;
        found.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Looks for the row on another node; the first answer that comes must hold it.
fn look(
    cluster: &Cluster,
    connections: &mut [Option<Client>],
    random: &mut Random,
    id: i64,
    writer: usize,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + ANSWER_TIME_MAX;
    while Instant::now() < deadline {
        let reader = random.node(cluster.nodes());
        if reader == writer {
            continue;
        }
        let answer = ask(cluster, connections, reader, |client| {
            client.query_one("SELECT count(*) FROM seen WHERE id = $1", &[&id])
        });
        if let Some(Ok(row)) = answer {
            let count: i64 = row.get(0);
            ensure!(count == 1, "row {id}, acknowledged on node {writer}, is there {count} times on node {reader}");
            return Ok(());
        }
    }
    bail!("no other node answered for {ANSWER_TIME_MAX:?}")
}

/// Asks a node over a kept connection; none if there is no connection to be had.
fn ask<T>(
    cluster: &Cluster,
    connections: &mut [Option<Client>],
    node: usize,
    question: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
) -> Option<Result<T, postgres::Error>> {
    let slot = &mut connections[node];
    if slot.as_ref().is_none_or(Client::is_closed) {
        *slot = cluster.connect_briefly(node).ok();
    }
    Some(question(slot.as_mut()?))
}
