//! A frozen node and a dead node each delay the others by at most the failure time-out, once.

use anyhow::ensure;
use end_to_end::{describe, is_serialization_failure, step, Cluster};
use std::time::{Duration, Instant};

/// The failure time-out at its default, within which silence is noticed and the log taken over; and what a fresh backend,
/// a few syncs and a machine that runs three servers on two cores add to it.
const DELAY_MAX: Duration = Duration::from_millis(1000 + 500);

/// After the one delay.
const SETTLED_MAX: Duration = Duration::from_millis(500);

const TABLE: &str = "CREATE TABLE steady (id bigint PRIMARY KEY)";

#[test]
fn a_frozen_or_dead_node_delays_the_others_once() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate(TABLE, &["steady"])?;
    let mut next = 0;
    for disturbed in cluster.all() {
        for is_kill in [false, true] {
            let name = if is_kill { "killed" } else { "frozen" };
            step(format!("node {disturbed} is {name}"));
            let others: Vec<usize> = cluster.all().into_iter().filter(|n| *n != disturbed).collect();
            match is_kill {
                true => cluster.kill(disturbed)?,
                false => cluster.freeze(disturbed)?,
            }
            let result = others.iter().try_for_each(|node| {
                let first = write_and_read(&cluster, *node, &mut next)?;
                let mut later = Duration::ZERO;
                for _ in 0..20 {
                    later = later.max(write_and_read(&cluster, *node, &mut next)?);
                }
                eprintln!("node {node}: {first:.0?} the first time, then at most {later:.0?}");
                ensure!(first <= DELAY_MAX, "node {node} was delayed by {first:?}");
                ensure!(later <= SETTLED_MAX, "node {node} was delayed again, by {later:?}");
                Ok(())
            });
            match is_kill {
                true => cluster.start(disturbed)?,
                false => cluster.thaw(disturbed)?,
            }
            result?;
            cluster.wait_for_service(disturbed, "steady")?;
        }
    }
    cluster.equal_checksums(&[1, 2, 3], "steady")?;
    cluster.finish()
}

/// How long one write and one strong read take together, over a fresh connection.
fn write_and_read(cluster: &Cluster, node: usize, next: &mut i64) -> anyhow::Result<Duration> {
    *next += 1;
    let mut client = cluster.connect(node)?;
    let begin = Instant::now();
    loop {
        match client.execute("INSERT INTO steady VALUES ($1)", &[next]) {
            Ok(_) => break,
            Err(error) if is_serialization_failure(&error) => {}
            Err(error) => anyhow::bail!("node {node}: {}", describe(&error)),
        }
    }
    let seen: i64 = client.query_one("SELECT max(id) FROM steady", &[])?.get(0);
    ensure!(seen == *next, "node {node} read {seen} after writing {next}");
    Ok(begin.elapsed())
}
