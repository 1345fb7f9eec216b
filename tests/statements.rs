//! What PostgreSQL users write, on replicated tables: every kind of statement works, on any node,
//! and all nodes hold the same afterwards.

use anyhow::{bail, ensure};
use end_to_end::{describe, installation_bindir, is_serialization_failure, sqlstate, tell, Cluster, Story};
use postgres::Client;
use std::io::{Read, Write};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

const STORIES: [Story; 16] = [
    ("the demonstration of the pg_paxos talk, as printed", talk),
    ("a table that is replicated is there on every node, at once", there_at_once),
    ("INSERT, UPDATE and DELETE in all their forms", forms),
    ("values are computed once: now(), random(), defaults", computed_once),
    ("BEGIN to COMMIT over several tables, ROLLBACK, savepoints", transactions),
    ("functions, DO blocks, triggers of the user's own", functions),
    ("prepared statements of both kinds, past the fifth execution", prepared),
    ("COPY in both directions", copy),
    ("joins with local tables, views, cursors", joins),
    ("a procedure that commits sees after each COMMIT what was acknowledged elsewhere", procedures),
    ("pg_dump in parallel, beside writers on another node, takes one state", dumps),
    ("of two transactions that conflict, one gets 40001 and is told why", conflicts),
    ("a client alone, going from server to server, is never told to run anything again", sequential),
    ("isolation levels", isolation),
    ("roles read and write as GRANTs allow", rights),
    ("foreign keys between replicated tables hold across nodes", foreign_keys),
];

#[test]
fn statements_work_on_every_node() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    tell(&cluster, &STORIES)?;
    cluster.finish()
}

fn run(client: &mut Client, sql: &str) -> anyhow::Result<()> {
    client.batch_execute(sql).map_err(|error| anyhow::anyhow!("{sql}: {}", describe(&error)))
}

fn text(client: &mut Client, sql: &str) -> anyhow::Result<String> {
    let row = client.query_one(sql, &[]).map_err(|error| anyhow::anyhow!("{sql}: {}", describe(&error)))?;
    Ok(row.try_get(0)?)
}

fn equal(cluster: &Cluster, table: &str, rows: i64) -> anyhow::Result<()> {
    let checksum = cluster.equal_checksums(&cluster.all(), table)?;
    ensure!(checksum.rows == rows, "{table} has {} rows, not {rows}", checksum.rows);
    Ok(())
}

fn talk(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE coordinates (x int, y int)", &["coordinates"])?;
    cluster.run(1, "INSERT INTO coordinates VALUES (1, 1)")?;
    cluster.run(2, "INSERT INTO coordinates VALUES (2, 3), (3, 3)")?;
    cluster.run(3, "UPDATE coordinates SET x = x * 10")?;
    for node in cluster.all() {
        let all: String =
            text(&mut cluster.connect(node)?, "SELECT string_agg(coordinates::text, ' ' ORDER BY x) FROM coordinates")?;
        ensure!(all == "(10,1) (20,3) (30,3)", "node {node}: {all}");
    }
    cluster.replicate("CREATE TABLE data (object text PRIMARY KEY, greeting text)", &["data"])?;
    cluster.run(2, "INSERT INTO data VALUES ('world', 'hi')")?;
    cluster.run(1, "UPDATE data SET greeting = 'hello' WHERE object = 'world'")?;
    let greeting = text(&mut cluster.connect(3)?, "SELECT greeting FROM data")?;
    ensure!(greeting == "hello", "{greeting}");
    Ok(())
}

