//! A table is replicated while a member is away that has another table of that name: the member says what is wrong when
//! it comes back, harms nobody, and goes on by itself once the table is gone.

use anyhow::ensure;
use end_to_end::{describe, step, wait_for, wait_until, Cluster, RECOVERY_TIME_MAX};
use postgres::Client;
use std::process::Command;
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

#[test]
fn a_server_with_a_table_in_the_way_says_so_and_goes_on_when_it_is_gone() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate("CREATE TABLE other (id int PRIMARY KEY)", &["other"])?;

    step("node 2 has a table of its own and is away while another one of that name is replicated");
    cluster.run(2, "CREATE TABLE clash (id int, remark text); INSERT INTO clash VALUES (1, 'mine')")?;
    cluster.kill(2)?;
    cluster.run(1, "CREATE TABLE clash (id int PRIMARY KEY)")?;
    cluster.run(1, "SELECT paxos_replicate_table('local', 'clash')")?;
    cluster.run(1, "INSERT INTO clash VALUES (7)")?;

    step("when it comes back it says what is in the way, and the others go on");
    cluster.start(2)?;
    let status = "SELECT state || ': ' || coalesce(apply_error, '') FROM pg_stat_paxos WHERE is_self";
    let is_told = |said: &String| said.starts_with("stopped: ") && said.contains("clash");
    let said = wait_until("node 2 tells that it stopped", RECOVERY_TIME_MAX, || cluster.value(2, status), is_told)?;
    eprintln!("node 2: {said}");
    cluster.run(3, "INSERT INTO other VALUES (1)")?;
    let (code, said) = cluster.refusal(2, "SELECT * FROM other")?;
    ensure!(code == "57P03", "node 2 is behind, and a strong read there says {code}: {said}");

    step("the table is dropped: node 2 catches up with no other step");
    cluster.run(2, "DROP TABLE clash")?;
    wait_until("node 2 goes on", RECOVERY_TIME_MAX, || cluster.value(2, status), |said: &String| said == "serving: ")?;
    let seen = cluster.equal_checksums(&[1, 2, 3], "clash")?;
    ensure!(seen.rows == 1);
    cluster.equal_checksums(&[1, 2, 3], "other")?;
    cluster.finish()
}

/// An applier that stands still is a member that answers and does not make the table.
#[test]
fn who_replicates_a_table_waits_for_the_others_for_a_bounded_time() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    let its_pid = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_paxos applier'";
    let applier: i32 = wait_for("the applier runs", RECOVERY_TIME_MAX, || cluster.value(3, its_pid))?;
    signal(applier, "STOP")?;
    let (mut beside, mut second) = (cluster.connect(1)?, cluster.connect(2)?);

    step("one member applies nothing: it is named after three seconds, and no lock is held meanwhile");
    let begun = Instant::now();
    let waiting = begin_to_replicate(&cluster, "late", &mut second)?;
    beside
        .batch_execute("SET lock_timeout = '1s'; INSERT INTO late VALUES (1)")
        .map_err(|error| anyhow::anyhow!("beside the one who waits: {}", describe(&error)))?;
    let told = waiting.end()?;
    let took = begun.elapsed();
    ensure!(took >= Duration::from_secs(3) && took < Duration::from_secs(30), "it took {took:?}");
    ensure!(told.contains("not every member has made it yet"), "{told}");
    ensure!(told.contains(&format!("port={}", cluster.port(3))), "the member is not named: {told}");
    ensure!(!told.contains(&format!("port={}", cluster.port(2))), "one that made it is named: {told}");

    step("a cancel ends the wait and not the transaction, and hits nothing else");
    let waiting = begin_to_replicate(&cluster, "later", &mut second)?;
    beside.execute("SELECT pg_cancel_backend($1)", &[&waiting.process])?;
    let told = waiting.end()?;
    ensure!(told.contains("the wait for it was cancelled"), "{told}");

    step("the member goes on and has both");
    signal(applier, "CONT")?;
    cluster.run(1, "INSERT INTO later VALUES (1)")?;
    for table in ["late", "later"] {
        wait_for("the member has caught up", RECOVERY_TIME_MAX, || cluster.checksum(3, table).map(drop))?;
        cluster.equal_checksums(&[1, 2, 3], table)?;
    }
    cluster.finish()
}

/// A session on node 1 that has replicated a table and waits for the members to make it.
struct Waiting {
    process: i32,
    outcome: Receiver<anyhow::Result<()>>,
    notices: Receiver<String>,
}

impl Waiting {
    /// Waits until it is acknowledged and one more statement has run; all that was said.
    fn end(self) -> anyhow::Result<String> {
        self.outcome.recv_timeout(RECOVERY_TIME_MAX)??;
        Ok(self.notices.try_iter().collect::<Vec<_>>().join("\n"))
    }
}

/// Returns when node 2 has the table: then the transaction is committed.
fn begin_to_replicate(cluster: &Cluster, table: &str, second: &mut Client) -> anyhow::Result<Waiting> {
    let (tell, notices) = channel();
    let mut client = postgres::Config::new()
        .host("127.0.0.1")
        .port(cluster.port(1))
        .user("postgres")
        .dbname("postgres")
        .notice_callback(move |notice| {
            tell.send(format!("{}\n{}", notice.message(), notice.detail().unwrap_or_default())).ok();
        })
        .connect(postgres::NoTls)?;
    let process = client.query_one("SELECT pg_backend_pid()", &[])?.try_get(0)?;
    client.batch_execute(&format!("CREATE TABLE {table} (id int PRIMARY KEY)"))?;
    let (end, outcome) = channel();
    let sql = format!("SELECT paxos_replicate_table('local', '{table}')");
    std::thread::spawn(move || {
        let done = client.batch_execute(&sql).and_then(|()| client.batch_execute("SELECT 1"));
        end.send(done.map_err(|error| anyhow::anyhow!("{sql}: {}", describe(&error)))).ok();
    });
    let made = format!("SELECT to_regclass('{table}') IS NOT NULL");
    let mut look = || -> anyhow::Result<bool> { Ok(second.query_one(&made, &[])?.try_get(0)?) };
    wait_until("the table is made", RECOVERY_TIME_MAX, &mut look, |made| *made)?;
    Ok(Waiting { process, outcome, notices })
}

fn signal(process: i32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status()?;
    ensure!(status.success(), "kill -s {name} {process}: {status}");
    Ok(())
}
