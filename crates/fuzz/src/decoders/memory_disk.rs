//! A directory of files in memory.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use storage::{Disk, DiskFile};

/// The disk; clones share their files.
#[derive(Clone, Default)]
pub(super) struct MemoryDisk(Arc<Mutex<BTreeMap<String, MemoryFile>>>);

#[derive(Clone, Default)]
struct MemoryFile(Arc<Mutex<Vec<u8>>>);

impl MemoryDisk {
    /// Puts a file there.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        self.files().insert(name.to_owned(), MemoryFile(Arc::new(Mutex::new(bytes))));
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, MemoryFile>> {
        self.0.lock().expect("nothing panics while holding it")
    }
}

impl MemoryFile {
    fn content(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("nothing panics while holding it")
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        let file = self.files().get(name).cloned().ok_or(Error::from(ErrorKind::NotFound))?;
        Ok(Arc::new(file))
    }

    fn create(&self, name: &str, bytes: u64) -> Result<Arc<dyn DiskFile>> {
        if self.files().contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.put(name, vec![0; usize::try_from(bytes).expect("files here are small")]);
        self.open(name)
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let file = self.files().remove(from).ok_or(Error::from(ErrorKind::NotFound))?;
        self.files().insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.files().remove(name).map(drop).ok_or(ErrorKind::NotFound.into())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("memory")
    }
}

impl DiskFile for MemoryFile {
    fn bytes(&self) -> Result<u64> {
        Ok(self.content().len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let content = self.content();
        let from = usize::try_from(offset).map_err(Error::other)?;
        let found = from.checked_add(buffer.len()).and_then(|until| content.get(from..until));
        buffer.copy_from_slice(found.ok_or(Error::from(ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        let mut content = self.content();
        let mut at = usize::try_from(offset).map_err(Error::other)?;
        for slice in slices {
            let until = at + slice.len();
            if content.len() < until {
                content.resize(until, 0);
            }
            content[at..until].copy_from_slice(slice);
            at = until;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
