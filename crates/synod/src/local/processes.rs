//! The processes of one node: its postmaster and all that came from it.
//!
//! A postmaster's children each lead a session of their own, so its process group does not hold
//! them. They are found in /proc instead: the descendants of the postmaster, and every `postgres`
//! process whose working directory is the node's data directory (PostgreSQL changes into it at
//! start), which also finds children that outlived their postmaster. A process is signalled
//! through a pidfd that was opened before the process was looked at, so a number that the system
//! has given to another process meanwhile cannot be hit.

use crate::failure::{Failure, Reason};
use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes may take to vanish. The kernel needs milliseconds, unless a process
/// hangs in a disk that does not answer.
const VANISH_TIME_MAX: Duration = Duration::from_secs(20);

/// How often to look again while waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What a look at a node's processes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No process.
    Stopped,
    /// The postmaster lives.
    Running {
        /// Its process id.
        postmaster: i32,
    },
    /// The postmaster is stopped by SIGSTOP.
    Frozen {
        /// Its process id.
        postmaster: i32,
    },
    /// The postmaster is gone, some of its children are not yet.
    Dying,
}

/// The processes of the node with the given data directory.
#[derive(Debug)]
pub struct Processes {
    data: PathBuf,
}

/// What /proc says about one process.
struct Seen {
    parent: i32,
    /// Whether it is a `postgres` that works in our data directory.
    is_ours: bool,
    is_frozen: bool,
}

impl Processes {
    /// Of the node whose data directory this is, which must be an absolute path without links.
    pub fn of(data: &Path) -> Processes {
        assert!(data.is_absolute(), "a relative path matches no process");
        Processes { data: data.to_path_buf() }
    }

    /// The postmaster named by PostgreSQL's pid file, if it lives and is this node's: a file left
    /// by a crash may name a process that is something else by now.
    pub fn postmaster(&self) -> Option<i32> {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let pid: i32 = file.lines().next()?.trim().parse().ok()?;
        self.look(pid).filter(|seen| seen.is_ours).map(|_| pid)
    }

    /// What state the node is in.
    pub fn state(&self) -> State {
        match self.postmaster() {
            Some(postmaster) => match self.look(postmaster) {
                Some(seen) if seen.is_frozen => State::Frozen { postmaster },
                _ => State::Running { postmaster },
            },
            None if self.all().is_empty() => State::Stopped,
            None => State::Dying,
        }
    }

