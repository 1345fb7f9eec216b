//! Which operating-system user the servers run as. PostgreSQL refuses root, so root hands its
//! servers and their directories to `postgres`; anybody else runs them as themselves.

use crate::failure::{Failure, Reason};
use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const SERVER_ACCOUNT: &str = "postgres";

/// The user whom servers and their files belong to.
#[derive(Debug, Clone)]
pub struct Account {
    /// Set only where we are root and must change to it.
    change_to: Option<(u32, u32)>,
}

impl Account {
    /// The servers' user: `postgres` for root, oneself otherwise.
    pub fn find() -> Result<Account, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account { change_to: None });
        }
        let id = |option: &str| -> Option<u32> {
            // Asks the system rather than /etc/passwd, so that directory services count too.
            let output = Command::new("id").args([option, SERVER_ACCOUNT]).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        match (id("-u"), id("-g")) {
            (Some(user), Some(group)) if user != 0 => Ok(Account { change_to: Some((user, group)) }),
            _ => Err(Failure::new(
                Reason::Missing,
                format!("there is no user {SERVER_ACCOUNT}"),
                "PostgreSQL does not run as root, so root's servers run as that user",
                "install PostgreSQL (scripts/setup does), which makes the user, or run synod as an ordinary user",
            )),
        }
    }

    /// How progress lines name it.
    pub fn name(&self) -> String {
        match self.change_to {
            Some(_) => format!("user {SERVER_ACCOUNT}"),
            None => "the present user".to_owned(),
        }
    }

    /// A command that will run as this user, with a neutral locale and without PostgreSQL's
    /// own environment variables, which would redirect it to other servers.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some((user, group)) = self.change_to {
            // The standard library drops the supplementary groups too when it changes the user.
            command.uid(user).gid(group).env("HOME", "/");
        }
        command
    }

    /// Makes a directory of this user's with the given permissions; an existing one is adopted.
    pub fn make_directory(&self, path: &Path, mode: u32) -> Result<(), Failure> {
        let what = || format!("cannot make the directory {}", path.display());
        std::fs::create_dir_all(path).map_err(|error| Failure::system(what(), error))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(|error| Failure::system(what(), error))?;
        if let Some((user, group)) = self.change_to {
            chown(path, Some(user), Some(group)).map_err(|error| Failure::system(what(), error))?;
        }
        Ok(())
    }

    /// Checks that the user can walk into a directory: one below /root, say, it cannot.
    pub fn check_reach(&self, path: &Path) -> Result<(), Failure> {
        let reached = self
            .command(Path::new("/bin/sh"))
            .args(["-c", "cd -- \"$1\" && test -w .", "sh"])
            .arg(path)
            .output()
            .map_err(|error| Failure::system("cannot run /bin/sh", error))?;
        if reached.status.success() {
            return Ok(());
        }
        // The shell tells what it cannot enter; that it cannot write, it does not say.
        let said = String::from_utf8_lossy(&reached.stderr);
        let why = said.lines().next().map(|line| format!(" ({line})")).unwrap_or_default();
        Err(Failure::new(
            Reason::Directory,
            format!("the servers cannot use {}", path.display()),
            format!("they run as {}, who may not enter a directory above it or write in it{why}", self.name()),
            "choose a directory that everybody can reach, such as one below /tmp or /var/lib",
        ))
    }
}
