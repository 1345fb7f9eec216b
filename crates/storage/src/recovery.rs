//! Opens a log: finds its segments, reads every record, tells a torn end from damage, and continues in a fresh segment.
//!
//! What counts as what (design.md section 4): a batch is written only after the one before it was synced, so whatever is
//! not whole before the last batch is *damage*. In the last batch a record of which one identity is left is damage too;
//! one of which neither is left was never finished: *torn*, and nobody was told of it. The cut is recorded in the header
//! of the fresh segment, which is synced before anything is sent.

use crate::disk::{Disk, DiskFile};
use crate::frame::{read_content, EntryPlace, Frame, FrameContent, FrameKind};
use crate::log::LogOptions;
use crate::log_state::{
    Hole, Landed, LandedEntry, LogState, Segment, SegmentSequence, SharedState,
};
use crate::record_identity::RecordIdentity;
use crate::segment_header::{HeaderBlock, SegmentHeader, HEADER_BLOCK_BYTES, HEADER_BYTES};
use crate::segment_pool::{segment_number, SegmentPool, SpareSegment};
use crate::segment_scan::{scan, FoundRecord};
use crate::segmented_log::{Continuation, SegmentedLog, WriteError};
use bytes::Bytes;
use consensus::{
    Ballot, Configuration, Entry, Epoch, GroupId, LogId, NodeId, Record, Recovered, RecoveredEntry,
    Sequence, Slot, Start,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// The file system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The fresh segment could not be written.
    #[error("cannot start a new log segment: {0}")]
    Write(String),
    /// Written by another version.
    #[error(
        "log segment {path} has format version {found}, this version reads {}; start the version that wrote it",
        crate::segment_header::VERSION
    )]
    UnknownVersion {
        /// The segment.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// A record of a kind that this version does not know.
    #[error("log segment {path} holds a record of kind {kind}, which this version does not know; start the version that wrote it")]
    UnknownKind {
        /// The segment.
        path: PathBuf,
        /// The kind found.
        kind: u8,
    },
    /// Another node's log.
    #[error("log segment {path} belongs to node {found}, not to this node {node}; it was copied here and must not be used")]
    Foreign {
        /// The segment.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who we are.
        node: NodeId,
    },
    /// Two files claim the same place in the log.
    #[error("log segments {path} and {other} claim the same place {sequence}; one was copied by hand and must be moved away")]
    Twice {
        /// One segment.
        path: PathBuf,
        /// The other.
        other: String,
        /// The place.
        sequence: u64,
    },
    /// There was a log and it is gone.
    #[error(
        "the log in {path} was begun and no segment of it can be found: what this node promised is lost; \
         remove the node from its groups on another node, move its directory away, start it and join anew"
    )]
    Gone {
        /// The log's directory.
        path: PathBuf,
    },
    /// The options make no sense.
    #[error("log segments of {0} bytes: must be a multiple of 4096 from {min} to {max}", min = crate::bounds::SEGMENT_BYTES_MIN, max = crate::bounds::SEGMENT_BYTES_MAX)]
    SegmentBytes(u64),
}

impl RecoveryError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> RecoveryError {
        RecoveryError::Io {
            what,
            path: path.to_path_buf(),
            source,
        }
    }
}

impl From<WriteError> for RecoveryError {
    fn from(error: WriteError) -> RecoveryError {
        RecoveryError::Write(error.to_string())
    }
}

/// An empty file that stands beside the segments once there is a log, so that a log that vanished is not taken for one
/// that never was.
const BEGUN: &str = "begun";

/// A segment file with a header that can be used.
pub(crate) struct SegmentFile {
    pub name: String,
    pub file: Arc<dyn DiskFile>,
    pub header: SegmentHeader,
}

/// What lies in the log's directory.
#[derive(Default)]
pub(crate) struct SegmentFiles {
    /// Those of the log, without gaps but for `missing`.
    pub live: BTreeMap<SegmentSequence, SegmentFile>,
    /// Places in the log for which there is no file with a readable header.
    pub missing: Vec<SegmentSequence>,
    /// Never used, or no part of the log any more.
    pub spare: Vec<SpareSegment>,
    /// Both headers are unreadable.
    pub damaged: Vec<String>,
    /// Highest number in a file's name.
    pub highest_number: u64,
}

