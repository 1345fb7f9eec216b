//! The ways in which statement-based replication made servers differ (pg_paxos 0.2's known
//! defects), each as a story that must end with equal tables here. One more is in `delete_all.rs`.

use anyhow::{bail, ensure};
use end_to_end::{describe, is_unknown_outcome, sqlstate, tell, Cluster, Random, Story};
use std::sync::Barrier;
use std::time::Duration;

const STORIES: [Story; 6] = [
    ("many sessions read at the moment of the acknowledgement", readers_at_the_acknowledgement),
    ("one node has a lock_timeout and a local lock in the way", lock_timeout_on_one_node),
    ("LIMIT without ORDER BY on servers whose rows lie differently", rows_in_another_order),
    ("another search_path, time zone and read-only default on one node", other_settings_on_one_node),
    ("a cancel hits anywhere in a statement", cancels_are_honest),
    ("TRUNCATE and ROLLBACK, a failing function, several statements in one string", atomicity),
];

#[test]
fn servers_never_differ() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    tell(&cluster, &STORIES)?;
    cluster.finish()
}

fn readers_at_the_acknowledgement(cluster: &Cluster) -> anyhow::Result<()> {
    const ROUNDS: i64 = 200;
    const READERS: usize = 4;
    cluster.replicate("CREATE TABLE news (id bigint PRIMARY KEY)", &["news"])?;
    let acknowledged = Barrier::new(READERS + 1);
    let read = Barrier::new(READERS + 1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (acknowledged, read) = (&acknowledged, &read);
                scope.spawn(move || -> anyhow::Result<()> {
                    let mut client = cluster.connect(1);
                    let mut result = Ok(());
                    for round in 1..=ROUNDS {
                        acknowledged.wait();
                        // A failed reader goes on meeting the others, or they would wait for ever.
                        if let (Ok(client), true) = (client.as_mut(), result.is_ok()) {
                            result = match client.query_one("SELECT max(id) FROM news", &[]) {
                                Ok(row) if row.get::<_, Option<i64>>(0) == Some(round) => Ok(()),
                                Ok(row) => Err(anyhow::anyhow!(
                                    "{round} was acknowledged, {:?} read",
                                    row.get::<_, Option<i64>>(0)
                                )),
                                Err(error) => Err(anyhow::anyhow!(describe(&error))),
                            };
                        }
                        read.wait();
                    }
                    client?;
                    result
                })
            })
            .collect();
        let mut written = Ok(());
        let mut client = cluster.connect(2);
        for round in 1..=ROUNDS {
            if let (Ok(client), true) = (client.as_mut(), written.is_ok()) {
                written = client
                    .execute("INSERT INTO news VALUES ($1)", &[&round])
                    .map(drop)
                    .map_err(|error| anyhow::anyhow!(describe(&error)));
            }
            acknowledged.wait();
            read.wait();
        }
        client?;
        written?;
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })
}

fn lock_timeout_on_one_node(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE locked (id bigint PRIMARY KEY, x int)", &["locked"])?;
    for setting in ["lock_timeout = '20ms'", "statement_timeout = '500ms'", "deadlock_timeout = '10ms'"] {
        cluster.run(2, &format!("ALTER DATABASE postgres SET {setting}"))?;
        cluster.run(2, &format!("ALTER ROLE postgres SET {setting}"))?;
    }
    cluster.run(1, "INSERT INTO locked SELECT i, 0 FROM generate_series(1, 20) AS i")?;
    for mode in ["SHARE", "ACCESS EXCLUSIVE"] {
        let mut holder = cluster.connect(2)?;
        holder.batch_execute("SET lock_timeout = 0; BEGIN")?;
        // The holder may be refused or rolled back for standing in the way; nothing may differ.
        let held = holder.batch_execute(&format!("LOCK TABLE locked IN {mode} MODE"));
        eprintln!("LOCK TABLE ... {mode}: {}", held.map_or_else(|e| describe(&e), |()| "held".to_owned()));
        for id in 1..=20 {
            match cluster.run(1, &format!("UPDATE locked SET x = x + 1 WHERE id = {id}")) {
                Err(error) if !error.to_string().contains("40001") => return Err(error),
                _ => {}
            }
        }
        let ended = holder.batch_execute("COMMIT");
        eprintln!("its COMMIT: {}", ended.map_or_else(|e| describe(&e), |()| "done".to_owned()));
    }
    cluster.run(2, "ALTER DATABASE postgres RESET ALL; ALTER ROLE postgres RESET ALL")?;
    cluster.equal_checksums(&[1, 2, 3], "locked")?;
    Ok(())
}

fn rows_in_another_order(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate(
        "CREATE TABLE heap (id int PRIMARY KEY, x float8); CREATE TABLE sums (total float8)",
        &["heap", "sums"],
    )?;
    cluster.run(1, "INSERT INTO heap SELECT i, random() FROM generate_series(1, 2000) AS i")?;
    cluster.run(1, "DELETE FROM heap WHERE id % 3 = 0")?;
    cluster.run(2, "SELECT FROM heap LIMIT 1")?;
    cluster.run(2, "VACUUM heap")?;
    // Node 2 fills the holes that its VACUUM made, the others go on at the end.
    cluster.run(3, "INSERT INTO heap SELECT i, random() FROM generate_series(3001, 3600) AS i")?;
    for node in [1, 2, 3] {
        cluster.run(node, "DELETE FROM heap WHERE id IN (SELECT id FROM heap LIMIT 50)")?;
        cluster.run(node, "UPDATE heap SET x = -x WHERE ctid = ANY (ARRAY(SELECT ctid FROM heap LIMIT 50))")?;
        cluster.run(node, "INSERT INTO sums SELECT sum(x) FROM heap")?;
    }
    cluster.equal_checksums(&[1, 2, 3], "heap")?;
    cluster.equal_checksums(&[1, 2, 3], "sums")?;
    Ok(())
}

