//! What a test run is given from outside.

use std::path::PathBuf;
use std::process::Command;

/// How much a test does: enough for every change, or all that the claim says.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// In continuous integration.
    pub quick: u64,
    /// In `make full-stories`.
    pub full: u64,
}

impl Size {
    /// The number for this run.
    pub fn now(self) -> u64 {
        match is_full_size() {
            true => self.full,
            false => self.quick,
        }
    }
}

/// Whether this is a run at full size (`SYNOD_TEST_SIZE=full`).
pub fn is_full_size() -> bool {
    std::env::var("SYNOD_TEST_SIZE").is_ok_and(|size| size == "full")
}

/// Opens a phase of a test's story: says what is being shown next.
pub fn step(what: impl AsRef<str>) {
    eprintln!("--- {}", what.as_ref());
}

/// The `synod` binary of this build: SYNOD, or the one beside the test programs.
pub(crate) fn synod() -> PathBuf {
    if let Some(named) = std::env::var_os("SYNOD") {
        return named.into();
    }
    let beside = target_directory().join("synod");
    assert!(beside.is_file(), "{} is missing: build the workspace first (make build)", beside.display());
    beside
}

/// The directory of this build's programs: target/release, mostly.
pub(crate) fn target_directory() -> PathBuf {
    let program = std::env::current_exe().expect("the system knows which program runs");
    let mut directory = program.parent().expect("a program has a directory");
    if directory.ends_with("deps") {
        directory = directory.parent().expect("deps is in a directory");
    }
    directory.to_path_buf()
}

/// Where what is left of failures is kept: beside the build.
pub(crate) fn kept_directory() -> anyhow::Result<PathBuf> {
    let target = target_directory();
    let place = target.parent().expect("the build's directory is below the target directory").join("test-logs");
    std::fs::create_dir_all(&place)?;
    Ok(place)
}

/// Where the programs of the PostgreSQL under test are: PG_CONFIG's, or Debian's.
pub fn installation_bindir() -> PathBuf {
    let debian = "/usr/lib/postgresql/15/bin/pg_config";
    let pg_config = std::env::var("PG_CONFIG").unwrap_or_else(|_| debian.to_owned());
    let output = Command::new(&pg_config)
        .arg("--bindir")
        .output()
        .unwrap_or_else(|error| panic!("{pg_config} does not run: {error}; run scripts/setup"));
    String::from_utf8_lossy(&output.stdout).trim().into()
}