/// Names are looked up before a statement can wait, so who replicates a table waits for the others to make it.
fn there_at_once(cluster: &Cluster) -> anyhow::Result<()> {
    let mut clients =
        cluster.all().into_iter().map(|node| cluster.connect(node)).collect::<anyhow::Result<Vec<_>>>()?;
    let nodes = clients.len();
    for number in 0..100 {
        let name = format!("there_{number}");
        let (first, second, third) = (number % nodes, (number + 1) % nodes, (number + 2) % nodes);
        run(&mut clients[first], &format!("CREATE TABLE {name} (id int PRIMARY KEY)"))?;
        match number % 2 {
            0 => run(&mut clients[first], &format!("SELECT paxos_replicate_table('local', '{name}')"))?,
            _ => run(&mut clients[first], &format!("BEGIN; SELECT paxos_replicate_table('local', '{name}'); COMMIT"))?,
        }
        run(&mut clients[second], &format!("INSERT INTO {name} VALUES (1)"))?;
        run(&mut clients[third], &format!("BEGIN; SELECT FROM {name}; INSERT INTO {name} VALUES (2); COMMIT"))?;
        let rows = text(&mut clients[first], &format!("SELECT count(*)::text FROM {name}"))?;
        ensure!(rows == "2", "{name} has {rows} rows");
    }
    Ok(())
}

fn forms(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE item (id int PRIMARY KEY, n int DEFAULT 7, tag text UNIQUE)", &["item"])?;
    let mut client = cluster.connect(1)?;
    let returned =
        text(&mut client, "INSERT INTO item (id, tag) VALUES (1, 'a'), (2, 'b'), (3, 'c') RETURNING n::text");
    // Three rows came back: query_one refuses that, so it is asked again of one.
    ensure!(returned.is_err());
    let statements = [
        "INSERT INTO item SELECT id + 10, n, tag || '0' FROM item",
        "INSERT INTO item (id, tag) VALUES (1, 'a') ON CONFLICT DO NOTHING",
        "INSERT INTO item (id, tag) VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET n = item.n + 1",
        "UPDATE item SET n = n + 1 WHERE id IN (SELECT id FROM item WHERE tag LIKE 'a%')",
        "UPDATE item SET n = (SELECT max(n) FROM item)",
        "UPDATE item SET n = other.n + 1 FROM item AS other WHERE other.id = item.id + 10",
        "DELETE FROM item USING item AS other WHERE item.id = 13 AND other.id = 1",
        "DELETE FROM item WHERE EXISTS (SELECT FROM item AS other WHERE other.id = item.id - 11)",
        "WITH gone AS (DELETE FROM item WHERE id = 3 RETURNING *) UPDATE item SET n = item.n + gone.n FROM gone WHERE item.id = 1",
        "UPDATE item SET id = id + 100, tag = NULL WHERE id = 2",
        "MERGE INTO item USING (VALUES (1, 'm'), (50, 'new')) AS source (id, tag) ON item.id = source.id \
         WHEN MATCHED THEN UPDATE SET tag = source.tag WHEN NOT MATCHED THEN INSERT (id, tag) VALUES (source.id, source.tag)",
    ];
    for (number, sql) in statements.iter().enumerate() {
        let node = 1 + number % cluster.nodes();
        cluster.run(node, sql)?;
    }
    let all = "SELECT string_agg(item::text, ' ' ORDER BY id) FROM item";
    let expected = "(1,18,m) (11,8,a0) (50,7,new) (102,9,)";
    for node in cluster.all() {
        let seen = text(&mut cluster.connect(node)?, all)?;
        ensure!(seen == expected, "node {node}: {seen}, not {expected}");
    }
    let n = text(&mut client, "UPDATE item SET n = n * 2 WHERE id = 50 RETURNING n::text")?;
    ensure!(n == "14", "RETURNING gave {n}");
    let (code, _) = cluster.refusal(2, "INSERT INTO item VALUES (1, 1, 'z')")?;
    ensure!(code == "23505", "a duplicate key gave {code}");
    Ok(())
}

