//! A row that a transaction has locked counts on the other nodes too, however it came to be locked: also where
//! PostgreSQL locks a row by itself and then leaves it as it is, which no trigger sees.
//!
//! What is shown needs one order of things: the other node's change stands in the log, this node has not applied it,
//! and the transaction commits. So this node's applier stands still meanwhile: then nobody but certification can tell
//! the transaction anything. If certification let it pass, the applier would wait for its row, and it for the applier.

use anyhow::{bail, ensure, Context};
use end_to_end::{describe, is_serialization_failure, tell, wait_until, Cluster, Story, RECOVERY_TIME_MAX};
use postgres::{Client, Error};
use std::process::Command;
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

const STORIES: [Story; 5] = [
    ("a row that stays locked without being changed meets another node's change of it", kept_locks),
    ("so it does in a table without a primary key", equal_rows),
    ("a transaction that nobody disturbs commits with such rows", undisturbed),
    ("a row that was skipped because others hold it does not count", skipped),
    ("a row that was locked in a savepoint counts until that is rolled back", savepoints),
];

/// A way to lock a row and leave it as it is.
struct Way {
    name: &'static str,
    table: &'static str,
    /// What another session of the same node does first, and commits once the statement waits for it.
    before: Option<&'static str>,
    /// `{k}` is the row's key, `{v}` its value at the beginning.
    sql: &'static str,
}

/// The row that a statement has waited for does not fit its condition any more.
const NO_FIT: Option<&str> = Some("UPDATE held SET v = -v WHERE k = {k}");

const WAYS: [Way; 9] = [
    Way {
        name: "UPDATE of a row that does not fit any more",
        table: "held",
        before: NO_FIT,
        sql: "UPDATE held SET n = 9 WHERE v = {v}",
    },
    Way {
        name: "DELETE of a row that does not fit any more",
        table: "held",
        before: NO_FIT,
        sql: "DELETE FROM held WHERE v = {v}",
    },
    Way {
        name: "MERGE that does nothing with a row that does not fit any more",
        table: "held",
        before: NO_FIT,
        sql: "MERGE INTO held USING (VALUES ({k})) AS source (k) ON held.k = source.k \
              WHEN MATCHED AND held.v = {v} THEN UPDATE SET n = 9",
    },
    Way {
        name: "SELECT FOR UPDATE of a row that does not fit any more",
        table: "held",
        before: NO_FIT,
        sql: "SELECT FROM held WHERE v = {v} FOR UPDATE",
    },
    Way {
        name: "SELECT FOR SHARE",
        table: "held",
        before: None,
        sql: "SELECT FROM held WHERE k = {k} AND v = {v} FOR SHARE",
    },
    Way {
        name: "INSERT ON CONFLICT DO UPDATE whose condition is false",
        table: "held",
        before: None,
        sql: "INSERT INTO held VALUES ({k}, 1, 1) ON CONFLICT (k) DO UPDATE SET n = 9 WHERE held.v = 0",
    },
    Way {
        name: "UPDATE that a trigger prevents",
        table: "guarded",
        before: None,
        sql: "UPDATE guarded SET n = 9 WHERE k = {k} AND v = {v}",
    },
    Way {
        name: "DELETE that a trigger prevents",
        table: "guarded",
        before: None,
        sql: "DELETE FROM guarded WHERE k = {k} AND v = {v}",
    },
    Way {
        name: "MERGE that a trigger prevents",
        table: "guarded",
        before: None,
        sql: "MERGE INTO guarded USING (VALUES ({k})) AS source (k) ON guarded.k = source.k WHEN MATCHED THEN DELETE",
    },
];

/// How long a transaction may wait to be told: within a round trip it is, and without certification never.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// Each way gets a row of its own in each story.
const ROWS: i32 = 100;

