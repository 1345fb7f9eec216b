//! A dead node is removed and a new one joins in its place, under load, and no writer on the
//! surviving nodes meets anything but conflicts.

use anyhow::ensure;
use end_to_end::{step, Cluster, Ledger};
use std::time::Duration;

/// How long the load runs before and after each event.
const WHILE: Duration = Duration::from_secs(3);

#[test]
fn a_dead_node_is_replaced_without_a_failed_write() -> anyhow::Result<()> {
    let mut cluster = Cluster::of(3)?;
    Ledger::create(&cluster, "ledger", true)?;
    cluster.run(
        1,
        "CREATE TABLE ballast (id int PRIMARY KEY, filling text); \
         INSERT INTO ballast SELECT i, repeat('x', 200) FROM generate_series(1, 50000) AS i",
    )?;
    cluster.replicate("", &["ballast"])?;
    let dead = cluster.connection_string(3);

    step("writers on nodes 1 and 2; node 3 dies");
    let ledger = Ledger::start(&cluster, "ledger", &[1, 2], 3, 1);
    std::thread::sleep(WHILE);
    cluster.kill(3)?;
    std::thread::sleep(WHILE);

    step("it is removed, and node 4 joins with a copy of the state");
    cluster.run(1, &format!("SELECT paxos_remove_host('local', '{dead}')"))?;
    let fresh = cluster.add()?;
    std::thread::sleep(WHILE);
    let account = ledger.stop();

    ensure!(!account.acknowledged.is_empty(), "nothing was written");
    ensure!(account.errors.is_empty(), "writers met errors: {:?}", account.errors);
    ensure!(account.unknown.is_empty(), "{} outcomes are unknown", account.unknown.len());
    for table in ["ledger", "ballast"] {
        cluster.equal_checksums(&[1, 2, fresh], table)?;
    }
    account.check(&cluster, fresh, "ledger")?;

    step("the new node votes: with it, another one may die");
    cluster.kill(2)?;
    let ledger = Ledger::start(&cluster, "ledger", &[1, fresh], 2, 2);
    std::thread::sleep(WHILE);
    let account = ledger.stop();
    ensure!(!account.acknowledged.is_empty(), "two of three do not serve");
    cluster.equal_checksums(&[1, fresh], "ledger")?;
    cluster.finish()
}