fn computed_once(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate(
        "CREATE TABLE computed (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), r float8 DEFAULT random(), \
         u uuid DEFAULT gen_random_uuid(), node int DEFAULT inet_server_port(), twice int GENERATED ALWAYS AS (id * 2) STORED)",
        &["computed"],
    )?;
    for node in cluster.all() {
        cluster.run(
            node,
            &format!("INSERT INTO computed (id) SELECT {node} * 100 + i FROM generate_series(1, 50) AS i"),
        )?;
        cluster.run(node, "UPDATE computed SET r = random(), at = now() WHERE id % 7 = 0")?;
    }
    equal(cluster, "computed", 150)
}

fn transactions(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate(
        "CREATE TABLE one (id int PRIMARY KEY, x int); CREATE TABLE two (id int PRIMARY KEY, x int)",
        &["one", "two"],
    )?;
    let mut client = cluster.connect(2)?;
    run(&mut client, "BEGIN")?;
    run(&mut client, "INSERT INTO one VALUES (1, 1), (2, 2)")?;
    run(&mut client, "INSERT INTO two SELECT * FROM one")?;
    run(&mut client, "UPDATE one SET x = 10 WHERE id = 1")?;
    run(&mut client, "SAVEPOINT s")?;
    run(&mut client, "DELETE FROM one; INSERT INTO two VALUES (99, 99)")?;
    run(&mut client, "ROLLBACK TO s")?;
    run(&mut client, "UPDATE one SET x = x + 1 WHERE id = 1")?;
    run(&mut client, "SAVEPOINT t; DELETE FROM two WHERE id = 2; RELEASE t")?;
    let before: i64 = cluster.value(1, "SELECT count(*) FROM one")?;
    ensure!(before == 0, "an uncommitted row is seen elsewhere");
    run(&mut client, "COMMIT")?;
    run(&mut client, "BEGIN; DELETE FROM one; DELETE FROM two; ROLLBACK")?;
    equal(cluster, "one", 2)?;
    equal(cluster, "two", 1)?;
    let sum: i64 = cluster.value(3, "SELECT sum(x) FROM one")?;
    ensure!(sum == 13, "{sum}");
    Ok(())
}

fn functions(cluster: &Cluster) -> anyhow::Result<()> {
    // The function and the trigger exist on node 1 only: their effects replicate, not their calls.
    cluster.replicate(
        "CREATE TABLE called (id int PRIMARY KEY, what text); CREATE TABLE audit (what text); \
         CREATE FUNCTION put(id int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN \
           INSERT INTO called VALUES (put.id, 'by function'); \
           BEGIN INSERT INTO called VALUES (put.id, 'again'); EXCEPTION WHEN unique_violation THEN NULL; END; \
           RETURN put.id; END $$; \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           INSERT INTO audit VALUES (TG_OP || ' ' || NEW.id); RETURN NEW; END $$; \
         CREATE TRIGGER note BEFORE INSERT OR UPDATE ON called FOR EACH ROW EXECUTE FUNCTION note()",
        &["called", "audit"],
    )?;
    cluster.run(1, "SELECT put(1)")?;
    cluster.run(1, "DO $$ BEGIN FOR i IN 2..10 LOOP PERFORM put(i); END LOOP; END $$")?;
    ensure!(cluster.run(1, "DO $$ BEGIN PERFORM put(20); RAISE 'no'; END $$").is_err());
    cluster.run(3, "UPDATE called SET what = 'by node 3' WHERE id = 5")?;
    equal(cluster, "called", 10)?;
    let audited = cluster.equal_checksums(&cluster.all(), "audit")?;
    ensure!(audited.rows >= 10, "the trigger's effects: {audited:?}");
    Ok(())
}

