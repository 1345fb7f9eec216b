//! A witness beside a test's cluster: `synod node`, which holds no tables.

use crate::environment::{synod, target_directory};
use crate::{wait_until, Cluster, RECOVERY_TIME_MAX};
use anyhow::Context;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// Far above the nodes of any cluster, in its range of ports.
const PORT_NUMBER: usize = 15;
const ENGINE_PORT_DISTANCE: u16 = 10_000;

/// A witness process; gone when dropped, with its directory.
#[derive(Debug)]
pub struct Witness {
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    address: String,
    process: Option<Child>,
}

impl Witness {
    /// Starts one, has it join the cluster's group through node 1, and waits until it votes.
    pub fn of(cluster: &Cluster) -> anyhow::Result<Witness> {
        let directory = tempfile::tempdir()?;
        let address = format!("127.0.0.1:{}", cluster.port(PORT_NUMBER) + ENGINE_PORT_DISTANCE);
        let member = cluster.connection_string(1);
        let arguments = ["node", "--listen", &address, "--join-as-witness", "local", "--member", &member];
        let arguments = arguments.map(str::to_owned).to_vec();
        let mut witness = Witness { directory, arguments, address, process: None };
        witness.start()?;
        witness.await_role(cluster, 1)?;
        Ok(witness)
    }

    /// Waits until a node shows it as a witness in contact.
    pub fn await_role(&self, cluster: &Cluster, node: usize) -> anyhow::Result<()> {
        let sql = format!(
            "SELECT coalesce((SELECT role || ' ' || is_live FROM pg_stat_paxos WHERE address = '{}'), 'none')",
            self.address
        );
        let look = || cluster.value::<String>(node, &sql);
        wait_until("the witness votes", RECOVERY_TIME_MAX, look, |role| role == "witness true").map(|_| ())
    }

    /// Starts it again in its directory.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.directory.path().with_extension("log"))?;
        let process = Command::new(synod())
            .args(&self.arguments)
            .arg("--dir")
            .arg(self.directory.path().join("node"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("synod does not run")?;
        self.process = Some(process);
        Ok(())
    }

    /// As `kill -9`.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn await_end(&mut self) -> anyhow::Result<ExitStatus> {
        let mut process = self.process.take().context("it does not run")?;
        let look = || Ok(process.try_wait()?);
        let ended = wait_until("the witness ends", Duration::from_secs(30), look, Option::is_some);
        Ok(ended?.expect("just seen"))
    }

    /// Where the members reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Bytes of its directory on the disk.
    pub fn bytes_on_disk(&self) -> anyhow::Result<u64> {
        bytes_below(self.directory.path())
    }
}

fn bytes_below(directory: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { bytes_below(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.kill().ok();
        let log = self.directory.path().with_extension("log");
        if std::thread::panicking() {
            eprintln!("--- the witness said\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        let kept = target_directory().join("witness.log");
        // Best effort: only somebody who looks into a failure reads it.
        std::fs::copy(&log, kept).ok();
        std::fs::remove_file(&log).ok();
    }
}
