//! The disk under one engine takes no more writes: the engine stops and says so, its server's transactions end with a clear
//! error, the other servers do not notice, and once the disk is well everything goes on by itself.

use anyhow::ensure;
use end_to_end::{describe, sqlstate, step, wait_for, wait_until, Cluster, Ledger, RECOVERY_TIME_MAX};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// A file may not grow past this, nor be written behind it, so each batch of the log fails, whose ends stand far apart in
/// large files. The server's log is smaller: what is said there is written still.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A refusal that takes longer than this is a wait.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(12);

const ENGINE: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_paxos engine'";

#[test]
fn an_engine_whose_disk_takes_no_writes_stops_and_comes_back() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    Ledger::create(&cluster, "ledger", true)?;
    cluster.replicate("CREATE TABLE steady (id int PRIMARY KEY, v int)", &["steady"])?;
    cluster.run(1, "INSERT INTO steady VALUES (1, 0)")?;
    let others = Ledger::start(&cluster, "ledger", &[1, 3], 2, 1);
    let own = Ledger::start(&cluster, "ledger", &[2], 2, 2);

    for round in 1..=3 {
        step(format!("round {round}: the disk of node 2's engine fails under load"));
        let failed: i32 = wait_for("the engine runs", RECOVERY_TIME_MAX, || cluster.value(2, ENGINE))?;
        let_no_file_grow(failed)?;
        let begin = Instant::now();
        let outcome = cluster.connect(2)?.batch_execute("UPDATE steady SET v = v + 1");
        let waited = begin.elapsed();
        let told = outcome.as_ref().map_or_else(describe, |()| "it was acknowledged".to_owned());
        eprintln!("a transaction on node 2, after {waited:.1?}: {told}");
        if let Err(error) = outcome {
            ensure!(["57P03", "08007", "40001"].contains(&sqlstate(&error)), "{told}");
        }
        ensure!(waited < ANSWER_TIME_MAX, "a transaction on node 2 waited for {waited:?}");

        step("it says so and ends; the server starts it anew, on a disk that is well again");
        let another = |now: &i32| *now != failed;
        wait_until("another engine runs", RECOVERY_TIME_MAX, || cluster.value::<i32>(2, ENGINE), another)?;
        wait_for("the node serves", RECOVERY_TIME_MAX, || cluster.run(2, "UPDATE steady SET v = v + 1"))?;
    }
    let said = cluster.log_lines(2, "the pg_paxos engine failed")?;
    ensure!(said.len() == 3 && said.iter().all(|line| line.contains("File too large")), "the log says {said:?}");

    let others = others.stop();
    let mut account = own.stop();
    ensure!(others.errors.is_empty(), "the other servers noticed: {:?}", others.errors);
    ensure!(!account.acknowledged.is_empty(), "nothing was written on node 2");
    cluster.settle("UPDATE steady SET v = v + 1")?;
    cluster.equal_checksums(&[1, 2, 3], "steady")?;
    cluster.equal_checksums(&[1, 2, 3], "ledger")?;
    account.add(others);
    for node in cluster.all() {
        account.check(&cluster, node, "ledger")?;
    }
    cluster.finish()
}

/// As the user of the process, since to root alone the system does not grant it everywhere.
fn let_no_file_grow(process: i32) -> anyhow::Result<()> {
    let owner = std::fs::metadata(format!("/proc/{process}"))?;
    let mut command = Command::new("prlimit");
    command.args(["--pid", &process.to_string(), &format!("--fsize={FILE_BYTES_MAX}:")]);
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let status = command.status()?;
    ensure!(status.success(), "prlimit: {status}");
    Ok(())
}