fn prepared(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE executed (id int PRIMARY KEY, x text)", &["executed"])?;
    let mut client = cluster.connect(3)?;
    let insert = client.prepare("INSERT INTO executed VALUES ($1, $2)")?;
    let update = client.prepare("UPDATE executed SET x = x || $2 WHERE id = $1")?;
    let read = client.prepare("SELECT x FROM executed WHERE id = $1")?;
    for id in 1..=10_i32 {
        client.execute(&insert, &[&id, &"a"])?;
        client.execute(&update, &[&id, &"b"])?;
        let x: String = client.query_one(&read, &[&id])?.get(0);
        ensure!(x == "ab", "{x}");
    }
    run(&mut client, "PREPARE put (int) AS INSERT INTO executed VALUES ($1, 'sql')")?;
    run(&mut client, "PREPARE change (int) AS UPDATE executed SET x = 'changed' WHERE id = $1")?;
    for id in 11..=20 {
        run(&mut client, &format!("EXECUTE put({id}); EXECUTE change({id})"))?;
    }
    equal(cluster, "executed", 20)
}

fn copy(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE copied (id int PRIMARY KEY, x text)", &["copied"])?;
    let mut client = cluster.connect(2)?;
    let mut lines = String::new();
    for id in 1..=5_000 {
        lines.push_str(&format!("{id}\trow {id}\n"));
    }
    let mut writer = client.copy_in("COPY copied FROM STDIN")?;
    writer.write_all(lines.as_bytes())?;
    ensure!(writer.finish()? == 5_000);
    equal(cluster, "copied", 5_000)?;
    // COPY TO is a strong read: what node 2 has just acknowledged is in what node 1 gives.
    let mut given = String::new();
    cluster.connect(1)?.copy_out("COPY copied TO STDOUT")?.read_to_string(&mut given)?;
    let mut given: Vec<&str> = given.lines().collect();
    let mut taken: Vec<&str> = lines.lines().collect();
    given.sort_unstable();
    taken.sort_unstable();
    ensure!(given == taken, "COPY TO gives other rows than COPY FROM took");
    Ok(())
}

fn joins(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE shared (id int PRIMARY KEY, x int)", &["shared"])?;
    cluster.run(1, "INSERT INTO shared SELECT i, i FROM generate_series(1, 100) AS i")?;
    let mut client = cluster.connect(2)?;
    run(
        &mut client,
        "CREATE TABLE here (id int, y int); INSERT INTO here SELECT i, i * 2 FROM generate_series(1, 10) AS i; \
         CREATE VIEW both_of_them AS SELECT id, x, y FROM shared JOIN here USING (id); \
         CREATE MATERIALIZED VIEW kept AS SELECT * FROM shared; \
         CREATE TABLE as_selected AS SELECT * FROM shared",
    )?;
    run(&mut client, "UPDATE shared SET x = y FROM here WHERE shared.id = here.id")?;
    let sum = text(&mut client, "SELECT sum(x)::text FROM both_of_them")?;
    ensure!(sum == "110", "{sum}");
    run(&mut client, "CREATE VIEW simple AS SELECT * FROM shared WHERE id > 50; UPDATE simple SET x = 0; DELETE FROM simple WHERE id > 90")?;
    run(
        &mut client,
        "BEGIN; DECLARE c CURSOR FOR SELECT * FROM shared ORDER BY id FOR UPDATE; FETCH 2 FROM c; \
                      UPDATE shared SET x = -1 WHERE CURRENT OF c; COMMIT",
    )?;
    equal(cluster, "shared", 90)?;
    let x: i64 = cluster.value(3, "SELECT sum(x) FROM shared WHERE id <= 3")?;
    ensure!(x == 2 - 1 + 6, "{x}");
    Ok(())
}

