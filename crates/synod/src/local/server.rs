//! One node's PostgreSQL server: making its data directory, starting and stopping it.

use super::account::Account;
use super::directory::Directory;
use super::installation::Installation;
use super::ports;
use super::processes::{Processes, State};
use crate::failure::{Failure, Reason};
use std::path::PathBuf;
use std::process::{Command, Output};

/// How long a server may take to start: crash recovery of a busy server takes seconds.
const START_TIME_MAX_S: u32 = 120;

/// How long a server may take to stop in order before it is made to.
const STOP_TIME_MAX_S: u32 = 30;

/// How many lines of a server's log a failure shows.
const LOG_LINES_SHOWN: usize = 12;

/// One node's server.
pub struct Server<'a> {
    node: usize,
    directory: &'a Directory,
    installation: &'a Installation,
    account: &'a Account,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It was not running.
    Already,
    /// In order.
    InOrder,
    /// It did not within the time, and was killed.
    Killed,
}

impl<'a> Server<'a> {
    /// Node `node` of a cluster.
    pub fn new(
        node: usize,
        directory: &'a Directory,
        installation: &'a Installation,
        account: &'a Account,
    ) -> Server<'a> {
        Server { node, directory, installation, account }
    }

    /// Its number.
    pub fn node(&self) -> usize {
        self.node
    }

    /// Its processes.
    pub fn processes(&self) -> Processes {
        Processes::of(&self.data())
    }

    fn data(&self) -> PathBuf {
        self.directory.data(self.node)
    }

    /// Whether its data directory has been made.
    pub fn is_initialized(&self) -> bool {
        self.data().exists()
    }

    /// Makes the data directory, under another name until it is whole: what an interrupted run
    /// left half made is made anew, and a whole one is never touched.
    pub fn initialize(&self) -> Result<(), Failure> {
        assert!(!self.is_initialized(), "node {} holds data", self.node);
        let data = self.data();
        let unfinished = data.with_extension("unfinished");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)
                .map_err(|error| Failure::system(format!("cannot remove {}", unfinished.display()), error))?;
        }
        self.account.make_directory(data.parent().expect("below the cluster's directory"), 0o700)?;
        let mut initdb = self.installation.command("initdb", self.account);
        initdb
            .arg("--pgdata")
            .arg(&unfinished)
            .args(["--username", "postgres", "--auth", "trust"])
            .args(["--encoding", "UTF8", "--locale", "C.UTF-8"])
            // Not synced: a loss of power within its first minutes costs a cluster made to play with.
            .args(["--no-instructions", "--no-sync"]);
        let output = run(&mut initdb)?;
        if !output.status.success() {
            return Err(Failure::new(
                Reason::Server,
                format!("initdb failed for node {}", self.node),
                both_outputs(&output),
                "see to that and run it again",
            ));
        }
        let file = unfinished.join("postgresql.conf");
        let failed = |error| Failure::system(format!("cannot write {}", file.display()), error);
        let made_by_initdb = std::fs::read_to_string(&file).map_err(failed)?;
        // Written through the existing file, which keeps its owner.
        std::fs::write(&file, made_by_initdb + &self.settings()).map_err(failed)?;
        std::fs::rename(&unfinished, &data)
            .map_err(|error| Failure::system(format!("cannot rename {}", unfinished.display()), error))
    }

    fn settings(&self) -> String {
        let settings = &self.directory.settings;
        let mut lines = vec![
            "\n# Set by synod local:".to_owned(),
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("port = {}", self.directory.port(self.node)),
            format!("unix_socket_directories = {}", quoted(&self.directory.path().display().to_string())),
            format!("cluster_name = 'node{}'", self.node),
            "log_line_prefix = '%m [%p] %q%a '".to_owned(),
        ];
        if settings.with_extension {
            lines.push("shared_preload_libraries = 'pg_paxos'".to_owned());
        }
        lines.extend(settings.server_settings.iter().cloned());
        lines.push(String::new());
        lines.join("\n")
    }

    /// Starts the server, which must not be running, and waits until it accepts connections.
    pub fn start(&self) -> Result<(), Failure> {
        let state = self.processes().state();
        assert!(matches!(state, State::Stopped | State::Dying), "{state:?}");
        // What a crash left: children of a killed postmaster hold its shared memory, and lock
        // files may name a process that has ended. The server refuses to start beside either.
        self.processes().kill_all()?;
        self.processes()
            .forget_dead_postmaster(&[self.data().join("postmaster.pid"), self.directory.socket_lock(self.node)])?;
        ports::check_free(self.node, self.directory.port(self.node))?;
        let log = self.directory.log(self.node);
        let log_length_before = std::fs::metadata(&log).map_or(0, |found| found.len());
        let mut pg_ctl = self.installation.command("pg_ctl", self.account);
        pg_ctl
            .args(["start", "--wait", "--silent"])
            .args(["--timeout", &START_TIME_MAX_S.to_string()])
            .arg("--pgdata")
            .arg(self.data())
            .arg("--log")
            .arg(&log);
        let output = run(&mut pg_ctl)?;
        if output.status.success() {
            return Ok(());
        }
        let said = std::fs::read(&log).unwrap_or_default();
        let said =
            String::from_utf8_lossy(said.get(usize::try_from(log_length_before).unwrap_or(0)..).unwrap_or_default())
                .into_owned();
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
        let why = match tail.is_empty() {
            true => both_outputs(&output),
            false => tail,
        };
        Err(Failure::new(
            Reason::Server,
            format!("node {} did not start", self.node),
            why,
            format!("the whole log is {}", log.display()),
        ))
    }

    /// Stops the server in order: clients are cut off, what is written is written out. A frozen
    /// one is let go on first. One that does not end in time is killed.
    pub fn stop(&self) -> Result<Stopped, Failure> {
        let processes = self.processes();
        match processes.state() {
            State::Stopped => return Ok(Stopped::Already),
            State::Frozen { .. } => {
                processes.thaw()?;
            }
            State::Running { .. } => {}
            State::Dying => {
                processes.kill_all()?;
                return Ok(Stopped::Killed);
            }
        }
        let mut pg_ctl = self.installation.command("pg_ctl", self.account);
        pg_ctl
            .args(["stop", "--mode", "fast", "--wait", "--silent"])
            .args(["--timeout", &STOP_TIME_MAX_S.to_string()])
            .arg("--pgdata")
            .arg(self.data());
        let output = run(&mut pg_ctl)?;
        // The last that a server does is to remove its file, which pg_ctl waits for: what is left by then is about to end.
        processes.kill_all()?;
        match output.status.success() {
            true => Ok(Stopped::InOrder),
            false => Ok(Stopped::Killed),
        }
    }
}

fn run(command: &mut Command) -> Result<Output, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.output().map_err(|error| Failure::system(format!("cannot run {program}"), error))
}

fn both_outputs(output: &Output) -> String {
    let text =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned()).join("\n");
    match text.trim() {
        "" => format!("it ended with {}", output.status),
        said => said.to_owned(),
    }
}

/// A value for postgresql.conf.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}
