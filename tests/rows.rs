//! Rows and keys: whatever type a value has and however a row came to be what it is, every node
//! holds the same; and a key is one key on all nodes, as far as its index holds values equal.

use anyhow::{bail, ensure};
use end_to_end::{describe, is_serialization_failure, sqlstate, tell, Cluster, Random, Story};
use postgres::Client;

const STORIES: [Story; 10] = [
    ("values of every type arrive as they are, whatever the session's settings", types),
    ("rows that swap and shift their keys", changing_keys),
    ("a table whose columns differ in number from its rows' past", dropped_column),
    ("equal keys meet across nodes, by the index's own equality", equal_keys),
    ("FOR UPDATE, FOR SHARE and LOCK TABLE count on the other nodes too", locks),
    ("ids of different writers do not meet, whatever their halves", folded_ids),
    ("a child and its parent's removal meet across nodes", orphans),
    ("equal rows of a table without a primary key", equal_rows),
    ("a transaction that is too large is refused before any harm", too_large),
    ("random transactions on all nodes at once", random_transactions),
];

#[test]
fn rows_are_the_same_on_every_node() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    tell(&cluster, &STORIES)?;
    cluster.finish()
}

fn run(client: &mut Client, sql: &str) -> anyhow::Result<()> {
    client.batch_execute(sql).map_err(|error| anyhow::anyhow!("{sql}: {}", describe(&error)))
}

fn equal(cluster: &Cluster, table: &str, rows: i64) -> anyhow::Result<()> {
    let checksum = cluster.equal_checksums(&cluster.all(), table)?;
    ensure!(checksum.rows == rows, "{table} has {} rows, not {rows}", checksum.rows);
    Ok(())
}

/// Two transactions on different nodes, neither seeing the other: the first commits, the second
/// must get 40001, at its COMMIT or before.
fn must_conflict(cluster: &Cluster, first: &str, second: &str) -> anyhow::Result<()> {
    let (mut one, mut other) = (cluster.connect(1)?, cluster.connect(2)?);
    run(&mut one, "BEGIN")?;
    run(&mut other, "BEGIN")?;
    run(&mut one, first)?;
    run(&mut other, second)?;
    run(&mut one, "COMMIT")?;
    match other.batch_execute("COMMIT") {
        Err(error) if is_serialization_failure(&error) => Ok(()),
        Err(error) => bail!("{second} after {first}: {}", describe(&error)),
        Ok(()) => bail!("{second} committed beside {first}"),
    }
}

/// Two transactions on different nodes that do not disturb each other.
fn must_not_conflict(cluster: &Cluster, first: &str, second: &str) -> anyhow::Result<()> {
    let (mut one, mut other) = (cluster.connect(1)?, cluster.connect(2)?);
    run(&mut one, "BEGIN")?;
    run(&mut other, "BEGIN")?;
    run(&mut one, first)?;
    run(&mut other, second)?;
    run(&mut one, "COMMIT")?;
    run(&mut other, "COMMIT")
}

fn types(cluster: &Cluster) -> anyhow::Result<()> {
    let types = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS int CHECK (VALUE > 0); \
                 CREATE TYPE pair AS (a int, b text)";
    for node in cluster.all() {
        cluster.run(node, types)?;
    }
    cluster.replicate(
        "CREATE TABLE kinds (k mood PRIMARY KEY, moods mood[], d positive, p pair, i int[], t text[], r int4range, \
         ts timestamptz, iv interval, by bytea, g int GENERATED ALWAYS AS (d * 2) STORED, bp char(5), f float8, \
         f4 float4, n numeric(8, 3), u uuid, ip inet, x xml, b bool, c \"char\", na name, bi bit(3), mo money, \
         tv tsvector, pt point, j json, jb jsonb, s smallint, long text, o oid)",
        &["kinds"],
    )?;
    let mut client = cluster.connect(2)?;
    run(
        &mut client,
        "SET client_encoding = 'LATIN1'; SET datestyle = 'German'; SET intervalstyle = 'iso_8601'; \
         SET extra_float_digits = -5; SET timezone = 'Asia/Tokyo'; SET bytea_output = 'escape'",
    )?;
    run(
        &mut client,
        "INSERT INTO kinds (k, moods, d, p, i, t, r, ts, iv, by, bp, f, f4, n, u, ip, x, b, c, na, bi, mo, tv, pt, j, \
         jb, s, long, o) VALUES ('sad', '{ok,NULL,sad}', 5, ROW(1, E'a\\tb'), '{1,NULL,3}', ARRAY[chr(233), NULL, ''], \
         '[1,5)', now(), '1 year 2 days 3.5s', '\\xdeadbeef', 'ab', '-0', 0.1, 12.5, gen_random_uuid(), '10.0.0.1/8', \
         '<a>b</a>', true, 'x', 'name', '101', '12.34', 'a b c', '(1,2)', '{\"a\" : 1}', '{\"b\": [1.00, null]}', -7, \
         (SELECT string_agg(md5(i::text) || chr(233), '') FROM generate_series(1, 3000) i), 4294967295)",
    )?;
    run(&mut client, "UPDATE kinds SET b = false, iv = '-3 mons', p = ROW(2, NULL) WHERE k = 'sad'")?;
    equal(cluster, "kinds", 1)?;
    // A large value that an update leaves alone is not sent, and is there all the same.
    cluster.run(3, "UPDATE kinds SET s = 8")?;
    cluster.run(1, "UPDATE kinds SET k = 'ok' WHERE length(long) > 90000")?;
    cluster.run(2, "UPDATE kinds SET f = 'NaN', n = NULL, long = long || 'x' WHERE k = 'ok'")?;
    equal(cluster, "kinds", 1)
}

