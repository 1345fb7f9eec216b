//! The node's directory: who the node is, how often it was started, and the proof that this is the one live copy.
//!
//! Rule 7 of the design: a node that lost its disk, or whose directory was copied or restored, must not speak under its
//! old identity, because it has forgotten promises that others count on. So the identity file records where it was
//! made (device and inode of the directory, and a text that describes the environment, for PostgreSQL its system
//! identifier and timeline); when that differs, the node refuses to start and says how to join anew. A lock keeps a
//! second process out. The start counter is made durable before `open` returns, so before anything is sent.
//!
//! `docs/on-disk-format.md` gives the file's bytes.

use crate::bounds::COUNT_MAX;
use crate::bytes_reader::{put, BytesReader};
use crate::disk::{Disk, RealDisk};
use consensus::{NodeId, Start};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"SYNODID\0";
const VERSION: u32 = 1;
const IDENTITY_FILE: &str = "identity";
const TEMPORARY_FILE: &str = "identity.new";
const LOCK_FILE: &str = "lock";

/// Bytes before the environment's text.
const FIXED_BYTES: usize = 64;

/// The environment's text is written by the caller, never by a user; two lines of text are plenty.
pub const ENVIRONMENT_BYTES_MAX: usize = 1024;

/// An open, locked directory of a node. Dropping it releases the lock.
#[derive(Debug)]
pub struct NodeDirectory {
    path: PathBuf,
    node: NodeId,
    start: Start,
    first_start: bool,
    // Held, never read: the lock lives as long as the open file.
    _lock: File,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The file system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("directory {path} is in use by another live process of this node; stop that one first")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Written by another version of this software.
    #[error(
        "directory {path} has format version {found}, this version reads {VERSION}; \
         start it with the version that wrote it, or upgrade with that version's instructions"
    )]
    UnknownVersion {
        /// The directory.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// The identity cannot be read.
    #[error(
        "identity file {path} is damaged: {why}; what this node promised can no longer be trusted: \
         remove the node from its groups on another node, move its directory away, start it and join anew"
    )]
    Damaged {
        /// The identity file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is a log but no identity.
    #[error(
        "directory {path} holds a log but no identity file; it is incomplete and may lack promises: \
         remove the node from its groups on another node, move its directory away, start it and join anew"
    )]
    Incomplete {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is a copy, or the server around it is another one now.
    #[error(
        "directory {path} belongs to node {node} but {difference}; a copied or restored directory must not speak for \
         that node, because it may have forgotten promises: remove the node from its groups on another node, \
         move this directory away, start it (it makes a new identity) and join anew"
    )]
    Moved {
        /// The directory.
        path: PathBuf,
        /// Whose it was.
        node: NodeId,
        /// What differs, for people.
        difference: String,
    },
    /// The caller's text is too long.
    #[error("the description of the environment has {0} bytes, more than {ENVIRONMENT_BYTES_MAX}")]
    Environment(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    node: NodeId,
    start: Start,
    device: u64,
    inode: u64,
    environment: String,
}

impl NodeDirectory {
    /// Opens the directory, makes it and a new identity on the first start, and counts this start durably.
    ///
    /// # Errors
    /// See [`DirectoryError`]; nothing was changed then, but for a new empty directory.
    pub fn open(path: &Path, environment: &str) -> Result<NodeDirectory, DirectoryError> {
        if environment.len() > ENVIRONMENT_BYTES_MAX {
            return Err(DirectoryError::Environment(environment.len()));
        }
        let disk = RealDisk::open(path).map_err(failed("make directory", path))?;
        let lock = lock(path)?;
        let metadata = std::fs::metadata(path).map_err(failed("look at directory", path))?;
        let found = read_identity(path)?;
        let first_start = found.is_none();
        let mut identity = match found {
            Some(identity) => {
                check(path, &identity, (metadata.dev(), metadata.ino()), environment)?;
                identity
            }
            None => {
                if path.join("log").exists() {
                    return Err(DirectoryError::Incomplete { path: path.to_path_buf() });
                }
                Identity {
                    node: random_node(path)?,
                    start: Start(0),
                    device: metadata.dev(),
                    inode: metadata.ino(),
                    environment: environment.to_string(),
                }
            }
        };
        identity.start = Start(identity.start.0 + 1);
        write_identity(&disk, &identity).map_err(failed("write identity in", path))?;
        Ok(NodeDirectory {
            path: path.to_path_buf(),
            node: identity.node,
            start: identity.start,
            first_start,
            _lock: lock,
        })
    }

