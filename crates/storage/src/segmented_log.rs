//! Appends batches to segments, one flush each, and gives segments back when nothing in them is current. `carrying.rs` says
//! what moves elsewhere before.
//!
//! One thread owns it. It keeps no promise about time; it keeps the order: a batch is written after the one before it is
//! synced, a segment is given back after everything current in it stands durably elsewhere, and a file given back is
//! used again only after a later segment's durable header says that the log begins behind it.

use crate::bounds;
use crate::cold_moves::SharedStore;
use crate::disk::{Disk, DiskFile};
use crate::frame::{Frame, FrameKind};
use crate::laggards_file::LaggardsNumber;
use crate::live_entries::LiveEntries;
use crate::log::LogOptions;
use crate::log_state::{Landed, LandedEntry, Segment, SegmentSequence, SharedState};
use crate::record_identity::{IdentityCopy, IDENTITY_BYTES};
use crate::repair::write_header;
use crate::segment_header::{SegmentHeader, HEADER_BLOCK_BYTES};
use crate::segment_pool::{SegmentPool, SpareSegment};
use bytes::Bytes;
use consensus::{NodeId, Record, Sequence, Start};
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

/// The part of the log that writes.
pub(crate) struct SegmentedLog {
    pub(crate) pool: Arc<SegmentPool>,
    pub(crate) state: SharedState,
    pub(crate) options: LogOptions,
    pub(crate) node: NodeId,
    pub(crate) start: Start,
    pub(crate) current: CurrentSegment,
    next_batch: u64,
    pub(crate) position: Sequence,
    /// Files that left the log; they may be used again once a header written later is durable.
    cooling: Vec<SpareSegment>,
    /// Segments in which scrub found damage: what is current in them is being written again.
    pub(crate) leaving: BTreeSet<SegmentSequence>,
    /// Laggards' files in which scrub found damage: the same.
    pub(crate) leaving_for_laggards: BTreeSet<LaggardsNumber>,
    /// Where the state of cold logs goes.
    pub(crate) cold: SharedStore,
    /// Bytes that the batch wrote to other files than segments.
    pub(crate) moved_bytes: u64,
    /// The next batch goes to a new segment in any case.
    pub(crate) roll_next: bool,
}

/// The segment that takes the next batch.
pub(crate) struct CurrentSegment {
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
    header_written: bool,
    /// Where the next record goes.
    front: u64,
    /// Number of the next record.
    number: u32,
}

/// A failure to write, with what was being done. The log must not be used after it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} in {directory}: {source}")]
pub(crate) struct WriteError {
    what: &'static str,
    directory: String,
    source: io::Error,
}

/// What recovery found, for opening the next segment.
pub(crate) struct Continuation {
    pub last_segment: SegmentSequence,
    pub oldest: Option<SegmentSequence>,
    pub next_batch: u64,
    pub position: Sequence,
    pub cut_segment: SegmentSequence,
    pub cut_batch: u64,
    /// What must stand in the new segment before its header does; never empty.
    pub frames: Vec<Frame>,
}