/// Reads the headers of all files and sorts them.
pub(crate) fn find_segments(
    disk: &dyn Disk,
    node: Option<NodeId>,
) -> Result<SegmentFiles, RecoveryError> {
    let mut files = SegmentFiles::default();
    let mut used: BTreeMap<u64, SegmentFile> = BTreeMap::new();
    let names = disk
        .list()
        .map_err(|source| RecoveryError::io("list", &disk.path(), source))?;
    for name in names {
        let Some(number) = segment_number(&name) else {
            continue;
        };
        files.highest_number = files.highest_number.max(number);
        let path = disk.path().join(&name);
        let file = disk
            .open(&name)
            .map_err(|source| RecoveryError::io("open", &path, source))?;
        let bytes = file
            .bytes()
            .map_err(|source| RecoveryError::io("look at", &path, source))?;
        let blocks = read_headers(&*file, bytes)
            .map_err(|source| RecoveryError::io("read", &path, source))?;
        let newest = blocks.iter().filter_map(|block| match block {
            HeaderBlock::Valid(header) => Some(*header),
            _ => None,
        });
        if let Some(header) = newest.max_by_key(|header| header.sequence) {
            if let Some(node) = node.filter(|node| node.0 != header.node) {
                return Err(RecoveryError::Foreign {
                    path,
                    found: NodeId(header.node),
                    node,
                });
            }
            let sequence = header.sequence;
            if let Some(other) = used.insert(sequence, SegmentFile { name, file, header }) {
                return Err(RecoveryError::Twice {
                    path,
                    other: other.name,
                    sequence,
                });
            }
            continue;
        }
        for block in &blocks {
            if let HeaderBlock::UnknownVersion(found) = block {
                return Err(RecoveryError::UnknownVersion {
                    path,
                    found: *found,
                });
            }
        }
        if blocks.iter().all(|block| *block == HeaderBlock::Zero) {
            files.spare.push(SpareSegment {
                name,
                file,
                bytes,
                left_log_at: 0,
            });
        } else {
            files.damaged.push(name);
        }
    }
    sort_out(used, &mut files);
    Ok(files)
}

/// The newest header says where the log begins; older segments are spare.
fn sort_out(mut used: BTreeMap<u64, SegmentFile>, files: &mut SegmentFiles) {
    let Some((newest, file)) = used.last_key_value() else {
        return;
    };
    let (newest, oldest) = (*newest, file.header.oldest.clamp(1, *newest));
    let current = used.split_off(&oldest);
    for file in used.into_values() {
        let SegmentFile { name, file, header } = file;
        files.spare.push(SpareSegment {
            name,
            file,
            bytes: header.bytes,
            left_log_at: header.sequence,
        });
    }
    let place = |sequence: u64| SegmentSequence::try_from(sequence).unwrap_or(SegmentSequence::MAX);
    files.missing = (oldest..=newest)
        .filter(|sequence| !current.contains_key(sequence))
        .map(place)
        .collect();
    files.live = current
        .into_iter()
        .map(|(sequence, file)| (place(sequence), file))
        .collect();
}

fn read_headers(file: &dyn DiskFile, bytes: u64) -> io::Result<[HeaderBlock; 2]> {
    // A file that a crash left shorter than it was to be has no header yet.
    if bytes < 2 * HEADER_BLOCK_BYTES {
        return Ok([HeaderBlock::Zero, HeaderBlock::Zero]);
    }
    let mut blocks = [HeaderBlock::Zero, HeaderBlock::Zero];
    for (block, offset) in blocks.iter_mut().zip([0, bytes - HEADER_BLOCK_BYTES]) {
        let mut buffer = [0u8; HEADER_BYTES];
        file.read_at(offset, &mut buffer)?;
        *block = SegmentHeader::decode(&buffer);
        if matches!(block, HeaderBlock::Valid(header) if header.bytes != bytes) {
            *block = HeaderBlock::Damaged;
        }
    }
    Ok(blocks)
}

