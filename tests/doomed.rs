//! A transaction that holds what an entry of the log needs is rolled back, and its client is told 40001 and the table,
//! wherever the transaction happens to be. Nobody else's cancel is ever told so.

use anyhow::{bail, ensure, Context};
use end_to_end::{describe, sqlstate, step, wait_until, Cluster, RECOVERY_TIME_MAX};
use postgres::{Client, Error};
use std::process::Command;
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

/// What keeps errors out of the server's log must not change what clients are told.
/// How many of the victims of one round are told in the log too: all, those who lost their session, none.
const LOG_LEVELS: [(&str, usize); 4] = [("warning", WAITS.len() + 3), ("log", 2), ("fatal", 2), ("panic", 0)];

/// What every victim does before it waits for something.
const HOLD: &str = "UPDATE held SET v = v + 1 WHERE id = 1";

/// Statements in which a victim waits, and what it waits for as the server shows it.
const WAITS: [(&str, &str, &str); 6] = [
    ("asleep", "SELECT pg_sleep(50)", "PgSleep"),
    ("waiting for a lock", "SELECT pg_advisory_lock(1)", "advisory"),
    ("in a subquery of a write", "INSERT INTO other SELECT 1, 1 FROM pg_sleep(50)", "PgSleep"),
    ("in a savepoint", "SAVEPOINT s; SELECT pg_sleep(50)", "PgSleep"),
    (
        "in a block that catches all errors",
        "DO $$ BEGIN PERFORM pg_sleep(50); EXCEPTION WHEN OTHERS THEN NULL; END $$; COMMIT",
        "PgSleep",
    ),
    (
        "in a block that catches cancels",
        "DO $$ BEGIN PERFORM pg_sleep(50); EXCEPTION WHEN query_canceled THEN NULL; END $$; COMMIT",
        "PgSleep",
    ),
];

#[test]
fn a_doomed_transaction_is_told_40001_wherever_it_is() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate(
        "CREATE TABLE held (id int PRIMARY KEY, v int); CREATE TABLE other (id int PRIMARY KEY, v int)",
        &["held", "other"],
    )?;
    cluster.run(1, "INSERT INTO held VALUES (1, 0), (2, 0)")?;
    cluster.run(
        1,
        &format!(
            "CREATE PROCEDURE goes_on() LANGUAGE plpgsql AS $$ BEGIN {HOLD}; \
             BEGIN PERFORM pg_sleep(50); EXCEPTION WHEN query_canceled THEN NULL; END; COMMIT; END $$"
        ),
    )?;
    let mut holder = cluster.connect(1)?;
    holder.batch_execute("SELECT pg_advisory_lock(1)")?;
    for (level, logged_at_level) in LOG_LEVELS {
        let logged = told_in_log(&cluster)?;
        for (place, sql, event) in WAITS {
            step(format!("log_min_messages = {level}: {place}"));
            let error = doom(&cluster, level, &format!("BEGIN; {HOLD}; {sql}"), event)?;
            check(&error, place)?;
        }
        step(format!("log_min_messages = {level}: in a procedure that swallows the cancel and commits"));
        check(&doom(&cluster, level, "CALL goes_on()", "PgSleep")?, "COMMIT of a procedure")?;
        step(format!("log_min_messages = {level}: idle in its transaction"));
        check(&doom_idle(&cluster, level)?, "idle")?;
        step(format!("log_min_messages = {level}: waiting for the rows of a COPY"));
        doom_copy(&cluster, level)?;
        let logged = told_in_log(&cluster)? - logged;
        ensure!(
            logged == logged_at_level,
            "log_min_messages = {level}: {logged} lines in the server's log, not {logged_at_level}"
        );
    }

    step("its lock time-out strikes in the same moment");
    check(&doom_with_lock_timeout(&cluster)?, "lock time-out")?;

    step("a cancel of a user's own stays a cancel");
    for (level, _) in LOG_LEVELS {
        own_cancels(&cluster, level)?;
    }

    step("and what came first in the log is there");
    cluster.equal_checksums(&[1, 2, 3], "held")?;
    let strikes = LOG_LEVELS.len() * (WAITS.len() + 3) + 1;
    let left: i32 = cluster.value(1, "SELECT v FROM held WHERE id = 1")?;
    ensure!(left == -i32::try_from(strikes)?, "{left} after {strikes}: a doomed transaction was committed");
    cluster.finish()
}

/// How often the server's log tells of a transaction that stood in the way.
fn told_in_log(cluster: &Cluster) -> anyhow::Result<usize> {
    let log = std::fs::read(cluster.directory().join("node1/log"))?;
    Ok(String::from_utf8_lossy(&log).matches("could not serialize access due to a concurrent").count())
}

fn check(error: &Error, place: &str) -> anyhow::Result<()> {
    let told = describe(error);
    ensure!(sqlstate(error) == "40001", "{place}: {told}");
    ensure!(told.contains("on table public.held"), "{place}: the table is not named: {told}");
    Ok(())
}

fn connect(cluster: &Cluster, level: &str) -> anyhow::Result<(Client, i32)> {
    let mut client = cluster.connect(1)?;
    client.batch_execute(&format!("SET log_min_messages = {level}"))?;
    let process = client.query_one("SELECT pg_backend_pid()", &[])?.try_get(0)?;
    Ok((client, process))
}