impl SegmentedLog {
    /// Opens a fresh segment, synced, behind what recovery found.
    pub(crate) fn continue_after(
        disk: &Arc<dyn Disk>,
        (node, start): (NodeId, Start),
        options: LogOptions,
        pool: Arc<SegmentPool>,
        (state, cold): (SharedState, SharedStore),
        found: Continuation,
    ) -> Result<SegmentedLog, WriteError> {
        let failed = |what| {
            let directory = disk.path().display().to_string();
            move |source| WriteError { what, directory, source }
        };
        let needed = segment_bytes_for(&found.frames);
        let spare = pool.take(needed.max(options.segment_bytes)).map_err(failed("make a segment"))?;
        let sequence = found.last_segment + 1;
        let header = SegmentHeader {
            bytes: spare.bytes,
            sequence: u64::from(sequence),
            id: disk.new_file_id().map_err(failed("get random bytes for a segment"))?,
            node: node.0,
            start: start.0,
            opened_at_start: true,
            first_batch: found.next_batch,
            oldest: u64::from(found.oldest.unwrap_or(sequence)),
            cut_segment: u64::from(found.cut_segment),
            cut_batch: found.cut_batch,
        };
        state.lock().segments.insert(sequence, segment_of(&spare, header));
        let current = CurrentSegment {
            file: spare.file,
            header,
            // Records first: the header cuts off what they replace, so it must not be there without them.
            header_written: true,
            front: HEADER_BLOCK_BYTES,
            number: 0,
        };
        let mut log = SegmentedLog {
            pool,
            state,
            options,
            node,
            start,
            current,
            next_batch: found.next_batch,
            position: found.position,
            cooling: Vec::new(),
            leaving: BTreeSet::new(),
            leaving_for_laggards: BTreeSet::new(),
            cold,
            moved_bytes: 0,
            roll_next: false,
        };
        log.write_frames(&found.frames).map_err(failed("write what recovery kept"))?;
        log.land(&found.frames, HEADER_BLOCK_BYTES);
        log.current.write_header().map_err(failed("write a segment's header"))?;
        log.current.file.sync().map_err(failed("sync a segment's header"))?;
        log.state.lock().noted.retain(|hole, _| hole.segment >= found.oldest.unwrap_or(sequence));
        Ok(log)
    }

    /// Writes these records and syncs them. After an error nothing more may be written: what is on the disk is unknown.
    pub(crate) fn append(&mut self, records: &[(Sequence, Record)]) -> Result<u64, WriteError> {
        self.moved_bytes = 0;
        let mut frames = self.carry()?;
        for (sequence, record) in records {
            assert!(*sequence > self.position, "records come in order");
            self.position = *sequence;
            Frame::of_record(*sequence, record, &mut frames);
        }
        if !frames.is_empty() {
            self.append_frames(&frames)?;
        }
        if frames.iter().any(|frame| frame.kind == FrameKind::Configured) {
            // A fence whose content is damaged must never be taken for one that was never finished, or the other way
            // round: nobody is told of it before a later batch proves that it was synced. Fences are rare.
            self.append_frames(&[Frame::confirmed(self.position)])?;
        }
        self.remove_emptied()?;
        self.wipe_forgotten()?;
        self.retire()?;
        let written: u64 = frames.iter().map(|frame| frame.bytes() + IDENTITY_BYTES as u64).sum();
        Ok(written + self.moved_bytes)
    }

    pub(crate) fn append_frames(&mut self, frames: &[Frame]) -> Result<(), WriteError> {
        if self.roll_next || !self.current.has_room_for(frames) {
            self.roll(frames)?;
            self.roll_next = false;
        }
        let front = self.current.front;
        self.write_frames(frames).map_err(|source| self.failed("write or sync a batch", source))?;
        self.land(frames, front);
        Ok(())
    }

    /// What the log says, for readers.
    pub(crate) fn state(&self) -> SharedState {
        self.state.clone()
    }

    pub(crate) fn failed(&self, what: &'static str, source: io::Error) -> WriteError {
        WriteError { what, directory: self.pool.directory(), source }
    }

    fn roll(&mut self, frames: &[Frame]) -> Result<(), WriteError> {
        let needed = segment_bytes_for(frames).max(self.options.segment_bytes);
        let spare = self.pool.take(needed).map_err(|source| self.failed("make a segment", source))?;
        let id =
            self.pool.disk().new_file_id().map_err(|source| self.failed("get random bytes for a segment", source))?;
        let mut state = self.state.lock();
        let sequence = self.current.sequence() + 1;
        let header = SegmentHeader {
            bytes: spare.bytes,
            sequence: u64::from(sequence),
            id,
            node: self.node.0,
            start: self.start.0,
            opened_at_start: false,
            first_batch: self.next_batch,
            oldest: u64::from(state.oldest()),
            cut_segment: 0,
            cut_batch: 0,
        };
        state.segments.insert(sequence, segment_of(&spare, header));
        drop(state);
        self.current =
            CurrentSegment { file: spare.file, header, header_written: false, front: HEADER_BLOCK_BYTES, number: 0 };
        Ok(())
    }

