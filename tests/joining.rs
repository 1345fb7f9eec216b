//! Joining: what stands in the way is refused before anything changes, an interrupted join is called again, large tables
//! travel in parts, and a member whose log no longer reaches back copies the state anew by itself.

use anyhow::{bail, ensure};
use end_to_end::{describe, step, wait_until, Cluster, Shape, FAREWELL, RECOVERY_TIME_MAX};
use postgres::{CancelToken, Client, Config, NoTls};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often a node is away until its log is expected to be gone.
const AWAY_ROUNDS_MAX: usize = 5;

/// The group of these stories.
const GROUP: &str = "app";

/// Servers of which the first has made the group.
fn servers(nodes: usize, settings: &[&str]) -> anyhow::Result<Cluster> {
    let shape = settings.iter().fold(Shape::of(nodes).without_group(), |shape, line| shape.set(line));
    let cluster = shape.up()?;
    cluster.run(1, &format!("SELECT paxos_create_group('{GROUP}', '{}')", cluster.connection_string(1)))?;
    Ok(cluster)
}

/// What a node calls to join.
fn join(cluster: &Cluster, node: usize) -> String {
    format!(
        "SELECT paxos_join_group('{GROUP}', '{}', '{}')",
        cluster.connection_string(1),
        cluster.connection_string(node)
    )
}

fn replicate(table: &str) -> String {
    format!("SELECT paxos_replicate_table('{GROUP}', '{table}')")
}

fn members(cluster: &Cluster) -> anyhow::Result<i64> {
    cluster.value(1, &format!("SELECT count(*) FROM pgp_metadata.host WHERE group_id = '{GROUP}'"))
}

#[test]
fn a_join_is_refused_undone_and_repeated() -> anyhow::Result<()> {
    let cluster = servers(2, &[])?;
    cluster.run(
        1,
        "CREATE TABLE \"Odd name\" (gone int, x int, stamp timestamptz DEFAULT now(), \"T w\" int GENERATED ALWAYS AS (x * 2) STORED); \
         ALTER TABLE \"Odd name\" DROP COLUMN gone; \
         INSERT INTO \"Odd name\" (x) SELECT generate_series(1, 100); \
         CREATE TABLE big (id int PRIMARY KEY, filling text); \
         INSERT INTO big SELECT i, repeat('x', 100) FROM generate_series(1, 20000) AS i",
    )?;
    cluster.run(1, &replicate("\"Odd name\""))?;
    cluster.run(1, &replicate("big"))?;

    step("a table with rows stands in the way: refused, and nothing has changed");
    cluster.run(2, "CREATE TABLE big (id int PRIMARY KEY, filling text); INSERT INTO big VALUES (1, 'mine')")?;
    let (sqlstate, said) = cluster.refusal(2, &join(&cluster, 2))?;
    ensure!(sqlstate == "55000" && said.contains("already holds rows"), "{sqlstate}: {said}");
    ensure!(members(&cluster)? == 1, "it was admitted all the same");

    step("so does an empty one of another shape, which is told");
    cluster.run(2, "DROP TABLE big; CREATE TABLE big (id bigint PRIMARY KEY, filling text)")?;
    let (sqlstate, said) = cluster.refusal(2, &join(&cluster, 2))?;
    ensure!(sqlstate == "55000" && said.contains("bigint"), "{sqlstate}: {said}");
    cluster.run(2, "DROP TABLE big")?;

    cluster.run(2, &join(&cluster, 2))?;
    ensure!(members(&cluster)? == 2, "it is no member");
    for table in ["\"Odd name\"", "big"] {
        cluster.equal_checksums(&[1, 2], table)?;
    }

    step("it leaves, its tables are its own, and it joins again without them");
    cluster.run(2, &format!("SELECT paxos_leave_group('{GROUP}')"))?;
    cluster.run(2, "INSERT INTO big VALUES (-1, 'local')")?;
    let alone: i64 = cluster.value(1, "SELECT count(*) FROM big")?;
    ensure!(alone == 20_000, "a local write was replicated: {alone}");
    cluster.run(2, "DROP TABLE big, \"Odd name\"")?;
    cluster.run(2, &join(&cluster, 2))?;
    cluster.run(2, "INSERT INTO big VALUES (-2, 'everywhere')")?;
    cluster.equal_checksums(&[1, 2], "big")?;
    cluster.finish()
}

/// What a session on a node is told while it joins.
#[derive(Clone, Default)]
struct Notices(Arc<Mutex<Vec<String>>>);

impl Notices {
    fn all(&self) -> Vec<String> {
        self.0.lock().expect("no thread panics with it").clone()
    }
}

/// A session that keeps the notices that it gets.
fn attentive(cluster: &Cluster, node: usize) -> anyhow::Result<(Client, Notices)> {
    let notices = Notices::default();
    let kept = notices.clone();
    let mut config: Config = cluster.connection_string(node).parse()?;
    config.notice_callback(move |notice| {
        kept.0.lock().expect("no thread panics with it").push(notice.message().to_owned());
    });
    Ok((config.connect(NoTls)?, notices))
}

