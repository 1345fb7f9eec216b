//! Clients on all nodes that read and write registers and lists, and record what they saw.
//!
//! Every list transaction is one of up to four steps, sent in one message or step by step. Keys live for some dozens of
//! writes and make room for others, so that lists stay short and every key is contended while it lives.

use crate::recorder::Recorder;
use crate::{describe, is_unknown_outcome, sqlstate, wait_for, Cluster, Random, RECOVERY_TIME_MAX};
use anyhow::Context;
use histories::{
    check_lists, check_registers, Anomaly, Counts, Isolation, Key, Level, Node, Order, Outcome, Process, Step, Value,
    Verdict, REGISTER_START,
};
use postgres::{Client, SimpleQueryMessage};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Rows of each kind; more than the writes of a run at full size need.
const KEYS: u32 = 4_000;

/// Keys of one kind that are alive at once.
const KEYS_ALIVE: u32 = 8;

/// After so many writes of a kind its oldest key makes room: each key sees about as many, spread over its life.
const WRITES_PER_KEY: u32 = 40;

/// Who does the reads at the end; other clients' numbers are far below.
const LAST_READERS: u32 = 1_000_000;

/// How long the search for a linearization may take, all keys together.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(120);

/// Every other client gives its statements only so long, COMMIT too: less than most faults last, so that many are
/// cancelled at every point, and hold the servers to what they say of the outcome.
const IMPATIENCE_MS: u32 = 700;

/// The pause before a client connects again to a node that did not answer.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// What a client's transaction is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Lists, at REPEATABLE READ.
    SnapshotLists,
    /// Lists, at READ COMMITTED.
    ReadCommittedLists,
    /// Registers, one statement at a time.
    Registers,
}

impl Work {
    /// All three.
    pub const ALL: [Work; 3] = [Work::SnapshotLists, Work::ReadCommittedLists, Work::Registers];

    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Work::SnapshotLists => "lists at repeatable read",
            Work::ReadCommittedLists => "lists at read committed",
            Work::Registers => "registers",
        }
    }

    fn isolation(self) -> &'static str {
        match self {
            Work::SnapshotLists => "REPEATABLE READ",
            Work::ReadCommittedLists | Work::Registers => "READ COMMITTED",
        }
    }

    /// The first of its rows: the two kinds of lists share a table, not rows.
    fn first_key(self) -> u32 {
        match self {
            Work::SnapshotLists | Work::Registers => 0,
            Work::ReadCommittedLists => KEYS,
        }
    }

    fn index(self) -> usize {
        match self {
            Work::SnapshotLists => 0,
            Work::ReadCommittedLists => 1,
            Work::Registers => 2,
        }
    }
}

/// How a client behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Whether it writes.
    pub is_reader: bool,
    /// Whether it reads without waiting for anything (`pg_paxos.consistency_model = optimistic`).
    pub is_optimistic: bool,
}

/// A load on a cluster, and its histories.
#[derive(Debug)]
pub struct HistoryLoad<'a> {
    cluster: &'a Cluster,
    recorders: [Recorder; 3],
    writes: [AtomicU32; 3],
    next_value: AtomicI64,
    next_process: AtomicU32,
    /// Steps of transactions whose commit was acknowledged.
    steps: AtomicU64,
    stop: AtomicBool,
    errors: Mutex<BTreeMap<String, usize>>,
}