    /// One flush: records, their identities apart, for a new segment its headers; then one sync.
    fn write_frames(&mut self, frames: &[Frame]) -> io::Result<()> {
        let batch = self.next_batch;
        self.next_batch += 1;
        self.current.write_batch(frames, batch)?;
        if !self.current.header_written {
            self.current.write_header()?;
            self.current.header_written = true;
        }
        self.current.file.sync()
    }

    /// Brings the state up to date with frames that are durable from `front` of the current segment on.
    fn land(&self, frames: &[Frame], mut front: u64) {
        let mut state = self.state.lock();
        let sequence = self.current.sequence();
        for frame in frames {
            let entries: Vec<Option<LandedEntry>> = match frame.kind {
                FrameKind::Lost => vec![None],
                _ => frame.entry_places().iter().map(|place| Some(LandedEntry::at(front, place))).collect(),
            };
            state.land(&Landed {
                kind: frame.kind,
                segment: sequence,
                group: frame.group,
                log: frame.log,
                slot: frame.slot,
                ballot: frame.ballot,
                configuration: frame.configuration.as_ref(),
                entries: &entries,
            });
            front += frame.bytes();
        }
        assert_eq!(front, self.current.front, "frames lie one after the other");
        let segment = state.segments.get_mut(&sequence).expect("the current segment is in the log");
        segment.used_bytes = self.current.used_bytes();
        segment.records = self.current.number;
    }

    /// Takes segments in which nothing is current out of the log, and lets those go that left it before the current
    /// segment's header, which is durable by now, was written.
    fn retire(&mut self) -> Result<(), WriteError> {
        let durable_oldest = self.current.header.oldest;
        let (ready, cooling) = std::mem::take(&mut self.cooling)
            .into_iter()
            .partition(|spare: &SpareSegment| spare.left_log_at < durable_oldest);
        self.cooling = cooling;
        for spare in ready {
            self.pool.give_back(spare).map_err(|source| self.failed("remove an old segment", source))?;
        }
        let mut state = self.state.lock();
        loop {
            let oldest = state.oldest();
            if oldest == self.current.sequence() || state.holds_anything_current(oldest) {
                return Ok(());
            }
            let segment = state.segments.remove(&oldest).expect("the oldest is there");
            state.noted.retain(|hole, _| hole.segment > oldest);
            let Segment { file, name, bytes, .. } = segment;
            self.cooling.push(SpareSegment { name, file, bytes, left_log_at: u64::from(oldest) });
        }
    }

    /// Bytes and number of all files, those that wait to be used again included.
    pub(crate) fn files(&self) -> (u64, u64) {
        let state = self.state.lock();
        let (spare_bytes, spares) = self.pool.usage();
        let cooling: u64 = self.cooling.iter().map(|spare| spare.bytes).sum();
        let files = state.segments.len() + state.laggards.files.len() + self.cooling.len();
        let bytes = state.bytes() + state.laggards.bytes() + spare_bytes + cooling;
        drop(state);
        (bytes + self.cold.as_ref().map_or(0, |store| store.bytes()), files as u64 + spares)
    }
}

impl CurrentSegment {
    pub(crate) fn sequence(&self) -> SegmentSequence {
        SegmentSequence::try_from(self.header.sequence).expect("2^32 segments are never written")
    }

    fn has_room_for(&self, frames: &[Frame]) -> bool {
        let records: u64 = frames.iter().map(Frame::bytes).sum();
        let identities = (u64::from(self.number) + frames.len() as u64) * IDENTITY_BYTES as u64;
        let separation = self.header.bytes / bounds::SEPARATION_PART;
        self.front + records + separation + identities + HEADER_BLOCK_BYTES <= self.header.bytes
    }

    fn used_bytes(&self) -> u64 {
        self.front + u64::from(self.number) * IDENTITY_BYTES as u64 + HEADER_BLOCK_BYTES
    }

