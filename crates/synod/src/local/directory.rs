//! The directory of a cluster: its layout, its settings file, its lock.

use super::account::Account;
use super::ports::server_port;
use crate::failure::{Failure, Reason};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The file that makes a directory a cluster.
const SETTINGS_FILE: &str = "synod-local.conf";

/// Keeps two commands from changing one cluster at once.
const LOCK_FILE: &str = "synod-local.lock";

/// The first line of the settings file; another version means another layout.
const HEADING: &str = "synod local cluster, version 1";

/// `sun_path` of a Unix socket address holds 108 bytes, the last a zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How a cluster was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How many nodes it has, numbered from 1.
    pub nodes: usize,
    /// Node N's server listens on this plus N.
    pub port_base: u16,
    /// Where PostgreSQL's programs are.
    pub bindir: PathBuf,
    /// Whether the servers load pg_paxos.
    pub with_extension: bool,
    /// Whether the nodes form the group `local`.
    pub with_group: bool,
    /// Further lines for every node's postgresql.conf, each `name = value`.
    pub server_settings: Vec<String>,
}

impl Settings {
    fn to_text(&self) -> String {
        let mut text = format!(
            "{HEADING}\nnodes {}\nport_base {}\nbindir {}\nwith_extension {}\nwith_group {}\n",
            self.nodes,
            self.port_base,
            self.bindir.display(),
            self.with_extension,
            self.with_group
        );
        for line in &self.server_settings {
            text.push_str(&format!("set {line}\n"));
        }
        text
    }

    fn parse(text: &str) -> Option<Settings> {
        let mut lines = text.lines();
        if lines.next()? != HEADING {
            return None;
        }
        let (mut nodes, mut port_base, mut bindir) = (None, None, None);
        let (mut with_extension, mut with_group) = (None, None);
        let mut server_settings = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(' ')?;
            match name {
                "nodes" => nodes = Some(value.parse().ok()?),
                "port_base" => port_base = Some(value.parse().ok()?),
                "bindir" => bindir = Some(PathBuf::from(value)),
                "with_extension" => with_extension = Some(value.parse().ok()?),
                "with_group" => with_group = Some(value.parse().ok()?),
                "set" => server_settings.push(value.to_owned()),
                _ => return None,
            }
        }
        Some(Settings {
            nodes: nodes?,
            port_base: port_base?,
            bindir: bindir?,
            with_extension: with_extension?,
            with_group: with_group?,
            server_settings,
        })
    }
}

/// A cluster's directory, its settings read.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// How the cluster was made.
    pub settings: Settings,
}

impl Directory {
    /// Opens an existing cluster; a directory that is none is refused.
    pub fn open(path: &Path) -> Result<Directory, Failure> {
        match Directory::read(path)? {
            Some(directory) => Ok(directory),
            None => Err(Failure::new(
                Reason::Directory,
                format!("{} is no local cluster", path.display()),
                match path.exists() {
                    true => format!("it has no file {SETTINGS_FILE}"),
                    false => "it does not exist".to_owned(),
                },
                "name the directory of a cluster, or make a new one: synod local up --nodes 3 --dir DIR",
            )),
        }
    }

