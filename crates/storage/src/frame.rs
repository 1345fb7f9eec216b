//! How a [`consensus::Record`] stands in the log: one or more frames, each an identity and, for entries and
//! configurations, a value.
//!
//! The value of an entries frame begins with a directory of (length, CRC32C) per entry; the identity's checksum covers
//! the directory, and each directory row covers its entry. So damage to one entry of a batch costs that entry only, and
//! an entry is verified when it is read without reading its neighbours.

use crate::bounds::COUNT_MAX;
use crate::bytes_reader::BytesReader;
use crate::log_state::Hole;
use crate::record_identity::{RecordIdentity, ALIGNMENT, IDENTITY_BYTES};
use bytes::Bytes;
use consensus::{Ballot, Configuration, Entry, Epoch, GroupId, LogId, NodeId, Record, Sequence, Slot, Start};
use std::sync::Arc;

/// One directory row: length and checksum, four bytes each.
pub(crate) const ROW_BYTES: usize = 8;

/// What a frame is. The numbers stand on the disk; never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    Configured = 1,
    Promised = 2,
    Accepted = 3,
    Learnt = 4,
    Chosen = 5,
    Installed = 6,
    Trimmed = 7,
    PeerSeen = 8,
    VotingBarred = 9,
    Forgotten = 10,
    /// Storage's own: an accepted (or learnt) entry whose content was found damaged and that had to move.
    Lost = 11,
    /// Storage's own: promises of the group may have been lost to damage, and the group has not been barred yet.
    PromisesLost = 12,
    /// Storage's own: what is missing in segments up to `slot` was seen by an earlier recovery, which wrote
    /// [`FrameKind::PromisesLost`] for every group.
    DamageNoted = 13,
    /// Storage's own: says nothing; its being there proves that the batch before it was synced.
    Confirmed = 14,
    /// Storage's own: the store of cold logs has had `slot` changes.
    ColdMoved = 15,
}

impl FrameKind {
    pub(crate) fn of(number: u8) -> Option<FrameKind> {
        Some(match number {
            1 => FrameKind::Configured,
            2 => FrameKind::Promised,
            3 => FrameKind::Accepted,
            4 => FrameKind::Learnt,
            5 => FrameKind::Chosen,
            6 => FrameKind::Installed,
            7 => FrameKind::Trimmed,
            8 => FrameKind::PeerSeen,
            9 => FrameKind::VotingBarred,
            10 => FrameKind::Forgotten,
            11 => FrameKind::Lost,
            12 => FrameKind::PromisesLost,
            13 => FrameKind::DamageNoted,
            14 => FrameKind::Confirmed,
            15 => FrameKind::ColdMoved,
            _ => return None,
        })
    }

    /// Whether it is the record of a promise or a position of one log.
    pub(crate) fn speaks_of_log(self) -> bool {
        use FrameKind::{Accepted, Chosen, Configured, Installed, Promised, Trimmed};
        matches!(self, Configured | Promised | Accepted | Chosen | Installed | Trimmed)
    }

    /// Whether it still holds although a record before it in the same unfinished batch is missing. A promise, an
    /// acceptance or a fence only ever makes the node stricter; the others speak about what came before them.
    pub(crate) fn stands_alone(self) -> bool {
        !matches!(self, FrameKind::Chosen | FrameKind::Trimmed | FrameKind::Installed | FrameKind::Forgotten)
    }
}

/// One frame without its place in a segment. Its value is given in pieces, so that entries are not copied here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub kind: FrameKind,
    pub position: Sequence,
    pub group: GroupId,
    pub log: LogId,
    /// First slot, or what the kind puts here.
    pub slot: Slot,
    pub ballot: Ballot,
    /// Entries, for `Accepted`, `Learnt` and `Lost`.
    pub entries: u32,
    /// Directory and then entries; or the encoded configuration; or nothing.
    pub value: Vec<Bytes>,
    /// Length of all of `value`.
    pub value_bytes: u32,
    /// CRC32C of the first piece: the directory, or the configuration.
    pub value_checksum: u32,
    /// The configuration that the value encodes.
    pub configuration: Option<Arc<Configuration>>,
}

