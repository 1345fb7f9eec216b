//! Two sessions on one node and one on another insert into a table without a key and delete all of it, over and over:
//! statement-based replication lost rows on one server only (a DELETE that waited ran with its old snapshot).

use anyhow::{bail, ensure};
use end_to_end::{describe, is_serialization_failure, Cluster, Random};
use std::time::{Duration, Instant};

#[test]
fn an_insert_commits_while_a_delete_of_everything_waits() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate("CREATE TABLE queue (id bigint, node int)", &["queue"])?;
    let until = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        let cluster = &cluster;
        // Two sessions on node 1 and one on node 2, each inserting and deleting all.
        let sessions: Vec<_> = [1, 1, 2]
            .into_iter()
            .enumerate()
            .map(|(number, node)| {
                scope.spawn(move || -> anyhow::Result<usize> {
                    let mut random = Random::from_seed(number as u64);
                    let mut client = cluster.connect(node)?;
                    let mut done = 0;
                    while Instant::now() < until {
                        let sql = match random.below(3) {
                            0 => "DELETE FROM queue".to_owned(),
                            _ => format!("INSERT INTO queue VALUES ({}, {node})", random.below(1 << 40)),
                        };
                        match client.batch_execute(&sql) {
                            Ok(()) => done += 1,
                            Err(error) if is_serialization_failure(&error) => {}
                            Err(error) => bail!("node {node}: {sql}: {}", describe(&error)),
                        }
                    }
                    Ok(done)
                })
            })
            .collect();
        for session in sessions {
            let done = session.join().expect("a session does not panic")?;
            ensure!(done > 0, "a session got nothing done");
        }
        Ok(())
    })?;
    cluster.equal_checksums(&[1, 2, 3], "queue")?;
    cluster.finish()
}
