//! A load that keeps accounts: every row carries an id of its own, and the ledger remembers of
//! each whether it was acknowledged, certainly failed, or unknown. At the end the table must hold
//! every acknowledged row exactly once, and nothing but acknowledged and unknown ones.

use crate::{describe, is_serialization_failure, is_unknown_outcome, Cluster};
use anyhow::{bail, ensure};
use postgres::{Client, NoTls};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a writer waits before it connects again to a node that did not answer.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// The writers' connections time out on a frozen node, or a test would hang with it.
const STATEMENT_TIME_MAX_MS: u32 = 20_000;

/// Running writers.
#[derive(Debug)]
pub struct Ledger {
    table: String,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Account>>,
}

/// What became of the rows that were written.
#[derive(Debug, Default)]
pub struct Account {
    /// Ids whose commit was acknowledged.
    pub acknowledged: Vec<i64>,
    /// Ids of which nobody knows.
    pub unknown: Vec<i64>,
    /// Ids that were certainly refused.
    pub failed: Vec<i64>,
    /// The errors met, conflicts aside, with how often.
    pub errors: BTreeMap<String, usize>,
}

impl Ledger {
    /// Makes and replicates the table.
    pub fn create(cluster: &Cluster, table: &str, with_primary_key: bool) -> anyhow::Result<()> {
        let key = match with_primary_key {
            true => " PRIMARY KEY",
            false => "",
        };
        cluster.replicate(&format!("CREATE TABLE {table} (id bigint{key}, writer int, node int)"), &[table])
    }

    /// Starts `per_node` writers on each of the nodes. Ids of different `run`s differ.
    pub fn start(cluster: &Cluster, table: &str, nodes: &[usize], per_node: usize, run: u32) -> Ledger {
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..nodes.len() * per_node)
            .map(|number| {
                let node = nodes[number % nodes.len()];
                let writer = Writer {
                    connection_string: cluster.connection_string(node),
                    table: table.to_owned(),
                    node: i32::try_from(node).expect("node numbers are small"),
                    number: i32::try_from(number).expect("there are few writers"),
                    // 2^32 ids per writer, 2^10 writers per run.
                    next: (i64::from(run) << 42) | ((number as i64) << 32),
                };
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || writer.write_until(&stop))
            })
            .collect();
        Ledger { table: table.to_owned(), stop, writers }
    }

    /// Stops the writers and returns the account of all of them.
    pub fn stop(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Account::default();
        for writer in self.writers {
            let account = writer.join().expect("a writer does not panic");
            all.add(account);
        }
        eprintln!(
            "{}: {} acknowledged, {} unknown, {} refused; errors: {:?}",
            self.table,
            all.acknowledged.len(),
            all.unknown.len(),
            all.failed.len(),
            all.errors
        );
        all
    }
}

impl Account {
    /// Adds another account, of other ids.
    pub fn add(&mut self, other: Account) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        self.failed.extend(other.failed);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    /// Compares the account with what a node's table holds.
    pub fn check(&self, cluster: &Cluster, node: usize, table: &str) -> anyhow::Result<()> {
        let mut found: BTreeMap<i64, usize> = BTreeMap::new();
        let mut client = cluster.connect(node)?;
        let rows = client
            .query(&format!("SELECT id FROM {table}"), &[])
            .map_err(|error| anyhow::anyhow!("node {node}: {}", describe(&error)))?;
        for row in rows {
            *found.entry(row.get(0)).or_default() += 1;
        }
        let count = |id: &i64| found.get(id).copied().unwrap_or(0);
        let examples = |ids: Vec<&i64>| format!("{} of them, such as {:?}", ids.len(), ids.first());
        let lost: Vec<&i64> = self.acknowledged.iter().filter(|id| count(id) == 0).collect();
        ensure!(lost.is_empty(), "node {node}: acknowledged rows are lost: {}", examples(lost));
        let twice: Vec<&i64> = found.iter().filter(|(_, n)| **n > 1).map(|(id, _)| id).collect();
        ensure!(twice.is_empty(), "node {node}: rows are there twice: {}", examples(twice));
        let risen: Vec<&i64> = self.failed.iter().filter(|id| count(id) > 0).collect();
        ensure!(risen.is_empty(), "node {node}: refused rows are there: {}", examples(risen));
        let known = self.acknowledged.len() + self.unknown.len();
        ensure!(
            found.len() <= known,
            "node {node}: {} rows, but only {known} were acknowledged or unknown",
            found.len()
        );
        Ok(())
    }
}

struct Writer {
    connection_string: String,
    table: String,
    node: i32,
    number: i32,
    next: i64,
}

impl Writer {
    fn write_until(mut self, stop: &AtomicBool) -> Account {
        let mut account = Account::default();
        let mut client: Option<Client> = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(connected) = client.as_mut().filter(|client| !client.is_closed()) else {
                client = self.connect().ok();
                if client.is_none() {
                    std::thread::sleep(RECONNECT_PAUSE);
                }
                continue;
            };
            if let Err(error) = self.write(connected, &mut account) {
                account.errors.entry(error.to_string()).and_modify(|n| *n += 1).or_insert(1);
            }
        }
        account
    }

    fn connect(&self) -> anyhow::Result<Client> {
        let mut config: postgres::Config = self.connection_string.parse()?;
        let mut client = config.connect_timeout(Duration::from_secs(5)).connect(NoTls)?;
        client.batch_execute(&format!("SET statement_timeout = {STATEMENT_TIME_MAX_MS}"))?;
        Ok(client)
    }

    /// Writes one row with a fresh id; an id is never used twice, so every outcome stands.
    fn write(&mut self, client: &mut Client, account: &mut Account) -> anyhow::Result<()> {
        let id = self.next;
        self.next += 1;
        let sql = format!("INSERT INTO {} VALUES ($1, $2, $3)", self.table);
        match client.execute(&sql, &[&id, &self.number, &self.node]) {
            Ok(_) => account.acknowledged.push(id),
            Err(error) if is_unknown_outcome(&error) => {
                account.unknown.push(id);
                bail!("{}", without_numbers(&describe(&error)));
            }
            Err(error) => {
                account.failed.push(id);
                if !is_serialization_failure(&error) {
                    bail!("{}", without_numbers(&describe(&error)));
                }
            }
        }
        Ok(())
    }
}

/// The same error about other ids counts as the same.
fn without_numbers(text: &str) -> String {
    let mut short = String::new();
    for part in text.chars() {
        match part.is_ascii_digit() && short.len() > 5 {
            true if short.ends_with('#') => {}
            true => short.push('#'),
            false => short.push(part),
        }
    }
    short
}
