//! Reads every record of every segment in order, and tells a torn end from damage. `recovery.rs` says what counts as what.

use crate::cold_moves::cold_moved;
use crate::discipline::is_of_values;
use crate::disk::Disk;
use crate::frame::{read_content, Frame, FrameContent, FrameKind};
use crate::live_entries::LiveEntries;
use crate::log_state::{Hole, Kept, Landed, LandedEntry, LogState, Segment, SegmentSequence};
use crate::recovery::RecoveryError;
use crate::segment_files::SegmentFiles;
use crate::segment_header::{SegmentHeader, HEADER_BLOCK_BYTES};
use crate::segment_scan::{scan, FoundRecord};
use crate::segmented_log::Continuation;
use crate::stored_record::StoredRecord;
use bytes::Bytes;
use consensus::{
    Ballot, Entry, GroupId, LogId, NodeId, Record, Recovered, RecoveredEntry, RecoveredLog, Sequence, Slot,
};
use std::collections::{BTreeMap, BTreeSet};

/// Where what is proved by a laggards' file stands: in no segment.
const NO_SEGMENT: SegmentSequence = 0;

/// Everything read so far.
pub(crate) struct Replay {
    node: NodeId,
    pub(crate) state: LogState,
    recovered: Recovered,
    /// Frames of the last batch, of which nobody knows whether it was synced; they are written again.
    survivors: Vec<Frame>,
    holes: Vec<Hole>,
    position: Sequence,
    order: Sequence,
    last_segment: SegmentSequence,
    /// The newest segment that could be read, and the first batch in it that does not count.
    cut_segment: SegmentSequence,
    next_batch: u64,
    cut_batch: u64,
}

impl Replay {
    pub(crate) fn new(node: NodeId) -> Replay {
        Replay {
            node,
            state: LogState::default(),
            recovered: Recovered::default(),
            survivors: Vec::new(),
            holes: Vec::new(),
            position: Sequence(0),
            order: Sequence(0),
            last_segment: 0,
            cut_segment: 0,
            next_batch: 1,
            cut_batch: 1,
        }
    }