    /// The node's identity.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Which start of the node this is, from 1; durable already.
    #[must_use]
    pub fn start(&self) -> Start {
        self.start
    }

    /// Whether the identity was made just now.
    #[must_use]
    pub fn is_first_start(&self) -> bool {
        self.first_start
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Who a directory belongs to, with a line for people. Takes no lock and changes nothing.
pub(crate) fn inspect(path: &Path) -> Result<Option<(NodeId, String)>, DirectoryError> {
    Ok(read_identity(path)?.map(|identity| {
        let Identity { node, start, device, inode, environment } = identity;
        let line =
            format!("node {node}, start {start}, on device {device} as inode {inode}, environment {environment:?}");
        (node, line)
    }))
}

/// Makes an error of what was tried, on what, and what the system said.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_path_buf();
    move |source| DirectoryError::Io { what, path, source }
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path.join(LOCK_FILE))
        .map_err(failed("open lock file in", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DirectoryError::Locked { path: path.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(failed("lock", path)(source)),
    }
}

fn random_node(path: &Path) -> Result<NodeId, DirectoryError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| io::Error::other(error.to_string()))
        .map_err(failed("get random bytes for the identity of", path))?;
    let node = u128::from_le_bytes(bytes);
    assert!(node != 0, "128 random bits are never all zero");
    Ok(NodeId(node))
}

fn check(path: &Path, found: &Identity, place: (u64, u64), environment: &str) -> Result<(), DirectoryError> {
    let difference = if (found.device, found.inode) != place {
        format!(
            "stood on device {} as inode {} when that identity was made and now stands on device {} as inode {}",
            found.device, found.inode, place.0, place.1
        )
    } else if found.environment != environment {
        format!("that identity was made with {:?} and now there is {:?}", found.environment, environment)
    } else {
        return Ok(());
    };
    Err(DirectoryError::Moved { path: path.to_path_buf(), node: found.node, difference })
}

fn read_identity(path: &Path) -> Result<Option<Identity>, DirectoryError> {
    let file = path.join(IDENTITY_FILE);
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed("read", &file)(source)),
    };
    match decode(&bytes) {
        Ok(identity) => Ok(Some(identity)),
        Err(Undecodable::Version(found)) => Err(DirectoryError::UnknownVersion { path: path.to_path_buf(), found }),
        Err(Undecodable::Damaged(why)) => Err(DirectoryError::Damaged { path: file, why }),
    }
}