fn procedures(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate(
        "CREATE TABLE stepped (id int PRIMARY KEY); CREATE TABLE steps (seen bigint); \
         CREATE PROCEDURE follow(goal bigint) LANGUAGE plpgsql AS $$ DECLARE seen bigint; BEGIN \
           LOOP COMMIT; SELECT count(*) INTO seen FROM stepped; EXIT WHEN seen >= goal; \
                INSERT INTO steps VALUES (seen); PERFORM pg_sleep(0.001); END LOOP; \
           COMMIT; INSERT INTO steps SELECT count(*) FROM stepped; END $$",
        &["stepped", "steps"],
    )?;
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| run(&mut cluster.connect(1)?, "CALL follow(50)"));
        for id in 1..=50 {
            cluster.run(2, &format!("INSERT INTO stepped VALUES ({id})"))?;
        }
        follower.join().expect("the follower does not panic")
    })?;
    let last: i64 = cluster.value(3, "SELECT max(seen) FROM steps")?;
    ensure!(last == 50, "the last step saw {last}");
    let steps = cluster.equal_checksums(&cluster.all(), "steps")?;
    ensure!(steps.rows > 1, "it committed only at its end");
    Ok(())
}

fn dumps(cluster: &Cluster) -> anyhow::Result<()> {
    let tables = ["debit", "credit"];
    cluster.replicate("CREATE TABLE debit (id int PRIMARY KEY); CREATE TABLE credit (id int PRIMARY KEY)", &tables)?;
    let place = cluster.directory().join("dump");
    let stop = AtomicBool::new(false);
    let output = std::thread::scope(|scope| -> anyhow::Result<Output> {
        let writer = scope.spawn(|| -> anyhow::Result<()> {
            let mut client = cluster.connect(1)?;
            for id in 1.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                run(
                    &mut client,
                    &format!("BEGIN; INSERT INTO debit VALUES ({id}); INSERT INTO credit VALUES ({id}); COMMIT"),
                )?;
            }
            Ok(())
        });
        let output = Command::new(installation_bindir().join("pg_dump"))
            .args(["-h", "127.0.0.1", "-p", &cluster.port(2).to_string(), "-U", "postgres", "-j", "2", "-F", "d"])
            .args(["-t", "debit", "-t", "credit", "-f"])
            .arg(&place)
            .arg("postgres")
            .output();
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer does not panic")?;
        Ok(output?)
    })?;
    ensure!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
    let output = Command::new(installation_bindir().join("pg_restore")).args(["-a", "-f", "-"]).arg(&place).output()?;
    std::fs::remove_dir_all(&place)?;
    ensure!(output.status.success(), "pg_restore: {}", String::from_utf8_lossy(&output.stderr));
    let script = String::from_utf8(output.stdout)?;
    let rows: Vec<usize> = script
        .split("FROM stdin;\n")
        .skip(1)
        .map(|data| data.split("\\.\n").next().expect("a split gives something").lines().count())
        .collect();
    ensure!(rows.len() == 2 && rows[0] == rows[1], "the tables have {rows:?} rows in the dump");
    Ok(())
}

fn conflicts(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE fought (id int PRIMARY KEY, x int)", &["fought"])?;
    cluster.run(1, "INSERT INTO fought SELECT i, 0 FROM generate_series(1, 3) AS i")?;
    let pairs = [
        ("UPDATE fought SET x = 1 WHERE id = 1", "UPDATE fought SET x = 2 WHERE id = 1"),
        ("DELETE FROM fought WHERE id = 2", "UPDATE fought SET x = 2 WHERE id = 2"),
        ("INSERT INTO fought VALUES (9, 1)", "INSERT INTO fought VALUES (9, 2)"),
    ];
    for (first, second) in pairs {
        let (mut winner, mut loser) = (cluster.connect(1)?, cluster.connect(2)?);
        run(&mut winner, &format!("BEGIN; {first}"))?;
        run(&mut loser, &format!("BEGIN; {second}"))?;
        run(&mut winner, "COMMIT")?;
        // It may learn it at its COMMIT, or before, from a statement or a lost connection.
        match loser.batch_execute("COMMIT") {
            Ok(()) => bail!("both committed: {first} and {second}"),
            Err(error) => {
                ensure!(is_serialization_failure(&error), "{second}: {}", describe(&error));
                let has_detail = error.as_db_error().is_some_and(|said| said.detail().is_some());
                ensure!(has_detail, "{second}: no DETAIL in {}", describe(&error));
                eprintln!("{}", describe(&error));
            }
        }
    }
    let (mut one, mut other) = (cluster.connect(1)?, cluster.connect(3)?);
    run(&mut one, "BEGIN; UPDATE fought SET x = 5 WHERE id = 1")?;
    run(&mut other, "BEGIN; UPDATE fought SET x = 5 WHERE id = 3")?;
    run(&mut one, "COMMIT")?;
    run(&mut other, "COMMIT")?;
    equal(cluster, "fought", 3)
}