fn other_settings_on_one_node(cluster: &Cluster) -> anyhow::Result<()> {
    cluster
        .replicate("CREATE SCHEMA s1; CREATE TABLE s1.t (id int PRIMARY KEY, at timestamptz, day date)", &["s1.t"])?;
    cluster.run(2, "CREATE SCHEMA s2; CREATE TABLE s2.t (id int, at timestamptz, day date)")?;
    // One session for all: the next would be bound by what this one has set.
    let mut administrator = cluster.connect(2)?;
    for setting in [
        "search_path = s2, s1",
        "timezone = 'Pacific/Auckland'",
        "datestyle = 'German, DMY'",
        "default_transaction_read_only = on",
        "default_transaction_isolation = 'serializable'",
        "session_replication_role = replica",
    ] {
        administrator.batch_execute(&format!("ALTER DATABASE postgres SET {setting}"))?;
    }
    let result = (|| {
        let mut client = cluster.connect(1)?;
        client.batch_execute(
            "SET search_path = s1; INSERT INTO t VALUES (1, now(), '2026-02-01'), (2, clock_timestamp(), current_date)",
        )?;
        client.batch_execute("UPDATE t SET day = day + 1 WHERE id = 1")?;
        cluster.equal_in_transaction(&[1, 2, 3], "s1.t")?;
        let astray: i64 = cluster.value(2, "SELECT count(*) FROM s2.t")?;
        ensure!(astray == 0, "a replicated row went into another schema's table");
        Ok(())
    })();
    administrator.batch_execute("ALTER DATABASE postgres RESET ALL")?;
    result
}

fn cancels_are_honest(cluster: &Cluster) -> anyhow::Result<()> {
    const ATTEMPTS: i64 = 400;
    cluster.replicate("CREATE TABLE timed (id bigint PRIMARY KEY)", &["timed"])?;
    let mut random = Random::announced("cancels_are_honest");
    let mut client = cluster.connect(1)?;
    let token = client.cancel_token();
    let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
    for id in 1..=ATTEMPTS {
        // Some hit the barrier, some the commit, some come too late. (PostgreSQL's own time-outs
        // end before the commit begins, so only a cancel reaches it.)
        let delay = Duration::from_micros(random.below(4_000));
        let token = token.clone();
        let cancelling = std::thread::spawn(move || {
            std::thread::sleep(delay);
            token.cancel_query(postgres::NoTls)
        });
        match client.execute("INSERT INTO timed VALUES ($1)", &[&id]) {
            Ok(_) => acknowledged.push(id),
            Err(error) if is_unknown_outcome(&error) => eprintln!("{}", describe(&error)),
            Err(error) if sqlstate(&error) == "57014" => refused.push(id),
            Err(error) => bail!(describe(&error)),
        }
        cancelling.join().expect("a cancel does not panic")?;
    }
    eprintln!("{} acknowledged, {} cancelled", acknowledged.len(), refused.len());
    ensure!(!refused.is_empty(), "no cancel came in time, so nothing was shown");
    cluster.equal_checksums(&[1, 2, 3], "timed")?;
    for node in cluster.all() {
        let rows = cluster.connect(node)?.query("SELECT id FROM timed", &[])?;
        let there: std::collections::BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        ensure!(acknowledged.iter().all(|id| there.contains(id)), "node {node}: acknowledged and lost");
        ensure!(!refused.iter().any(|id| there.contains(id)), "node {node}: an error, and the row is there");
    }
    Ok(())
}

fn atomicity(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.replicate("CREATE TABLE whole (id int PRIMARY KEY)", &["whole"])?;
    cluster.run(1, "CREATE TABLE side (id int)")?;
    cluster.run(1, "INSERT INTO whole VALUES (1), (2)")?;

    // Refused for now, with an error; in no case may it empty the table somewhere.
    let mut client = cluster.connect(1)?;
    client.batch_execute("BEGIN")?;
    let truncated = client.batch_execute("TRUNCATE whole");
    eprintln!("TRUNCATE: {}", truncated.map_or_else(|e| describe(&e), |()| "done".to_owned()));
    client.batch_execute("ROLLBACK")?;
    ensure!(cluster.equal_checksums(&[1, 2, 3], "whole")?.rows == 2);

    let failing = "DO $$ BEGIN INSERT INTO whole VALUES (3); RAISE 'changed my mind'; END $$";
    ensure!(cluster.run(1, failing).is_err());
    let caught = "DO $$ BEGIN BEGIN INSERT INTO whole VALUES (4); RAISE 'no'; EXCEPTION WHEN others THEN END; \
                  INSERT INTO whole VALUES (5); END $$";
    cluster.run(2, caught)?;
    // One string, one transaction: the replicated row everywhere, the local one here.
    cluster.run(1, "INSERT INTO whole VALUES (6); INSERT INTO side VALUES (6)")?;
    ensure!(cluster.run(1, "INSERT INTO whole VALUES (7); SELECT 1 / 0").is_err());
    ensure!(cluster.equal_checksums(&[1, 2, 3], "whole")?.rows == 4);
    ensure!(cluster.value::<i64>(1, "SELECT count(*) FROM side")? == 1);
    ensure!(cluster.run(2, "SELECT FROM side").is_err(), "a local table appeared elsewhere");
    Ok(())
}
