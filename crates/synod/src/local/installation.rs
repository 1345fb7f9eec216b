//! Which PostgreSQL installation a cluster runs on. PostgreSQL can be moved as a whole, so a copy
//! under a private prefix serves as well as the system's; `--bindir` or PG_CONFIG choose it.

use super::account::Account;
use crate::failure::{Failure, Reason};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The major version that the extension is built for.
pub const POSTGRESQL_MAJOR: u32 = 15;

/// Where Debian's packages put that version's programs.
const DEBIAN_BINDIR: &str = "/usr/lib/postgresql/15/bin";

/// The programs that a cluster needs.
const PROGRAMS: [&str; 4] = ["initdb", "pg_ctl", "postgres", "pg_config"];

/// A usable PostgreSQL installation.
#[derive(Debug, Clone)]
pub struct Installation {
    bindir: PathBuf,
    version: String,
}

impl Installation {
    /// Finds the installation: the given directory of programs, else the one PG_CONFIG names,
    /// else Debian's, else the one of the `pg_config` on the path. It must be complete and of
    /// the right version.
    pub fn find(bindir: Option<&Path>) -> Result<Installation, Failure> {
        let bindir = match bindir {
            Some(given) => given.to_path_buf(),
            None => Installation::search()?,
        };
        for program in PROGRAMS {
            if !bindir.join(program).is_file() {
                return Err(Failure::new(
                    Reason::Missing,
                    format!("the program {program} is missing"),
                    format!("it is not in {}", bindir.display()),
                    "install PostgreSQL 15 (scripts/setup does), or name its programs' directory with --bindir or PG_CONFIG",
                ));
            }
        }
        let version = ask_pg_config(&bindir.join("pg_config"), "--version")?;
        let major = version
            .split_whitespace()
            .nth(1)
            .and_then(|number| number.split(|c: char| !c.is_ascii_digit()).next())
            .and_then(|digits| digits.parse::<u32>().ok());
        if major != Some(POSTGRESQL_MAJOR) {
            return Err(Failure::new(
                Reason::Missing,
                format!("{} does not fit", version),
                format!("pg_paxos is built for PostgreSQL {POSTGRESQL_MAJOR}"),
                format!("install PostgreSQL {POSTGRESQL_MAJOR} beside it (scripts/setup does), or name its programs' directory with --bindir or PG_CONFIG"),
            ));
        }
        Ok(Installation { bindir, version })
    }

    fn search() -> Result<PathBuf, Failure> {
        if let Some(named) = std::env::var_os("PG_CONFIG").filter(|value| !value.is_empty()) {
            return Ok(ask_pg_config(Path::new(&named), "--bindir")?.into());
        }
        if Path::new(DEBIAN_BINDIR).is_dir() {
            return Ok(DEBIAN_BINDIR.into());
        }
        Ok(ask_pg_config(Path::new("pg_config"), "--bindir")?.into())
    }

    /// The directory of its programs.
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// As `pg_config --version` gives it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// One of its programs, to be run as the servers' user.
    pub fn command(&self, program: &str, account: &Account) -> Command {
        account.command(&self.bindir.join(program))
    }

    /// Checks that the extension is installed: the library and the files of CREATE EXTENSION.
    pub fn check_extension(&self) -> Result<(), Failure> {
        let pg_config = self.bindir.join("pg_config");
        let library = PathBuf::from(ask_pg_config(&pg_config, "--pkglibdir")?).join("pg_paxos.so");
        let control = PathBuf::from(ask_pg_config(&pg_config, "--sharedir")?).join("extension/pg_paxos.control");
        for file in [library, control] {
            if !file.is_file() {
                return Err(Failure::new(
                    Reason::Missing,
                    "the extension pg_paxos is not installed",
                    format!("{} is missing", file.display()),
                    format!("run: make install PG_CONFIG={}", self.bindir.join("pg_config").display()),
                ));
            }
        }
        Ok(())
    }
}

fn ask_pg_config(pg_config: &Path, question: &str) -> Result<String, Failure> {
    let failed = |why: String| {
        Failure::new(
            Reason::Missing,
            format!("{} does not answer", pg_config.display()),
            why,
            "install PostgreSQL 15 (scripts/setup does), or name its programs' directory with --bindir or PG_CONFIG",
        )
    };
    let output = Command::new(pg_config).arg(question).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("{question} ended with {}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
