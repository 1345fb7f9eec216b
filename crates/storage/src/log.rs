//! The node's write-ahead log as the engine sees it: records go in, completions come back, nothing waits for the disk.
//!
//! One writer thread does group commit: whatever arrived while the previous batch was being synced goes out as the next
//! batch, in the order submitted, under one fdatasync; a batch is written only after the one before it is synced. A
//! failed write or sync stops the log for good (a retried fsync may report success for pages that the kernel dropped).

use crate::bounds;
use crate::checkpoints::Checkpoints;
use crate::cold_moves::SharedStore;
use crate::cold_store::ColdStore;
use crate::disk::{Disk, RealDisk};
use crate::fjall_store::FjallStore;
use crate::log_reader::LogReader;
use crate::node_directory::NodeDirectory;
use crate::recovery::{self, RecoveryError};
use crate::scrub::{ScrubOptions, ScrubThread};
use crate::writer::{Shared, Writer};
use consensus::{GroupId, LogId, NodeId, Record, Recovered, Sequence, Slot, Start};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What an operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of a segment file. Default 16 MiB; at least [`bounds::SEGMENT_BYTES_MIN`]. A batch that does not fit gets a
    /// larger segment of its own.
    pub segment_bytes: u64,
    /// Bytes of a batch: what one sync covers at most, unless a single record is larger. Default 4 MiB.
    pub batch_bytes_max: u64,
    /// Bytes that may wait to be written. Default 1 GiB. The core's own bounds keep it far lower; a queue that reaches
    /// this means that the disk stands still, and the node must stop.
    pub queue_bytes_max: u64,
    /// How long records that nobody waits for may stay unwritten when nothing else is written. Default 100 ms.
    pub lazy_wait: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: bounds::SEGMENT_BYTES,
            batch_bytes_max: bounds::BATCH_BYTES_MAX,
            queue_bytes_max: bounds::QUEUE_BYTES_MAX,
            lazy_wait: bounds::LAZY_WAIT,
        }
    }
}

/// What the writer thread reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// Every record up to this one is durable.
    Durable(Sequence),
    /// Scrub found the content of this entry damaged, or found it still so: for [`consensus::Input::Damaged`]. The record
    /// that brings it again heals it.
    Damaged {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The slot.
        slot: Slot,
    },
    /// Scrub found this checkpoint damaged, or found it still so: a new one must be written, then this one removed.
    CheckpointDamaged {
        /// The group.
        group: GroupId,
        /// Its slot.
        slot: Slot,
    },
    /// Writing failed: nothing after the last `Durable` may be counted on, nothing more will be written, and the node
    /// must stop. Comes once. The text names the operation and the file.
    Failed(Arc<str>),
}

/// Called on the writer thread; must not block, because the next batch waits for it.
pub type CompletionCallback = Box<dyn FnMut(Completion) + Send>;

/// Why records were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The log failed earlier; [`Completion::Failed`] said so.
    #[error("the log failed: {0}")]
    Failed(Arc<str>),
    /// Too much waits for the disk. None of the records was taken; the node must stop.
    #[error("{0} bytes wait for the disk, which does not keep up at all")]
    Full(u64),
}

/// What [`Log::usage`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of all files of the log, spare ones included.
    pub bytes_on_disk: u64,
    /// Files of the log, spare ones included.
    pub segments: u64,
    /// Bytes of entries that are kept because nothing has trimmed them.
    pub live_bytes: u64,
    /// From the oldest byte still kept to the end of the log.
    pub oldest_kept_bytes: u64,
    /// Bytes submitted and not yet durable.
    pub queued_bytes: u64,
    /// Batches synced since the start.
    pub batches: u64,
    /// Records synced since the start.
    pub records: u64,
    /// Bytes written since the start.
    pub bytes_written: u64,
    /// Time spent in write and sync since the start; divided by `batches` it is the mean.
    pub writing: Duration,
    /// The longest write and sync of one batch.
    pub slowest: Duration,
    /// The latest write and sync.
    pub latest: Duration,
    /// Bytes that scrub has read since the start.
    pub scrubbed_bytes: u64,
    /// Damage that scrub has found since the start: entries, segments, checkpoints.
    pub damage_found: u64,
    /// Damage, of entries and segments, that was healed since the start.
    pub damage_healed: u64,
}

/// The log. Dropping it writes what was submitted, then ends the writer thread.
pub struct Log {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    scrub: Option<ScrubThread>,
}

impl Log {
    /// Opens the log of a node's directory: reads what is there, records where it ends, and opens a fresh segment,
    /// synced, before it returns. `completion` is called for everything submitted from then on.
    ///
    /// # Errors
    /// See [`RecoveryError`]. Damage that the protocol can live with is no error; it is told in [`Recovered`].
    pub fn open(
        directory: &NodeDirectory,
        options: LogOptions,
        completion: CompletionCallback,
    ) -> Result<(Log, Recovered), RecoveryError> {
        let path = directory.path().join("log");
        let disk = RealDisk::open(&path).map_err(|source| RecoveryError::io("make directory", &path, source))?;
        let cold: Arc<dyn ColdStore> = Arc::new(FjallStore::at(&directory.path().join("cold")));
        let identity = (directory.node(), directory.start());
        Log::open_with(Arc::new(disk), Some(cold), identity, options, completion)
    }

    /// The same on any disk, without a store for cold logs, whose state stays in the log then; for tests and simulations.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        node: NodeId,
        start: Start,
        options: LogOptions,
        completion: CompletionCallback,
    ) -> Result<(Log, Recovered), RecoveryError> {
        Log::open_with(disk, None, (node, start), options, completion)
    }

    pub(crate) fn open_with(
        disk: Arc<dyn Disk>,
        cold: SharedStore,
        identity: (NodeId, Start),
        options: LogOptions,
        completion: CompletionCallback,
    ) -> Result<(Log, Recovered), RecoveryError> {
        let (segmented, recovered) = recovery::open_with(disk, cold.clone(), identity, options)?;
        let shared = Arc::new(Shared::new(options, (segmented.state(), cold), recovered.position));
        let writer = Writer::spawn(shared.clone(), segmented, completion)?;
        Ok((Log { shared, writer: Some(writer), scrub: None }, recovered))
    }

    /// Hands records to the writer thread, in the order of their sequences, which must follow those submitted before.
    /// Never waits for the disk. Records that are all [`Record::is_lazy`] go with the next batch.
    ///
    /// # Errors
    /// The log failed, or its queue is full; nothing was taken.
    pub fn submit(&self, records: Vec<(Sequence, Record)>) -> Result<(), SubmitError> {
        self.shared.submit(records)
    }

    /// Starts the thread that looks for damage in the log and in these checkpoints; what it finds comes as
    /// [`Completion::Damaged`] and [`Completion::CheckpointDamaged`], or is healed by the log itself.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start_scrub(&mut self, checkpoints: Option<Checkpoints>, options: ScrubOptions) -> io::Result<()> {
        if options.bytes_per_second > 0 {
            let thread = ScrubThread::spawn(self.shared.clone(), self.shared.state(), checkpoints, options)?;
            self.scrub = Some(thread);
        }
        Ok(())
    }

    /// For reading entries, from any thread.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        self.shared.reader()
    }

    /// Figures for metrics and for bounding retention.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.shared.usage()
    }

    #[cfg(test)]
    pub(crate) fn shared_state(&self) -> crate::log_state::SharedState {
        self.shared.state()
    }

    /// Writes and syncs everything submitted, then ends the writer thread.
    pub fn close(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        self.scrub = None;
        self.shared.close();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer was reported as a failure already.
            let _ = writer.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.finish();
    }
}