    pub(crate) fn read_all(
        &mut self,
        disk: &dyn Disk,
        files: SegmentFiles,
        any_damaged: bool,
    ) -> Result<(), RecoveryError> {
        let newest = files.live.keys().next_back().copied();
        let headers: BTreeMap<SegmentSequence, SegmentHeader> =
            files.live.iter().map(|(sequence, file)| (*sequence, file.header)).collect();
        let hole = |segment| Hole { segment, first: 0, end: u64::MAX };
        self.holes.extend(files.missing.iter().map(|segment| hole(*segment)));
        if any_damaged {
            // It may have been the newest: nobody can tell.
            self.holes.push(hole(newest.map_or(1, |newest| newest + 1)));
        }
        for (sequence, file) in files.live {
            let path = disk.path().join(&file.name);
            let bytes = usize::try_from(file.header.bytes).expect("64-bit machines only");
            let mut buffer = vec![0u8; bytes];
            file.file.read_at(0, &mut buffer).map_err(|source| RecoveryError::io("read", &path, source))?;
            let found = scan(&Bytes::from(buffer), file.header.id);
            if let Some(bad) = found.iter().find(|record| FrameKind::of(record.identity.kind).is_none()) {
                return Err(RecoveryError::UnknownKind { path, kind: bad.identity.kind });
            }
            self.state.segments.insert(
                sequence,
                Segment {
                    file: file.file,
                    name: file.name,
                    bytes: file.header.bytes,
                    header: file.header,
                    records: 0,
                    used_bytes: used_bytes(&found),
                    live: LiveEntries::default(),
                    touched: BTreeSet::new(),
                },
            );
            let end = (Some(sequence) != newest).then(|| end_batch(&headers, sequence)).flatten();
            self.read_segment(sequence, &file.header, found, end, Some(sequence) == newest);
        }
        self.last_segment = newest.unwrap_or(0);
        self.cut_segment = self.last_segment;
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
        let counted: Vec<FoundRecord> =
            found.into_iter().filter(|record| end.is_none_or(|end| record.identity.batch < end)).collect();
        let last_batch = counted.iter().map(|record| record.identity.batch).max().unwrap_or(header.first_batch - 1);
        // What a recovery writes is synced before the header of its segment is.
        let proven = header.first_batch - u64::from(!header.opened_at_start);
        let gaps = gaps(header.first_batch, &counted, end.unwrap_or(last_batch.max(proven) + 1));
        // Only the last batch of the newest segment can be unfinished.
        let unproven = newest && last_batch > proven;
        let (torn, damage): (Vec<Gap>, Vec<Gap>) =
            gaps.into_iter().partition(|gap| unproven && gap.only_of(last_batch));
        self.holes.extend(damage.iter().map(|gap| Hole { segment: sequence, first: gap.first, end: gap.end }));
        let of_last = |record: &&FoundRecord| unproven && record.identity.batch == last_batch;
        let torn_fences = counted.iter().filter(of_last).filter(|record| is_damaged_fence(record));
        let first_torn =
            torn.iter().map(|gap| gap.first).chain(torn_fences.map(|record| u64::from(record.identity.number))).min();
        // Whole or not: the process may have ended before the sync, or because it failed, and then what is read here stands in
        // the system's cache and nowhere else. So it is written again.
        let unfinished = |record: &FoundRecord| unproven && record.identity.batch == last_batch;
        let whole = counted.iter().filter(|record| !unfinished(record)).map(|record| record.identity.number + 1);
        let records = whole.max().unwrap_or(0);
        self.state.segments.get_mut(&sequence).expect("it was put there").records = records;
        for record in &counted {
            let unfinished = unfinished(record);
            let behind = first_torn.is_some_and(|first| u64::from(record.identity.number) >= first);
            self.read_record(sequence, record, unfinished, behind);
        }
        if newest {
            self.next_batch = last_batch.max(proven) + 1;
            self.cut_batch = if unproven { last_batch } else { self.next_batch };
        }
    }

