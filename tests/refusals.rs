//! Every refusal, as psql shows it: what was refused, why, and what to do. The transcript is
//! `docs/refusals.txt`; with UPDATE_EXPECT=1 it is written anew.

use anyhow::{ensure, Context};
use end_to_end::{installation_bindir, step, Cluster, Shape};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// A refusal: what is done before on node 1 (undone by nothing), what is refused, with which code.
struct Refusal {
    given: &'static str,
    refused: &'static str,
    sqlstate: &'static str,
}

const fn refusal(given: &'static str, refused: &'static str, sqlstate: &'static str) -> Refusal {
    Refusal { given, refused, sqlstate }
}

/// In a group that holds the table `t`.
const REFUSALS: &[Refusal] = &[
    // What is not replicated yet would make servers differ.
    refusal("", "ALTER TABLE t ADD COLUMN y int", "0A000"),
    refusal("", "ALTER TABLE t RENAME TO u", "0A000"),
    refusal("", "CREATE INDEX ON t (x)", "0A000"),
    refusal("", "DROP TABLE t", "0A000"),
    refusal("", "TRUNCATE t", "0A000"),
    refusal("", "VACUUM FULL t", "0A000"),
    refusal("", "REINDEX TABLE t", "0A000"),
    refusal("", "CLUSTER t USING t_pkey", "0A000"),
    refusal(
        "CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY); SELECT paxos_replicate_table('local', 's.t')",
        "DROP SCHEMA s CASCADE",
        "0A000",
    ),
    refusal("", "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM t", "0A000"),
    refusal("", "BEGIN; INSERT INTO t VALUES (1000, 0); PREPARE TRANSACTION 'p'", "0A000"),
    // Tables that cannot be replicated.
    refusal("CREATE TABLE s1 (id serial PRIMARY KEY)", "SELECT paxos_replicate_table('local', 's1')", "0A000"),
    refusal(
        "CREATE TABLE s2 (id int GENERATED ALWAYS AS IDENTITY)",
        "SELECT paxos_replicate_table('local', 's2')",
        "0A000",
    ),
    refusal("CREATE TABLE s3 (id int) PARTITION BY RANGE (id)", "SELECT paxos_replicate_table('local', 's3')", "0A000"),
    refusal("CREATE TABLE s4 () INHERITS (s1)", "SELECT paxos_replicate_table('local', 's4')", "0A000"),
    refusal(
        "CREATE TABLE s5 (r int4range, EXCLUDE USING gist (r WITH &&))",
        "SELECT paxos_replicate_table('local', 's5')",
        "0A000",
    ),
    refusal("CREATE TABLE s6 (id int REFERENCES s1)", "SELECT paxos_replicate_table('local', 's6')", "0A000"),
    refusal(
        "CREATE TABLE s7 (id int PRIMARY KEY); CREATE TABLE s8 (id int REFERENCES s7)",
        "SELECT paxos_replicate_table('local', 's7')",
        "0A000",
    ),
    refusal(
        "CREATE TABLE s9 (id int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER always BEFORE INSERT ON s9 FOR EACH ROW EXECUTE FUNCTION f(); \
             ALTER TABLE s9 ENABLE ALWAYS TRIGGER always",
        "SELECT paxos_replicate_table('local', 's9')",
        "0A000",
    ),
    refusal(
        "CREATE TABLE s10 (id int); CREATE RULE r AS ON INSERT TO s10 DO INSTEAD NOTHING",
        "SELECT paxos_replicate_table('local', 's10')",
        "0A000",
    ),
    refusal("CREATE UNLOGGED TABLE s11 (id int)", "SELECT paxos_replicate_table('local', 's11')", "0A000"),
    refusal("", "CREATE TEMP TABLE s12 (id int); SELECT paxos_replicate_table('local', 's12')", "0A000"),
    refusal("CREATE VIEW s13 AS SELECT 1 AS id", "SELECT paxos_replicate_table('local', 's13')", "0A000"),
    refusal("", "SELECT paxos_replicate_table('local', 'pg_class')", "0A000"),
    refusal("", "SELECT paxos_replicate_table('local', 't')", "55000"),
    refusal(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE moods (id int PRIMARY KEY, m mood[]); \
         SELECT paxos_replicate_table('local', 'moods')",
        "ALTER TYPE mood ADD VALUE 'happy'",
        "0A000",
    ),
    refusal("CREATE TABLE s14 (id int)", "SELECT paxos_replicate_table('nowhere', 's14')", "42704"),
    // Groups.
    refusal("", "SELECT paxos_create_group('local', 'host=127.0.0.1 dbname=postgres')", "42710"),
    refusal("", "SELECT paxos_remove_host('local', 'host=nowhere')", "42704"),
    refusal("", "SELECT paxos_leave_group('nowhere')", "42704"),
    refusal("", "SELECT paxos_append('me', 'local', 'value')", "55000"),
    refusal("", "SELECT paxos_transaction_status('nonsense')", "22023"),
    // Settings.
    refusal("", "SET pg_paxos.consistency_model = 'sometimes'", "22023"),
];