/// Waits until a joiner reads the large table, or until none does.
fn wait_for_copy(cluster: &Cluster, is_there: bool) -> anyhow::Result<()> {
    let reads =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_paxos' AND query LIKE 'COPY %big%' \
                 AND state = 'active'";
    let mut client = cluster.connect(1)?;
    wait_until(
        "a joiner reads the large table, or does no longer",
        RECOVERY_TIME_MAX,
        || Ok(client.query_one(reads, &[])?.get::<_, i64>(0)),
        |count| (*count > 0) == is_there,
    )?;
    Ok(())
}

/// Starts a join, does something to it while it copies the large table, and returns the error that the joiner got.
fn interrupt(cluster: &Cluster, disturb: impl FnOnce(&CancelToken) -> anyhow::Result<()>) -> anyhow::Result<String> {
    wait_for_copy(cluster, false)?;
    let (mut client, _) = attentive(cluster, 2)?;
    let cancel = client.cancel_token();
    std::thread::scope(|scope| {
        let joiner = scope.spawn(move || client.batch_execute(&join(cluster, 2)));
        wait_for_copy(cluster, true)?;
        disturb(&cancel)?;
        match joiner.join().expect("a joiner does not panic") {
            Ok(()) => bail!("the join was done before it could be disturbed"),
            Err(error) => Ok(describe(&error)),
        }
    })
}

/// Inserts on node 1 until told to stop: how many, and the longest that one took.
fn write_until(cluster: &Cluster, stop: &AtomicBool) -> anyhow::Result<(i64, Duration)> {
    let mut client = cluster.connect(1)?;
    let (mut rows, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        client
            .batch_execute("INSERT INTO served DEFAULT VALUES")
            .map_err(|error| anyhow::anyhow!("{}", describe(&error)))?;
        longest = longest.max(began.elapsed());
        rows += 1;
    }
    Ok((rows, longest))
}

#[test]
fn a_join_that_was_interrupted_is_called_again_while_the_group_serves() -> anyhow::Result<()> {
    let cluster = servers(2, &[])?;
    // The index makes the copy last long enough to be met in its middle.
    cluster.run(
        1,
        "CREATE TABLE served (id uuid PRIMARY KEY DEFAULT gen_random_uuid()); \
         CREATE TABLE big (id int PRIMARY KEY, filling text); CREATE INDEX ON big (md5(filling || id)); \
         INSERT INTO big SELECT i, repeat('x', 100) FROM generate_series(1, 400000) AS i",
    )?;
    for table in ["served", "big"] {
        cluster.run(1, &replicate(table))?;
    }
    let stop = AtomicBool::new(false);
    let (rows, longest) = std::thread::scope(|scope| -> anyhow::Result<(i64, Duration)> {
        let writer = scope.spawn(|| write_until(&cluster, &stop));
        let story = interrupt_and_repeat(&cluster);
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().expect("a writer does not panic")?;
        story.map(|()| written)
    })?;
    step(format!("{rows} rows were written beside it, each within {longest:?}"));
    ensure!(longest < Duration::from_secs(5), "the group stood still for {longest:?}");
    cluster.equal_checksums(&[1, 2], "big")?;
    let served = cluster.equal_checksums(&[1, 2], "served")?;
    ensure!(served.rows == rows, "{} of {rows} rows are there", served.rows);
    cluster.finish()
}

fn interrupt_and_repeat(cluster: &Cluster) -> anyhow::Result<()> {
    step("cancelled by its user");
    let said = interrupt(cluster, |cancel| Ok(cancel.cancel_query(NoTls)?))?;
    ensure!(said.contains("57014"), "{said}");

    step("the joiner's session is ended");
    interrupt(cluster, |_| {
        cluster.run(
            2,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT paxos_join_group%'",
        )
    })?;

    step("the joiner is killed, and comes back");
    interrupt(cluster, |_| cluster.kill(2))?;
    cluster.start(2)?;

    step("called again, it succeeds, and says how far it is");
    let (mut client, notices) = attentive(cluster, 2)?;
    client.batch_execute(&join(cluster, 2)).map_err(|error| anyhow::anyhow!("{}", describe(&error)))?;
    let said = notices.all();
    ensure!(said.iter().any(|notice| notice.contains("is a voting member")), "{said:?}");
    ensure!(members(cluster)? == 2, "it is no member");
    cluster.run(2, "INSERT INTO big VALUES (-1, 'from the joiner')")
}