    fn write_header(&self) -> io::Result<()> {
        write_header(&*self.file, &self.header)
    }

    /// The records in one write, the copies of their identities in another, at the segment's other end.
    fn write_batch(&mut self, frames: &[Frame], batch: u64) -> io::Result<()> {
        assert!(self.has_room_for(frames), "the caller made room");
        let count = u32::try_from(frames.len()).expect("batches are bounded");
        let mut records = Pieces::default();
        let mut apart = vec![0u8; frames.len() * IDENTITY_BYTES];
        let apart_end = self.header.bytes - HEADER_BLOCK_BYTES - u64::from(self.number) * IDENTITY_BYTES as u64;
        let mut offset = self.front;
        for (index, frame) in (0u32..).zip(frames) {
            let identity = frame.identity(batch, self.number + index, count - index - 1, offset);
            records.copy(&identity.encode(IdentityCopy::AtRecord, self.header.id, offset));
            frame.value.iter().for_each(|piece| records.add(piece));
            let padding = frame.bytes() - IDENTITY_BYTES as u64 - u64::from(frame.value_bytes);
            records.copy(&[0u8; 8][..padding as usize]);
            // Higher numbers stand at lower offsets.
            let from_end = (index as usize + 1) * IDENTITY_BYTES;
            let copy = identity.encode(IdentityCopy::Apart, self.header.id, apart_end - from_end as u64);
            let at = apart.len() - from_end;
            apart[at..at + IDENTITY_BYTES].copy_from_slice(&copy);
            offset += frame.bytes();
        }
        records.write(&*self.file, self.front)?;
        self.file.write_at(apart_end - apart.len() as u64, &[IoSlice::new(&apart)])?;
        self.front = offset;
        self.number += count;
        Ok(())
    }
}

/// What one write consists of: small parts gathered in a buffer, large ones where they are.
#[derive(Default)]
struct Pieces {
    buffer: Vec<u8>,
    parts: Vec<Piece>,
}

enum Piece {
    Buffered(Range<usize>),
    Shared(Bytes),
}

impl Pieces {
    fn copy(&mut self, bytes: &[u8]) {
        let from = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        let until = self.buffer.len();
        match self.parts.last_mut() {
            Some(Piece::Buffered(range)) => range.end = until,
            _ => self.parts.push(Piece::Buffered(from..until)),
        }
    }

    fn add(&mut self, bytes: &Bytes) {
        if bytes.len() <= bounds::COPY_BYTES_MAX {
            self.copy(bytes);
        } else {
            self.parts.push(Piece::Shared(bytes.clone()));
        }
    }

    fn write(&self, file: &dyn DiskFile, offset: u64) -> io::Result<()> {
        let slices: Vec<IoSlice<'_>> = self
            .parts
            .iter()
            .map(|part| match part {
                Piece::Buffered(range) => IoSlice::new(&self.buffer[range.clone()]),
                Piece::Shared(bytes) => IoSlice::new(bytes),
            })
            .collect();
        file.write_at(offset, &slices)
    }
}

fn segment_of(spare: &SpareSegment, header: SegmentHeader) -> Segment {
    Segment {
        file: spare.file.clone(),
        name: spare.name.clone(),
        bytes: spare.bytes,
        header,
        records: 0,
        used_bytes: 2 * HEADER_BLOCK_BYTES,
        live: LiveEntries::default(),
        touched: BTreeSet::new(),
    }
}

/// The size of a segment that these frames fit into, in whole pages.
fn segment_bytes_for(frames: &[Frame]) -> u64 {
    let records: u64 = frames.iter().map(|frame| frame.bytes() + IDENTITY_BYTES as u64).sum();
    let parts = bounds::SEPARATION_PART;
    let bytes = ((records + 2 * HEADER_BLOCK_BYTES) * parts).div_ceil(parts - 1) + parts;
    let bytes = bytes.next_multiple_of(4096);
    assert!(bytes <= bounds::SEGMENT_BYTES_MAX, "batches are bounded far below the largest segment");
    bytes
}
