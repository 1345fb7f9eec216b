//! A disk in memory for the real storage. Every write is durable at once: what this test asks is not what a crash leaves, but
//! what rots afterwards.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use storage::{Disk, DiskFile};

type Content = Arc<Mutex<Vec<u8>>>;

/// One directory of files; clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    files: Arc<Mutex<BTreeMap<String, Content>>>,
}

struct MemoryFile(Content);

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("no panic while a disk is locked")
}

impl MemoryDisk {
    /// A copy that nothing done to this one reaches.
    pub fn copy(&self) -> MemoryDisk {
        let files = lock(&self.files);
        let copied = files.iter().map(|(name, bytes)| (name.clone(), Arc::new(Mutex::new(lock(bytes).clone()))));
        MemoryDisk { files: Arc::new(Mutex::new(copied.collect())) }
    }

    /// Shows every file to `change`, for looking at and spoiling.
    pub fn each_file(&self, mut change: impl FnMut(&mut Vec<u8>)) {
        lock(&self.files).values().for_each(|bytes| change(&mut lock(bytes)));
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let found = lock(&self.files).get(name).cloned();
        Ok(Arc::new(MemoryFile(found.ok_or(io::ErrorKind::NotFound)?)))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = lock(&self.files);
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let bytes = usize::try_from(bytes).expect("segments of a test are small");
        let content = Arc::new(Mutex::new(vec![0; bytes]));
        files.insert(name.to_owned(), content.clone());
        Ok(Arc::new(MemoryFile(content)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.files).keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.files);
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.files).remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("memory")
    }
}

impl DiskFile for MemoryFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).expect("segments of a test are small");
        let content = lock(&self.0);
        let bytes = content.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut at = usize::try_from(offset).expect("segments of a test are small");
        let mut content = lock(&self.0);
        for slice in slices {
            let place = content.get_mut(at..at + slice.len()).ok_or(io::ErrorKind::StorageFull)?;
            place.copy_from_slice(slice);
            at += slice.len();
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
