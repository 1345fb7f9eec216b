//! A cluster of real servers for one test.

use crate::clocks;
use crate::environment::{installation_bindir, step, synod, target_directory};
use crate::port_range::PortRange;
use crate::{checksum, describe, is_serialization_failure, sqlstate, wait_for, wait_until, Checksum};
use anyhow::{bail, Context};
use postgres::{Client, Config, NoTls};
use rustix::fs::{flock, FlockOperation};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A statement of a test that takes longer than this hangs, which is a failure of its own.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(60);

/// How often a transaction is run that is told to run again.
const TRIES_MAX: usize = 20;

/// How long a cluster gets to serve again after a disturbance: restart, catch-up and a few
/// failure time-outs, on a machine with two cores that does other things too.
pub const RECOVERY_TIME_MAX: Duration = Duration::from_secs(60);

/// Longer than the others keep a link open by which a removed member could be told.
pub const FAREWELL: Duration = Duration::from_secs(11);

/// What cluster a test needs.
#[derive(Debug, Clone)]
pub struct Shape {
    nodes: usize,
    with_group: bool,
    with_extension: bool,
    with_clocks: bool,
    settings: Vec<String>,
}

impl Shape {
    /// Nodes in one group, all at their defaults.
    pub fn of(nodes: usize) -> Shape {
        Shape { nodes, with_group: true, with_extension: true, with_clocks: false, settings: Vec::new() }
    }

    /// With one more line in every node's postgresql.conf.
    pub fn set(mut self, line: &str) -> Shape {
        self.settings.push(line.to_owned());
        self
    }

    /// With the extension, but in no group.
    pub fn without_group(mut self) -> Shape {
        self.with_group = false;
        self
    }

    /// Ordinary servers.
    pub fn without_extension(mut self) -> Shape {
        self.with_extension = false;
        self
    }

    /// Each node with a wall clock of its own, for [`Cluster::set_clock`].
    pub fn with_clocks(mut self) -> Shape {
        self.with_clocks = true;
        self
    }

    /// Brings it up.
    pub fn up(self) -> anyhow::Result<Cluster> {
        Cluster::up(&self)
    }
}

/// Running servers; gone when dropped.
#[derive(Debug)]
pub struct Cluster {
    directory: PathBuf,
    ports: PortRange,
    nodes: usize,
    with_clocks: bool,
    guard: Child,
    is_finished: bool,
    _turn: File,
}

/// What no server's log may hold at a test's end, whatever the test did.
const BREAKAGES: [&str; 4] = ["terminated by signal", "PANIC:", "TRAP:", "panicked at"];

impl Cluster {
    /// A cluster of that many nodes in one group.
    pub fn of(nodes: usize) -> anyhow::Result<Cluster> {
        Shape::of(nodes).up()
    }

