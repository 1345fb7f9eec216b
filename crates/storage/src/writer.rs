//! The queue in front of the log, and the thread that empties it, one batch and one sync at a time.

use crate::bounds;
use crate::cold_moves::SharedStore;
use crate::log::{Completion, CompletionCallback, LogOptions, SubmitError, Usage};
use crate::log_reader::LogReader;
use crate::log_state::SharedState;
use crate::recovery::RecoveryError;
use crate::repair::Repair;
use crate::segmented_log::SegmentedLog;
use consensus::{Record, Sequence};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// What the writer does next: these records, after it has begun these repairs.
type Work = (Vec<(Sequence, Record)>, Vec<Repair>);

/// What the log's handle and its writer thread share.
pub(crate) struct Shared {
    options: LogOptions,
    state: SharedState,
    cold: SharedStore,
    queue: Mutex<Queue>,
    wake: Condvar,
}

struct Queue {
    records: VecDeque<(Sequence, Record)>,
    bytes: u64,
    /// Records that somebody waits for.
    urgent: usize,
    /// When the first record that must not wait for ever came.
    waiting_since: Option<Instant>,
    last: Sequence,
    closed: bool,
    failed: Option<Arc<str>>,
    /// What scrub found.
    repairs: Vec<Repair>,
    /// Bytes taken by the writer and not yet durable.
    bytes_in_flight: u64,
    figures: Usage,
}

