//! Scrub: reads, slowly and all the time, what nobody reads, because a disk that damages it does not say so. What it finds
//! is healed while other copies still are: entries from memory or another member, records from memory, checkpoints by new
//! ones. (Half of the damage that a large study of disks saw was found by scrubbing before anything else read it.)
//!
//! One thread. It takes the state's lock for moments, reads past the page cache, and never writes: what it finds goes to
//! the log's writer as a [`Repair`].

use crate::bounds;
use crate::checkpoints::Checkpoints;
use crate::cold_moves::decode;
use crate::cold_store::{key_of, log_of, ColdStoreError};
use crate::disk::DiskFile;
use crate::frame::{directory_is_whole, read_content, FrameContent, FrameKind};
use crate::laggards_file::{LaggardsBlock, LaggardsHeader, LaggardsNumber};
use crate::log_state::{Hole, Home, LogState, Place, Segment, SegmentSequence, SharedState};
use crate::record_identity::{IdentityCopy, RecordIdentity, ALIGNMENT, IDENTITY_BYTES};
use crate::repair::Repair;
use crate::segment_header::{HeaderBlock, SegmentHeader, HEADER_BLOCK_BYTES};
use crate::segment_scan::apart_offset;
use crate::writer::Shared;
use bytes::Bytes;
use consensus::{GroupId, LogId, Slot};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What an operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bytes read per second at most. Default [`bounds::SCRUB_BYTES_PER_SECOND`]; 0: no scrub.
    pub bytes_per_second: u64,
    /// Rest between two passes. Default [`bounds::SCRUB_PAUSE`].
    pub pause: Duration,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        ScrubOptions { bytes_per_second: bounds::SCRUB_BYTES_PER_SECOND, pause: bounds::SCRUB_PAUSE }
    }
}

/// The running thread; ends when dropped.
pub(crate) struct ScrubThread {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    /// Waits; false once scrub is to end.
    fn rest(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(stopped, time, |stopped| !*stopped);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl ScrubThread {
    pub(crate) fn spawn(
        shared: Arc<Shared>,
        state: SharedState,
        checkpoints: Option<Checkpoints>,
        options: ScrubOptions,
    ) -> io::Result<ScrubThread> {
        let stop = Arc::new(Stop::default());
        let (bad_checkpoints, bad_cold_entries) = (BTreeSet::new(), BTreeSet::new());
        let of_thread = stop.clone();
        let mut scrub =
            Scrub { shared, state, checkpoints, options, stop: of_thread, bad_checkpoints, bad_cold_entries };
        let thread = std::thread::Builder::new().name("log scrub".to_string()).spawn(move || scrub.run())?;
        Ok(ScrubThread { stop, thread: Some(thread) })
    }
}

impl Drop for ScrubThread {
    fn drop(&mut self) {
        *self.stop.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread ended scrubbing only.
            let _ = thread.join();
        }
    }
}

struct Scrub {
    shared: Arc<Shared>,
    state: SharedState,
    checkpoints: Option<Checkpoints>,
    options: ScrubOptions,
    stop: Arc<Stop>,
    /// Those counted as damage.
    bad_checkpoints: BTreeSet<(GroupId, Slot)>,
    bad_cold_entries: BTreeSet<(GroupId, LogId, Slot)>,
}

/// Scrub is to end.
struct Ended;

/// A live entry, as it was when the segment was looked at.
type Live = ((GroupId, LogId, Slot), Place);

impl Scrub {
    fn run(&mut self) {
        // The least urgent of threads; if the system refuses, its rate is bounded all the same.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
        while self.pass().is_ok() && self.stop.rest(self.options.pause) {}
    }

    /// Everything once.
    fn pass(&mut self) -> Result<(), Ended> {
        let segments: Vec<SegmentSequence> = self.state.lock().segments.keys().copied().collect();
        for segment in segments {
            self.scrub_segment(segment)?;
        }
        let laggards: Vec<LaggardsNumber> = self.state.lock().laggards.files.keys().copied().collect();
        for number in laggards {
            self.scrub_laggards(number)?;
        }
        self.scrub_cold_logs()?;
        self.scrub_checkpoints()
    }