#[test]
fn a_locked_row_counts_on_every_node() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    // The trigger is on node 1 only.
    cluster.replicate(
        "CREATE TABLE held (k int PRIMARY KEY, v int, n int); CREATE TABLE guarded (LIKE held INCLUDING ALL); \
         CREATE TABLE bag (v int, n int); CREATE TABLE written (n int); \
         CREATE FUNCTION prevent() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; \
         CREATE TRIGGER prevent BEFORE UPDATE OR DELETE ON guarded FOR EACH ROW EXECUTE FUNCTION prevent()",
        &["held", "guarded", "bag", "written"],
    )?;
    for table in ["held", "guarded"] {
        cluster.run(1, &format!("INSERT INTO {table} SELECT k, 1000 + k, 0 FROM generate_series(1, {ROWS}) k"))?;
    }
    cluster.run(1, &format!("INSERT INTO bag SELECT 1000 + k, 0 FROM generate_series(1, {ROWS}) k"))?;
    tell(&cluster, &STORIES)?;
    for table in ["held", "guarded", "bag", "written"] {
        cluster.equal_checksums(&cluster.all(), table)?;
    }
    cluster.finish()
}

fn with_row(sql: &str, k: i32) -> String {
    sql.replace("{k}", &k.to_string()).replace("{v}", &(1000 + k).to_string())
}

fn run(client: &mut Client, sql: &str) -> anyhow::Result<()> {
    client.batch_execute(sql).map_err(|error| anyhow::anyhow!("{sql}: {}", describe(&error)))
}

fn process_of(client: &mut Client) -> anyhow::Result<i32> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[])?.try_get(0)?)
}

/// Runs something in a thread of its own; comes back with the number of rows.
fn begin(mut client: Client, sql: &str) -> Receiver<(Client, Result<u64, Error>)> {
    let (sender, receiver) = channel();
    let sql = sql.to_owned();
    std::thread::spawn(move || {
        let outcome = client.execute(&sql, &[]);
        sender.send((client, outcome)).ok();
    });
    receiver
}

/// A transaction on node 1 that has written something, has locked the row `k` in that way, and is open.
fn holder(cluster: &Cluster, way: &Way, k: i32) -> anyhow::Result<Client> {
    let mut client = cluster.connect(1)?;
    run(&mut client, "BEGIN; INSERT INTO written VALUES (1)")?;
    let sql = with_row(way.sql, k);
    let Some(before) = way.before else {
        let rows = client.execute(&sql, &[]).map_err(|error| anyhow::anyhow!("{sql}: {}", describe(&error)))?;
        ensure!(rows == 0 || sql.starts_with("SELECT"), "{sql} changes {rows} rows");
        return Ok(client);
    };
    let mut other = cluster.connect(1)?;
    run(&mut other, &format!("BEGIN; {}", with_row(before, k)))?;
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event_type = 'Lock'",
        process_of(&mut client)?
    );
    let waiter = begin(client, &sql);
    wait_until(
        "the statement waits for the row",
        RECOVERY_TIME_MAX,
        || cluster.value::<i64>(1, &waits),
        |seen| *seen == 1,
    )?;
    run(&mut other, "COMMIT")?;
    let (client, rows) = waiter.recv_timeout(RECOVERY_TIME_MAX).context("the statement still waits")?;
    let rows = rows.map_err(|error| anyhow::anyhow!("{sql}: {}", describe(&error)))?;
    ensure!(rows == 0, "{sql} finds {rows} rows");
    Ok(client)
}

/// Node 1's applier, standing still as long as this lives.
struct StoppedApplier(i32);