impl Frame {
    /// A frame that is all identity.
    pub(crate) fn bare(
        kind: FrameKind,
        position: Sequence,
        group: GroupId,
        log: LogId,
        slot: Slot,
        ballot: Ballot,
    ) -> Frame {
        Frame {
            kind,
            position,
            group,
            log,
            slot,
            ballot,
            entries: 0,
            value: Vec::new(),
            value_bytes: 0,
            value_checksum: 0,
            configuration: None,
        }
    }

    /// Entries of consecutive slots under one ballot. Checksums come from the caller where it knows them already.
    pub(crate) fn entries(
        (kind, position): (FrameKind, Sequence),
        (group, log): (GroupId, LogId),
        (first, ballot): (Slot, Ballot),
        entries: &mut dyn Iterator<Item = (Bytes, u32)>,
    ) -> Frame {
        let mut directory = Vec::new();
        let mut value = vec![Bytes::new()];
        let mut bytes = 0u64;
        for (entry, checksum) in entries {
            let length = u32::try_from(entry.len()).expect("entries are bounded far below 4 GiB");
            directory.extend_from_slice(&length.to_le_bytes());
            directory.extend_from_slice(&checksum.to_le_bytes());
            bytes += u64::from(length);
            value.push(entry);
        }
        bytes += directory.len() as u64;
        let mut frame = Frame::bare(kind, position, group, log, first, ballot);
        frame.entries = u32::try_from(value.len() - 1).expect("a record's entries are bounded");
        frame.value_checksum = crc32c::crc32c(&directory);
        frame.value_bytes = u32::try_from(bytes).expect("a record is bounded far below 4 GiB");
        value[0] = Bytes::from(directory);
        frame.value = value;
        frame
    }

    /// A configuration.
    pub(crate) fn configured(position: Sequence, configuration: &Arc<Configuration>) -> Frame {
        let epoch = configuration.epoch;
        let bytes = postcard::to_stdvec(&**configuration).expect("a configuration always encodes");
        let mut frame = Frame::bare(
            FrameKind::Configured,
            position,
            configuration.group,
            LogId::CONTROL,
            epoch.slot(),
            Ballot::floor(epoch),
        );
        frame.value_checksum = crc32c::crc32c(&bytes);
        frame.value_bytes = u32::try_from(bytes.len()).expect("a configuration is bounded");
        frame.value = vec![Bytes::from(bytes)];
        frame.configuration = Some(configuration.clone());
        frame
    }

    /// An entry whose content is gone while its slot and ballot are known.
    pub(crate) fn lost(position: Sequence, (group, log): (GroupId, LogId), (slot, ballot): (Slot, Ballot)) -> Frame {
        let mut frame = Frame::bare(FrameKind::Lost, position, group, log, slot, ballot);
        frame.entries = 1;
        frame
    }

    /// Says that an earlier recovery saw these records missing.
    pub(crate) fn damage_noted(position: Sequence, hole: &Hole) -> Frame {
        let ballot = Ballot { epoch: Epoch(0), round: hole.first, node: NodeId(0), start: Start(hole.end) };
        Frame::bare(FrameKind::DamageNoted, position, GroupId(0), LogId(0), Slot(u64::from(hole.segment)), ballot)
    }

    /// Proof that the batch before was synced.
    pub(crate) fn confirmed(position: Sequence) -> Frame {
        Frame::bare(FrameKind::Confirmed, position, GroupId(0), LogId(0), Slot::ZERO, Ballot::ZERO)
    }

    /// Another node's position.
    pub(crate) fn peer_seen(position: Sequence, node: NodeId, start: Start, seen: Sequence) -> Frame {
        let ballot = Ballot { epoch: Epoch(0), round: 0, node, start };
        Frame::bare(FrameKind::PeerSeen, position, GroupId(0), LogId(0), Slot(seen.0), ballot)
    }

    pub(crate) fn voting_barred(position: Sequence, group: GroupId, start: Start) -> Frame {
        let ballot = Ballot { start, ..Ballot::ZERO };
        Frame::bare(FrameKind::VotingBarred, position, group, LogId::CONTROL, Slot::ZERO, ballot)
    }

