//! A single backend is lost between the log's decision and its local commit: it is killed, or it must give up its locks
//! to an entry that comes before it. What the log has chosen is committed everywhere all the same.

use anyhow::{bail, ensure, Context};
use end_to_end::{describe, sqlstate, step, wait_for, wait_until, Cluster, Ledger, RECOVERY_TIME_MAX};
use rustix::process::{kill_process, Pid, Signal};
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

/// How long writers write before a backend of theirs is killed.
const LOAD: Duration = Duration::from_secs(2);

const TABLES: &str = "CREATE TABLE first (id int PRIMARY KEY, v int); CREATE TABLE second (id int PRIMARY KEY, v int)";

#[test]
fn a_backend_killed_in_mid_commit_loses_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate(TABLES, &["first", "second"])?;
    cluster.run(1, "INSERT INTO first VALUES (1, 0)")?;

    step("a transaction is chosen and waits for its turn, since the applier of its node stands still");
    let waiting = Waiting::begin(&cluster, "INSERT INTO second VALUES (1, 1)")?;

    step("its backend is killed: PostgreSQL restarts the server, which comes back by itself");
    signal(waiting.process, Signal::KILL)?;
    let outcome = waiting.outcome.recv_timeout(RECOVERY_TIME_MAX)?;
    ensure!(outcome.is_err(), "a killed backend acknowledged its COMMIT");
    // The applier stands still until PostgreSQL kills it too.
    check_both(&cluster, "second")?;

    step("and so does a server under load, whichever backend is killed");
    Ledger::create(&cluster, "ledger", true)?;
    let ledger = Ledger::start(&cluster, "ledger", &[1, 2, 3], 3, 1);
    for _ in 0..3 {
        std::thread::sleep(LOAD);
        let sql = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'INSERT INTO ledger%' AND state = 'active'";
        let victim: i32 = wait_for("a writer commits", RECOVERY_TIME_MAX, || cluster.value(1, sql))?;
        signal(victim, Signal::KILL)?;
        wait_for("the server is back", RECOVERY_TIME_MAX, || cluster.run(1, "UPDATE first SET v = v + 1"))?;
    }
    let account = ledger.stop();
    ensure!(!account.acknowledged.is_empty(), "nothing was written");
    cluster.settle("UPDATE first SET v = v + 1")?;
    cluster.equal_checksums(&[1, 2, 3], "ledger")?;
    for node in cluster.all() {
        account.check(&cluster, node, "ledger")?;
    }
    cluster.finish_despite("terminated by signal 9")
}

#[test]
fn a_certified_transaction_in_the_way_is_committed_by_the_applier() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate(TABLES, &["first", "second"])?;
    cluster.run(1, "INSERT INTO first VALUES (1, 0)")?;

    step("a transaction holds a row of which the log knows nothing, and is chosen after one that changes the row");
    let waiting = Waiting::begin(
        &cluster,
        "SET LOCAL pg_paxos.enabled = off; SELECT FROM first WHERE id = 1 FOR UPDATE; \
         SET LOCAL pg_paxos.enabled = on; INSERT INTO second VALUES (1, 1)",
    )?;

    step("neither can go first, until it leaves its slot to the applier");
    signal(waiting.applier, Signal::CONT)?;
    let outcome = waiting.outcome.recv_timeout(RECOVERY_TIME_MAX).context("it stands in the way for ever")?;
    let Err(error) = outcome else { bail!("it was acknowledged before its turn") };
    let told = describe(&error);
    eprintln!("the client was told: {told}");
    ensure!(sqlstate(&error) == "08007" && told.contains("the transaction is committed"), "{told}");
    ensure!(told.contains("held a lock that an earlier one needs"), "{told}");
    check_both(&cluster, "second")?;
    cluster.finish()
}

/// A transaction of node 1 that the log has chosen and that waits for its turn.
struct Waiting {
    /// Its backend.
    process: i32,
    /// The applier of node 1, which stands still.
    applier: i32,
    /// How its COMMIT ends.
    outcome: Receiver<Result<(), postgres::Error>>,
}

impl Waiting {
    /// Lets a transaction do `work`, which changes table `second`, and come after one of node 2 that changes table
    /// `first`.
    fn begin(cluster: &Cluster, work: &str) -> anyhow::Result<Waiting> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_paxos applier'";
        let applier: i32 = cluster.value(1, sql)?;
        let mut client = cluster.connect(1)?;
        let process = client.query_one("SELECT pg_backend_pid()", &[])?.try_get(0)?;
        client.batch_execute(&format!("BEGIN; {work}"))?;
        signal(applier, Signal::STOP)?;
        cluster.run(2, "UPDATE first SET v = 7 WHERE id = 1")?;
        let (sender, outcome) = channel();
        std::thread::spawn(move || sender.send(client.batch_execute("COMMIT")));
        let sql = "SELECT count(*) FROM second";
        wait_until("it is chosen", RECOVERY_TIME_MAX, || cluster.value::<i64>(2, sql), |count| *count == 1)?;
        Ok(Waiting { process, applier, outcome })
    }
}

/// Both transactions are on every node.
fn check_both(cluster: &Cluster, second: &str) -> anyhow::Result<()> {
    for node in cluster.all() {
        let sql = format!("SELECT (SELECT v FROM first WHERE id = 1) + (SELECT count(*) FROM {second})::int");
        let sum = wait_for("the node serves", RECOVERY_TIME_MAX, || cluster.value::<i32>(node, &sql))?;
        ensure!(sum == 8, "node {node}: {sum}");
    }
    cluster.equal_checksums(&[1, 2, 3], "first")?;
    cluster.equal_checksums(&[1, 2, 3], second)?;
    Ok(())
}

fn signal(process: i32, signal: Signal) -> anyhow::Result<()> {
    let process = Pid::from_raw(process).context("processes are numbered from 1")?;
    Ok(kill_process(process, signal)?)
}