    fn up(shape: &Shape) -> anyhow::Result<Cluster> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // One cluster at a time per checkout: two cores do not hold more without distortion.
        let turn = File::options().create(true).append(true).open(target_directory().join("end-to-end.lock"))?;
        flock(&turn, FlockOperation::LockExclusive)?;
        let ports = PortRange::take()?;
        let directory =
            PathBuf::from(format!("/tmp/synod-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        let guard = guard(&directory)?;
        let Shape { nodes, with_clocks, .. } = *shape;
        let cluster = Cluster { directory, ports, nodes, with_clocks, guard, is_finished: false, _turn: turn };
        let mut arguments = vec![
            "--nodes".to_owned(),
            shape.nodes.to_string(),
            "--port-base".to_owned(),
            cluster.ports.base.to_string(),
            "--bindir".to_owned(),
            installation_bindir().display().to_string(),
        ];
        if !shape.with_group {
            arguments.push("--without-group".to_owned());
        }
        if !shape.with_extension {
            arguments.push("--without-extension".to_owned());
        }
        for line in &shape.settings {
            arguments.extend(["--set".to_owned(), line.clone()]);
        }
        cluster.synod("up", &arguments)?;
        Ok(cluster)
    }

    /// How many nodes it has.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The cluster's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A node's port.
    pub fn port(&self, node: usize) -> u16 {
        self.ports.base + u16::try_from(node).expect("node numbers are small")
    }

    /// How clients reach a node.
    pub fn connection_string(&self, node: usize) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port(node))
    }

    /// Connects to a node as the superuser; statements that hang fail after a minute.
    pub fn connect(&self, node: usize) -> anyhow::Result<Client> {
        self.connect_as(node, "postgres", "postgres")
    }

    /// Connects as another role, to another database.
    pub fn connect_as(&self, node: usize, role: &str, database: &str) -> anyhow::Result<Client> {
        let mut client = Config::new()
            .host("127.0.0.1")
            .port(self.port(node))
            .user(role)
            .dbname(database)
            .connect_timeout(Duration::from_secs(10))
            .connect(NoTls)
            .map_err(|error| anyhow::anyhow!("node {node}: {}", describe(&error)))?;
        client
            .batch_execute(&format!("SET statement_timeout = {}", STATEMENT_TIME_MAX.as_millis()))
            .map_err(|error| anyhow::anyhow!("node {node}: {}", describe(&error)))?;
        Ok(client)
    }

    /// Connects for work that a disturbed node may not hold up for long: statements fail after a
    /// few seconds. A frozen server answers when it is thawed, its time-outs included.
    pub fn connect_briefly(&self, node: usize) -> anyhow::Result<Client> {
        let mut client = Config::new()
            .host("127.0.0.1")
            .port(self.port(node))
            .user("postgres")
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(1))
            .connect(NoTls)
            .map_err(|error| anyhow::anyhow!("node {node}: {}", describe(&error)))?;
        client
            .batch_execute("SET statement_timeout = '5s'")
            .map_err(|error| anyhow::anyhow!("node {node}: {}", describe(&error)))?;
        Ok(client)
    }

    /// Runs statements on a node, each simple-query string a transaction unless it says otherwise. As a client does, it
    /// runs them again when told to, in tests where others write too.
    pub fn run(&self, node: usize, sql: &str) -> anyhow::Result<()> {
        for _ in 1..TRIES_MAX {
            match self.connect(node)?.batch_execute(sql) {
                Err(error) if is_serialization_failure(&error) => {
                    eprintln!("node {node}: again: {sql}: {}", describe(&error));
                }
                other => return other.map_err(|error| anyhow::anyhow!("node {node}: {sql}: {}", describe(&error))),
            }
        }
        bail!("node {node}: {sql}: refused {TRIES_MAX} times with 40001")
    }

    /// Runs statements that must be refused, and returns the SQLSTATE and all that was said.
    pub fn refusal(&self, node: usize, sql: &str) -> anyhow::Result<(String, String)> {
        match self.connect(node)?.batch_execute(sql) {
            Ok(()) => bail!("node {node}: not refused: {sql}"),
            Err(error) => Ok((sqlstate(&error).to_owned(), describe(&error))),
        }
    }

    /// One value of one row.
    pub fn value<T>(&self, node: usize, sql: &str) -> anyhow::Result<T>
    where
        T: for<'a> postgres::types::FromSql<'a>,
    {
        let mut client = self.connect(node)?;
        let row =
            client.query_one(sql, &[]).map_err(|error| anyhow::anyhow!("node {node}: {sql}: {}", describe(&error)))?;
        Ok(row.try_get(0)?)
    }

    /// As `kill -9` of everything on the node.
    pub fn kill(&self, node: usize) -> anyhow::Result<()> {
        self.synod("kill", &[node.to_string()])
    }

    /// Stops a node in order.
    pub fn stop(&self, node: usize) -> anyhow::Result<()> {
        self.synod("stop", &[node.to_string()])
    }

    /// Starts a node; returns when its server accepts connections.
    pub fn start(&self, node: usize) -> anyhow::Result<()> {
        self.synod("start", &[node.to_string()])
    }

    /// Starts whatever does not run.
    pub fn up_again(&self) -> anyhow::Result<()> {
        self.synod("up", &[])
    }

    /// Stops every process of a node where it stands.
    pub fn freeze(&self, node: usize) -> anyhow::Result<()> {
        self.synod("freeze", &[node.to_string()])
    }

    /// Lets a frozen node go on.
    pub fn thaw(&self, node: usize) -> anyhow::Result<()> {
        self.synod("thaw", &[node.to_string()])
    }

    /// Sets a node's wall clock so far from the system's, and waits until its server has taken note.
    pub fn set_clock(&self, node: usize, offset_seconds: i64) -> anyhow::Result<()> {
        assert!(self.with_clocks, "the cluster's shape was made with clocks");
        clocks::set(&self.directory.join(format!("node{node}/data")), offset_seconds)?;
        // Between two answers of one system half a second is a long time.
        let told = "SELECT extract(epoch FROM clock_timestamp())::float8";
        wait_for("a server's clock is set", RECOVERY_TIME_MAX, || {
            let system = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
            let off_by = self.value::<f64>(node, told)? - system - offset_seconds as f64;
            anyhow::ensure!(off_by.abs() < 0.5, "node {node}'s clock is off by {off_by} s");
            Ok(())
        })
    }

    /// Adds a node to the cluster and its group; returns its number.
    pub fn add(&mut self) -> anyhow::Result<usize> {
        self.synod("add", &[])?;
        self.nodes += 1;
        Ok(self.nodes)
    }

    /// Makes tables on node 1 and replicates them: then every node in contact has them.
    pub fn replicate(&self, definitions: &str, tables: &[&str]) -> anyhow::Result<()> {
        self.run(1, definitions)?;
        for table in tables {
            self.run(1, &format!("SELECT paxos_replicate_table('local', '{table}')"))?;
        }
        Ok(())
    }

    /// Waits until a strong read and a write of that table succeed on a node.
    pub fn wait_for_service(&self, node: usize, table: &str) -> anyhow::Result<()> {
        wait_for("a node serves", RECOVERY_TIME_MAX, || self.run(node, &format!("SELECT FROM {table} LIMIT 1")))
    }

    /// Waits until a write has succeeded on every node. Entries that were in flight when nodes died
    /// are decided then: before, one of unknown outcome may still come to be seen between two
    /// reads, rightly.
    pub fn settle(&self, write: &str) -> anyhow::Result<()> {
        for node in self.all() {
            wait_for("a node takes a write", RECOVERY_TIME_MAX, || self.run(node, write))?;
        }
        Ok(())
    }

    /// The table's content on a node, by a strong read.
    pub fn checksum(&self, node: usize, table: &str) -> anyhow::Result<Checksum> {
        checksum(&mut self.connect(node)?, table)
    }

    /// Waits until every one of the nodes has the same content in the table, and returns it. With
    /// strong reads and nobody writing, the first look must show it already; the wait is for nodes
    /// that cannot serve yet.
    pub fn equal_checksums(&self, nodes: &[usize], table: &str) -> anyhow::Result<Checksum> {
        let of_all =
            || -> anyhow::Result<Vec<Checksum>> { nodes.iter().map(|node| self.checksum(*node, table)).collect() };
        let seen = wait_for("every node answers a strong read", RECOVERY_TIME_MAX, of_all)?;
        if seen.iter().any(|one| *one != seen[0]) {
            // Whether it stays so tells a stale read from divergence: both are failures.
            let later = wait_until("", Duration::from_secs(10), of_all, |seen| seen.iter().all(|one| *one == seen[0]));
            let verdict = match later {
                Ok(_) => "a strong read was stale: they became equal later",
                Err(_) => "the nodes have diverged",
            };
            bail!("{table} differs between nodes {nodes:?}: {seen:?}: {verdict}");
        }
        Ok(seen[0].clone())
    }

    /// As `equal_checksums`, on servers whose own defaults would render values differently or
    /// refuse the isolation level.
    pub fn equal_in_transaction(&self, nodes: &[usize], table: &str) -> anyhow::Result<Checksum> {
        let mut seen = Vec::new();
        for node in nodes {
            let mut client = self.connect(*node)?;
            client.batch_execute(
                "SET search_path = public; SET timezone = 'UTC'; SET datestyle = 'ISO'; \
                 SET default_transaction_isolation = 'read committed'",
            )?;
            seen.push(checksum(&mut client, table)?);
        }
        anyhow::ensure!(seen.iter().all(|one| *one == seen[0]), "{table} differs: {seen:?}");
        Ok(seen[0].clone())
    }

    /// All nodes' numbers.
    pub fn all(&self) -> Vec<usize> {
        (1..=self.nodes).collect()
    }

    /// Ends a test that has shown what it had to: the servers' logs must be free of crashes. A
    /// cluster that is dropped otherwise has failed, and its logs are kept.
    pub fn finish(self) -> anyhow::Result<()> {
        self.finish_unless(|_| false)
    }

    /// As `finish`, after a test that caused crashes: lines with these words are none of its failures.
    pub fn finish_despite(self, caused: &str) -> anyhow::Result<()> {
        self.finish_unless(|line| line.contains(caused))
    }

    fn finish_unless(mut self, is_caused: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        for node in 1..=self.nodes {
            let text = std::fs::read(self.log(node))?;
            let text = String::from_utf8_lossy(&text);
            let is_breakage = |line: &&str| BREAKAGES.iter().any(|breakage| line.contains(breakage));
            if let Some(line) = text.lines().filter(|line| !is_caused(line)).find(is_breakage) {
                bail!("node {node}'s log tells of a crash: {line}");
            }
        }
        self.is_finished = true;
        Ok(())
    }

    /// The lines of a node's server log with these words.
    pub fn log_lines(&self, node: usize, words: &str) -> anyhow::Result<Vec<String>> {
        let text = std::fs::read(self.log(node))?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().filter(|line| line.contains(words)).map(str::to_owned).collect())
    }

    fn log(&self, node: usize) -> PathBuf {
        self.directory.join(format!("node{node}/log"))
    }

    fn synod(&self, action: &str, arguments: &[String]) -> anyhow::Result<()> {
        let mut command = Command::new(synod());
        command.args(["local", action]).args(arguments).arg("--dir").arg(&self.directory);
        if self.with_clocks {
            clocks::interpose(&mut command)?;
        }
        let output = command.output().context("synod does not run")?;
        if self.with_clocks {
            clocks::remove_traces()?;
        }
        if output.status.success() {
            return Ok(());
        }
        bail!(
            "synod local {action} {arguments:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// What is left to look at after a failure: the servers' logs.
    fn keep_logs(&self) {
        let name = std::thread::current().name().unwrap_or("test").replace("::", "-");
        let place = target_directory()
            .parent()
            .map(|target| target.join("test-logs").join(name))
            .expect("the build's directory is below the target directory");
        if std::fs::create_dir_all(&place).is_err() {
            return;
        }
        for node in 1..=self.nodes {
            let log = self.log(node);
            // Best effort: the test has failed already, and says why itself.
            std::fs::copy(&log, place.join(format!("node{node}.log"))).ok();
            let text = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- the last lines of node {node}'s log");
            for line in &lines[lines.len().saturating_sub(15)..] {
                eprintln!("{line}");
            }
        }
        step(format!("the servers' logs are kept in {}", place.display()));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_finished {
            self.keep_logs();
        }
        // Closing its standard input sets the guard to work; waiting makes it part of the test.
        drop(self.guard.stdin.take());
        self.guard.wait().ok();
    }
}

/// A process that removes the cluster once our end of the pipe closes: on drop, on panic, and
/// also when the test itself is killed.
fn guard(directory: &Path) -> anyhow::Result<Child> {
    Command::new("/bin/sh")
        .args([
            "-c",
            "cat >/dev/null; test -e \"$2\" || exit 0; exec \"$1\" local down --kill --remove --dir \"$2\"",
            "guard",
        ])
        .arg(synod())
        .arg(directory)
        // What ends the test by a signal to its group leaves the guard alive.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("/bin/sh does not run")
}