#[test]
fn a_table_larger_than_an_entry_becomes_replicated_in_parts() -> anyhow::Result<()> {
    let cluster = servers(2, &[])?;
    cluster.run(2, &join(&cluster, 2))?;
    cluster.run(
        1,
        "CREATE TABLE parent (id int PRIMARY KEY); \
         CREATE TABLE child (id int PRIMARY KEY REFERENCES parent, filling text); \
         INSERT INTO parent SELECT generate_series(1, 400000); \
         INSERT INTO child SELECT i, repeat('x', 100) FROM generate_series(1, 400000) AS i",
    )?;

    step("both tables of a foreign key, child first, in one transaction");
    cluster.run(1, &format!("BEGIN; {}; {}; COMMIT", replicate("child"), replicate("parent")))?;
    wait_until(
        "node 2 has the tables",
        RECOVERY_TIME_MAX,
        || cluster.value::<bool>(2, "SELECT to_regclass('child') IS NOT NULL"),
        |is_there| *is_there,
    )?;
    for table in ["parent", "child"] {
        cluster.equal_checksums(&[1, 2], table)?;
    }
    for node in [1, 2] {
        let kept: i64 = cluster.value(node, "SELECT count(*) FROM pgp_metadata.staged_rows")?;
        ensure!(kept == 0, "node {node} keeps {kept} parts that were taken");
    }
    let (sqlstate, _) = cluster.refusal(2, "INSERT INTO child VALUES (400001, 'no parent')")?;
    ensure!(sqlstate == "23503", "{sqlstate}");
    cluster.finish()
}

#[test]
fn a_member_that_was_away_too_long_copies_the_state_by_itself() -> anyhow::Result<()> {
    let cluster = servers(3, &["pg_paxos.log_keep_size = '16MB'"])?;
    for node in [2, 3] {
        cluster.run(node, &join(&cluster, node))?;
    }
    cluster.run(
        1,
        "CREATE TABLE t (id int PRIMARY KEY, filling text); \
         INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 1000) AS i",
    )?;
    cluster.run(1, &replicate("t"))?;
    cluster.equal_checksums(&[1, 2, 3], "t")?;

    // When the log is trimmed depends on when PostgreSQL has its part on disk: once is enough as a rule.
    for round in 0..AWAY_ROUNDS_MAX {
        step("node 3 is away while much more is written than the log keeps");
        cluster.kill(3)?;
        for part in 0..40 {
            cluster.run(1, &format!("UPDATE t SET filling = repeat(chr(65 + {part} % 26), 3000)"))?;
            cluster.run(2, &format!("INSERT INTO t VALUES (100000 + {round} * 40 + {part}, 'away')"))?;
        }

        step("it comes back, and serves");
        cluster.start(3)?;
        cluster.wait_for_service(3, "t")?;
        cluster.equal_checksums(&[1, 2, 3], "t")?;
        let log = std::fs::read_to_string(cluster.directory().join("node3/log"))?;
        if log.contains("copying the state at slot") {
            step("by a copy of the state");
            break;
        }
        ensure!(round + 1 < AWAY_ROUNDS_MAX, "it came back without a copy each time: the story shows nothing");
    }
    cluster.run(3, "INSERT INTO t VALUES (200000, 'back')")?;
    cluster.equal_checksums(&[1, 2, 3], "t")?;
    cluster.finish()
}

#[test]
fn a_member_that_was_removed_while_it_was_away_keeps_its_tables_as_ordinary_ones() -> anyhow::Result<()> {
    let cluster = servers(3, &[])?;
    for node in [2, 3] {
        cluster.run(node, &join(&cluster, node))?;
    }
    cluster.run(1, "CREATE TABLE t (id int PRIMARY KEY)")?;
    cluster.run(1, &replicate("t"))?;
    for node in [1, 2, 3] {
        cluster.wait_for_service(node, "t")?;
    }
    // What a server had not written out it would get back from the group's log, but not once it is removed.
    cluster.run(3, "INSERT INTO t VALUES (1)")?;
    cluster.run(3, "CHECKPOINT")?;

    step("node 3 dies and is removed; what is written meanwhile is not for it");
    cluster.kill(3)?;
    cluster.run(1, &format!("SELECT paxos_remove_host('{GROUP}', '{}')", cluster.connection_string(3)))?;
    ensure!(members(&cluster)? == 2, "it is still a member");
    cluster.run(2, "INSERT INTO t VALUES (2)")?;

    step("it comes back when nobody keeps a link for it any more, finds out, and its table becomes an ordinary one");
    std::thread::sleep(FAREWELL);
    cluster.start(3)?;
    wait_until(
        "the removed server's tables are its own",
        RECOVERY_TIME_MAX,
        || cluster.value::<i64>(3, "SELECT count(*) FROM pgp_metadata.local_table"),
        |count| *count == 0,
    )?;
    cluster.run(3, "INSERT INTO t VALUES (3); ALTER TABLE t ADD COLUMN own int")?;
    let own: i64 = cluster.value(3, "SELECT sum(id) FROM t")?;
    ensure!(own == 4, "its rows are {own}");
    let others = cluster.equal_checksums(&[1, 2], "t")?;
    ensure!(others.rows == 2, "a write of the removed server went to the others");

    step("without the table it joins again");
    cluster.run(3, "DROP TABLE t")?;
    cluster.run(3, &join(&cluster, 3))?;
    cluster.run(3, "INSERT INTO t VALUES (4)")?;
    cluster.equal_checksums(&[1, 2, 3], "t")?;
    cluster.finish()
}