impl StoppedApplier {
    fn of(cluster: &Cluster) -> anyhow::Result<StoppedApplier> {
        let process = cluster.value(1, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_paxos applier'")?;
        signal(process, "STOP")?;
        Ok(StoppedApplier(process))
    }
}

impl Drop for StoppedApplier {
    fn drop(&mut self) {
        signal(self.0, "CONT").expect("a process that stands still is there");
    }
}

fn signal(process: i32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status()?;
    ensure!(status.success(), "kill -s {name} {process}: {status}");
    Ok(())
}

/// The transaction commits after another node's change of its row stands in the log: it must be told 40001, by
/// certification.
fn must_conflict(cluster: &Cluster, client: Client, change: &str) -> anyhow::Result<()> {
    let applier = StoppedApplier::of(cluster)?;
    cluster.run(2, change)?;
    let commit = begin(client, "COMMIT");
    let Ok((_, outcome)) = commit.recv_timeout(TOLD_WITHIN) else {
        drop(applier);
        let (_, outcome) = commit.recv_timeout(RECOVERY_TIME_MAX).context("the COMMIT does not end")?;
        bail!("nothing was told while the applier stood still; then: {:?}", outcome.map_err(|error| describe(&error)));
    };
    match outcome {
        Err(error) if is_serialization_failure(&error) => Ok(()),
        Err(error) => bail!(describe(&error)),
        Ok(_) => bail!("it committed beside {change}"),
    }
}

fn kept_locks(cluster: &Cluster) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for (way, k) in WAYS.iter().zip(1..) {
        let change = with_row(&format!("UPDATE {} SET n = 2 WHERE k = {{k}}", way.table), k);
        let told = holder(cluster, way, k).and_then(|client| must_conflict(cluster, client, &change));
        if let Err(error) = told {
            failures.push(format!("{}: {error:#}", way.name));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn equal_rows(cluster: &Cluster) -> anyhow::Result<()> {
    let way = Way {
        name: "UPDATE of a row that does not fit any more",
        table: "bag",
        before: Some("UPDATE bag SET n = 1 WHERE v = {v}"),
        sql: "UPDATE bag SET n = 9 WHERE v = {v} AND n = 0",
    };
    let client = holder(cluster, &way, 1)?;
    must_conflict(cluster, client, &with_row("UPDATE bag SET n = 2 WHERE v = {v}", 1))
}

fn undisturbed(cluster: &Cluster) -> anyhow::Result<()> {
    for (way, k) in WAYS.iter().zip(20..) {
        let mut client = holder(cluster, way, k)?;
        // Somebody is busy with other rows of the table.
        cluster.run(2, &with_row(&format!("UPDATE {} SET n = 2 WHERE k = {{k}}", way.table), k + 20))?;
        run(&mut client, "COMMIT").context(way.name)?;
    }
    Ok(())
}

fn skipped(cluster: &Cluster) -> anyhow::Result<()> {
    let (mut client, mut other) = (cluster.connect(1)?, cluster.connect(1)?);
    run(&mut other, "BEGIN; SELECT FROM held WHERE k = 60 FOR UPDATE")?;
    run(&mut client, "BEGIN; INSERT INTO written VALUES (1)")?;
    let rows = client.execute("SELECT FROM held WHERE k BETWEEN 60 AND 61 FOR UPDATE SKIP LOCKED", &[])?;
    ensure!(rows == 1, "{rows} rows are free");
    run(&mut other, "ROLLBACK")?;
    cluster.run(2, "UPDATE held SET n = 2 WHERE k = 60")?;
    run(&mut client, "COMMIT")
}

fn savepoints(cluster: &Cluster) -> anyhow::Result<()> {
    let lock = "INSERT INTO held VALUES (70, 1, 1) ON CONFLICT (k) DO UPDATE SET n = 9 WHERE held.v = 0";
    let mut client = cluster.connect(1)?;
    run(&mut client, &format!("BEGIN; INSERT INTO written VALUES (1); SAVEPOINT s; {lock}; RELEASE s"))?;
    must_conflict(cluster, client, "UPDATE held SET n = 2 WHERE k = 70")?;
    let mut client = cluster.connect(1)?;
    run(&mut client, &format!("BEGIN; INSERT INTO written VALUES (1); SAVEPOINT s; {lock}; ROLLBACK TO s"))?;
    cluster.run(2, "UPDATE held SET n = 3 WHERE k = 70")?;
    run(&mut client, "COMMIT")
}
