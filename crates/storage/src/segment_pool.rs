//! Empty segment files, kept ready so that rolling to the next segment does not wait for 16 MiB of zeroes.

use crate::bounds;
use crate::disk::{Disk, DiskFile};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A file that no segment of the log uses.
pub(crate) struct SpareSegment {
    pub name: String,
    pub file: Arc<dyn DiskFile>,
    pub bytes: u64,
    /// Its place in the log when it was last part of it; 0 if it never was.
    pub left_log_at: u64,
}

/// The pool. Shared by the writer and the thread that fills it.
pub(crate) struct SegmentPool {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    inner: Mutex<Inner>,
    wake: Condvar,
}

struct Inner {
    spares: Vec<SpareSegment>,
    next_number: u64,
    closed: bool,
}

const PREFIX: &str = "segment-";

/// The number in a segment's file name; it says nothing about order.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

impl SegmentPool {
    pub(crate) fn new(disk: Arc<dyn Disk>, segment_bytes: u64, next_number: u64) -> SegmentPool {
        let inner = Inner { spares: Vec::new(), next_number, closed: false };
        SegmentPool { disk, segment_bytes, inner: Mutex::new(inner), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file of at least this size; made now if none is ready.
    pub(crate) fn take(&self, bytes: u64) -> io::Result<SpareSegment> {
        let mut inner = self.lock();
        let position = inner.spares.iter().position(|spare| spare.bytes >= bytes);
        let ready = position.map(|index| inner.spares.swap_remove(index));
        drop(inner);
        self.wake.notify_all();
        match ready {
            Some(spare) => Ok(spare),
            None => self.create(bytes.max(self.segment_bytes)),
        }
    }

    /// Takes back a file that nothing durable refers to any more; removes it if enough are ready or it has an unusual size.
    pub(crate) fn give_back(&self, spare: SpareSegment) -> io::Result<()> {
        let mut inner = self.lock();
        if spare.bytes == self.segment_bytes && inner.spares.len() < bounds::SPARE_SEGMENTS_MAX {
            inner.spares.push(spare);
            return Ok(());
        }
        drop(inner);
        // Not synced: a file that comes back after a crash is found to be old by its header.
        self.disk.remove(&spare.name)
    }

    /// The directory of all files of the log.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Where the files are, for messages.
    pub(crate) fn directory(&self) -> String {
        self.disk.path().display().to_string()
    }

    /// Bytes and number of the files that are ready.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.spares.iter().map(|spare| spare.bytes).sum(), inner.spares.len() as u64)
    }

    /// Keeps one file ready until the pool is closed. Runs on its own thread.
    pub(crate) fn keep_filled(&self) {
        loop {
            let mut inner = self.lock();
            while !inner.closed && !inner.spares.is_empty() {
                inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            if inner.closed {
                return;
            }
            drop(inner);
            match self.fill() {
                Ok(()) => {}
                Err(error) => {
                    // Not fatal yet: the writer makes its own file when it needs one, and fails then if it must.
                    tracing::warn!(%error, "cannot prepare the next log segment in {}", self.disk.path().display());
                    let inner = self.lock();
                    if !inner.closed {
                        drop(
                            self.wake.wait_timeout(inner, bounds::SPARE_RETRY).unwrap_or_else(PoisonError::into_inner),
                        );
                    }
                }
            }
        }
    }

    /// Has one file ready.
    pub(crate) fn fill(&self) -> io::Result<()> {
        if self.lock().spares.is_empty() {
            let spare = self.create(self.segment_bytes)?;
            self.lock().spares.push(spare);
        }
        Ok(())
    }

    /// Names of the files that are ready and were part of the log before.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn names_that_left(&self) -> std::collections::BTreeSet<String> {
        self.lock().spares.iter().filter(|spare| spare.left_log_at > 0).map(|spare| spare.name.clone()).collect()
    }

    /// Ends [`SegmentPool::keep_filled`].
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    fn create(&self, bytes: u64) -> io::Result<SpareSegment> {
        let number = {
            let mut inner = self.lock();
            inner.next_number += 1;
            inner.next_number
        };
        let name = format!("{PREFIX}{number:08}");
        match self.disk.create(&name, bytes) {
            Ok(file) => Ok(SpareSegment { name, file, bytes, left_log_at: 0 }),
            Err(error) => {
                // Half a file would only take room, most likely on a full disk.
                let _ = self.disk.remove(&name);
                Err(error)
            }
        }
    }
}
