//! All nodes are killed at once, under load, again and again. Nothing is done but to start them.

use anyhow::ensure;
use end_to_end::{step, Account, Cluster, Ledger, Size};
use std::time::{Duration, Instant};

/// How long the load runs before each kill.
const LOAD: Duration = Duration::from_secs(3);

/// All nodes die within this.
const KILL_TIME_MAX: Duration = Duration::from_secs(1);

#[test]
fn ten_times_in_a_row_nothing_acknowledged_is_lost() -> anyhow::Result<()> {
    let times = Size { quick: 10, full: 100 }.now();
    let cluster = Cluster::of(3)?;
    Ledger::create(&cluster, "ledger", true)?;
    let mut account = Account::default();
    for time in 1..=times {
        step(format!("time {time}: writers on all nodes, then all nodes are killed"));
        let ledger = Ledger::start(&cluster, "ledger", &[1, 2, 3], 4, u32::try_from(time)?);
        std::thread::sleep(LOAD);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let kills = cluster.all().into_iter().map(|node| {
                let cluster = &cluster;
                scope.spawn(move || cluster.kill(node))
            });
            let kills: Vec<_> = kills.collect();
            kills.into_iter().try_for_each(|kill| kill.join().expect("a kill does not panic"))
        })?;
        ensure!(begin.elapsed() < KILL_TIME_MAX, "the kills took {:?}", begin.elapsed());
        let fresh = ledger.stop();
        ensure!(!fresh.acknowledged.is_empty(), "nothing was written before the kill");
        account.add(fresh);

        step(format!("time {time}: started again, nothing else done"));
        cluster.up_again()?;
        let known = account.acknowledged[0];
        cluster.settle(&format!("UPDATE ledger SET node = node WHERE id = {known}"))?;
        let checksum = cluster.equal_checksums(&[1, 2, 3], "ledger")?;
        eprintln!("{} rows on all nodes", checksum.rows);
        for node in cluster.all() {
            account.check(&cluster, node, "ledger")?;
        }
    }
    cluster.finish()
}