/// Runs something in a thread of its own.
fn begin(mut client: Client, sql: &str) -> Receiver<(Client, Result<(), Error>)> {
    let (sender, receiver) = channel();
    let sql = sql.to_owned();
    std::thread::spawn(move || {
        let outcome = client.batch_execute(&sql);
        sender.send((client, outcome)).ok();
    });
    receiver
}

/// Waits until the process waits for that event.
fn await_event(cluster: &Cluster, process: i32, event: &str) -> anyhow::Result<()> {
    let sql = format!("SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE pid = {process}");
    wait_until("a victim waits", RECOVERY_TIME_MAX, || cluster.value::<String>(1, &sql), |seen| seen == event)?;
    Ok(())
}

/// Another node's transaction, which comes first in the log.
fn strike(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.run(2, "UPDATE held SET v = v - 1 WHERE id = 1")
}

fn doom(cluster: &Cluster, level: &str, sql: &str, event: &str) -> anyhow::Result<Error> {
    let (client, process) = connect(cluster, level)?;
    let victim = begin(client, sql);
    await_event(cluster, process, event)?;
    strike(cluster)?;
    let (mut client, outcome) = victim.recv_timeout(RECOVERY_TIME_MAX).context("the victim is still there")?;
    let Err(error) = outcome else { bail!("a doomed transaction went through: {sql}") };
    client.batch_execute("ROLLBACK")?;
    let shown: String = client.query_one("SHOW log_min_messages", &[])?.try_get(0)?;
    ensure!(shown == level, "log_min_messages was {level} and is {shown}");
    Ok(error)
}

/// The process stands still while it is doomed and its wait for a lock ends: it then learns of both at once, and
/// PostgreSQL by itself would tell of the lock.
fn doom_with_lock_timeout(cluster: &Cluster) -> anyhow::Result<Error> {
    const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
    let (client, process) = connect(cluster, "warning")?;
    let began = Instant::now();
    let sql = format!("SET lock_timeout = {}; BEGIN; {HOLD}; SELECT pg_advisory_lock(1)", LOCK_TIMEOUT.as_millis());
    let victim = begin(client, &sql);
    await_event(cluster, process, "advisory")?;
    signal(process, "STOP")?;
    ensure!(began.elapsed() < LOCK_TIMEOUT, "this machine is too slow to show it");
    strike(cluster)?;
    let is_doomed =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_paxos applier' AND wait_event_type = 'Lock'";
    wait_until("the applier waits", RECOVERY_TIME_MAX, || cluster.value::<i64>(1, is_doomed), |seen| *seen == 1)?;
    // Past the lock time-out, and past the look of whoever watches over the applier.
    std::thread::sleep((LOCK_TIMEOUT + Duration::from_millis(500)).saturating_sub(began.elapsed()));
    signal(process, "CONT")?;
    let (_, outcome) = victim.recv_timeout(RECOVERY_TIME_MAX).context("the victim is still there")?;
    outcome.err().context("a doomed transaction went through")
}

fn signal(process: i32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status()?;
    ensure!(status.success(), "kill -s {name} {process}: {status}");
    Ok(())
}

/// One whose client is silent loses its session.
fn doom_idle(cluster: &Cluster, level: &str) -> anyhow::Result<Error> {
    let (mut client, process) = connect(cluster, level)?;
    client.batch_execute(&format!("BEGIN; {HOLD}"))?;
    strike(cluster)?;
    await_end(cluster, process)?;
    match client.batch_execute("SELECT 1") {
        Ok(()) => bail!("the session goes on"),
        Err(error) => Ok(error),
    }
}

/// One that waits for rows of its client loses its session too. The client library does not hand on what it was told
/// while it was sending; the server's log shows it.
fn doom_copy(cluster: &Cluster, level: &str) -> anyhow::Result<()> {
    let (mut client, process) = connect(cluster, level)?;
    client.batch_execute(&format!("BEGIN; {HOLD}"))?;
    let rows = client.copy_in("COPY other FROM STDIN")?;
    await_event(cluster, process, "ClientRead")?;
    strike(cluster)?;
    await_end(cluster, process)?;
    ensure!(rows.finish().is_err(), "the COPY went through");
    Ok(())
}

fn await_end(cluster: &Cluster, process: i32) -> anyhow::Result<()> {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process}");
    wait_until("a session ends", RECOVERY_TIME_MAX, || cluster.value::<i64>(1, &sql), |seen| *seen == 0)?;
    Ok(())
}

/// Cancels of transactions in nobody's way.
fn own_cancels(cluster: &Cluster, level: &str) -> anyhow::Result<()> {
    let (client, process) = connect(cluster, level)?;
    let canceled = begin(client, "BEGIN; UPDATE held SET v = v + 1 WHERE id = 2; SELECT pg_sleep(50)");
    await_event(cluster, process, "PgSleep")?;
    cluster.run(1, &format!("SELECT pg_cancel_backend({process})"))?;
    let (mut client, outcome) = canceled.recv_timeout(RECOVERY_TIME_MAX)?;
    let error = outcome.err().context("a cancel was not served")?;
    ensure!(sqlstate(&error) == "57014", "a user's own cancel: {}", describe(&error));
    let timed = client.batch_execute(
        "ROLLBACK; SET statement_timeout = '100ms'; BEGIN; UPDATE held SET v = v + 1 WHERE id = 2; SELECT pg_sleep(50)",
    );
    let error = timed.err().context("a time-out was not served")?;
    ensure!(sqlstate(&error) == "57014", "a time-out: {}", describe(&error));
    Ok(())
}