    /// Ends every process of the node with SIGKILL, and waits until none is left. Returns how
    /// many there were.
    pub fn kill_all(&self) -> Result<usize, Failure> {
        let deadline = Instant::now() + VANISH_TIME_MAX;
        let mut killed = BTreeSet::new();
        loop {
            let mut pids = self.all();
            if pids.is_empty() {
                return Ok(killed.len());
            }
            if Instant::now() > deadline {
                return Err(Failure::new(
                    Reason::Server,
                    format!("processes of {} do not end", self.data.display()),
                    format!("{pids:?} were sent SIGKILL and are still there"),
                    "look at the disk under it: a process that waits for one cannot be killed",
                ));
            }
            // The postmaster first: it starts no further children then. `all` puts it there.
            for pid in pids.drain(..) {
                if self.signal(pid, Signal::KILL)? {
                    killed.insert(pid);
                }
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Removes PostgreSQL's lock files (pid file, socket lock) that a crash left behind. A server
    /// does not start while one of them names a process id that exists, and a dead postmaster's
    /// does until its parent has asked for its status, which init does when it pleases (and
    /// process 1 of many a container never).
    pub fn forget_dead_postmaster(&self, lock_files: &[PathBuf]) -> Result<(), Failure> {
        assert!(self.all().is_empty(), "the node is running");
        for file in lock_files {
            let named = std::fs::read_to_string(file).ok().and_then(|text| text.lines().next()?.trim().parse().ok());
            if named.is_some_and(is_zombie) {
                std::fs::remove_file(file)
                    .map_err(|error| Failure::system(format!("cannot remove {}", file.display()), error))?;
            }
        }
        Ok(())
    }

    /// Stops every process of the node where it stands, as a hung machine would; returns how many,
    /// once every thread of theirs stands still.
    pub fn freeze(&self) -> Result<usize, Failure> {
        let deadline = Instant::now() + VANISH_TIME_MAX;
        // The postmaster stands first in the list and starts nothing once it is stopped; a child
        // it started just before is found by looking again.
        let mut frozen = BTreeSet::new();
        loop {
            let all = self.all();
            for pid in &all {
                if !frozen.contains(pid) {
                    self.signal(*pid, Signal::STOP)?;
                    frozen.insert(*pid);
                }
            }
            // A signal reaches one thread, which then stops the others: not at once on a busy
            // machine.
            if all.iter().all(|pid| frozen.contains(pid) && is_still(*pid)) {
                return Ok(all.len());
            }
            if Instant::now() > deadline {
                return Err(Failure::new(
                    Reason::Server,
                    format!("processes of {} do not stop", self.data.display()),
                    format!("{all:?} were sent SIGSTOP, and some still run"),
                    "look at the disk under it: a process that waits for one cannot be stopped",
                ));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Lets a frozen node go on.
    pub fn thaw(&self) -> Result<usize, Failure> {
        let pids = self.all();
        for pid in &pids {
            self.signal(*pid, Signal::CONT)?;
        }
        Ok(pids.len())
    }

    /// All processes of the node, the postmaster first.
    fn all(&self) -> Vec<i32> {
        let seen: BTreeMap<i32, Seen> = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, self.look(pid)?)))
            .collect();
        let mut ours: BTreeSet<i32> = seen.iter().filter(|(_, process)| process.is_ours).map(|(pid, _)| *pid).collect();
        // Programs that a server started (COPY ... FROM PROGRAM) belong to the node too.
        loop {
            let descendants: Vec<i32> = seen
                .iter()
                .filter(|(pid, process)| ours.contains(&process.parent) && !ours.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if descendants.is_empty() {
                break;
            }
            ours.extend(descendants);
        }
        let postmaster = self.postmaster();
        let mut ordered: Vec<i32> = postmaster.into_iter().collect();
        ordered.extend(ours.into_iter().filter(|pid| Some(*pid) != postmaster));
        ordered
    }

    fn look(&self, pid: i32) -> Option<Seen> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
        // The name, in parentheses, may hold anything; the fields that follow it may not.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        if matches!(state, "Z" | "X") {
            return None; // Ended; only its parent has not asked for its status yet.
        }
        let is_postgres = match std::fs::read_link(directory.join("exe")) {
            Ok(program) => {
                let name = program.file_name().unwrap_or_default().to_string_lossy();
                // A package upgrade replaces the program under a running server.
                name.trim_end_matches(" (deleted)") == "postgres"
            }
            // One that is ending has no program any more, but sockets still, and its name.
            Err(_) => stat.contains("(postgres)"),
        };
        let works_here = std::fs::read_link(directory.join("cwd")).is_ok_and(|place| place == self.data);
        Some(Seen { parent, is_ours: is_postgres && works_here, is_frozen: state == "T" })
    }

    /// Sends a signal to a process found before; false if it has ended meanwhile.
    fn signal(&self, pid: i32, signal: Signal) -> Result<bool, Failure> {
        let Some(target) = Pid::from_raw(pid) else {
            return Ok(false);
        };
        let Ok(descriptor) = pidfd_open(target, PidfdFlags::empty()) else {
            return Ok(false);
        };
        // From here on the number is pinned to one process: is it still the one that we mean?
        let Some(seen) = self.look(pid) else {
            return Ok(false);
        };
        let is_child = |seen: &Seen| self.look(seen.parent).is_some_and(|parent| parent.is_ours);
        if !seen.is_ours && !is_child(&seen) {
            return Ok(false);
        }
        match pidfd_send_signal(&descriptor, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => {
                Err(Failure::system(format!("cannot signal process {pid} of {}", self.data.display()), error.into()))
            }
        }
    }
}

/// Whether every thread of a process is stopped (or the process has ended).
fn is_still(pid: i32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        std::fs::read_to_string(thread.path().join("stat")).map_or(true, |stat| {
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 'Z', 'X']))
        })
    })
}

/// Whether a process has ended without its parent having asked for its status.
fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with(['Z', 'X'])))
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_that_names_a_stranger_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let own = std::process::id();
        std::fs::write(directory.path().join("postmaster.pid"), format!("{own}\n")).unwrap();
        let processes = Processes::of(directory.path());
        assert_eq!(processes.postmaster(), None);
        assert_eq!(processes.state(), State::Stopped);
        assert_eq!(processes.kill_all().unwrap(), 0);
    }
}