    fn read_record(&mut self, segment: SegmentSequence, record: &FoundRecord, unfinished: bool, behind: bool) {
        let identity = &record.identity;
        let kind = FrameKind::of(identity.kind).expect("checked for the whole segment");
        if unfinished && ((behind && !kind.stands_alone()) || is_damaged_fence(record)) {
            return;
        }
        self.position = self.position.max(Sequence(identity.position));
        let content = read_content(kind, identity, &record.value);
        let decoded = StoredRecord::of(kind, identity, content);
        self.fold(&decoded);
        if unfinished {
            // It counts where it stands, too, until the copy is durable.
            self.survivors.extend(decoded.frames(self.position));
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
    fn fold(&mut self, decoded: &StoredRecord) {
        let StoredRecord { group, log, slot, ballot, .. } = *decoded;
        let record = match decoded.kind {
            FrameKind::Configured => match &decoded.configuration {
                Some(configuration) => Record::Configured { configuration: configuration.clone() },
                // The state remembers that a fence is lost, until the group is barred.
                None => return,
            },
            FrameKind::Promised | FrameKind::Accepted => Record::Promised { group, log, ballot },
            FrameKind::Learnt
            | FrameKind::Lost
            | FrameKind::PromisesLost
            | FrameKind::DamageNoted
            | FrameKind::ColdMoved
            | FrameKind::Confirmed => {
                self.fold_entries(decoded);
                return;
            }
            FrameKind::Chosen => Record::Chosen { group, log, up_to: slot },
            FrameKind::Installed => Record::Installed { group, log, slot },
            FrameKind::Trimmed => Record::Trimmed { group, log, up_to: slot },
            FrameKind::PeerSeen => {
                Record::PeerSeen { node: ballot.node, start: ballot.start, position: Sequence(slot.0) }
            }
            FrameKind::VotingBarred => Record::VotingBarred { group, start: ballot.start },
            FrameKind::Forgotten => Record::Forgotten { group },
        };
        // Records that recovery or recycling wrote again share a position, so the fold counts for itself.
        self.order = Sequence(self.order.0 + 1);
        self.recovered.apply(self.order, &record);
        self.fold_entries(decoded);
    }

    pub(crate) fn fold_entries(&mut self, decoded: &StoredRecord) {
        if decoded.entries.is_empty() {
            return;
        }
        let log = self.recovered.groups.entry(decoded.group).or_default().log(decoded.log);
        for (distance, entry) in (0..).zip(&decoded.entries) {
            let entry = entry.as_ref().and_then(|(_, entry)| entry.clone());
            let slot = decoded.slot.plus(distance);
            match decoded.kind {
                FrameKind::Learnt => log.learn(slot, decoded.ballot, entry),
                _ => log.accept(slot, decoded.ballot, entry),
            }
        }
    }

    /// Slots up to this one are closed, which no record of the log may say any more.
    pub(crate) fn prove_closed(&mut self, group: GroupId, log: LogId, slot: Slot) {
        let state = self.state.groups.entry(group).or_default().logs.entry(log).or_default();
        Kept::raise(&mut state.closed, slot, NO_SEGMENT);
        self.order = Sequence(self.order.0 + 1);
        self.recovered.apply(self.order, &Record::Chosen { group, log, up_to: slot });
    }

    /// The last segment with a gap, noted or not.
    pub(crate) fn last_hole(&self) -> Option<SegmentSequence> {
        self.holes.iter().map(|hole| hole.segment).max()
    }

    /// The store of cold logs has lost what it held: every group whose logs may have stood there is told.
    fn tell_of_lost_store(&self, frames: &mut Vec<Frame>) {
        for (group, state) in &self.state.groups {
            let known = state.configuration.as_ref();
            if known.is_none_or(|(configuration, _)| is_of_values(configuration)) {
                let (lost, zero) = (FrameKind::PromisesLost, Ballot::ZERO);
                frames.push(Frame::bare(lost, self.position, *group, LogId::CONTROL, Slot::ZERO, zero));
            }
        }
    }

    /// What to continue with, what the log says, and what the core is told.
    pub(crate) fn finish(mut self, store_lost: bool, moves: u64) -> (Continuation, LogState, Recovered) {
        let unnoted: Vec<Hole> = self
            .holes
            .iter()
            .filter(|hole| !self.state.noted.keys().any(|noted| noted.contains(hole)))
            .copied()
            .collect();
        let mut frames = std::mem::take(&mut self.survivors);
        // Figures are about what happens from now on.
        self.state.damage_healed = 0;
        for group in self.state.groups.values_mut() {
            if let Some(lost) = group.lost_fence.take() {
                group.promises_lost = Some(lost.segment);
            }
        }
        // Where the record of it was lost to damage, it is written again.
        for (group, state) in &self.state.groups {
            for (log, state) in &state.logs {
                if let Some(kept) = state.closed.filter(|kept| kept.segment == NO_SEGMENT) {
                    let (chosen, zero) = (FrameKind::Chosen, Ballot::ZERO);
                    frames.push(Frame::bare(chosen, self.position, *group, *log, kept.value, zero));
                }
            }
        }
        if store_lost {
            self.tell_of_lost_store(&mut frames);
        }
        if self.state.cold.moves.is_none_or(|kept| kept.value < moves) && moves > 0 {
            // A crash came before the log could note the last one.
            frames.push(cold_moved(self.position, moves));
        }
        if let Some(last) = self.last_hole() {
            self.state.distrust_closed(last);
            if last > self.cut_segment {
                // What may be missing came after the last batch: a copy of it must not look newer.
                let is_open = |frame: &Frame| frame.slot > self.state.closed(frame.group, frame.log);
                frames.retain(|frame| !matches!(frame.kind, FrameKind::Accepted | FrameKind::Learnt) || is_open(frame));
            }
        }
        for hole in &unnoted {
            tracing::error!(?hole, node = %self.node, "records are missing from the log: promises may be lost, every group is told");
            frames.push(Frame::damage_noted(self.position, hole));
        }
        if !unnoted.is_empty() {
            let known = self.state.groups.keys().chain(self.recovered.groups.keys());
            let groups: BTreeSet<GroupId> = known.copied().collect();
            for group in groups {
                let lost = FrameKind::PromisesLost;
                frames.push(Frame::bare(lost, self.position, group, LogId::CONTROL, Slot::ZERO, Ballot::ZERO));
            }
        }
        frames.push(Frame::confirmed(self.position));
        let mut recovered = self.recovered;
        recovered.position = self.position;
        for (group, log, found) in logs_of(&mut recovered) {
            // A damaged copy may stand behind a whole one, which has moved to another file meanwhile.
            found
                .lost
                .retain(|slot, _| self.state.place(group, log, *slot).is_none_or(|(place, ..)| place.is_damaged()));
        }
        detach(&mut recovered);
        let continuation = Continuation {
            last_segment: self.last_segment,
            oldest: self.state.segments.keys().next().copied(),
            next_batch: self.next_batch,
            position: self.position,
            cut_segment: self.cut_segment,
            cut_batch: self.cut_batch,
            frames,
        };
        (continuation, self.state, recovered)
    }
}

fn logs_of(recovered: &mut Recovered) -> impl Iterator<Item = (GroupId, LogId, &mut RecoveredLog)> {
    let groups = recovered.groups.iter_mut();
    groups.flat_map(|(group, found)| found.logs.iter_mut().map(|(log, found)| (*group, *log, found)))
}

/// Entries so far are slices of whole segments; give each its own memory.
fn detach(recovered: &mut Recovered) {
    for RecoveredEntry { entry, .. } in logs_of(recovered).flat_map(|(_, _, log)| log.accepted.values_mut()) {
        if let Some(whole) = entry {
            let copied = Entry::from_bytes(Bytes::copy_from_slice(whole.bytes()));
            *whole = copied.expect("the same bytes were an entry before");
        }
    }
}

/// The first batch of a segment that no longer counts, as the next segment's header tells, or that of the recovery that
/// cut it. The two are one, unless a file with unreadable headers stood between them.
fn end_batch(headers: &BTreeMap<SegmentSequence, SegmentHeader>, sequence: SegmentSequence) -> Option<u64> {
    let mut later = headers.range(sequence + 1..).map(|(_, header)| header);
    let cut = later.find(|header| header.opened_at_start && header.cut_segment == u64::from(sequence));
    cut.map(|header| header.cut_batch).or_else(|| Some(headers.get(&(sequence + 1))?.first_batch))
}

fn used_bytes(found: &[FoundRecord]) -> u64 {
    let records: u64 = found.iter().map(|record| crate::frame::frame_bytes(record.identity.value_bytes)).sum();
    records + found.len() as u64 * crate::record_identity::IDENTITY_BYTES as u64 + 2 * HEADER_BLOCK_BYTES
}

/// A configuration without its content. In the last batch it was never acknowledged, because a fence is acknowledged
/// only once a later batch stands behind it.
fn is_damaged_fence(record: &FoundRecord) -> bool {
    let kind = FrameKind::of(record.identity.kind);
    kind == Some(FrameKind::Configured)
        && read_content(FrameKind::Configured, &record.identity, &record.value) == FrameContent::Damaged
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
            gaps.push(Gap { first: number, end: here, first_batch: batch, last_batch: identity.batch });
        }
        number = here + 1;
        batch = if identity.following == 0 { identity.batch + 1 } else { identity.batch };
    }
    if batch < end_batch {
        gaps.push(Gap { first: number, end: u64::MAX, first_batch: batch, last_batch: end_batch - 1 });
    }
    gaps
}