fn changing_keys(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate(
        "CREATE TABLE keyed (k int PRIMARY KEY DEFERRABLE, u int UNIQUE, v text, gone bool DEFAULT false); \
         CREATE UNIQUE INDEX keyed_lower ON keyed (lower(v)) WHERE NOT gone; \
         CREATE TABLE plain_keyed (k int PRIMARY KEY, u int UNIQUE NULLS NOT DISTINCT)",
        &["keyed", "plain_keyed"],
    )?;
    cluster.run(1, "INSERT INTO keyed SELECT i, i * 10, 'v' || i FROM generate_series(1, 5) i")?;
    cluster.run(2, "UPDATE keyed SET k = 6 - k")?;
    cluster.run(3, "UPDATE keyed SET k = k + 1")?;
    cluster.run(1, "BEGIN; UPDATE keyed SET u = -u; UPDATE keyed SET u = 60 + u; COMMIT")?;
    cluster
        .run(2, "BEGIN; UPDATE keyed SET gone = true WHERE v = 'v1'; INSERT INTO keyed VALUES (9, 9, 'V1'); COMMIT")?;
    equal(cluster, "keyed", 6)?;
    cluster.run(1, "INSERT INTO plain_keyed VALUES (1, NULL), (2, 1), (3, 2)")?;
    cluster.run(
        2,
        "BEGIN; UPDATE plain_keyed SET u = 7 WHERE k = 1; UPDATE plain_keyed SET u = NULL WHERE k = 2; \
         UPDATE plain_keyed SET u = 1 WHERE k = 1; COMMIT",
    )?;
    cluster.run(3, "BEGIN; UPDATE plain_keyed SET k = k + 100; UPDATE plain_keyed SET k = k - 99; COMMIT")?;
    cluster.run(1, "BEGIN; DELETE FROM plain_keyed WHERE k = 2; INSERT INTO plain_keyed VALUES (2, 1); COMMIT")?;
    equal(cluster, "plain_keyed", 3)
}

fn dropped_column(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate(
        "CREATE TABLE holed (a int, k int PRIMARY KEY, b text, c text); INSERT INTO holed VALUES (1, 1, 'b', 'c'); \
         ALTER TABLE holed DROP COLUMN a; ALTER TABLE holed DROP COLUMN b; ALTER TABLE holed ADD COLUMN d int DEFAULT 4",
        &["holed"],
    )?;
    cluster.run(2, "INSERT INTO holed VALUES (2, 'x', 5)")?;
    cluster.run(3, "UPDATE holed SET d = d + 1, c = NULL")?;
    cluster.run(1, "DELETE FROM holed WHERE k = 2")?;
    equal(cluster, "holed", 1)
}