/// Opens the log and continues it in a fresh segment.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    node: NodeId,
    start: Start,
    options: LogOptions,
) -> Result<(SegmentedLog, Recovered), RecoveryError> {
    let sizes = crate::bounds::SEGMENT_BYTES_MIN..=crate::bounds::SEGMENT_BYTES_MAX;
    if !sizes.contains(&options.segment_bytes) || !options.segment_bytes.is_multiple_of(4096) {
        return Err(RecoveryError::SegmentBytes(options.segment_bytes));
    }
    let mut files = find_segments(&*disk, Some(node))?;
    let pool = Arc::new(SegmentPool::new(
        disk.clone(),
        options.segment_bytes,
        files.highest_number,
    ));
    let begun = disk
        .list()
        .map_err(|source| RecoveryError::io("list", &disk.path(), source))?
        .iter()
        .any(|name| name == BEGUN);
    if begun && files.live.is_empty() {
        return Err(RecoveryError::Gone { path: disk.path() });
    }
    let damaged = std::mem::take(&mut files.damaged);
    let spare = std::mem::take(&mut files.spare);
    let mut replay = Replay::new(node);
    replay.read_all(&*disk, files, !damaged.is_empty())?;
    let (continuation, state, mut recovered) = replay.finish();
    let state = SharedState::new(state);
    let log = SegmentedLog::continue_after(
        &disk,
        (node, start),
        options,
        pool.clone(),
        state.clone(),
        continuation,
    )?;
    if !begun {
        disk.create(BEGUN, 0)
            .map_err(|source| RecoveryError::io("create", &disk.path().join(BEGUN), source))?;
    }
    // What the fresh segment took in counts from now on.
    let lost: Vec<GroupId> = {
        let state = state.lock();
        state
            .groups
            .iter()
            .filter(|(_, group)| group.promises_lost.is_some())
            .map(|(id, _)| *id)
            .collect()
    };
    for group in lost {
        recovered.groups.entry(group).or_default().promises_lost = true;
    }
    // Only now does a durable header say that these are no part of the log.
    for file in spare {
        let path = disk.path().join(&file.name);
        pool.give_back(file)
            .map_err(|source| RecoveryError::io("remove", &path, source))?;
    }
    for name in damaged {
        tracing::error!(%name, "log segment with two unreadable headers: kept aside");
        let path = disk.path().join(&name);
        disk.rename(&name, &format!("damaged-{name}"))
            .map_err(|source| RecoveryError::io("rename", &path, source))?;
    }
    Ok((log, recovered))
}

/// Everything read so far.
struct Replay {
    node: NodeId,
    state: LogState,
    recovered: Recovered,
    /// Frames of an unfinished last batch that still stand; they are written again.
    survivors: Vec<Frame>,
    holes: Vec<Hole>,
    position: Sequence,
    order: Sequence,
    last_segment: SegmentSequence,
    next_batch: u64,
    cut_batch: u64,
}

impl Replay {
    fn new(node: NodeId) -> Replay {
        Replay {
            node,
            state: LogState::default(),
            recovered: Recovered::default(),
            survivors: Vec::new(),
            holes: Vec::new(),
            position: Sequence(0),
            order: Sequence(0),
            last_segment: 0,
            next_batch: 1,
            cut_batch: 1,
        }
    }

    fn read_all(
        &mut self,
        disk: &dyn Disk,
        files: SegmentFiles,
        any_damaged: bool,
    ) -> Result<(), RecoveryError> {
        let newest = files.live.keys().next_back().copied();
        let headers: BTreeMap<SegmentSequence, SegmentHeader> = files
            .live
            .iter()
            .map(|(sequence, file)| (*sequence, file.header))
            .collect();
        let hole = |segment| Hole {
            segment,
            first: 0,
            end: u64::MAX,
        };
        self.holes
            .extend(files.missing.iter().map(|segment| hole(*segment)));
        if any_damaged {
            // It may have been the newest: nobody can tell.
            self.holes.push(hole(newest.map_or(1, |newest| newest + 1)));
        }
        for (sequence, file) in files.live {
            let path = disk.path().join(&file.name);
            let bytes = usize::try_from(file.header.bytes).expect("64-bit machines only");
            let mut buffer = vec![0u8; bytes];
            file.file
                .read_at(0, &mut buffer)
                .map_err(|source| RecoveryError::io("read", &path, source))?;
            let found = scan(&Bytes::from(buffer), &file.header);
            if let Some(bad) = found
                .iter()
                .find(|record| FrameKind::of(record.identity.kind).is_none())
            {
                return Err(RecoveryError::UnknownKind {
                    path,
                    kind: bad.identity.kind,
                });
            }
            self.state.segments.insert(
                sequence,
                Segment {
                    file: file.file,
                    name: file.name,
                    bytes: file.header.bytes,
                    used_bytes: used_bytes(&found),
                    live_bytes: 0,
                    live_entries: 0,
                    runs: Vec::new(),
                },
            );
            let end = (Some(sequence) != newest)
                .then(|| end_batch(&headers, sequence))
                .flatten();
            self.read_segment(sequence, &file.header, found, end, Some(sequence) == newest);
        }
        self.last_segment = newest.unwrap_or(0);
        if any_damaged {
            // The unreadable file may have been the one after the newest; its place is not used again.
            self.last_segment += 1;
        }
        Ok(())
    }