impl<'a> HistoryLoad<'a> {
    /// Makes the tables.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn prepare(cluster: &'a Cluster) -> anyhow::Result<HistoryLoad<'a>> {
        cluster.replicate(
            &format!(
                "CREATE TABLE lists (k int PRIMARY KEY, v int[] NOT NULL DEFAULT '{{}}'); \
                 INSERT INTO lists (k) SELECT generate_series(0, {}); \
                 CREATE TABLE registers (k int PRIMARY KEY, v bigint NOT NULL DEFAULT {REGISTER_START}); \
                 INSERT INTO registers (k) SELECT generate_series(-1, {})",
                2 * KEYS - 1,
                KEYS - 1
            ),
            &["lists", "registers"],
        )?;
        Ok(HistoryLoad {
            cluster,
            recorders: [Recorder::new(), Recorder::new(), Recorder::new()],
            writes: Default::default(),
            next_value: AtomicI64::new(REGISTER_START.0 + 1),
            next_process: AtomicU32::new(0),
            steps: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            errors: Mutex::new(BTreeMap::new()),
        })
    }

    /// Steps of acknowledged transactions so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Whether the clients are told to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Tells the clients to end after their present transaction.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Is one client of a node until the load is stopped.
    pub fn run_client(&self, node: usize, manner: Manner) {
        let process = Process(self.next_process.fetch_add(1, Ordering::Relaxed));
        let mut random = Random::from_seed(u64::from(process.0));
        let mut last_seen: BTreeMap<Key, Value> = BTreeMap::new();
        let mut client: Option<Client> = None;
        while !self.is_stopped() {
            let Some(connected) = client.as_mut().filter(|client| !client.is_closed()) else {
                client = self.connect(node, manner, process).ok();
                if client.is_none() {
                    std::thread::sleep(RECONNECT_PAUSE);
                }
                continue;
            };
            let work = Work::ALL[usize::try_from(random.below(3)).expect("below three")];
            let steps = self.plan(work, manner, &mut random, &last_seen);
            let is_whole = work == Work::Registers || random.below(2) == 0;
            let recorder = &self.recorders[work.index()];
            let of = Node(u32::try_from(node).expect("node numbers are small"));
            recorder.invoke(process, of, &steps);
            let done = transact(connected, work, steps, is_whole);
            recorder.learn(process, of, done.outcome, &done.steps);
            if done.outcome == Outcome::Committed {
                self.steps.fetch_add(done.steps.len() as u64, Ordering::Relaxed);
                last_seen.extend(done.steps.iter().filter_map(held_after));
            }
            if let Some(error) = done.error {
                *self.errors.lock().expect("no panic while counting").entry(error).or_default() += 1;
            }
        }
    }

    fn connect(&self, node: usize, manner: Manner, process: Process) -> anyhow::Result<Client> {
        let mut client = self.cluster.connect_briefly(node)?;
        if process.0 % 2 == 1 {
            client.batch_execute(&format!("SET statement_timeout = {IMPATIENCE_MS}"))?;
        }
        if manner.is_optimistic {
            client.batch_execute("SET pg_paxos.consistency_model = optimistic")?;
        }
        Ok(client)
    }

    fn plan(&self, work: Work, manner: Manner, random: &mut Random, last_seen: &BTreeMap<Key, Value>) -> Vec<Step> {
        let writes = &self.writes[work.index()];
        let count = if work == Work::Registers { 1 } else { 1 + random.below(4) };
        (0..count)
            .map(|_| {
                let is_write = !manner.is_reader && random.below(2) == 0;
                let number =
                    if is_write { writes.fetch_add(1, Ordering::Relaxed) } else { writes.load(Ordering::Relaxed) };
                let alive = u32::try_from(random.below(u64::from(KEYS_ALIVE))).expect("there are few");
                let key = Key(work.first_key() + (number / WRITES_PER_KEY + alive) % KEYS);
                let new = || Value(self.next_value.fetch_add(1, Ordering::Relaxed));
                match (work, is_write) {
                    (Work::Registers, false) => Step::Read { key, seen: None },
                    // Registers of odd number are compared and set, the others written: each has its own checker.
                    (Work::Registers, true) if key.0 % 2 == 1 => Step::CompareAndSet {
                        key,
                        expected: last_seen.get(&key).copied().unwrap_or(REGISTER_START),
                        value: new(),
                        swapped: None,
                    },
                    (Work::Registers, true) => Step::Write { key, value: new() },
                    (_, false) => Step::ReadList { key, seen: None },
                    (_, true) => Step::Append { key, value: new() },
                }
            })
            .collect()
    }

    /// Reads every key that was used, on every node, strongly: what nobody read after it was written is seen now.
    ///
    /// # Errors
    /// If a node does not serve in time, or the nodes differ.
    pub fn read_all(&self) -> anyhow::Result<()> {
        let nodes = self.cluster.all();
        self.cluster.settle("UPDATE registers SET v = v WHERE k = -1")?;
        for work in Work::ALL {
            let shifts = self.writes[work.index()].load(Ordering::Relaxed) / WRITES_PER_KEY;
            let first = work.first_key();
            let keys: Vec<Key> = (first..first + (shifts + KEYS_ALIVE).min(KEYS)).map(Key).collect();
            for node in &nodes {
                wait_for("a node answers the last reads", RECOVERY_TIME_MAX, || self.read_keys(work, *node, &keys))?;
            }
        }
        for table in ["lists", "registers"] {
            self.cluster.equal_checksums(&nodes, table)?;
        }
        Ok(())
    }

    fn read_keys(&self, work: Work, node: usize, keys: &[Key]) -> anyhow::Result<()> {
        let process = Process(LAST_READERS + self.next_process.fetch_add(1, Ordering::Relaxed));
        let of = Node(u32::try_from(node).expect("node numbers are small"));
        let recorder = &self.recorders[work.index()];
        let mut client = self.cluster.connect(node)?;
        let table = if work == Work::Registers { "registers" } else { "lists" };
        let (first, last) = (keys[0], keys[keys.len() - 1]);
        recorder.invoke(process, of, &[]);
        let sql = format!("SELECT k, v FROM {table} WHERE k BETWEEN {} AND {}", first.0, last.0);
        let answer = client.simple_query(&sql);
        let messages = match answer {
            Ok(messages) => messages,
            Err(error) => {
                recorder.learn(process, of, Outcome::Failed, &[]);
                anyhow::bail!("node {node}: {}", describe(&error));
            }
        };
        let mut steps = Vec::new();
        for message in &messages {
            if let SimpleQueryMessage::Row(row) = message {
                let key = Key(row.get(0).context("a key")?.parse()?);
                let held = row.get(1).context("a value")?;
                steps.push(match work {
                    Work::Registers => Step::Read { key, seen: Some(Value(held.parse()?)) },
                    _ => Step::ReadList { key, seen: Some(list(held)?) },
                });
            }
        }
        anyhow::ensure!(steps.len() == keys.len(), "node {node}: {} of {} rows of {table}", steps.len(), keys.len());
        recorder.learn(process, of, Outcome::Committed, &steps);
        Ok(())
    }

    /// The judgement of one kind of work, held against isolation as it asked for and this order.
    ///
    /// # Errors
    /// If the history is none, which is a mistake of the load.
    pub fn verdict(&self, work: Work, order: Order) -> anyhow::Result<Verdict> {
        let history = self.recorders[work.index()].history()?;
        Ok(match work {
            Work::Registers => check_registers(&history, SEARCH_TIME_MAX)?,
            Work::SnapshotLists => check_lists(&history, Level { isolation: Isolation::Snapshot, order })?,
            Work::ReadCommittedLists => check_lists(&history, Level { isolation: Isolation::ReadCommitted, order })?,
        })
    }

    /// Fails unless all histories are as promised; keeps one that is not.
    ///
    /// # Errors
    /// The anomalies, or that no answer was found.
    pub fn check(&self, name: &str) -> anyhow::Result<Vec<(Work, Counts)>> {
        let errors = self.errors.lock().expect("no panic while counting");
        for (error, count) in errors.iter() {
            eprintln!("{count:>7} times {error}");
        }
        let mut judged = Vec::new();
        let mut failures = Vec::new();
        for work in Work::ALL {
            let begin = Instant::now();
            let verdict = self.verdict(work, Order::RealTime)?;
            let time = begin.elapsed();
            match verdict {
                Verdict::Valid(counts) => {
                    eprintln!("{}: as promised, in {time:.1?}: {counts:?}", work.name());
                    judged.push((work, counts));
                }
                Verdict::Invalid(anomalies) => {
                    failures.push(format!("{}: {}", work.name(), self.keep(name, work, &anomalies)?));
                }
                Verdict::Undecided(what) => failures.push(format!("{}: undecided: {what}", work.name())),
            }
        }
        anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(judged)
    }

    fn keep(&self, name: &str, work: Work, anomalies: &[Anomaly]) -> anyhow::Result<String> {
        let place = crate::environment::kept_directory()?;
        let file = place.join(format!("history of {name}, {}", work.name()).replace([' ', ','], "-"));
        self.recorders[work.index()].save(&file)?;
        let told: Vec<String> = anomalies.iter().take(5).map(ToString::to_string).collect();
        Ok(format!("{} anomalies; the history is in {}\n{}", anomalies.len(), file.display(), told.join("\n")))
    }
}

