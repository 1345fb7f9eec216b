//! A disk in memory that tells what was written from what is durable, and can be asked at every operation what a crash
//! right there would leave: any subset of the 512-byte sectors written since the last sync, and any first part of the
//! changes of names. What the process alone loses when it ends is nothing: opened again, the same disk shows all that was
//! written, as the system's cache does, and a later crash may still lose it.

use crate::disk::{Disk, DiskFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;

/// Called after each operation, with the disk as it is then.
pub type Observer = Box<dyn FnMut(&MemoryDisk) + Send>;

/// What goes wrong, once or for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This operation fails with an I/O error; a write has happened in part.
    Error,
    /// No new file can be made from this operation on.
    Full,
    /// Nothing is done any more from this operation on, as if the process or the machine had ended before it.
    End,
}

/// One directory of files. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Inner>>,
    observer: Arc<Mutex<Option<Observer>>>,
}

#[derive(Clone, Default)]
struct Inner {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    files: Vec<Content>,
    operations: u64,
    writes: u64,
    syncs: u64,
    fault: Option<(u64, Fault)>,
    reads: u64,
    failing_read: Option<u64>,
    ids: u64,
    fixed_id: Option<u64>,
}

#[derive(Clone)]
enum Change {
    Add(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl MemoryDisk {
    /// An empty one.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// Has `observer` look at it after each operation.
    pub fn observe(&self, observer: Option<Observer>) {
        *self.observer.lock().unwrap() = observer;
    }

    /// Has this operation, counted from the first, fail; or those from it on.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.inner.lock().unwrap().fault = Some((operation, fault));
    }

    /// The read that many reads from now fails, once.
    pub fn fail_read(&self, reads_from_now: u64) {
        let mut inner = self.inner.lock().unwrap();
        inner.failing_read = Some(inner.reads + reads_from_now);
    }

    /// Nothing fails any more.
    pub fn mend(&self) {
        let mut inner = self.inner.lock().unwrap();
        (inner.fault, inner.failing_read) = (None, None);
    }

    /// Gives every new file this id, for comparing whole files byte for byte; `None`: each another one again.
    pub fn fix_id(&self, id: Option<u64>) {
        self.inner.lock().unwrap().fixed_id = id;
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.inner.lock().unwrap().operations
    }

    /// Writes and syncs of file contents so far.
    pub fn writes_and_syncs(&self) -> (u64, u64) {
        let inner = self.inner.lock().unwrap();
        (inner.writes, inner.syncs)
    }

    /// What would be there after a crash now. `keep` is asked for each unsynced sector, then for each change of names
    /// until it says no. Files without a name are gone.
    pub fn after_crash(&self, keep: &mut dyn FnMut() -> bool) -> MemoryDisk {
        let mut inner = self.inner.lock().unwrap().clone();
        for file in &mut inner.files {
            for (offset, bytes) in std::mem::take(&mut file.pending) {
                let mut at = offset;
                while at < offset + bytes.len() {
                    let end = ((at / SECTOR + 1) * SECTOR).min(offset + bytes.len());
                    if keep() {
                        let length = file.durable.len().max(end);
                        file.durable.resize(length, 0);
                        file.durable[at..end].copy_from_slice(&bytes[at - offset..end - offset]);
                    }
                    at = end;
                }
            }
            file.live = file.durable.clone();
        }
        for change in std::mem::take(&mut inner.changes) {
            if !keep() {
                break;
            }
            apply(&mut inner.durable_names, change);
        }
        inner.names = inner.durable_names.clone();
        let named: BTreeSet<usize> = inner.names.values().copied().collect();
        for (_, file) in inner.files.iter_mut().enumerate().filter(|(index, _)| !named.contains(index)) {
            *file = Content::default();
        }
        inner.fault = None;
        inner.failing_read = None;
        MemoryDisk { inner: Arc::new(Mutex::new(inner)), observer: Arc::default() }
    }

    /// Names of the files, in order.
    pub fn names(&self) -> Vec<String> {
        self.inner.lock().unwrap().names.keys().cloned().collect()
    }

    /// Contents of a file, for looking at and spoiling; both images are changed.
    pub fn with_file<T>(&self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut inner = self.inner.lock().unwrap();
        let index = inner.names[name];
        let file = &mut inner.files[index];
        let result = change(&mut file.live);
        file.durable = file.live.clone();
        file.pending.clear();
        result
    }

    /// Shows every file to `change`, as [`MemoryDisk::with_file`] does one.
    pub fn each_file(&self, mut change: impl FnMut(&mut Vec<u8>)) {
        self.names().iter().for_each(|name| self.with_file(name, &mut change));
    }

    /// A copy that nothing done to this one reaches.
    pub fn copy(&self) -> MemoryDisk {
        MemoryDisk { inner: Arc::new(Mutex::new(self.inner.lock().unwrap().clone())), observer: Arc::default() }
    }

    fn operate<T>(&self, work: impl FnOnce(&mut Inner, Option<Fault>) -> io::Result<T>) -> io::Result<T> {
        let result = {
            let mut inner = self.inner.lock().unwrap();
            inner.operations += 1;
            let now = inner.operations;
            let fault = match inner.fault {
                Some((at, Fault::Error)) if at == now => Some(Fault::Error),
                Some((at, Fault::Full)) if at <= now => Some(Fault::Full),
                Some((at, Fault::End)) if at <= now => Some(Fault::End),
                _ => None,
            };
            if fault == Some(Fault::End) {
                Err(broken())
            } else {
                work(&mut inner, fault)
            }
        };
        // Taken out while it runs: it may look at this disk, but what it does itself is not observed.
        let observer = self.observer.lock().unwrap().take();
        if let Some(mut observer) = observer {
            observer(self);
            let mut place = self.observer.lock().unwrap();
            if place.is_none() {
                *place = Some(observer);
            }
        }
        result
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: Change) {
    match change {
        Change::Add(name, file) => {
            names.insert(name, file);
        }
        Change::Rename(from, to) => {
            let file = names.remove(&from).expect("renames follow what they rename");
            names.insert(to, file);
        }
        Change::Remove(name) => {
            names.remove(&name);
        }
    }
}

fn broken() -> io::Error {
    io::Error::other("injected fault")
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.lock().unwrap();
        let file = *inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), file }))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let bytes = bytes as usize;
        // The name first, with nothing or half of the zeroes behind it; then the rest, and the syncs.
        let file = self.operate(|inner, fault| {
            match fault {
                Some(Fault::Full) => return Err(io::ErrorKind::StorageFull.into()),
                Some(_) => return Err(broken()),
                None => {}
            }
            if inner.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = inner.files.len();
            let half = vec![0; bytes / 2];
            inner.files.push(Content { live: half.clone(), durable: half, pending: Vec::new() });
            inner.names.insert(name.to_string(), file);
            inner.changes.push(Change::Add(name.to_string(), file));
            Ok(file)
        })?;
        self.operate(|inner, fault| {
            if fault == Some(Fault::Error) {
                return Err(broken());
            }
            inner.files[file].live.resize(bytes, 0);
            inner.files[file].durable.resize(bytes, 0);
            Ok(())
        })?;
        self.sync()?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.operate(|inner, fault| {
            if fault == Some(Fault::Error) {
                return Err(broken());
            }
            let file = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            inner.names.insert(to.to_string(), file);
            inner.changes.push(Change::Rename(from.to_string(), to.to_string()));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.operate(|inner, fault| {
            if fault == Some(Fault::Error) {
                return Err(broken());
            }
            inner.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            inner.changes.push(Change::Remove(name.to_string()));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.operate(|inner, fault| {
            if fault == Some(Fault::Error) {
                return Err(broken());
            }
            inner.changes.clear();
            inner.durable_names = inner.names.clone();
            Ok(())
        })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("memory")
    }

    fn new_file_id(&self) -> io::Result<u64> {
        let mut inner = self.inner.lock().unwrap();
        inner.ids += 1;
        // An odd factor: no two are the same.
        Ok(inner.fixed_id.unwrap_or(inner.ids.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    file: usize,
}

impl DiskFile for MemoryFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.inner.lock().unwrap().files[self.file].live.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut inner = self.disk.inner.lock().unwrap();
        inner.reads += 1;
        if inner.failing_read == Some(inner.reads) {
            return Err(broken());
        }
        let from = offset as usize;
        let bytes = inner.files[self.file].live.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.disk.operate(|inner, fault| {
            inner.writes += 1;
            if fault == Some(Fault::Error) {
                // Half of it, in whole sectors.
                let end = (offset as usize + bytes.len() / 2) / SECTOR * SECTOR;
                bytes.truncate(end.saturating_sub(offset as usize));
            }
            let file = &mut inner.files[self.file];
            let from = offset as usize;
            let length = file.live.len().max(from + bytes.len());
            file.live.resize(length, 0);
            file.live[from..from + bytes.len()].copy_from_slice(&bytes);
            file.pending.push((from, bytes));
            if fault == Some(Fault::Error) {
                return Err(broken());
            }
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.operate(|inner, fault| {
            inner.syncs += 1;
            if fault == Some(Fault::Error) {
                // As on Linux: the pages are marked clean, and the next sync would say that all is well.
                inner.files[self.file].pending.clear();
                return Err(broken());
            }
            // What was marked clean by a sync that failed is not written by this one.
            let Content { durable, pending, .. } = &mut inner.files[self.file];
            for (offset, bytes) in pending.drain(..) {
                let end = offset + bytes.len();
                durable.resize(durable.len().max(end), 0);
                durable[offset..end].copy_from_slice(&bytes);
            }
            Ok(())
        })
    }
}
