//! A store of cold logs on the disk that the crash matrix watches: one file per change, so that a crash inside a change is
//! seen like any other, and what was synced is told from what was not.

use crate::cold_store::{ColdStore, ColdStoreError, Pair};
use crate::disk::Disk;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

const PREFIX: &str = "cold-";

pub(crate) struct DiskStore {
    disk: Arc<dyn Disk>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    number: u64,
}

type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

impl DiskStore {
    /// What a crash left; a change that was not finished is none.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> DiskStore {
        let mut inner = Inner::default();
        let mut names = disk.list().unwrap();
        names.sort();
        for name in names.iter().filter(|name| name.starts_with(PREFIX)) {
            inner.number = name[PREFIX.len()..].parse().unwrap();
            let file = disk.open(name).unwrap();
            let mut bytes = vec![0; file.bytes().unwrap() as usize];
            file.read_at(0, &mut bytes).unwrap();
            if bytes.len() > 4 && bytes[..4] == crc32c::crc32c(&bytes[4..]).to_le_bytes() {
                inner.apply(postcard::from_bytes::<Changes>(&bytes[4..]).unwrap());
            }
        }
        DiskStore { disk, inner: Mutex::new(inner) }
    }

    /// Changes a value behind the store's back.
    pub(crate) fn spoil(&self, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        change(self.inner.lock().unwrap().pairs.get_mut(key).expect("it is there"));
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.lock().unwrap().pairs.len()
    }
}

impl Inner {
    fn apply(&mut self, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.pairs.insert(key, value)),
                None => drop(self.pairs.remove(&key)),
            }
        }
    }
}

impl ColdStore for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ColdStoreError> {
        Ok(self.inner.lock().unwrap().pairs.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], count_max: usize) -> Result<Vec<Pair>, ColdStoreError> {
        let inner = self.inner.lock().unwrap();
        let range = inner.pairs.range(from.to_vec()..=to.to_vec());
        Ok(range.take(count_max).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn change(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), ColdStoreError> {
        assert!(changes.windows(2).all(|pair| pair[0].0 < pair[1].0), "keys rise");
        let mut inner = self.inner.lock().unwrap();
        inner.number += 1;
        let content = postcard::to_stdvec(&changes.to_vec()).unwrap();
        let bytes = [&crc32c::crc32c(&content).to_le_bytes()[..], &content].concat();
        let number = inner.number;
        // Not held where the disk is watched: the watcher opens stores of its own.
        drop(inner);
        let file = self.disk.create(&format!("{PREFIX}{number:08}"), 0)?;
        file.write_at(0, &[IoSlice::new(&bytes)])?;
        file.sync()?;
        self.inner.lock().unwrap().apply(changes.to_vec());
        Ok(())
    }

    fn set_aside(&self) -> io::Result<()> {
        *self.inner.lock().unwrap() = Inner::default();
        for name in self.disk.list()?.iter().filter(|name| name.starts_with(PREFIX)) {
            self.disk.remove(name)?;
        }
        self.disk.sync()
    }

    fn bytes(&self) -> u64 {
        0
    }
}