    /// The store reads through caches of its own and the system's: rot is found once the blocks have left them.
    fn scrub_cold_logs(&mut self) -> Result<(), Ended> {
        let Some(store) = self.shared.cold() else { return Ok(()) };
        let (mut from, to) = (key_of(GroupId(0), LogId(0)), key_of(GroupId(u128::MAX), LogId(u128::MAX)));
        let mut bad = BTreeSet::new();
        loop {
            let page = match store.scan(&from, &to, bounds::SCRUB_LOGS_AT_ONCE) {
                Ok(page) => page,
                Err(ColdStoreError::Damaged(why)) => return self.report_store(&why),
                Err(ColdStoreError::Io(error)) => {
                    tracing::warn!(%error, "scrub cannot look at the store of cold logs");
                    return Ok(());
                }
            };
            let Some((last, _)) = page.last() else { break };
            // The least key after it.
            from = last.iter().copied().chain([0]).collect();
            self.pace(page.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())?;
            for (key, value) in &page {
                let state = match decode(key, value) {
                    Ok(state) => state,
                    Err(error) => return self.report_store(&error.to_string()),
                };
                let (group, log) = log_of(key).expect("only keys of logs were asked for");
                let damaged = state.entries.iter().filter(|(_, entry)| entry.entry.is_none());
                bad.extend(damaged.map(|(slot, _)| (group, log, *slot)).take(bounds::REPAIRS_WAITING_MAX));
            }
        }
        let before = std::mem::replace(&mut self.bad_cold_entries, bad);
        let mut state = self.state.lock();
        state.damage_found += self.bad_cold_entries.difference(&before).count() as u64;
        state.damage_healed += before.difference(&self.bad_cold_entries).count() as u64;
        drop(state);
        let repairs = self.bad_cold_entries.iter().map(|&(group, log, slot)| Repair::Entry { group, log, slot });
        let repairs: Vec<Repair> = repairs.take(bounds::REPAIRS_WAITING_MAX / 2).collect();
        if !repairs.is_empty() {
            self.shared.repair(repairs);
        }
        Ok(())
    }

    fn report_store(&self, why: &str) -> Result<(), Ended> {
        tracing::error!(%why, "scrub found the store of cold logs damaged");
        self.state.lock().damage_found += 1;
        self.shared.repair(vec![Repair::ColdStore]);
        // The log ends with this.
        Err(Ended)
    }

    fn scrub_segment(&self, sequence: SegmentSequence) -> Result<(), Ended> {
        let (seen, live, noted) = {
            let state = self.state.lock();
            let Some(segment) = state.segments.get(&sequence).filter(|segment| segment.records > 0) else {
                return Ok(());
            };
            let live = live_in(&state, Home::Segment(sequence));
            let all = Hole { segment: sequence, first: 0, end: u64::from(segment.records) };
            let noted = state.noted.keys().any(|hole| hole.segment == sequence && hole.contains(&all));
            (Seen::of(segment), live, noted)
        };
        let bytes = self.read(&seen, &live)?;
        let mut repairs = Vec::new();
        if !noted {
            repairs.extend(first_bad_record(&bytes, seen.header.id, seen.records).map(|number| {
                tracing::debug!(sequence, number, "bad record");
                Repair::Segment(sequence)
            }));
        }
        if !headers_are_whole(&bytes, &|block| SegmentHeader::decode(block) == HeaderBlock::Valid(seen.header)) {
            repairs.push(Repair::Header(sequence));
        }
        let bad: Vec<Live> = live.into_iter().filter(|(_, place)| !is_whole(&bytes, place)).collect();
        self.report(sequence, &seen, repairs, bad);
        Ok(())
    }