/// One statement after the other, each on the next server: nothing is concurrent, so nothing may get 40001. What is read
/// by its full key goes without a round trip where the server writes the log itself, and must not be stale there either.
fn sequential(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.run(
        1,
        "CREATE TABLE counter (id int PRIMARY KEY, n int); INSERT INTO counter SELECT i, 0 FROM generate_series(1, 3) AS i; \
         CREATE TABLE part (id int PRIMARY KEY, parent int REFERENCES counter); \
         SELECT paxos_replicate_table('local', 'counter'), paxos_replicate_table('local', 'part')",
    )?;
    let mut clients =
        cluster.all().into_iter().map(|node| cluster.connect(node)).collect::<anyhow::Result<Vec<_>>>()?;
    for client in &mut clients {
        // As with a table of some size.
        run(client, "SET enable_seqscan = off")?;
    }
    let rounds = 300;
    let statements = |round: usize| {
        let id = 1000 + round;
        [
            ("UPDATE by key", "UPDATE counter SET n = n + 1 WHERE id = 1".to_owned()),
            ("UPDATE by key again", "UPDATE counter SET n = n + 1 WHERE id = 1".to_owned()),
            ("INSERT of a parent", format!("INSERT INTO counter VALUES ({id}, 0)")),
            ("INSERT of its child", format!("INSERT INTO part VALUES ({id}, {id})")),
            ("UPDATE by key in a block", "BEGIN; UPDATE counter SET n = n + 1 WHERE id = 1; COMMIT".to_owned()),
            ("DELETE of the child", format!("DELETE FROM part WHERE id = {id}")),
            ("INSERT of its child again", format!("INSERT INTO part VALUES ({id}, {id})")),
            ("DELETE of the child again", format!("DELETE FROM part WHERE id = {id}")),
        ]
    };
    let mut refused = std::collections::BTreeMap::new();
    let mut turn = 0;
    for round in 0..rounds {
        for (kind, sql) in statements(round) {
            turn += 1;
            loop {
                let node = turn % clients.len();
                match clients[node].batch_execute(&sql) {
                    Ok(()) => break,
                    Err(error) if is_serialization_failure(&error) => {
                        *refused.entry((kind, node + 1)).or_insert(0) += 1;
                        clients[node].batch_execute("ROLLBACK")?;
                    }
                    Err(error) => bail!("node {}: {sql}: {}", node + 1, describe(&error)),
                }
            }
        }
    }
    ensure!(refused.is_empty(), "of {rounds} rounds a client alone got 40001: {refused:?}");
    let counted: i64 = cluster.value(3, "SELECT sum(n) FROM counter")?;
    ensure!(counted == 3 * rounds as i64, "{counted} updates counted, not {}", 3 * rounds);
    Ok(())
}