/// What became of one transaction.
struct Done {
    outcome: Outcome,
    steps: Vec<Step>,
    /// The error, conflicts aside.
    error: Option<String>,
}

/// Does one transaction, in one message or step by step.
fn transact(client: &mut Client, work: Work, mut steps: Vec<Step>, is_whole: bool) -> Done {
    let is_block = work == Work::SnapshotLists || steps.len() > 1;
    let begin = format!("BEGIN ISOLATION LEVEL {}", work.isolation());
    let statements: Vec<String> = match is_block {
        true => std::iter::once(begin).chain(steps.iter().map(sql)).chain(["COMMIT".to_owned()]).collect(),
        false => steps.iter().map(sql).collect(),
    };
    let mut answers: Vec<Vec<SimpleQueryMessage>> = Vec::new();
    let messages = match is_whole {
        true => vec![statements.join("; ")],
        false => statements,
    };
    let last = messages.len() - 1;
    for (number, message) in messages.iter().enumerate() {
        match client.simple_query(message) {
            Ok(answer) => answers.extend(by_statement(answer)),
            Err(error) => {
                // Before its COMMIT is sent, a transaction that meets an error has certainly failed.
                let is_unknown = number == last && is_unknown_outcome(&error);
                if is_block && !client.is_closed() {
                    client.simple_query("ROLLBACK").ok();
                }
                return Done {
                    outcome: if is_unknown { Outcome::Unknown } else { Outcome::Failed },
                    steps,
                    error: (sqlstate(&error) != "40001")
                        .then(|| format!("{}: {}", sqlstate(&error), first_words(&error))),
                };
            }
        }
    }
    let answers = if is_block { &answers[1..] } else { &answers[..] };
    for (step, answer) in steps.iter_mut().zip(answers) {
        fill_in(step, answer);
    }
    Done { outcome: Outcome::Committed, steps, error: None }
}

