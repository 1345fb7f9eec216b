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

/// Nothing in the log can tell what the survivor lacks, so it is an operator's decision to go on from what it has.
#[test]
fn a_survivor_of_a_lost_majority_goes_on_in_a_new_group() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate("CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1), (2)", &["kept"])?;
    cluster.run(2, "INSERT INTO kept VALUES (3)")?;
    cluster.equal_checksums(&[1, 2, 3], "kept")?;

    step("two of three are gone for good: nothing that needs the group works, this server's own copy can be read");
    cluster.kill(2)?;
    cluster.kill(3)?;
    let own = "SET pg_paxos.commit_timeout = '2s'; SET pg_paxos.barrier_timeout = '2s'; ";
    for sql in ["SELECT count(*) FROM kept", "INSERT INTO kept VALUES (4)", "SELECT paxos_leave_group('local')"] {
        let (code, told) = cluster.refusal(1, &format!("{own}{sql}"))?;
        ensure!(code == "57P03", "{sql}: {told}");
    }
    let mut client = cluster.connect(1)?;
    client.batch_execute("SET pg_paxos.consistency_model = 'optimistic'")?;
    let rows: i64 = client.query_one("SELECT count(*) FROM kept", &[])?.try_get(0)?;
    ensure!(rows == 3, "{rows} rows");

    step("the engine's directory is given up; the tables refuse writes until they are given up, too");
    cluster.stop(1)?;
    let data = cluster.directory().join("node1/data");
    std::fs::rename(data.join("pg_paxos"), data.join("pg_paxos.given_up"))?;
    cluster.start(1)?;
    let (code, told) = cluster.refusal(1, "INSERT INTO kept VALUES (4)")?;
    ensure!(code == "55000" || code == "57P03", "{told}");
    let (code, told) = cluster.refusal(1, "SELECT paxos_leave_group('local')")?;
    ensure!(code == "42704", "{told}");
    let identity: String = cluster.value(1, "SELECT group_id::text FROM pgp_metadata.local_table")?;
    ensure!(told.contains(&identity), "the group is not named: {told}");
    let (code, told) = cluster.refusal(1, "SELECT paxos_leave_group('00000000-0000-0000-0000-000000000001')")?;
    ensure!(code == "42704", "{told}");
    cluster.run(1, &format!("SELECT paxos_leave_group('{identity}')"))?;
    cluster.run(1, "INSERT INTO kept VALUES (4)")?;

    step("a new group takes them");
    let string = cluster.connection_string(1);
    cluster.run(1, &format!("SELECT paxos_create_group('again', '{string}')"))?;
    cluster.run(1, "SELECT paxos_replicate_table('again', 'kept')")?;
    cluster.run(1, "INSERT INTO kept VALUES (5)")?;
    let rows: i64 = cluster.value(1, "SELECT count(*) FROM kept")?;
    ensure!(rows == 5, "{rows} rows");

    step("a lost server that was found again gives up its old state and joins");
    let data = cluster.directory().join("node2/data");
    std::fs::rename(data.join("pg_paxos"), data.join("pg_paxos.given_up"))?;
    cluster.start(2)?;
    cluster.run(2, &format!("SELECT paxos_leave_group('{identity}')"))?;
    cluster.run(2, "DROP TABLE kept")?;
    cluster.run(2, &format!("SELECT paxos_join_group('again', '{string}', '{}')", cluster.connection_string(2)))?;
    cluster.run(2, "INSERT INTO kept VALUES (6)")?;
    let kept = cluster.equal_checksums(&[1, 2], "kept")?;
    ensure!(kept.rows == 6, "{} rows", kept.rows);
    cluster.finish()
}