fn isolation(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE isolated (id int PRIMARY KEY, x int)", &["isolated"])?;
    cluster.run(1, "INSERT INTO isolated VALUES (1, 0)")?;
    let mut client = cluster.connect(2)?;
    run(&mut client, "BEGIN ISOLATION LEVEL REPEATABLE READ")?;
    let read = "SELECT x::text FROM isolated WHERE id = 1";
    ensure!(text(&mut client, read)? == "0", "its own first read is not strong");
    cluster.run(3, "UPDATE isolated SET x = 1 WHERE id = 1")?;
    ensure!(text(&mut client, read)? == "0", "a snapshot has moved");
    match client.batch_execute("UPDATE isolated SET x = 2 WHERE id = 1; COMMIT") {
        Err(error) if is_serialization_failure(&error) => {}
        Err(error) => bail!(describe(&error)),
        Ok(()) => bail!("a lost update"),
    }
    let (code, said) = cluster.refusal(1, "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM isolated; COMMIT")?;
    ensure!(code == "0A000", "{said}");
    run(&mut cluster.connect(2)?, "BEGIN READ ONLY; SELECT * FROM isolated; COMMIT")
}

fn rights(cluster: &Cluster) -> anyhow::Result<()> {
    for node in cluster.all() {
        cluster.run(node, "CREATE ROLE clerk LOGIN; CREATE ROLE guest LOGIN")?;
    }
    cluster.replicate("CREATE TABLE owned (id int PRIMARY KEY); GRANT SELECT, INSERT ON owned TO clerk", &["owned"])?;
    let mut clerk = cluster.connect_as(1, "clerk", "postgres")?;
    run(&mut clerk, "INSERT INTO owned VALUES (1)")?;
    run(&mut clerk, "SELECT * FROM owned")?;
    for sql in [
        "DELETE FROM owned",
        "SELECT paxos_replicate_table('local', 'owned')",
        "SELECT paxos_leave_group('local')",
        "SET pg_paxos.enabled = off",
    ] {
        match clerk.batch_execute(sql) {
            Err(error) if sqlstate(&error) == "42501" => {}
            Err(error) => bail!("{sql}: {}", describe(&error)),
            Ok(()) => bail!("a clerk may: {sql}"),
        }
    }
    run(&mut clerk, "SELECT * FROM pgp_metadata.replicated_tables; SELECT * FROM pgp_metadata.host")?;
    // On another node, where the GRANT came with the table.
    run(&mut cluster.connect_as(2, "clerk", "postgres")?, "INSERT INTO owned VALUES (2)")?;
    let refused = cluster.connect_as(1, "guest", "postgres")?.batch_execute("SELECT * FROM owned");
    ensure!(refused.is_err_and(|error| sqlstate(&error) == "42501"), "a guest may read");
    equal(cluster, "owned", 2)
}

fn foreign_keys(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.run(
        1,
        "CREATE TABLE parent (id int PRIMARY KEY); \
         CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE)",
    )?;
    cluster.run(
        1,
        "BEGIN; SELECT paxos_replicate_table('local', 'parent'); \
                    SELECT paxos_replicate_table('local', 'child'); COMMIT",
    )?;
    cluster.run(1, "INSERT INTO parent VALUES (1), (2), (3)")?;
    for node in cluster.all() {
        cluster.wait_for_service(node, "child")?;
    }
    cluster.run(2, "INSERT INTO child VALUES (10, 1), (20, 2)")?;
    cluster.run(3, "DELETE FROM parent WHERE id = 2")?;
    let (code, said) = cluster.refusal(2, "INSERT INTO child VALUES (30, 2)")?;
    ensure!(code == "23503", "{said}");
    // The parent goes on one node while a child comes on another: one of them must lose.
    let (mut remover, mut adder) = (cluster.connect(1)?, cluster.connect(2)?);
    run(&mut remover, "BEGIN; DELETE FROM parent WHERE id = 3")?;
    run(&mut adder, "BEGIN; INSERT INTO child VALUES (40, 3)")?;
    run(&mut remover, "COMMIT")?;
    match adder.batch_execute("COMMIT") {
        Err(error) if is_serialization_failure(&error) => {}
        Err(error) => bail!(describe(&error)),
        Ok(()) => bail!("a child without a parent"),
    }
    equal(cluster, "parent", 1)?;
    equal(cluster, "child", 1)
}
