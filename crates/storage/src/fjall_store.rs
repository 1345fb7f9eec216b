//! The ordered store in use: fjall, a log-structured merge tree (`docs/decisions/0010-cold-logs.md` says why this one, and
//! what was found in it).
//!
//! Each change is ingested as sorted tables of its own: written, synced, and then made part of the tree by one atomic,
//! synced replacement of the tree's version. So fjall's journal stays empty, and what it does about a torn or rotten one
//! (it cuts it there, without a word) is of no concern. The log in front is the journal.

use crate::bounds;
use crate::bytes_reader::BytesReader;
use crate::cold_store::{ColdStore, ColdStoreError, Pair};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The store in a directory; made with the first change, so that a node without cold logs has none.
pub(crate) struct FjallStore {
    path: PathBuf,
    opened: Mutex<Option<Opened>>,
}

#[derive(Clone)]
struct Opened {
    database: Database,
    logs: Keyspace,
}

impl FjallStore {
    pub(crate) fn at(path: &Path) -> FjallStore {
        FjallStore { path: path.to_path_buf(), opened: Mutex::new(None) }
    }

    /// `None` if there is none and none is to be made.
    fn opened(&self, make: bool) -> Result<Option<Opened>, ColdStoreError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self.path.exists();
        if opened.is_none() && (make || there) {
            if there {
                verify_versions(&self.path.join("keyspaces"))?;
            }
            let database = Database::builder(&self.path)
                .cache_size(bounds::COLD_CACHE_BYTES)
                .worker_threads(1)
                .max_cached_files(Some(bounds::COLD_FILES_MAX))
                .open()
                .map_err(failed)?;
            let logs = database.keyspace("logs", KeyspaceCreateOptions::default).map_err(failed)?;
            sync_directory(&self.path)?;
            *opened = Some(Opened { database, logs });
        }
        Ok(opened.clone())
    }
}

/// fjall believes what its version files say, which tables a tree consists of among it, although it writes a checksum of
/// each beside it: so that is looked at here.
fn verify_versions(keyspaces: &Path) -> Result<(), ColdStoreError> {
    for keyspace in std::fs::read_dir(keyspaces).map_err(damaged_if_missing)? {
        let keyspace = keyspace?.path();
        // Number of the version, its xxh3 in 128 bits, and a zero.
        let current = std::fs::read(keyspace.join("current")).map_err(damaged_if_missing)?;
        let mut reader = BytesReader::new(&current);
        let named = (current.len() == 25).then(|| (reader.u64(), reader.u128()));
        let damaged = || ColdStoreError::Damaged(format!("{} names no whole version", keyspace.display()));
        let (version, checksum) = named.ok_or_else(damaged)?;
        let content = std::fs::read(keyspace.join(format!("v{version}"))).map_err(damaged_if_missing)?;
        if xxhash_rust::xxh3::xxh3_128(&content) != checksum {
            return Err(damaged());
        }
    }
    Ok(())
}

fn damaged_if_missing(error: io::Error) -> ColdStoreError {
    failed(fjall::Error::Io(error))
}

/// The directory's own name, which fjall does not see to.
fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

impl ColdStore for FjallStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdStoreError> {
        guarded(|| {
            let Some(opened) = self.opened(false)? else { return Ok(None) };
            Ok(opened.logs.get(key).map_err(failed)?.map(|value| value.to_vec()))
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], count_max: usize) -> Result<Vec<Pair>, ColdStoreError> {
        guarded(|| {
            let Some(opened) = self.opened(false)? else { return Ok(Vec::new()) };
            let found = opened.logs.range::<&[u8], _>(from..=to).take(count_max).map(|pair| {
                let (key, value) = pair.into_inner().map_err(failed)?;
                Ok((key.to_vec(), value.to_vec()))
            });
            found.collect()
        })
    }

    fn change(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), ColdStoreError> {
        guarded(|| {
            let Some(opened) = self.opened(true)? else { unreachable!("it was to be made") };
            // A failure of its own threads (a compaction that could not be written) shows here; the journal has nothing to
            // sync.
            opened.database.persist(PersistMode::Buffer).map_err(failed)?;
            let mut ingestion = opened.logs.start_ingestion().map_err(failed)?;
            for (key, value) in changes {
                match value {
                    Some(value) => ingestion.write(&key[..], &value[..]).map_err(failed)?,
                    None => ingestion.write_tombstone(&key[..]).map_err(failed)?,
                }
            }
            ingestion.finish().map_err(failed)
        })
    }

    fn set_aside(&self) -> io::Result<()> {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if !self.path.exists() {
            return Ok(());
        }
        let numbered = |number: u32| self.path.with_file_name(format!("damaged-cold-{number}"));
        let free = (1..).map(numbered).find(|path| !path.exists()).expect("a number is free");
        std::fs::rename(&self.path, free)?;
        sync_directory(&self.path)
    }

    fn bytes(&self) -> u64 {
        // Asked after each batch: not a reason to open it.
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        guarded(|| Ok(opened.map_or(0, |opened| opened.logs.disk_space()))).unwrap_or(0)
    }
}

/// fjall panics where some of its files have rotted (its test is `rot_in_any_of_its_files_is_found_and_makes_nothing_up`):
/// damage like any other.
fn guarded<T>(work: impl FnOnce() -> Result<T, ColdStoreError>) -> Result<T, ColdStoreError> {
    let done = std::panic::catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|_| Err(ColdStoreError::Damaged("fjall found what it never writes".to_string())))
}

/// Damage is what reading again does not cure.
fn failed(error: fjall::Error) -> ColdStoreError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => match error.kind() {
            // Its files are where and as long as it says; or a crash came while they were made.
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::NotFound
            | io::ErrorKind::AlreadyExists => ColdStoreError::Damaged(error.to_string()),
            _ => ColdStoreError::Io(error),
        },
        fjall::Error::Poisoned | fjall::Error::Locked => ColdStoreError::Io(io::Error::other(error)),
        damage => ColdStoreError::Damaged(damage.to_string()),
    }
}