    /// `end` is the first batch that no longer counts, where a later segment's header tells it.
    fn read_segment(
        &mut self,
        sequence: SegmentSequence,
        header: &SegmentHeader,
        found: Vec<FoundRecord>,
        end: Option<u64>,
        newest: bool,
    ) {
        let counted: Vec<FoundRecord> = found
            .into_iter()
            .filter(|record| end.is_none_or(|end| record.identity.batch < end))
            .collect();
        let last_batch = counted
            .iter()
            .map(|record| record.identity.batch)
            .max()
            .unwrap_or(header.first_batch - 1);
        // What a recovery writes is synced before the header of its segment is.
        let proven = header.first_batch - u64::from(!header.opened_at_start);
        let gaps = gaps(
            header.first_batch,
            &counted,
            end.unwrap_or(last_batch.max(proven) + 1),
        );
        // Only the last batch of the newest segment can be unfinished.
        let unproven = newest && last_batch > proven;
        let (torn, damage): (Vec<Gap>, Vec<Gap>) = gaps
            .into_iter()
            .partition(|gap| unproven && gap.only_of(last_batch));
        self.holes.extend(damage.iter().map(|gap| Hole {
            segment: sequence,
            first: gap.first,
            end: gap.end,
        }));
        let of_last = |record: &&FoundRecord| unproven && record.identity.batch == last_batch;
        let torn_fences = counted
            .iter()
            .filter(of_last)
            .filter(|record| is_damaged_fence(record));
        let first_torn = torn
            .iter()
            .map(|gap| gap.first)
            .chain(torn_fences.map(|record| u64::from(record.identity.number)))
            .min();
        for record in &counted {
            let unfinished = first_torn.is_some() && record.identity.batch == last_batch;
            let behind = first_torn.is_some_and(|first| u64::from(record.identity.number) >= first);
            self.read_record(sequence, record, unfinished, behind);
        }
        if newest {
            self.next_batch = last_batch.max(proven) + 1;
            self.cut_batch = if first_torn.is_some() {
                last_batch
            } else {
                self.next_batch
            };
        }
    }

    fn read_record(
        &mut self,
        segment: SegmentSequence,
        record: &FoundRecord,
        unfinished: bool,
        behind: bool,
    ) {
        let identity = &record.identity;
        let kind = FrameKind::of(identity.kind).expect("checked for the whole segment");
        if unfinished && ((behind && !kind.stands_alone()) || is_damaged_fence(record)) {
            return;
        }
        self.position = self.position.max(Sequence(identity.position));
        let content = read_content(kind, identity, &record.value);
        let decoded = Decoded::of(kind, identity, content);
        self.fold(&decoded);
        if unfinished {
            self.survivors.extend(decoded.frames(self.position));
            return;
        }
        let entries: Vec<Option<LandedEntry>> = decoded
            .entries
            .iter()
            .map(|entry| match entry {
                Some((place, Some(_))) => Some(LandedEntry::at(identity.offset(), place)),
                _ => None,
            })
            .collect();
        self.state.land(&Landed {
            kind,
            segment,
            group: decoded.group,
            log: decoded.log,
            slot: decoded.slot,
            ballot: decoded.ballot,
            configuration: decoded.configuration.as_ref(),
            entries: &entries,
        });
    }