    /// Appends the frames of a record. Only learnt entries of different ballots make more than one.
    pub(crate) fn of_record(position: Sequence, record: &Record, frames: &mut Vec<Frame>) {
        let bare = |kind, group: &GroupId, log: &LogId, slot: &Slot, ballot| {
            Frame::bare(kind, position, *group, *log, *slot, ballot)
        };
        frames.push(match record {
            Record::Configured { configuration } => Frame::configured(position, configuration),
            Record::Promised { group, log, ballot } => bare(FrameKind::Promised, group, log, &Slot::ZERO, *ballot),
            Record::Accepted { group, log, ballot, first, entries } => Frame::entries(
                (FrameKind::Accepted, position),
                (*group, *log),
                (*first, *ballot),
                &mut entries.iter().map(checked),
            ),
            Record::Learnt { group, log, first, entries } => {
                let mut slot = *first;
                for run in entries.chunk_by(|(left, _), (right, _)| left == right) {
                    frames.push(Frame::entries(
                        (FrameKind::Learnt, position),
                        (*group, *log),
                        (slot, run[0].0),
                        &mut run.iter().map(|(_, entry)| checked(entry)),
                    ));
                    slot = slot.plus(run.len() as u64);
                }
                return;
            }
            Record::Chosen { group, log, up_to } => bare(FrameKind::Chosen, group, log, up_to, Ballot::ZERO),
            Record::Installed { group, log, slot } => bare(FrameKind::Installed, group, log, slot, Ballot::ZERO),
            Record::Trimmed { group, log, up_to } => bare(FrameKind::Trimmed, group, log, up_to, Ballot::ZERO),
            Record::PeerSeen { node, start, position: seen } => Frame::peer_seen(position, *node, *start, *seen),
            Record::VotingBarred { group, start } => Frame::voting_barred(position, *group, *start),
            Record::Forgotten { group } => {
                bare(FrameKind::Forgotten, group, &LogId::CONTROL, &Slot::ZERO, Ballot::ZERO)
            }
        });
    }

    /// Bytes that it takes in the area of records: identity, value, padding.
    pub(crate) fn bytes(&self) -> u64 {
        frame_bytes(self.value_bytes)
    }

    /// The identity with its place filled in.
    pub(crate) fn identity(&self, batch: u64, number: u32, following: u32, offset: u64) -> RecordIdentity {
        assert!(offset.is_multiple_of(ALIGNMENT), "records are aligned");
        RecordIdentity {
            kind: self.kind as u8,
            batch,
            number,
            following,
            place: u32::try_from(offset / ALIGNMENT).expect("segments are bounded"),
            value_bytes: self.value_bytes,
            value_checksum: self.value_checksum,
            entries: self.entries,
            position: self.position.0,
            group: self.group.0,
            log: self.log.0,
            slot: self.slot.0,
            epoch: self.ballot.epoch.0,
            round: self.ballot.round,
            node: self.ballot.node.0,
            start: self.ballot.start.0,
        }
    }

    /// Where each entry stands, counted from the start of the frame, with length and checksum.
    pub(crate) fn entry_places(&self) -> Vec<EntryPlace> {
        match self.kind {
            FrameKind::Accepted | FrameKind::Learnt => directory_rows(&self.value[0]),
            _ => Vec::new(),
        }
    }
}

/// An entry inside its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryPlace {
    /// From the start of the frame.
    pub offset: u64,
    /// Length.
    pub bytes: u32,
    /// CRC32C.
    pub checksum: u32,
}

/// Bytes of a frame with a value of this length.
pub(crate) fn frame_bytes(value_bytes: u32) -> u64 {
    (IDENTITY_BYTES as u64 + u64::from(value_bytes)).next_multiple_of(ALIGNMENT)
}

/// Reads a directory whose checksum is right; the entries follow it directly.
pub(crate) fn directory_rows(directory: &[u8]) -> Vec<EntryPlace> {
    let mut offset = (IDENTITY_BYTES + directory.len()) as u64;
    directory
        .chunks_exact(ROW_BYTES)
        .map(|row| {
            let mut reader = BytesReader::new(row);
            let place = EntryPlace { offset, bytes: reader.u32(), checksum: reader.u32() };
            offset += u64::from(place.bytes);
            place
        })
        .collect()
}

