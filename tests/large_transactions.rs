//! Transactions of tens of mebibytes travel through the log in parts: others' transactions find their places among them,
//! and a server that dies between the parts leaves all of it or nothing.

use anyhow::{ensure, Context};
use end_to_end::{describe, sqlstate, step, wait_until, Cluster};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// 48 MiB of rows, in rows of a kibibyte; the limit of a transaction is 64 MiB.
const ROWS: u32 = 48 << 10;

/// How long a large transaction may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(50);

fn insert(first: u32, rows: u32) -> String {
    let last = first + rows - 1;
    format!("INSERT INTO large SELECT i, repeat(md5(i::text), 31) FROM generate_series({first}, {last}) AS i")
}

/// Runs a large insert on a node and sets the flag when it comes to the COMMIT.
fn insert_on(cluster: &Cluster, node: usize, first: u32, commits: &AtomicBool) -> anyhow::Result<()> {
    let mut client = cluster.connect(node)?;
    let told = |error: postgres::Error| anyhow::anyhow!("node {node}: {}", describe(&error));
    client.batch_execute("SET pg_paxos.commit_timeout = '50s'; BEGIN").map_err(told)?;
    client.batch_execute(&insert(first, ROWS)).map_err(told)?;
    commits.store(true, Ordering::SeqCst);
    client.batch_execute("COMMIT").map_err(told)
}

/// Writes small rows until the large ones are there; returns how many were committed before those, since their COMMIT.
fn write_beside(cluster: &Cluster, node: usize, commits: &AtomicBool, ended: &AtomicBool) -> anyhow::Result<u32> {
    let mut client = cluster.connect(node)?;
    let mut beside = 0;
    for id in 1.. {
        let counts = commits.load(Ordering::SeqCst);
        client.execute("INSERT INTO small VALUES ($1)", &[&id]).with_context(|| format!("small row {id}"))?;
        let is_there: bool = client.query_one("SELECT EXISTS (SELECT FROM large)", &[])?.get(0);
        if is_there || ended.load(Ordering::SeqCst) {
            break;
        }
        beside += u32::from(counts);
    }
    Ok(beside)
}

#[test]
fn large_transactions_share_the_log_and_are_whole_or_not_at_all() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate(
        "CREATE TABLE large (id int PRIMARY KEY, filling text); CREATE TABLE small (id int PRIMARY KEY)",
        &["large", "small"],
    )?;

    step("48 MiB of rows on node 1, small transactions on node 2 beside them");
    let (commits, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let beside = std::thread::scope(|scope| {
        let small = scope.spawn(|| write_beside(&cluster, 2, &commits, &ended));
        let large = insert_on(&cluster, 1, 1, &commits);
        ended.store(true, Ordering::SeqCst);
        let beside = small.join().expect("a writer does not panic");
        large.and(beside)
    })?;
    eprintln!("{beside} small transactions were committed before the large one, after its COMMIT");
    ensure!(beside > 0, "nothing was committed beside the large transaction");
    let whole = cluster.equal_checksums(&[1, 2, 3], "large")?;
    ensure!(whole.rows == i64::from(ROWS), "{} rows arrived", whole.rows);
    cluster.equal_checksums(&[1, 2, 3], "small")?;

    step("more than 64 MiB are refused before any harm");
    let (code, what) = cluster.refusal(2, &insert(ROWS + 1, 70 << 10))?;
    ensure!(code == "54000", "{code}: {what}");
    ensure!(cluster.equal_checksums(&[1, 2, 3], "large")? == whole, "a refused transaction left something");

    for (round, node) in [3, 1].into_iter().enumerate() {
        step(format!("node {node} is killed between the parts of a transaction"));
        let first = ROWS * 2 * (1 + u32::try_from(round)?) + 1;
        let observer = if node == 1 { 2 } else { 1 };
        let chosen = || cluster.value::<i64>(observer, "SELECT chosen FROM pg_stat_paxos WHERE is_self");
        let before = chosen()?;
        let commits = AtomicBool::new(false);
        let ended = std::thread::scope(|scope| {
            let large = scope.spawn(|| insert_on(&cluster, node, first, &commits));
            wait_until("parts of it are in the log", PATIENCE, chosen, |now| *now > before + 5)?;
            cluster.kill(node)?;
            Ok::<_, anyhow::Error>(large.join().expect("a writer does not panic"))
        })?;
        eprintln!("its client was told: {ended:?}");
        cluster.run(observer, &format!("INSERT INTO small VALUES (-{node})"))?;
        cluster.start(node)?;
        cluster.settle(&format!("UPDATE small SET id = id WHERE id = -{node}"))?;
        let rows = cluster.equal_checksums(&[1, 2, 3], "large")?.rows;
        let inserted: i64 = cluster
            .value(observer, &format!("SELECT count(*) FROM large WHERE id BETWEEN {first} AND {}", first + ROWS))?;
        eprintln!("{inserted} of its rows are there, {rows} altogether");
        ensure!(inserted == 0 || inserted == i64::from(ROWS), "{inserted} rows of a transaction of {ROWS} are there");
        ensure!(ended.is_err() || inserted > 0, "an acknowledged transaction is lost");
    }

    step("the next large transaction goes through on the node that died");
    insert_on(&cluster, 1, ROWS * 8 + 1, &AtomicBool::new(false))?;
    cluster.equal_checksums(&[1, 2, 3], "large")?;
    let again = cluster.connect(1)?.batch_execute(&insert(1, 1));
    ensure!(again.is_err_and(|error| sqlstate(&error) == "23505"), "a row was taken twice");
    cluster.finish()
}