#[test]
fn every_refusal_says_what_why_and_what_to_do() -> anyhow::Result<()> {
    let mut transcript = String::new();

    step("a server that does not load the library");
    let plain = Shape::of(1).without_extension().up()?;
    show(&plain, "CREATE EXTENSION pg_paxos", "55000", &mut transcript)?;
    plain.finish()?;

    step("a server in a group that holds a table");
    let cluster = Cluster::of(1)?;
    cluster.replicate("CREATE TABLE t (id int PRIMARY KEY, x int)", &["t"])?;
    let mut failures = Vec::new();
    for Refusal { given, refused, sqlstate } in REFUSALS {
        if !given.is_empty() {
            cluster.run(1, given)?;
            writeln!(transcript, "-- given: {given}")?;
        }
        if let Err(error) = show(&cluster, refused, sqlstate, &mut transcript) {
            eprintln!("FAILED: {error:#}");
            failures.push(format!("{error:#}"));
        }
    }
    ensure!(failures.is_empty(), "{} refusals are not as they should be:\n{}", failures.len(), failures.join("\n"));
    compare(&transcript)?;
    cluster.finish()
}

/// Runs one statement string in psql, and adds what a person sees.
fn show(cluster: &Cluster, sql: &str, sqlstate: &str, transcript: &mut String) -> anyhow::Result<()> {
    let output = Command::new(installation_bindir().join("psql"))
        .args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-v", "VERBOSITY=verbose", "-v", "ON_ERROR_STOP=1"])
        .args(["-p", &cluster.port(1).to_string(), "-c", sql, "postgres"])
        .output()
        .context("psql does not run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // The line of the source is psql's for developers; it changes with every edit.
    let said: Vec<&str> = said.lines().filter(|line| !line.starts_with("LOCATION:")).collect();
    writeln!(transcript, "postgres=# {sql};\n{}\n", without_identities(cluster, &said.join("\n")))?;
    ensure!(!output.status.success(), "not refused: {sql}");
    let expected = format!("ERROR:  {sqlstate}: ");
    ensure!(said.iter().any(|line| line.starts_with(&expected)), "{sql}: not {sqlstate}: {said:?}");
    ensure!(said.iter().any(|line| line.starts_with("HINT:  ")), "{sql}: no hint: {said:?}");
    Ok(())
}

/// Ports and node ids are different ones each time.
fn without_identities(cluster: &Cluster, said: &str) -> String {
    let said = said.replace(&cluster.port(1).to_string(), "55431");
    let mut text = String::new();
    for word in said.split_inclusive(|letter: char| !letter.is_ascii_hexdigit() && letter != '-') {
        let id = word.trim_end_matches(|letter: char| !letter.is_ascii_hexdigit());
        match id.len() == 36 && id.matches('-').count() == 4 {
            true => text.push_str(&word.replace(id, "00000000-0000-0000-0000-000000000001")),
            false => text.push_str(word),
        }
    }
    text
}

fn compare(transcript: &str) -> anyhow::Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/refusals.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return Ok(std::fs::write(&file, transcript)?);
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    ensure!(
        kept == transcript,
        "docs/refusals.txt is not what psql shows; write it anew with UPDATE_EXPECT=1 and look at the difference:\n{transcript}"
    );
    Ok(())
}