fn first_words(error: &postgres::Error) -> String {
    error.as_db_error().map_or_else(|| "no answer".to_owned(), |said| said.message().to_owned())
}

fn sql(step: &Step) -> String {
    match step {
        Step::Write { key, value } => format!("UPDATE registers SET v = {value} WHERE k = {}", key.0),
        Step::Read { key, .. } => format!("SELECT v FROM registers WHERE k = {}", key.0),
        Step::CompareAndSet { key, expected, value, .. } => {
            format!("UPDATE registers SET v = {value} WHERE k = {} AND v = {expected}", key.0)
        }
        Step::Append { key, value } => format!("UPDATE lists SET v = v || {value} WHERE k = {}", key.0),
        Step::ReadList { key, .. } => format!("SELECT v FROM lists WHERE k = {}", key.0),
    }
}

/// The messages of an answer, statement by statement.
fn by_statement(messages: Vec<SimpleQueryMessage>) -> Vec<Vec<SimpleQueryMessage>> {
    let mut statements = vec![Vec::new()];
    for message in messages {
        let is_end = matches!(message, SimpleQueryMessage::CommandComplete(_));
        statements.last_mut().expect("there is always one").push(message);
        if is_end {
            statements.push(Vec::new());
        }
    }
    statements.pop();
    statements
}

/// Puts what a statement returned into its step.
fn fill_in(step: &mut Step, answer: &[SimpleQueryMessage]) {
    let held = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    let changed = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    });
    match step {
        Step::Read { seen, .. } => {
            *seen = Some(Value(held.expect("the row is there").parse().expect("a number")));
        }
        Step::ReadList { seen, .. } => {
            *seen = Some(list(&held.expect("the row is there")).expect("a list of numbers"));
        }
        Step::CompareAndSet { swapped, .. } => *swapped = Some(changed == Some(1)),
        Step::Write { .. } | Step::Append { .. } => assert_eq!(changed, Some(1), "the row is there: {step}"),
    }
}

/// PostgreSQL's text form of an array of numbers.
fn list(text: &str) -> anyhow::Result<Vec<Value>> {
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).context("an array")?;
    inner.split(',').filter(|word| !word.is_empty()).map(|word| Ok(Value(word.parse()?))).collect()
}

/// What a register held after a step, as far as the step tells.
fn held_after(step: &Step) -> Option<(Key, Value)> {
    match *step {
        Step::Write { key, value } | Step::CompareAndSet { key, value, swapped: Some(true), .. } => Some((key, value)),
        Step::Read { key, seen: Some(value) } => Some((key, value)),
        _ => None,
    }
}

/// Sleeps in parts, so that a stopped load is not waited for.
pub fn pause(load: &HistoryLoad, time: Duration) {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline && !load.is_stopped() {
        std::thread::sleep(Duration::from_millis(10));
    }
}