fn equal_keys(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate(
        "CREATE TABLE numbers (n numeric PRIMARY KEY, t text UNIQUE); \
         CREATE UNIQUE INDEX numbers_lower ON numbers (lower(t)); CREATE TABLE floats (f float8 PRIMARY KEY)",
        &["numbers", "floats"],
    )?;
    must_conflict(cluster, "INSERT INTO numbers VALUES (1.0, 'a')", "INSERT INTO numbers VALUES (1.00, 'b')")?;
    must_conflict(cluster, "INSERT INTO numbers VALUES (2, 'same')", "INSERT INTO numbers VALUES (3, 'same')")?;
    must_conflict(cluster, "INSERT INTO numbers VALUES (4, 'Case')", "INSERT INTO numbers VALUES (5, 'cASE')")?;
    must_conflict(cluster, "INSERT INTO floats VALUES ('-0')", "INSERT INTO floats VALUES (0)")?;
    must_not_conflict(cluster, "INSERT INTO numbers VALUES (6, NULL)", "INSERT INTO numbers VALUES (7, NULL)")?;
    // A value that is taken and given up again in the same transaction was taken all the same.
    must_conflict(
        cluster,
        "INSERT INTO numbers VALUES (8, 'kept')",
        "INSERT INTO numbers VALUES (9, 'kept'); UPDATE numbers SET t = 'other' WHERE n = 9",
    )?;
    equal(cluster, "numbers", 6)?;
    equal(cluster, "floats", 1)
}

fn locks(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE locked (k int PRIMARY KEY, v int)", &["locked"])?;
    cluster.run(1, "INSERT INTO locked SELECT i, 0 FROM generate_series(1, 9) i")?;
    for node in cluster.all() {
        cluster.wait_for_service(node, "locked")?;
    }
    // Write skew: each reads what the other writes, under a lock.
    must_conflict(
        cluster,
        "SELECT FROM locked WHERE k = 2 FOR UPDATE; UPDATE locked SET v = 1 WHERE k = 1",
        "SELECT FROM locked WHERE k = 1 FOR SHARE; UPDATE locked SET v = 1 WHERE k = 2",
    )?;
    must_not_conflict(
        cluster,
        "SELECT FROM locked WHERE k = 3 FOR KEY SHARE; UPDATE locked SET v = 1 WHERE k = 4",
        "UPDATE locked SET v = 1 WHERE k = 3",
    )?;
    must_conflict(
        cluster,
        "UPDATE locked SET v = 2 WHERE k = 5",
        "LOCK TABLE locked IN SHARE ROW EXCLUSIVE MODE; UPDATE locked SET v = 2 WHERE k = 6",
    )?;
    equal(cluster, "locked", 9)
}

/// Ids whose halves PostgreSQL's own hash of a bigint folds into one.
fn folded_ids(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE folded (k bigint PRIMARY KEY, at timestamp UNIQUE)", &["folded"])?;
    must_not_conflict(
        cluster,
        "INSERT INTO folded SELECT 1::bigint << 32 | i FROM generate_series(0, 999) i",
        "INSERT INTO folded SELECT 2::bigint << 32 | i FROM generate_series(0, 999) i",
    )?;
    must_conflict(
        cluster,
        "INSERT INTO folded VALUES (-1, '2000-01-01 00:00:01')",
        "INSERT INTO folded VALUES (-2, '2000-01-01 00:00:01')",
    )?;
    equal(cluster, "folded", 2001)
}

fn orphans(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.run(
        1,
        "CREATE TABLE parent (k bigint PRIMARY KEY, name text UNIQUE, v int DEFAULT 0); \
         CREATE TABLE child (k int PRIMARY KEY, p smallint REFERENCES parent, \
                             n text REFERENCES parent (name) ON UPDATE CASCADE)",
    )?;
    // Tables bound to each other are replicated in one transaction, in any order.
    cluster.run(
        1,
        "BEGIN; SELECT paxos_replicate_table('local', 'child'); SELECT paxos_replicate_table('local', 'parent'); COMMIT",
    )?;
    cluster.run(1, "INSERT INTO parent SELECT i, 'n' || i FROM generate_series(1, 5) i")?;
    for node in cluster.all() {
        cluster.wait_for_service(node, "child")?;
    }
    must_conflict(cluster, "INSERT INTO child VALUES (1, 1)", "DELETE FROM parent WHERE k = 1")?;
    must_conflict(cluster, "DELETE FROM parent WHERE k = 2", "INSERT INTO child VALUES (2, 2)")?;
    must_conflict(cluster, "INSERT INTO child VALUES (3, NULL, 'n3')", "UPDATE parent SET name = 'm3' WHERE k = 3")?;
    must_not_conflict(cluster, "INSERT INTO child VALUES (4, 4)", "INSERT INTO child VALUES (5, 4)")?;
    must_not_conflict(cluster, "INSERT INTO child VALUES (6, 4)", "UPDATE parent SET v = 1 WHERE k = 4")?;
    cluster.run(3, "UPDATE parent SET name = 'q3' WHERE k = 3")?;
    equal(cluster, "child", 5)?;
    equal(cluster, "parent", 4)
}

