//! The real log without its threads: each batch is on the disk, or has failed, when the call returns. What the thread that
//! prepares segments does beside the writer happens here when it is asked for.

use crate::log::LogOptions;
use crate::log_reader::LogReader;
use crate::recovery::{self, RecoveryError};
use crate::segmented_log::SegmentedLog;
use crate::simulation::MemoryDisk;
use consensus::{NodeId, Record, Recovered, Sequence, Start};
use std::sync::Arc;

/// A node's log, owned by whoever writes it. Dropping it does nothing to the disk.
pub struct SteppedLog {
    log: SegmentedLog,
    segments_used_again: u64,
    laggards_files_before: u64,
}

impl SteppedLog {
    /// As [`crate::Log::open_on`].
    ///
    /// # Errors
    /// As there; an operation of the disk that fails is one.
    pub fn open(
        disk: &MemoryDisk,
        node: NodeId,
        start: Start,
        options: LogOptions,
    ) -> Result<(SteppedLog, Recovered), RecoveryError> {
        let (log, recovered) = recovery::open_with(Arc::new(disk.clone()), None, (node, start), options)?;
        let laggards_files_before = u64::from(log.state.lock().laggards.last_number);
        Ok((SteppedLog { log, segments_used_again: 0, laggards_files_before }, recovered))
    }

    /// Writes and syncs one batch, with all that goes along with it: segments change, entries move, files are removed.
    ///
    /// # Errors
    /// What could not be done. The log must not be used after it, and what of the batch is on the disk is unknown.
    pub fn append(&mut self, batch: &[(Sequence, Record)]) -> Result<(), String> {
        let left = self.log.pool.names_that_left();
        let before = self.log.current.sequence();
        self.log.append(batch).map_err(|error| error.to_string())?;
        let state = self.log.state.lock();
        let begun = state.segments.range(before + 1..).filter(|(_, segment)| left.contains(&segment.name));
        self.segments_used_again += begun.count() as u64;
        Ok(())
    }

    /// Has an empty segment ready, unless one is: what a thread of its own does for [`crate::Log`] at some moment.
    ///
    /// # Errors
    /// The disk failed; the log can go on.
    pub fn prepare_segment(&self) -> std::io::Result<()> {
        self.log.pool.fill()
    }

    /// For reading entries.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader::with_store(self.log.state.clone(), None, None)
    }

    /// Segments that took the place of one that had left the log, since it was opened.
    #[must_use]
    pub fn segments_used_again(&self) -> u64 {
        self.segments_used_again
    }

    /// Laggards' files written since it was opened.
    #[must_use]
    pub fn laggards_files(&self) -> u64 {
        u64::from(self.log.state.lock().laggards.last_number) - self.laggards_files_before
    }
}