    /// Tells the writer what was found, if the segment is still what was read: it may have left the log meanwhile.
    fn report(&self, sequence: SegmentSequence, seen: &Seen, mut repairs: Vec<Repair>, bad: Vec<Live>) {
        let mut state = self.state.lock();
        if state.segments.get(&sequence).is_none_or(|segment| segment.header.id != seen.header.id) {
            return;
        }
        for repair in &repairs {
            tracing::error!(segment = sequence, ?repair, "scrub found a log segment damaged");
            state.damage_found += 1;
        }
        repairs.extend(bad_entries(&mut state, bad));
        drop(state);
        if !repairs.is_empty() {
            self.shared.repair(repairs);
        }
    }

    fn scrub_laggards(&self, number: LaggardsNumber) -> Result<(), Ended> {
        let (file, header, live) = {
            let state = self.state.lock();
            let Some(file) = state.laggards.files.get(&number) else { return Ok(()) };
            (file.file.clone(), file.header, live_in(&state, Home::Laggards(number)))
        };
        let mut bytes = vec![0u8; usize::try_from(header.bytes).expect("64-bit machines only")];
        self.read_part(&*file, 0, &mut bytes)?;
        let bytes = Bytes::from(bytes);
        let whole = headers_are_whole(&bytes, &|block| LaggardsHeader::decode(block) == LaggardsBlock::Valid(header))
            && first_bad_record(&bytes, header.id, header.records).is_none();
        let bad: Vec<Live> = live.into_iter().filter(|(_, place)| !is_whole(&bytes, place)).collect();
        let mut state = self.state.lock();
        let mut repairs = bad_entries(&mut state, bad);
        // It may have been emptied and removed meanwhile.
        if let Some(file) = state.laggards.files.get_mut(&number).filter(|_| !whole) {
            let counted = std::mem::replace(&mut file.leaving, true);
            if !counted {
                state.damage_found += 1;
                tracing::error!(number, "scrub found a laggards' file damaged");
            }
            repairs.push(Repair::Laggards(number));
        }
        drop(state);
        if !repairs.is_empty() {
            self.shared.repair(repairs);
        }
        Ok(())
    }

    /// The used parts of a segment, at their offsets; what the disk does not give is zero.
    fn read(&self, seen: &Seen, live: &[Live]) -> Result<Bytes, Ended> {
        let length = seen.header.bytes;
        let apart = u64::from(seen.records) * IDENTITY_BYTES as u64 + HEADER_BLOCK_BYTES;
        let ends = live.iter().map(|(_, place)| u64::from(place.offset) + u64::from(place.bytes));
        let front = ends.chain([seen.used_bytes.saturating_sub(apart), HEADER_BLOCK_BYTES]).max().unwrap_or(0);
        let mut bytes = vec![0u8; usize::try_from(length).expect("64-bit machines only")];
        for (from, until) in [(0, front.min(length)), (length.saturating_sub(apart), length)] {
            self.read_part(&*seen.file, from, &mut bytes[from as usize..until as usize])?;
        }
        Ok(Bytes::from(bytes))
    }

    /// Fills the buffer from an offset of the file, at scrub's pace.
    fn read_part(&self, file: &dyn DiskFile, mut from: u64, buffer: &mut [u8]) -> Result<(), Ended> {
        for piece in buffer.chunks_mut(bounds::SCRUB_PIECE_BYTES as usize) {
            read_piece(file, from, piece);
            self.pace(piece.len() as u64)?;
            from += piece.len() as u64;
        }
        Ok(())
    }

    fn pace(&self, bytes: u64) -> Result<(), Ended> {
        self.shared.note_scrubbed(bytes);
        let time = Duration::from_secs_f64(bytes as f64 / self.options.bytes_per_second as f64);
        if self.stop.rest(time) {
            Ok(())
        } else {
            Err(Ended)
        }
    }