/// In one step: a crash leaves the old identity or the new one.
fn write_identity(disk: &dyn Disk, identity: &Identity) -> io::Result<()> {
    let bytes = encode(identity);
    match disk.remove(TEMPORARY_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(TEMPORARY_FILE, bytes.len() as u64)?;
    file.write_at(0, &[IoSlice::new(&bytes)])?;
    file.sync()?;
    disk.rename(TEMPORARY_FILE, IDENTITY_FILE)?;
    disk.sync()
}

fn encode(identity: &Identity) -> Vec<u8> {
    let text = identity.environment.as_bytes();
    let mut bytes = vec![0u8; FIXED_BYTES];
    put(&mut bytes, 0, &MAGIC);
    put(&mut bytes, 8, &VERSION.to_le_bytes());
    let text_bytes = u32::try_from(text.len()).expect("bounded by open");
    put(&mut bytes, 12, &text_bytes.to_le_bytes());
    put(&mut bytes, 16, &identity.node.0.to_le_bytes());
    put(&mut bytes, 32, &identity.start.0.to_le_bytes());
    put(&mut bytes, 40, &identity.device.to_le_bytes());
    put(&mut bytes, 48, &identity.inode.to_le_bytes());
    // 56..64 is zero.
    bytes.extend_from_slice(text);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum Undecodable {
    Version(u32),
    Damaged(&'static str),
}

fn decode(bytes: &[u8]) -> Result<Identity, Undecodable> {
    if bytes.len() < FIXED_BYTES + 4 {
        return Err(Undecodable::Damaged("it is too short"));
    }
    let (content, checksum) = bytes.split_at(bytes.len() - 4);
    if crc32c::crc32c(content) != BytesReader::new(checksum).u32() {
        return Err(Undecodable::Damaged("its checksum does not fit"));
    }
    if content[..8] != MAGIC {
        return Err(Undecodable::Damaged("it does not start as an identity file does"));
    }
    let mut reader = BytesReader::new(&content[8..]);
    let version = reader.u32();
    if version != VERSION {
        return Err(Undecodable::Version(version));
    }
    let text_bytes = reader.u32() as usize;
    let text = &content[FIXED_BYTES..];
    if text.len() != text_bytes {
        return Err(Undecodable::Damaged("its length does not fit"));
    }
    let (node, start) = (NodeId(reader.u128()), Start(reader.u64()));
    // One more must still be a higher one.
    if start.0 > COUNT_MAX {
        return Err(Undecodable::Damaged("its start counter is out of bounds"));
    }
    Ok(Identity {
        node,
        start,
        device: reader.u64(),
        inode: reader.u64(),
        environment: String::from_utf8(text.to_vec()).map_err(|_| Undecodable::Damaged("its text is not UTF-8"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_node_keeps_its_identity_and_counts_its_starts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node");
        let first = NodeDirectory::open(&path, "system 1").unwrap();
        assert!(first.is_first_start());
        assert_eq!(first.start(), Start(1));
        let node = first.node();
        drop(first);
        let second = NodeDirectory::open(&path, "system 1").unwrap();
        assert!(!second.is_first_start());
        assert_eq!((second.node(), second.start()), (node, Start(2)));
    }

    #[test]
    fn a_second_live_copy_is_refused_and_counts_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let first = NodeDirectory::open(directory.path(), "").unwrap();
        let error = NodeDirectory::open(directory.path(), "").unwrap_err();
        assert!(matches!(error, DirectoryError::Locked { .. }), "{error}");
        drop(first);
        assert_eq!(NodeDirectory::open(directory.path(), "").unwrap().start(), Start(2));
    }

    #[test]
    fn a_copied_directory_is_refused_and_told_how_to_join_anew() {
        let directory = tempfile::tempdir().unwrap();
        let original = directory.path().join("original");
        drop(NodeDirectory::open(&original, "").unwrap());
        let copy = directory.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(original.join("identity"), copy.join("identity")).unwrap();
        let error = NodeDirectory::open(&copy, "").unwrap_err();
        assert!(matches!(error, DirectoryError::Moved { .. }), "{error}");
        assert!(error.to_string().contains("join anew"), "{error}");

        // Renamed in place it is still the same directory.
        let renamed = directory.path().join("renamed");
        std::fs::rename(&original, &renamed).unwrap();
        NodeDirectory::open(&renamed, "").unwrap();
    }

    #[test]
    fn another_environment_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        drop(NodeDirectory::open(directory.path(), "system 1 timeline 1").unwrap());
        let error = NodeDirectory::open(directory.path(), "system 1 timeline 2").unwrap_err();
        assert!(error.to_string().contains("timeline 2"), "{error}");
        NodeDirectory::open(directory.path(), "system 1 timeline 1").unwrap();
    }

    #[test]
    fn a_log_without_an_identity_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("log")).unwrap();
        let error = NodeDirectory::open(directory.path(), "").unwrap_err();
        assert!(matches!(error, DirectoryError::Incomplete { .. }), "{error}");
    }

    #[test]
    fn damage_and_unknown_versions_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        drop(NodeDirectory::open(directory.path(), "x").unwrap());
        let file = directory.path().join(IDENTITY_FILE);
        let good = std::fs::read(&file).unwrap();

        let mut bad = good.clone();
        bad[20] ^= 1;
        std::fs::write(&file, &bad).unwrap();
        let error = NodeDirectory::open(directory.path(), "x").unwrap_err();
        assert!(matches!(error, DirectoryError::Damaged { .. }), "{error}");

        let mut newer = good;
        put(&mut newer, 8, &7u32.to_le_bytes());
        let end = newer.len() - 4;
        let checksum = crc32c::crc32c(&newer[..end]);
        put(&mut newer, end, &checksum.to_le_bytes());
        std::fs::write(&file, &newer).unwrap();
        let error = NodeDirectory::open(directory.path(), "x").unwrap_err();
        assert!(matches!(error, DirectoryError::UnknownVersion { found: 7, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn hostile_identity_files_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