fn equal_rows(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE bag (x int, y text)", &["bag"])?;
    cluster.run(1, "INSERT INTO bag VALUES (1, 'a'), (1, 'a'), (1, 'a'), (10, NULL), (10, NULL)")?;
    cluster.run(2, "UPDATE bag SET x = x * 10")?;
    cluster.run(3, "DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE x = 10)")?;
    cluster.run(
        1,
        "BEGIN; UPDATE bag SET y = 'b' WHERE x = 10; INSERT INTO bag VALUES (10, 'b'); UPDATE bag SET x = 11; COMMIT",
    )?;
    equal(cluster, "bag", 5)?;
    must_conflict(cluster, "DELETE FROM bag WHERE y = 'b'", "UPDATE bag SET x = 0 WHERE y = 'b'")?;
    equal(cluster, "bag", 2)
}

fn too_large(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE wide (k int PRIMARY KEY, v text)", &["wide"])?;
    let mut client = cluster.connect(1)?;
    let refused =
        client.batch_execute("INSERT INTO wide SELECT i, repeat(md5(i::text), 64) FROM generate_series(1, 40000) i");
    let error = refused.err().ok_or_else(|| anyhow::anyhow!("80 MB were taken"))?;
    ensure!(sqlstate(&error) == "54000", "{}", describe(&error));
    run(&mut client, "INSERT INTO wide VALUES (1, 'fits')")?;
    equal(cluster, "wide", 1)
}

fn random_transactions(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate(
        "CREATE TABLE mixed (k int PRIMARY KEY, u int UNIQUE, v text); CREATE TABLE loose (a int, b text)",
        &["mixed", "loose"],
    )?;
    let mut random = Random::announced("random transactions");
    let seeds: Vec<u64> = cluster.all().iter().map(|_| random.below(u64::MAX)).collect();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let writers: Vec<_> = cluster
            .all()
            .into_iter()
            .zip(seeds)
            .map(|(node, seed)| scope.spawn(move || write_randomly(cluster, node, Random::from_seed(seed))))
            .collect();
        for writer in writers {
            writer.join().expect("a writer does not panic")?;
        }
        Ok(())
    })?;
    cluster.equal_checksums(&cluster.all(), "mixed")?;
    cluster.equal_checksums(&cluster.all(), "loose")?;
    Ok(())
}

/// Transactions of a few statements each; conflicts and duplicate keys are part of the game.
fn write_randomly(cluster: &Cluster, node: usize, mut random: Random) -> anyhow::Result<()> {
    let mut client = cluster.connect(node)?;
    for _ in 0..150 {
        let statements: Vec<String> = (0..=random.below(4)).map(|_| statement(&mut random)).collect();
        let transaction = format!("BEGIN; {}; COMMIT", statements.join("; "));
        let Err(error) = client.batch_execute(&transaction) else { continue };
        ensure!(
            is_serialization_failure(&error) || ["23505", "40P01"].contains(&sqlstate(&error)),
            "node {node}: {transaction}: {}",
            describe(&error)
        );
        if client.is_closed() {
            client = cluster.connect(node)?;
        } else {
            client.batch_execute("ROLLBACK")?;
        }
    }
    Ok(())
}

fn statement(random: &mut Random) -> String {
    let (k, other, n) = (random.below(20), random.below(20), random.below(1000));
    match random.below(9) {
        0 => format!("INSERT INTO mixed VALUES ({k}, {n}, 'i') ON CONFLICT (k) DO UPDATE SET v = mixed.v || 'c'"),
        1 => format!("UPDATE mixed SET v = v || '{n}' WHERE k = {k}"),
        2 => format!("UPDATE mixed SET k = CASE k WHEN {k} THEN {other} + 100 ELSE {k} + 100 END WHERE k IN ({k}, {other})"),
        3 => "UPDATE mixed SET k = k - 100 WHERE k >= 100".to_owned(),
        4 => format!("DELETE FROM mixed WHERE k = {k}"),
        5 => format!("INSERT INTO loose VALUES ({k}, 'x')"),
        6 => format!("UPDATE loose SET a = a + 1 WHERE a = {k}"),
        7 => format!("DELETE FROM loose WHERE ctid IN (SELECT ctid FROM loose WHERE a = {k} LIMIT 1)"),
        _ => format!("SAVEPOINT s; UPDATE mixed SET v = 'gone' WHERE k = {k}; ROLLBACK TO s; UPDATE mixed SET u = -u WHERE k = {k}"),
    }
}