    /// Opens a cluster if there is one. A directory that holds something else is refused.
    pub fn open_if_any(path: &Path) -> Result<Option<Directory>, Failure> {
        let found = Directory::read(path)?;
        let holds_other_files = || {
            std::fs::read_dir(path)
                .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOCK_FILE)))
        };
        if found.is_none() && holds_other_files() {
            return Err(Failure::new(
                Reason::Directory,
                format!("{} is no local cluster", path.display()),
                format!("it holds files, but no {SETTINGS_FILE}"),
                "choose a directory that is empty or does not exist",
            ));
        }
        Ok(found)
    }

    fn read(path: &Path) -> Result<Option<Directory>, Failure> {
        let file = path.join(SETTINGS_FILE);
        match std::fs::read_to_string(&file) {
            Ok(text) => match Settings::parse(&text) {
                Some(settings) => Ok(Some(Directory { path: real_path(path)?, settings })),
                None => Err(Failure::new(
                    Reason::Directory,
                    format!("{} cannot be read", file.display()),
                    "it is damaged, or another version of synod wrote it",
                    format!(
                        "use that version, or remove the cluster: stop its servers with pg_ctl, then rm -r {}",
                        path.display()
                    ),
                )),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Err(Failure::new(
                Reason::Directory,
                format!("{} is no directory", path.display()),
                "a cluster is kept in a directory, and something else is there",
                "choose a directory that is empty or does not exist",
            )),
            Err(error) => Err(Failure::system(format!("cannot read {}", file.display()), error)),
        }
    }

    /// Makes a new cluster's directory, owned by the servers' user, who makes sockets in it.
    pub fn create(path: &Path, settings: Settings, account: &Account) -> Result<Directory, Failure> {
        let absolute = std::path::absolute(path)
            .map_err(|error| Failure::system(format!("cannot use {}", path.display()), error))?;
        let mut directory = Directory { path: absolute, settings };
        // Before it is made, so that a refusal leaves nothing behind; and with links resolved.
        directory.check_socket_paths()?;
        let is_new = !path.exists();
        account.make_directory(path, 0o755)?;
        let usable = real_path(path).and_then(|real| {
            directory.path = real;
            directory.check_socket_paths()?;
            account.check_reach(&directory.path)
        });
        if usable.is_err() && is_new {
            // It is empty still; if it cannot be removed, the failure told is worth more than that one.
            std::fs::remove_dir(path).ok();
        }
        usable?;
        directory.save()?;
        Ok(directory)
    }

    /// Writes the settings file, whole or not at all.
    pub fn save(&self) -> Result<(), Failure> {
        let file = self.path.join(SETTINGS_FILE);
        let fresh = self.path.join(format!("{SETTINGS_FILE}.new"));
        std::fs::write(&fresh, self.settings.to_text())
            .and_then(|()| std::fs::rename(&fresh, &file))
            .map_err(|error| Failure::system(format!("cannot write {}", file.display()), error))
    }

    /// Takes the cluster's lock: alone to make or end it, shared to act on one node.
    pub fn lock(path: &Path, alone: bool) -> Result<File, Failure> {
        let file = path.join(LOCK_FILE);
        let failed = |error: std::io::Error| Failure::system(format!("cannot lock {}", file.display()), error);
        let handle = File::options().create(true).append(true).open(&file).map_err(failed)?;
        let operation = match alone {
            true => rustix::fs::FlockOperation::LockExclusive,
            false => rustix::fs::FlockOperation::LockShared,
        };
        rustix::fs::flock(&handle, operation).map_err(|error| failed(error.into()))?;
        Ok(handle)
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The numbers of its nodes.
    pub fn nodes(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.settings.nodes
    }

    /// A node's PGDATA.
    pub fn data(&self, node: usize) -> PathBuf {
        self.path.join(format!("node{node}/data"))
    }

    /// A node's log file.
    pub fn log(&self, node: usize) -> PathBuf {
        self.path.join(format!("node{node}/log"))
    }

    /// A node's port.
    pub fn port(&self, node: usize) -> u16 {
        server_port(self.settings.port_base, node)
    }

    /// The lock file that PostgreSQL keeps beside a node's socket.
    pub fn socket_lock(&self, node: usize) -> PathBuf {
        self.path.join(format!(".s.PGSQL.{}.lock", self.port(node)))
    }

    /// How clients, and other nodes, reach a node.
    pub fn connection_string(&self, node: usize) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port(node))
    }

    /// Checks that a node of that number exists.
    pub fn check_node(&self, node: usize) -> Result<(), Failure> {
        if self.nodes().contains(&node) {
            return Ok(());
        }
        Err(Failure::new(
            Reason::NoSuchNode,
            format!("there is no node {node}"),
            format!("the cluster in {} has the nodes 1 to {}", self.path.display(), self.settings.nodes),
            "name one of these, or add one with `synod local add`",
        ))
    }

    /// Checks that the paths of the nodes' sockets fit into a socket address.
    pub fn check_socket_paths(&self) -> Result<(), Failure> {
        let last = self.port(self.settings.nodes);
        let socket = self.path.join(format!(".s.PGSQL.{last}"));
        let bytes = socket.as_os_str().len();
        if bytes <= SOCKET_PATH_BYTES_MAX {
            return Ok(());
        }
        Err(Failure::new(
            Reason::SocketPathTooLong,
            format!("the directory's path is too long for a socket in it: {}", self.path.display()),
            format!("{} would have {bytes} bytes, and the system allows {SOCKET_PATH_BYTES_MAX}", socket.display()),
            "choose a directory with a shorter path",
        ))
    }
}

fn real_path(path: &Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(path).map_err(|error| Failure::system(format!("cannot find {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            nodes: 3,
            port_base: 55_430,
            bindir: "/opt/a b/bin".into(),
            with_extension: true,
            with_group: false,
            server_settings: vec!["shared_buffers = '1 GB'".into()],
        }
    }

    #[test]
    fn settings_survive_their_file() {
        assert_eq!(Settings::parse(&settings().to_text()), Some(settings()));
    }

    #[test]
    fn a_damaged_or_foreign_settings_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "synod local cluster, version 2\n", "synod local cluster, version 1\nnodes x\n"] {
            std::fs::write(directory.path().join(SETTINGS_FILE), text).unwrap();
            let failure = Directory::open(directory.path()).unwrap_err();
            assert_eq!(failure.reason, Reason::Directory, "{text:?}");
        }
    }

    #[test]
    fn a_directory_with_other_files_is_never_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Directory::open_if_any(directory.path()).unwrap().is_none());
        std::fs::write(directory.path().join("letter.txt"), "dear").unwrap();
        let failure = Directory::open_if_any(directory.path()).unwrap_err();
        assert_eq!(failure.reason, Reason::Directory);
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        let long = Directory { path: PathBuf::from(format!("/tmp/{}", "x".repeat(90))), settings: settings() };
        let failure = long.check_socket_paths().unwrap_err();
        assert_eq!(failure.reason, Reason::SocketPathTooLong);
        let short = Directory { path: PathBuf::from(format!("/tmp/{}", "x".repeat(80))), settings: settings() };
        assert!(short.check_socket_paths().is_ok());
    }
}