    /// Gives the record to the consensus crate's own fold.
    fn fold(&mut self, decoded: &Decoded) {
        let Decoded {
            group,
            log,
            slot,
            ballot,
            ..
        } = *decoded;
        let record = match decoded.kind {
            FrameKind::Configured => match &decoded.configuration {
                Some(configuration) => Record::Configured {
                    configuration: configuration.clone(),
                },
                // The state remembers that a fence is lost, until the group is barred.
                None => return,
            },
            FrameKind::Promised | FrameKind::Accepted => Record::Promised { group, log, ballot },
            FrameKind::Learnt
            | FrameKind::Lost
            | FrameKind::PromisesLost
            | FrameKind::DamageNoted
            | FrameKind::Confirmed => {
                self.fold_entries(decoded);
                return;
            }
            FrameKind::Chosen => Record::Chosen {
                group,
                log,
                up_to: slot,
            },
            FrameKind::Installed => Record::Installed { group, log, slot },
            FrameKind::Trimmed => Record::Trimmed {
                group,
                log,
                up_to: slot,
            },
            FrameKind::PeerSeen => Record::PeerSeen {
                node: ballot.node,
                start: ballot.start,
                position: Sequence(slot.0),
            },
            FrameKind::VotingBarred => Record::VotingBarred {
                group,
                since: ballot.epoch,
            },
            FrameKind::Forgotten => Record::Forgotten { group },
        };
        // Records that recovery or recycling wrote again share a position, so the fold counts for itself.
        self.order = Sequence(self.order.0 + 1);
        self.recovered.apply(self.order, &record);
        self.fold_entries(decoded);
    }

    fn fold_entries(&mut self, decoded: &Decoded) {
        if decoded.entries.is_empty() {
            return;
        }
        let log = self
            .recovered
            .groups
            .entry(decoded.group)
            .or_default()
            .log(decoded.log);
        for (distance, entry) in (0..).zip(&decoded.entries) {
            let entry = entry.as_ref().and_then(|(_, entry)| entry.clone());
            log.accept(decoded.slot.plus(distance), decoded.ballot, entry);
        }
    }

    fn finish(mut self) -> (Continuation, LogState, Recovered) {
        let unnoted: Vec<Hole> = self
            .holes
            .iter()
            .filter(|hole| !self.state.noted.keys().any(|noted| noted.contains(hole)))
            .copied()
            .collect();
        let mut frames = std::mem::take(&mut self.survivors);
        if let Some(last) = self.holes.iter().map(|hole| hole.segment).max() {
            self.state.distrust_closed(last);
        }
        for hole in &unnoted {
            tracing::error!(?hole, node = %self.node, "records are missing from the log: promises may be lost, every group is told");
            frames.push(Frame::damage_noted(self.position, hole));
        }
        if !unnoted.is_empty() {
            let known = self.state.groups.keys().chain(self.recovered.groups.keys());
            let groups: std::collections::BTreeSet<GroupId> = known.copied().collect();
            for group in groups {
                let lost = FrameKind::PromisesLost;
                frames.push(Frame::bare(
                    lost,
                    self.position,
                    group,
                    LogId::CONTROL,
                    Slot::ZERO,
                    Ballot::ZERO,
                ));
            }
        }
        frames.push(Frame::confirmed(self.position));
        let mut recovered = self.recovered;
        recovered.position = self.position;
        detach(&mut recovered);
        let continuation = Continuation {
            last_segment: self.last_segment,
            oldest: self.state.segments.keys().next().copied(),
            next_batch: self.next_batch,
            position: self.position,
            cut_segment: self.last_segment,
            cut_batch: self.cut_batch,
            frames,
        };
        (continuation, self.state, recovered)
    }
}

/// Entries so far are slices of whole segments; give each its own memory.
fn detach(recovered: &mut Recovered) {
    let logs = recovered
        .groups
        .values_mut()
        .flat_map(|group| group.logs.values_mut());
    for RecoveredEntry { entry, .. } in logs.flat_map(|log| log.accepted.values_mut()) {
        if let Some(whole) = entry {
            let copied = Entry::from_bytes(Bytes::copy_from_slice(whole.bytes()));
            *whole = copied.expect("the same bytes were an entry before");
        }
    }
}

/// The first batch of a segment that no longer counts, as the next segment's header tells.
fn end_batch(
    headers: &BTreeMap<SegmentSequence, SegmentHeader>,
    sequence: SegmentSequence,
) -> Option<u64> {
    let next = headers.get(&(sequence + 1))?;
    let cut = next.cut_segment == u64::from(sequence);
    Some(if cut {
        next.cut_batch
    } else {
        next.first_batch
    })
}