    fn scrub_checkpoints(&mut self) -> Result<(), Ended> {
        let Some(checkpoints) = self.checkpoints.clone() else { return Ok(()) };
        let mut ended = false;
        let found = checkpoints.scrub(&mut |bytes| {
            ended |= self.pace(bytes).is_err();
            !ended
        });
        if ended {
            return Err(Ended);
        }
        match found {
            Ok(damaged) => {
                let before = self.bad_checkpoints.len();
                self.bad_checkpoints.retain(|known| damaged.contains(known));
                // Written anew, or gone: a whole one has taken its place.
                self.state.lock().damage_healed += (before - self.bad_checkpoints.len()) as u64;
                for (group, slot) in damaged {
                    if self.bad_checkpoints.insert((group, slot)) {
                        self.state.lock().damage_found += 1;
                        tracing::error!(%group, %slot, "scrub found a checkpoint damaged");
                    }
                    self.shared.repair(vec![Repair::Checkpoint { group, slot }]);
                }
            }
            Err(error) => tracing::warn!(%error, "scrub cannot look at the checkpoints"),
        }
        Ok(())
    }
}

/// A segment as it was when it was looked at.
struct Seen {
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
    records: u32,
    used_bytes: u64,
}

impl Seen {
    fn of(segment: &Segment) -> Seen {
        let Segment { file, header, records, used_bytes, .. } = segment;
        Seen { file: file.clone(), header: *header, records: *records, used_bytes: *used_bytes }
    }
}

/// Reads a piece, sector by sector where the whole cannot be read.
pub(crate) fn read_piece(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) {
    if file.read_from_medium(offset, buffer).is_ok() {
        return;
    }
    let sector = bounds::SCRUB_SECTOR_BYTES;
    for (number, part) in (0u64..).zip(buffer.chunks_mut(sector)) {
        if file.read_from_medium(offset + number * sector as u64, part).is_err() {
            part.fill(0);
        }
    }
}

fn is_whole(bytes: &Bytes, place: &Place) -> bool {
    let from = place.offset as usize;
    let content = bytes.get(from..from.saturating_add(place.bytes as usize));
    !place.is_damaged() && content.is_some_and(|content| crc32c::crc32c(content) == place.checksum)
}

/// What of a file counts.
fn live_in(state: &LogState, home: Home) -> Vec<Live> {
    let place = |at: (GroupId, LogId, Slot)| state.place(at.0, at.1, at.2).map(|(place, ..)| (at, place));
    state.live_in(home).into_iter().filter_map(place).collect()
}

/// Takes note of damaged entries that still stand where they were found.
fn bad_entries(state: &mut LogState, bad: Vec<Live>) -> Vec<Repair> {
    let still = |((group, log, slot), place): (_, Place)| {
        state.found_damaged(group, log, slot, place).map(|()| Repair::Entry { group, log, slot })
    };
    bad.into_iter().filter_map(still).collect()
}

fn headers_are_whole(bytes: &Bytes, is_header: &dyn Fn(&[u8]) -> bool) -> bool {
    let blocks = [0, bytes.len() - HEADER_BLOCK_BYTES as usize];
    blocks.into_iter().all(|at| is_header(&bytes[at..]))
}

/// The first record that either copy of the identity, the directory of entries or the configuration fails.
fn first_bad_record(bytes: &Bytes, id: u64, records: u32) -> Option<u32> {
    let mut offset = HEADER_BLOCK_BYTES;
    for number in 0..records {
        let copy = |copy, at: u64| {
            let block = bytes.get(usize::try_from(at).ok()?..)?;
            RecordIdentity::decode(block, copy, id, at).filter(|identity| identity.number == number)
        };
        let here = copy(IdentityCopy::AtRecord, offset);
        let apart = apart_offset(bytes.len() as u64, number).and_then(|at| copy(IdentityCopy::Apart, at));
        let Some(identity) = here.filter(|_| here == apart) else { return Some(number) };
        let from = offset as usize + IDENTITY_BYTES;
        let value = bytes.get(from..from + identity.value_bytes as usize);
        let Some(value) = value.map(|value| bytes.slice_ref(value)) else { return Some(number) };
        let whole = match FrameKind::of(identity.kind) {
            Some(FrameKind::Configured) => {
                read_content(FrameKind::Configured, &identity, &value) != FrameContent::Damaged
            }
            Some(FrameKind::Accepted | FrameKind::Learnt) => directory_is_whole(&identity, &value),
            _ => true,
        };
        if !whole {
            return Some(number);
        }
        offset = (from as u64 + u64::from(identity.value_bytes)).next_multiple_of(ALIGNMENT);
    }
    None
}