impl Shared {
    pub(crate) fn new(options: LogOptions, (state, cold): (SharedState, SharedStore), position: Sequence) -> Shared {
        let queue = Queue {
            records: VecDeque::new(),
            bytes: 0,
            urgent: 0,
            waiting_since: None,
            last: position,
            closed: false,
            failed: None,
            repairs: Vec::new(),
            bytes_in_flight: 0,
            figures: Usage::default(),
        };
        Shared { options, state, cold, queue: Mutex::new(queue), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn submit(&self, records: Vec<(Sequence, Record)>) -> Result<(), SubmitError> {
        let bytes: u64 = records.iter().map(|(_, record)| record.size_hint() as u64).sum();
        let urgent = records.iter().filter(|(_, record)| !record.is_lazy()).count();
        let lasting = records.iter().any(|(_, record)| !matches!(record, Record::PeerSeen { .. }));
        let mut queue = self.lock();
        if let Some(why) = &queue.failed {
            return Err(SubmitError::Failed(why.clone()));
        }
        assert!(!queue.closed, "nothing is submitted to a closed log");
        if queue.bytes + bytes > self.options.queue_bytes_max && !queue.records.is_empty() {
            return Err(SubmitError::Full(queue.bytes));
        }
        for (sequence, _) in &records {
            assert!(*sequence > queue.last, "sequences rise");
            queue.last = *sequence;
        }
        if records.is_empty() {
            return Ok(());
        }
        queue.bytes += bytes;
        queue.urgent += urgent;
        queue.records.extend(records);
        // The position of a peer waits until there is something else to write: a peer answers it with its own, so two idle
        // nodes would keep each other's disks busy for ever.
        let due = lasting || queue.records.len() > bounds::PEERS_SEEN_WAITING_MAX;
        let first_lazy = due && queue.waiting_since.is_none();
        if due {
            queue.waiting_since.get_or_insert_with(Instant::now);
        }
        drop(queue);
        if urgent > 0 || first_lazy {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Hands over what scrub found. Too much at once is found again by the next pass.
    pub(crate) fn repair(&self, repairs: Vec<Repair>) {
        let mut queue = self.lock();
        if queue.failed.is_none() && queue.repairs.len() + repairs.len() <= bounds::REPAIRS_WAITING_MAX {
            queue.repairs.extend(repairs);
            drop(queue);
            self.wake.notify_one();
        }
    }

    pub(crate) fn note_scrubbed(&self, bytes: u64) {
        self.lock().figures.scrubbed_bytes += bytes;
    }

    pub(crate) fn state(&self) -> SharedState {
        self.state.clone()
    }

    pub(crate) fn cold(&self) -> SharedStore {
        self.cold.clone()
    }

    pub(crate) fn reader(self: &Arc<Self>) -> LogReader {
        LogReader::with_store(self.state.clone(), self.cold.clone(), Some(self.clone()))
    }

    pub(crate) fn usage(&self) -> Usage {
        let mut usage = {
            let queue = self.lock();
            Usage { queued_bytes: queue.bytes + queue.bytes_in_flight, ..queue.figures }
        };
        let state = self.state.lock();
        usage.live_bytes = state.live_bytes();
        usage.oldest_kept_bytes = state.oldest_kept_bytes();
        usage.damage_found = state.damage_found;
        usage.damage_healed = state.damage_healed;
        usage
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// The next batch and what is to be repaired before it; `None` once the log is closed and empty. With `more` to be
    /// written again the batch may be empty, as with repairs.
    fn next_batch(&self, more: bool) -> Option<Work> {
        let mut queue = self.lock();
        queue.bytes_in_flight = 0;
        let mut yielded = false;
        loop {
            let waited = queue.waiting_since.map(|since| since.elapsed());
            let due = waited.is_some_and(|waited| waited >= self.options.lazy_wait);
            if !queue.records.is_empty() && (queue.urgent > 0 || due || queue.closed) {
                if !yielded {
                    // Whoever has the processor may be about to submit more, which costs no sync of its own if it comes in
                    // this batch. Where a processor is free this returns at once.
                    yielded = true;
                    drop(queue);
                    std::thread::yield_now();
                    queue = self.lock();
                    continue;
                }
                let repairs = std::mem::take(&mut queue.repairs);
                return Some((queue.take(self.options.batch_bytes_max), repairs));
            }
            if queue.closed {
                return None;
            }
            if more || !queue.repairs.is_empty() {
                return Some((Vec::new(), std::mem::take(&mut queue.repairs)));
            }
            queue = match waited {
                Some(waited) => {
                    let rest = self.options.lazy_wait.saturating_sub(waited);
                    self.wake.wait_timeout(queue, rest).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn fail(&self, why: &str) -> Arc<str> {
        let why: Arc<str> = Arc::from(why);
        let mut queue = self.lock();
        queue.failed = Some(why.clone());
        queue.records.clear();
        queue.bytes = 0;
        queue.bytes_in_flight = 0;
        why
    }
}

impl Queue {
    fn take(&mut self, bytes_max: u64) -> Vec<(Sequence, Record)> {
        let mut bytes = 0u64;
        let mut count = 0usize;
        for (_, record) in &self.records {
            let next = bytes + record.size_hint() as u64;
            if next > bytes_max && count > 0 {
                break;
            }
            bytes = next;
            count += 1;
        }
        let batch: Vec<(Sequence, Record)> = self.records.drain(..count).collect();
        self.urgent -= batch.iter().filter(|(_, record)| !record.is_lazy()).count();
        self.bytes -= bytes;
        self.bytes_in_flight = bytes;
        if self.records.is_empty() {
            self.waiting_since = None;
        }
        batch
    }
}

/// The writer thread.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    log: SegmentedLog,
    completion: CompletionCallback,
}

impl Writer {
    /// Starts the writer thread and the one that prepares segments.
    pub(crate) fn spawn(
        shared: Arc<Shared>,
        log: SegmentedLog,
        completion: CompletionCallback,
    ) -> Result<JoinHandle<()>, RecoveryError> {
        let pool = log.pool.clone();
        let filler = std::thread::Builder::new()
            .name("log segments".to_string())
            .spawn({
                let pool = pool.clone();
                move || pool.keep_filled()
            })
            .map_err(|error| RecoveryError::Write(error.to_string()))?;
        let mut writer = Writer { shared, log, completion };
        writer.publish_files();
        std::thread::Builder::new()
            .name("log writer".to_string())
            .spawn(move || {
                writer.run();
                pool.close();
                let _ = filler.join();
            })
            .map_err(|error| RecoveryError::Write(error.to_string()))
    }

    fn run(&mut self) {
        while let Some((batch, repairs)) = self.shared.next_batch(self.log.is_leaving()) {
            // A panic here must stop the node like a failed write, not leave it waiting for ever.
            let written = std::panic::catch_unwind(AssertUnwindSafe(|| self.write(&batch, &repairs)));
            let why = match written {
                Ok(Ok(())) => {
                    if let Some((last, _)) = batch.last() {
                        (self.completion)(Completion::Durable(*last));
                    }
                    self.tell(&repairs);
                    continue;
                }
                Ok(Err(why)) => why,
                Err(_) => "the log writer broke an invariant; see the server's log".to_string(),
            };
            tracing::error!(%why, "the log failed; the node must stop");
            let why = self.shared.fail(&why);
            (self.completion)(Completion::Failed(why));
            return;
        }
    }

    /// What others than storage must heal.
    fn tell(&mut self, repairs: &[Repair]) {
        for repair in repairs {
            match *repair {
                Repair::Entry { group, log, slot } => (self.completion)(Completion::Damaged { group, log, slot }),
                Repair::Checkpoint { group, slot } => (self.completion)(Completion::CheckpointDamaged { group, slot }),
                Repair::Segment(_) | Repair::Header(_) | Repair::Laggards(_) | Repair::ColdStore => {}
            }
        }
    }

    fn write(&mut self, batch: &[(Sequence, Record)], repairs: &[Repair]) -> Result<(), String> {
        let began = Instant::now();
        for repair in repairs {
            self.log.begin_repair(*repair).map_err(|error| error.to_string())?;
        }
        let bytes = self.log.append(batch).map_err(|error| error.to_string())?;
        let took = began.elapsed();
        if bytes == 0 {
            return Ok(());
        }
        let mut queue = self.shared.lock();
        let figures = &mut queue.figures;
        figures.batches += 1;
        figures.records += batch.len() as u64;
        figures.bytes_written += bytes;
        figures.writing += took;
        figures.slowest = figures.slowest.max(took);
        figures.latest = took;
        drop(queue);
        self.publish_files();
        Ok(())
    }

    fn publish_files(&mut self) {
        let (bytes, segments) = self.log.files();
        let mut queue = self.shared.lock();
        queue.figures.bytes_on_disk = bytes;
        queue.figures.segments = segments;
    }
}