fn used_bytes(found: &[FoundRecord]) -> u64 {
    let records: u64 = found
        .iter()
        .map(|record| crate::frame::frame_bytes(record.identity.value_bytes))
        .sum();
    records
        + found.len() as u64 * crate::record_identity::IDENTITY_BYTES as u64
        + 2 * HEADER_BLOCK_BYTES
}

/// A configuration without its content. In the last batch it was never acknowledged, because a fence is acknowledged
/// only once a later batch stands behind it.
fn is_damaged_fence(record: &FoundRecord) -> bool {
    let kind = FrameKind::of(record.identity.kind);
    kind == Some(FrameKind::Configured)
        && read_content(FrameKind::Configured, &record.identity, &record.value)
            == FrameContent::Damaged
}

/// Record numbers `first..end` that are missing, and the batches to which they can belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    first: u64,
    end: u64,
    first_batch: u64,
    last_batch: u64,
}

impl Gap {
    fn only_of(&self, batch: u64) -> bool {
        self.first_batch == batch && self.last_batch == batch
    }
}

/// What is missing among the records of a segment that begins with batch `first_batch` and holds all up to `end_batch`.
fn gaps(first_batch: u64, found: &[FoundRecord], end_batch: u64) -> Vec<Gap> {
    let mut gaps = Vec::new();
    // The batch that the next record belongs to, and its number, if nothing is missing.
    let (mut batch, mut number) = (first_batch, 0u64);
    for record in found {
        let identity = &record.identity;
        let here = u64::from(identity.number);
        if here > number || identity.batch != batch {
            gaps.push(Gap {
                first: number,
                end: here,
                first_batch: batch,
                last_batch: identity.batch,
            });
        }
        number = here + 1;
        batch = if identity.following == 0 {
            identity.batch + 1
        } else {
            identity.batch
        };
    }
    if batch < end_batch {
        gaps.push(Gap {
            first: number,
            end: u64::MAX,
            first_batch: batch,
            last_batch: end_batch - 1,
        });
    }
    gaps
}

/// A record with its meaning.
struct Decoded {
    kind: FrameKind,
    group: GroupId,
    log: LogId,
    slot: Slot,
    ballot: Ballot,
    configuration: Option<Arc<Configuration>>,
    entries: Vec<Option<(EntryPlace, Option<Entry>)>>,
}

impl Decoded {
    fn of(kind: FrameKind, identity: &RecordIdentity, content: FrameContent) -> Decoded {
        let (configuration, entries) = match content {
            FrameContent::Configuration(configuration) => (Some(configuration), Vec::new()),
            FrameContent::Entries(entries) => (None, entries),
            FrameContent::Bare | FrameContent::Damaged => (None, Vec::new()),
        };
        Decoded {
            kind,
            group: GroupId(identity.group),
            log: LogId(identity.log),
            slot: Slot(identity.slot),
            ballot: Ballot {
                epoch: Epoch(identity.epoch),
                round: identity.round,
                node: NodeId(identity.node),
                start: Start(identity.start),
            },
            configuration,
            entries,
        }
    }

    /// The same, to be written again.
    fn frames(&self, position: Sequence) -> Vec<Frame> {
        let bare =
            |kind, slot| Frame::bare(kind, position, self.group, self.log, slot, self.ballot);
        match self.kind {
            FrameKind::Configured => match &self.configuration {
                Some(configuration) => vec![Frame::configured(position, configuration)],
                None => vec![bare(FrameKind::PromisesLost, Slot::ZERO)],
            },
            FrameKind::Accepted | FrameKind::Learnt | FrameKind::Lost => {
                let mut frames = Vec::new();
                if self.kind == FrameKind::Accepted {
                    // An acceptance is a promise too, even where its content is lost.
                    frames.push(bare(FrameKind::Promised, Slot::ZERO));
                }
                let place = (self.group, self.log);
                for (distance, entry) in (0..).zip(&self.entries) {
                    let at = (self.slot.plus(distance), self.ballot);
                    frames.push(match entry {
                        Some((row, Some(entry))) => {
                            let mut one = std::iter::once((entry.bytes().clone(), row.checksum));
                            Frame::entries((self.kind, position), place, at, &mut one)
                        }
                        _ => Frame::lost(position, place, at),
                    });
                }
                frames
            }
            kind => vec![bare(kind, self.slot)],
        }
    }
}
