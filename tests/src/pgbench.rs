//! pgbench, unmodified, as a load whose log says which transactions were acknowledged.

use crate::environment::installation_bindir;
use crate::Cluster;
use anyhow::{bail, Context};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running pgbench.
#[derive(Debug)]
pub struct Load {
    node: usize,
    process: Child,
    place: TempDir,
    started: Instant,
    clients: usize,
}

/// What a pgbench run is to do.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// How many clients.
    pub clients: usize,
    /// For how long.
    pub duration: Duration,
    /// A script of one's own; TPC-B if none.
    pub script: Option<String>,
    /// How often a transaction that met a conflict is tried again.
    pub tries_max: u32,
}

/// What a pgbench run has done.
#[derive(Debug)]
pub struct Report {
    /// On which node.
    pub node: usize,
    /// Lines of its log: transactions whose commit was acknowledged.
    pub acknowledged: usize,
    /// Transactions given up after too many conflicts.
    pub out_of_tries: usize,
    /// Conflicts met and tried again.
    pub retries: u64,
    /// How long it ran.
    pub duration: Duration,
    /// How many clients it had.
    pub clients: usize,
    /// Mean latency of the acknowledged transactions, as pgbench measured it.
    pub latency_mean: Duration,
    /// Whether it ran to its end.
    pub success: bool,
    /// What it said on standard error.
    pub complaints: String,
}

impl Report {
    /// Acknowledged transactions per second.
    pub fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.duration.as_secs_f64()
    }

    /// Lines of standard error that tell of an error, conflicts (which are tried again) aside.
    pub fn errors(&self) -> Vec<&str> {
        self.complaints
            .lines()
            .filter(|line| line.contains("error:") || line.contains("ERROR") || line.contains("aborted"))
            .collect()
    }
}

/// `pgbench -i` on a node, before the tables are replicated.
pub fn initialize(cluster: &Cluster, node: usize, scale: u32) -> anyhow::Result<()> {
    let output = pgbench(cluster, node)
        .args(["-i", "-q", "-s", &scale.to_string(), "postgres"])
        .output()
        .context("pgbench does not run")?;
    if !output.status.success() {
        bail!("pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn pgbench(cluster: &Cluster, node: usize) -> Command {
    let mut command = Command::new(installation_bindir().join("pgbench"));
    command
        .args(["-h", "127.0.0.1", "-U", "postgres"])
        .args(["-p", &cluster.port(node).to_string()])
        .stdin(Stdio::null());
    command
}

impl Load {
    /// Starts pgbench against a node.
    pub fn start(cluster: &Cluster, node: usize, options: &LoadOptions) -> anyhow::Result<Load> {
        let place = tempfile::tempdir()?;
        let mut command = pgbench(cluster, node);
        command
            .current_dir(place.path())
            .args(["-n", "-l", "--log-prefix=acknowledged", "-M", "prepared"])
            .arg(format!("--max-tries={}", options.tries_max))
            .args(["-c", &options.clients.to_string()])
            .args(["-j", &options.clients.min(2).to_string()])
            .args(["-T", &options.duration.as_secs().to_string()])
            .stdout(File::create(place.path().join("out"))?)
            .stderr(File::create(place.path().join("err"))?);
        if let Some(script) = &options.script {
            std::fs::write(place.path().join("script.sql"), script)?;
            command.args(["-f", "script.sql"]);
        }
        let process = command.arg("postgres").spawn().context("pgbench does not run")?;
        Ok(Load { node, process, place, started: Instant::now(), clients: options.clients })
    }

    /// Waits for its end.
    pub fn report(mut self) -> anyhow::Result<Report> {
        let status = self.process.wait()?;
        let mut report = Report {
            node: self.node,
            acknowledged: 0,
            out_of_tries: 0,
            retries: 0,
            duration: self.started.elapsed(),
            clients: self.clients,
            latency_mean: Duration::ZERO,
            success: status.success(),
            complaints: std::fs::read_to_string(self.place.path().join("err"))?,
        };
        let mut microseconds = 0_u64;
        for log in self.logs()? {
            let text = std::fs::read_to_string(&log)?;
            let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
            // A killed pgbench may leave half a line; that transaction was acknowledged to nobody.
            if lines.last().is_some_and(|line| !line.ends_with('\n')) {
                lines.pop();
            }
            for line in lines {
                let fields: Vec<&str> = line.split_whitespace().collect();
                match fields.get(2) {
                    Some(time) if time.bytes().all(|byte| byte.is_ascii_digit()) => {
                        report.acknowledged += 1;
                        microseconds += time.parse::<u64>()?;
                    }
                    Some(_) => report.out_of_tries += 1,
                    None => bail!("{}: not a line of pgbench's log: {line:?}", log.display()),
                }
                if let Some(retries) = fields.get(6) {
                    report.retries += retries.parse::<u64>()?;
                }
            }
        }
        if report.acknowledged > 0 {
            report.latency_mean = Duration::from_micros(microseconds / report.acknowledged as u64);
        }
        Ok(report)
    }

    fn logs(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut logs = Vec::new();
        for entry in std::fs::read_dir(self.place.path())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("acknowledged.") {
                logs.push(entry.path());
            }
        }
        Ok(logs)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After `report` it has ended; otherwise the test has failed, and takes it along.
        if matches!(self.process.try_wait(), Ok(None)) {
            self.process.kill().ok();
            self.process.wait().ok();
        }
    }
}