fn checked(entry: &Entry) -> (Bytes, u32) {
    (entry.bytes().clone(), crc32c::crc32c(entry.bytes()))
}

/// Whether the numbers of an identity are such as a node writes. Of a kind that is unknown here only those are judged
/// that every kind has.
pub(crate) fn is_plausible(identity: &RecordIdentity) -> bool {
    let counted = (1..=COUNT_MAX).contains(&identity.batch) && identity.position <= COUNT_MAX;
    let log = identity.slot.checked_add(u64::from(identity.entries)).is_some_and(|last| last <= Slot::LARGEST.0)
        && identity.epoch <= COUNT_MAX
        && identity.round <= COUNT_MAX;
    match FrameKind::of(identity.kind) {
        // These have other things where the others have slot and ballot.
        None | Some(FrameKind::PeerSeen | FrameKind::DamageNoted) => counted,
        Some(_) => counted && log,
    }
}

/// What a frame read back from the disk says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FrameContent {
    /// All identity, or a kind whose value is of no interest.
    Bare,
    /// A whole configuration.
    Configuration(Arc<Configuration>),
    /// Per slot: place and content; the content is `None` where damaged, both are where even the directory is.
    Entries(Vec<Option<(EntryPlace, Option<Entry>)>>),
    /// The configuration is damaged.
    Damaged,
}

/// Verifies and decodes the value that should follow this identity. `value` may be shorter than it should be, or
/// anything at all; that is damage, never a panic.
pub(crate) fn read_content(kind: FrameKind, identity: &RecordIdentity, value: &Bytes) -> FrameContent {
    match kind {
        FrameKind::Configured => {
            if value.len() != identity.value_bytes as usize || crc32c::crc32c(value) != identity.value_checksum {
                return FrameContent::Damaged;
            }
            match postcard::from_bytes::<Configuration>(value) {
                Ok(configuration) if configuration.check().is_ok() && configuration.group.0 == identity.group => {
                    FrameContent::Configuration(Arc::new(configuration))
                }
                _ => FrameContent::Damaged,
            }
        }
        FrameKind::Accepted | FrameKind::Learnt => FrameContent::Entries(read_entries(identity, value)),
        FrameKind::Lost => FrameContent::Entries(vec![None; bounded_entries(identity)]),
        _ => FrameContent::Bare,
    }
}

/// A frame never claims more entries than directory rows fit its value, which lies within the segment; `Lost` has no value
/// and always speaks of one slot.
fn bounded_entries(identity: &RecordIdentity) -> usize {
    if identity.value_bytes == 0 {
        return identity.entries.min(1) as usize;
    }
    (identity.entries as usize).min(identity.value_bytes as usize / ROW_BYTES)
}

/// Whether every entry of a frame can still be found and judged.
pub(crate) fn directory_is_whole(identity: &RecordIdentity, value: &Bytes) -> bool {
    let directory = value.get(..identity.entries as usize * ROW_BYTES);
    directory.is_some_and(|directory| crc32c::crc32c(directory) == identity.value_checksum)
}

fn read_entries(identity: &RecordIdentity, value: &Bytes) -> Vec<Option<(EntryPlace, Option<Entry>)>> {
    let count = bounded_entries(identity);
    let directory_bytes = count * ROW_BYTES;
    let Some(directory) = value.get(..directory_bytes) else {
        return vec![None; count];
    };
    if crc32c::crc32c(directory) != identity.value_checksum {
        return vec![None; count];
    }
    let rows = directory_rows(directory);
    rows.into_iter()
        .map(|place| {
            let from = place.offset as usize - IDENTITY_BYTES;
            let range = from..from.saturating_add(place.bytes as usize);
            let whole = value.get(range.clone()).is_some_and(|bytes| crc32c::crc32c(bytes) == place.checksum);
            let entry = if whole { Entry::from_bytes(value.slice(range)).ok() } else { None };
            Some((place, entry))
        })
        .collect()
}
