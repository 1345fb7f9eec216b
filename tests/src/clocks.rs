//! The servers' wall clocks, in our hands: each node has one of its own, which can be set while the servers run, as by an
//! operator or a wrong time server. libfaketime stands between the servers and the C library; nobody's privileges are
//! needed. Monotonic clocks are left alone, as the system leaves them alone when somebody sets its clock.

use anyhow::{ensure, Context};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The one for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// Where Debian keeps libraries: below it, in a folder per architecture.
const LIBRARIES: &str = "/usr/lib";

/// A server's working directory is its data directory, so a relative name is a file of each node's own.
const OFFSET_FILE: &str = "faketime.offset";

/// How long a process may go on with the offset that it read last.
const CACHED_SECONDS: &str = "1";

/// Makes a command's process, and the servers that it starts, ask for the time here.
///
/// # Errors
/// If libfaketime is not installed.
pub(crate) fn interpose(command: &mut Command) -> anyhow::Result<()> {
    let library = library().context(
        "libfaketime is missing, which sets the clock of one server alone: scripts/setup installs it (package faketime)",
    )?;
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", OFFSET_FILE)
        .env("FAKETIME_CACHE_DURATION", CACHED_SECONDS)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Ok(())
}

/// Sets the clock of the server with this data directory so far from the system's.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn set(data: &Path, offset_seconds: i64) -> anyhow::Result<()> {
    // Servers read it at any time: it is there whole or not at all.
    let written = data.join("faketime.next");
    std::fs::write(&written, format!("{offset_seconds:+}\n"))?;
    std::fs::rename(&written, data.join(OFFSET_FILE))?;
    Ok(())
}

/// Removes the shared memory that libfaketime keeps in the name of a program's first process, and leaves when that is
/// gone. Servers that were started by it have it open and go on; nobody else looks for it by name.
pub(crate) fn remove_traces() -> anyhow::Result<()> {
    for file in std::fs::read_dir("/dev/shm")? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        let process = ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|prefix| name.strip_prefix(prefix));
        let is_left = process.is_some_and(|process| !Path::new("/proc").join(process).exists());
        if is_left {
            // Another test run may do the same at this moment.
            std::fs::remove_file(file.path()).ok();
        }
    }
    Ok(())
}

fn library() -> anyhow::Result<PathBuf> {
    let folders = std::fs::read_dir(LIBRARIES)?.filter_map(Result::ok).map(|folder| folder.path().join(LIBRARY));
    let found: Vec<PathBuf> = folders.filter(|path| path.is_file()).collect();
    ensure!(!found.is_empty(), "no {LIBRARIES}/*/{LIBRARY}");
    Ok(found[0].clone())
}
