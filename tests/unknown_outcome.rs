//! A commit that is waiting for the other nodes is cancelled: its client is told that nobody knows
//! yet, with an id, and the id settles it.

use anyhow::{bail, ensure, Context};
use end_to_end::{describe, sqlstate, step, wait_for, wait_until, Cluster, Size, RECOVERY_TIME_MAX};
use postgres::NoTls;
use std::time::Duration;

/// How long the commit waits before it is cancelled; well within the failure time-out of 1 s, after
/// which a node without its peers would refuse it before proposing anything.
const CANCEL_AFTER: Duration = Duration::from_millis(300);

/// A COMMIT that has begun is seen by other sessions in milliseconds; a busy machine may run it later.
const COMMIT_SEEN_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_cancelled_commit_is_unknown_until_its_id_settles_it() -> anyhow::Result<()> {
    let times = Size { quick: 6, full: 60 }.now();
    let cluster = Cluster::of(3)?;
    cluster.replicate("CREATE TABLE paid (id bigint PRIMARY KEY)", &["paid"])?;
    let mut unknown = 0;
    for id in 1..=i64::try_from(times)? {
        step(format!("payment {id}: the other nodes fall silent before its COMMIT"));
        let mut client = cluster.connect(1)?;
        client.batch_execute(&format!("BEGIN; INSERT INTO paid VALUES ({id})"))?;
        let cancel = client.cancel_token();
        cluster.freeze(2)?;
        cluster.freeze(3)?;
        let committing = std::thread::spawn(move || client.batch_execute("COMMIT"));
        std::thread::sleep(CANCEL_AFTER);
        cancel.cancel_query(NoTls)?;
        let outcome = committing.join().expect("the client does not panic");
        cluster.thaw(2)?;
        cluster.thaw(3)?;
        let Err(error) = outcome else {
            bail!("a commit was acknowledged that only one node of three can have");
        };
        let told = describe(&error);
        eprintln!("the client was told: {told}");

        step("the id tells what became of it, alike on every node, and truly");
        let is_there = match sqlstate(&error) {
            // Withdrawn before anybody else had it, or refused because the silence was noticed
            // before anything was proposed: definite.
            "57014" | "57P03" => false,
            "08007" => {
                unknown += 1;
                settle(&cluster, &told)?
            }
            other => bail!("neither 57014, 57P03 nor 08007 but {other}: {told}"),
        };
        for node in cluster.all() {
            let count = wait_for("the node serves again", RECOVERY_TIME_MAX, || {
                cluster.value::<i64>(node, &format!("SELECT count(*) FROM paid WHERE id = {id}"))
            })?;
            ensure!(count == i64::from(is_there), "node {node} has {count}, told {is_there}");
        }
    }
    ensure!(unknown > 0, "no outcome was unknown, so nothing was shown");
    cluster.finish()
}

/// Asks every node what became of the transaction; they must agree.
fn settle(cluster: &Cluster, told: &str) -> anyhow::Result<bool> {
    let id = told
        .split(|part: char| !part.is_ascii_hexdigit() && part != '.')
        .find(|word| word.matches('.').count() == 2 && word.split('.').all(|part| !part.is_empty()))
        .with_context(|| format!("no transaction id in: {told}"))?;
    let mut answers = Vec::new();
    for node in cluster.all() {
        answers.push(wait_for("the node tells the status", RECOVERY_TIME_MAX, || {
            cluster.value::<String>(node, &format!("SELECT paxos_transaction_status('{id}')"))
        })?);
    }
    eprintln!("{id} is {answers:?}");
    ensure!(answers.iter().all(|answer| *answer == answers[0]), "the nodes disagree");
    match answers[0].as_str() {
        "committed" => Ok(true),
        "aborted" => Ok(false),
        other => bail!("neither committed nor aborted but {other}"),
    }
}

#[test]
fn nobody_settles_a_transaction_for_which_another_roles_session_waits() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate("CREATE TABLE paid (id bigint PRIMARY KEY)", &["paid"])?;
    cluster.run(1, "CREATE ROLE guest LOGIN")?;
    let mut guest = cluster.connect_as(1, "guest", "postgres")?;
    // What no session waits for could be settled, which takes a majority: not to be waited for here.
    guest.batch_execute("SET statement_timeout = '150ms'")?;
    let mut client = cluster.connect(1)?;
    client.batch_execute("INSERT INTO paid VALUES (1)")?;
    let last: String = client.query_one("SELECT paxos_last_transaction_id()", &[])?.get(0);
    let (before, sequence) = last.rsplit_once('.').context("an id has three parts")?;
    let sequence: u64 = sequence.parse()?;

    step("a commit waits for the other nodes, and a guest guesses its id");
    client.batch_execute("BEGIN; INSERT INTO paid VALUES (2)")?;
    cluster.freeze(2)?;
    cluster.freeze(3)?;
    let committing = std::thread::spawn(move || client.batch_execute("COMMIT").map(|()| client));
    // The session has to come as far as that first.
    let guess = || -> anyhow::Result<Vec<String>> {
        let answer = |next| {
            let id = format!("{before}.{}", sequence + next);
            let answer = guest.query_one(&format!("SELECT paxos_transaction_status('{id}')"), &[]);
            answer.map_or_else(|error| describe(&error), |row| row.get(0))
        };
        Ok((1..=4).map(answer).collect())
    };
    let is_found = |answers: &Vec<String>| answers.iter().any(|answer| answer == "in progress");
    let found = wait_until("the guest finds it", COMMIT_SEEN_WITHIN, guess, is_found);
    cluster.thaw(2)?;
    cluster.thaw(3)?;
    let answers = found?;

    step("it commits all the same, which everybody may know");
    let outcome = committing.join().expect("the client does not panic");
    let mut client = outcome.map_err(|error| anyhow::anyhow!("it was settled by a guest: {}", describe(&error)))?;
    let id: String = client.query_one("SELECT paxos_last_transaction_id()", &[])?.get(0);
    guest.batch_execute("SET statement_timeout = '10s'")?;
    let status: String = guest.query_one(&format!("SELECT paxos_transaction_status('{id}')"), &[])?.get(0);
    ensure!(status == "committed", "{id} is {status}, of {answers:?}");
    cluster.finish()
}
