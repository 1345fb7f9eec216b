//! What the log says at this moment, in memory: for every log of every group its promise and positions, and where each
//! entry stands on the disk; and for every segment what in it is still current.
//!
//! The writer brings it up to date after each sync, so it only ever shows what is durable. Recovery fills it by the same
//! code. Readers look places up in it from other threads.

use crate::carrying::Forward;
use crate::cold_moves::cold_moved;
use crate::cold_state::ColdState;
use crate::disk::DiskFile;
use crate::frame::{EntryPlace, Frame, FrameKind};
use crate::laggards::Laggards;
use crate::laggards_file::LaggardsNumber;
use crate::live_entries::LiveEntries;
use crate::segment_header::SegmentHeader;
use consensus::{
    Ballot, Configuration, Epoch, GroupId, LogId, NodeId, RecoveredEntry, RecoveredLog, Sequence, Slot, Start,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Place in the log of a segment; consecutive from 1. 2^32 segments of 16 MiB are 64 PiB of writing.
pub(crate) type SegmentSequence = u32;

/// The state, shared by the writer and readers.
#[derive(Clone, Default)]
pub(crate) struct SharedState(Arc<Mutex<LogState>>);

impl SharedState {
    pub(crate) fn new(state: LogState) -> SharedState {
        SharedState(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, LogState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file in which an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    Segment(SegmentSequence),
    Laggards(LaggardsNumber),
}

/// Where an entry stands. 24 bytes: there is one for every entry that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of the segment, or of the laggards' file: see [`Place::home`].
    number: u32,
    pub offset: u32,
    pub bytes: u32,
    pub checksum: u32,
    ballot: u32,
    flags: u8,
}

const LEARNT: u8 = 1;
const DAMAGED: u8 = 2;
/// Damage that scrub has counted.
const COUNTED: u8 = 4;
/// The number is that of a laggards' file.
const FOR_LAGGARDS: u8 = 8;
/// Of a log that goes to the store of cold logs.
const COLD: u8 = 16;

impl Place {
    /// The place of an entry that landed; `None` stands for damage.
    pub(crate) fn of(home: Home, landed: Option<LandedEntry>, ballot: u32, learnt: bool) -> Place {
        let (number, of_home) = match home {
            Home::Segment(segment) => (segment, 0),
            Home::Laggards(number) => (number, FOR_LAGGARDS),
        };
        let flags = of_home | if learnt { LEARNT } else { 0 } | if landed.is_none() { DAMAGED } else { 0 };
        let LandedEntry { offset, bytes, checksum } =
            landed.unwrap_or(LandedEntry { offset: 0, bytes: 0, checksum: 0 });
        Place { number, offset, bytes, checksum, ballot, flags }
    }

    /// Damage that moves is not counted anew.
    pub(crate) fn follow(&mut self, replaced: Option<&Place>) {
        if self.is_damaged() {
            self.flags |= replaced.map_or(0, |replaced| replaced.flags & COUNTED);
        }
    }

    pub(crate) fn is_cold(&self) -> bool {
        self.flags & COLD != 0
    }

    pub(crate) fn mark_cold(&mut self) {
        self.flags |= COLD;
    }

    /// The file.
    pub(crate) fn home(&self) -> Home {
        if self.flags & FOR_LAGGARDS == 0 {
            Home::Segment(self.number)
        } else {
            Home::Laggards(self.number)
        }
    }

    /// The number of its file, of whichever kind.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.flags & DAMAGED != 0
    }

    /// Whether this very content stands here, as far as length and checksum tell.
    fn holds(&self, entry: LandedEntry) -> bool {
        !self.is_damaged() && (self.bytes, self.checksum) == (entry.bytes, entry.checksum)
    }

    pub(crate) fn is_learnt(&self) -> bool {
        self.flags & LEARNT != 0
    }
}

/// An entry of a frame that landed on the disk; `None` in its place stands for damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LandedEntry {
    pub offset: u32,
    pub bytes: u32,
    pub checksum: u32,
}

impl LandedEntry {
    /// An entry of the frame that starts at `frame` of its segment.
    pub(crate) fn at(frame: u64, place: &EntryPlace) -> LandedEntry {
        let offset = u32::try_from(frame + place.offset).expect("segments are no larger than 4 GiB");
        LandedEntry { offset, bytes: place.bytes, checksum: place.checksum }
    }
}

/// A durable frame.
#[derive(Debug)]
pub(crate) struct Landed<'a> {
    pub kind: FrameKind,
    pub segment: SegmentSequence,
    pub group: GroupId,
    pub log: LogId,
    pub slot: Slot,
    pub ballot: Ballot,
    pub configuration: Option<&'a Arc<Configuration>>,
    pub entries: &'a [Option<LandedEntry>],
}

/// A value and the segment that holds the record it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept<T> {
    pub value: T,
    pub segment: SegmentSequence,
}

impl<T: PartialOrd> Kept<T> {
    /// Takes a value at least as high, so that a copy carried forward takes over from its original.
    pub(crate) fn raise(kept: &mut Option<Kept<T>>, value: T, segment: SegmentSequence) {
        if kept.as_ref().is_none_or(|old| old.value <= value) {
            *kept = Some(Kept { value, segment });
        }
    }
}

/// A segment that belongs to the log.
pub(crate) struct Segment {
    pub file: Arc<dyn DiskFile>,
    pub name: String,
    pub bytes: u64,
    pub header: SegmentHeader,
    /// Durable records in it that count, numbered from 0.
    pub records: u32,
    /// Bytes of records and identities in it.
    pub used_bytes: u64,
    pub live: LiveEntries,
    /// Logs of which it holds, or held, the current record of a promise or a position.
    pub touched: BTreeSet<(GroupId, LogId)>,
}

#[derive(Debug, Default)]
pub(crate) struct GroupState {
    pub configuration: Option<(Arc<Configuration>, SegmentSequence)>,
    /// The start of the latest bar on voting.
    pub barred: Option<Kept<Start>>,
    pub promises_lost: Option<SegmentSequence>,
    /// A fence whose content is lost, until a configuration of its epoch or a later one follows.
    pub lost_fence: Option<Kept<Epoch>>,
    pub logs: BTreeMap<LogId, OneLogState>,
}

#[derive(Debug, Default)]
pub(crate) struct OneLogState {
    pub promised: Option<Kept<Ballot>>,
    pub closed: Option<Kept<Slot>>,
    pub trimmed: Option<Kept<Slot>>,
    pub ballots: Vec<Ballot>,
    pub entries: BTreeMap<Slot, Place>,
}

/// Records that a recovery found missing: numbers `first..end` of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hole {
    pub segment: SegmentSequence,
    pub first: u64,
    pub end: u64,
}

impl Hole {
    pub(crate) fn contains(&self, other: &Hole) -> bool {
        self.segment == other.segment && self.first <= other.first && other.end <= self.end
    }
}

/// All of it.
#[derive(Default)]
pub(crate) struct LogState {
    pub groups: BTreeMap<GroupId, GroupState>,
    pub peers: BTreeMap<NodeId, Kept<(Start, Sequence)>>,
    pub segments: BTreeMap<SegmentSequence, Segment>,
    pub laggards: Laggards,
    pub cold: ColdState,
    pub noted: BTreeMap<Hole, SegmentSequence>,
    /// Damage that scrub found, and of all damage what was healed, since the start.
    pub damage_found: u64,
    pub damage_healed: u64,
}

impl LogState {
    /// Takes in a durable frame.
    pub(crate) fn land(&mut self, landed: &Landed<'_>) {
        let (group, segment) = (landed.group, landed.segment);
        if landed.kind.speaks_of_log() {
            if let Some(segment) = self.segments.get_mut(&segment) {
                segment.touched.insert((group, landed.log));
            }
        }
        match landed.kind {
            FrameKind::Configured => self.configured(landed),
            FrameKind::Promised => Kept::raise(&mut self.log(group, landed.log).promised, landed.ballot, segment),
            FrameKind::Accepted => {
                Kept::raise(&mut self.log(group, landed.log).promised, landed.ballot, segment);
                self.insert_entries(landed);
            }
            FrameKind::Learnt | FrameKind::Lost => self.insert_entries(landed),
            FrameKind::Chosen => Kept::raise(&mut self.log(group, landed.log).closed, landed.slot, segment),
            FrameKind::Installed => {
                Kept::raise(&mut self.log(group, landed.log).closed, landed.slot, segment);
                self.trim(landed);
            }
            FrameKind::Trimmed => self.trim(landed),
            FrameKind::PeerSeen => {
                let mut kept = self.peers.get(&landed.ballot.node).copied();
                Kept::raise(&mut kept, (landed.ballot.start, Sequence(landed.slot.0)), segment);
                self.peers.insert(landed.ballot.node, kept.expect("just raised"));
            }
            FrameKind::VotingBarred => {
                let state = self.groups.entry(group).or_default();
                Kept::raise(&mut state.barred, landed.ballot.start, segment);
                state.promises_lost = None;
            }
            FrameKind::Forgotten => self.forget(group),
            FrameKind::PromisesLost => self.groups.entry(group).or_default().promises_lost = Some(segment),
            FrameKind::DamageNoted => {
                let of = SegmentSequence::try_from(landed.slot.0).unwrap_or(SegmentSequence::MAX);
                let hole = Hole { segment: of, first: landed.ballot.round, end: landed.ballot.start.0 };
                self.noted.insert(hole, segment);
            }
            FrameKind::ColdMoved => Kept::raise(&mut self.cold.moves, landed.slot.0, segment),
            FrameKind::Confirmed => {}
        }
    }

    pub(crate) fn log(&mut self, group: GroupId, log: LogId) -> &mut OneLogState {
        self.groups.entry(group).or_default().logs.entry(log).or_default()
    }

    fn configured(&mut self, landed: &Landed<'_>) {
        let state = self.groups.entry(landed.group).or_default();
        let Some(configuration) = landed.configuration else {
            // Its content is lost; the fence that it was cannot be kept, unless a later one covers it.
            Kept::raise(&mut state.lost_fence, landed.ballot.epoch, landed.segment);
            return;
        };
        state.lost_fence = state.lost_fence.filter(|lost| lost.value > configuration.epoch);
        if state.configuration.as_ref().is_none_or(|(known, _)| known.epoch <= configuration.epoch) {
            state.configuration = Some((configuration.clone(), landed.segment));
        }
        let control = self.log(landed.group, LogId::CONTROL);
        Kept::raise(&mut control.closed, configuration.epoch.slot(), landed.segment);
    }

    fn insert_entries(&mut self, landed: &Landed<'_>) {
        let learnt = landed.kind == FrameKind::Learnt;
        let cold = self.goes_cold(landed.group, landed.log);
        let state = self.groups.entry(landed.group).or_default().logs.entry(landed.log).or_default();
        let trimmed = state.trimmed.map_or(Slot::ZERO, |kept| kept.value);
        let (segments, laggards) = (&mut self.segments, &mut self.laggards);
        for (distance, entry) in landed.entries.iter().enumerate() {
            let slot = landed.slot.plus(distance as u64);
            let old = state.entries.get(&slot).map(|old| (old, state.ballots[old.ballot as usize]));
            let Some(under) = takes_slot(old, learnt, landed.ballot, *entry).filter(|_| slot > trimmed) else {
                continue;
            };
            let ballot = state.ballot_index(under);
            let mut place = Place::of(Home::Segment(landed.segment), *entry, ballot, learnt);
            if cold {
                place.mark_cold();
            }
            place.follow(state.entries.get(&slot));
            let replaced = state.entries.insert(slot, place);
            if replaced.is_some_and(|old| old.is_damaged()) && entry.is_some() {
                self.damage_healed += 1;
                tracing::info!(group = %landed.group, log = %landed.log, %slot, "a damaged entry of the log is whole again");
            }
            release(segments, laggards, replaced);
            if let Some(segment) = segments.get_mut(&landed.segment) {
                segment.live.add(landed.group, landed.log, slot, &place);
            }
        }
    }

    fn trim(&mut self, landed: &Landed<'_>) {
        let state = self.groups.entry(landed.group).or_default().logs.entry(landed.log).or_default();
        Kept::raise(&mut state.trimmed, landed.slot, landed.segment);
        let kept = state.entries.split_off(&landed.slot.plus(1));
        for place in std::mem::replace(&mut state.entries, kept).into_values() {
            release(&mut self.segments, &mut self.laggards, Some(place));
        }
        if state.entries.is_empty() {
            state.ballots.clear();
        }
    }

    fn forget(&mut self, group: GroupId) {
        self.cold.forgotten.insert(group);
        let Some(state) = self.groups.remove(&group) else {
            return;
        };
        for place in state.logs.into_values().flat_map(|log| log.entries.into_values()) {
            release(&mut self.segments, &mut self.laggards, Some(place));
        }
    }

    /// The index no longer points there.
    pub(crate) fn release(&mut self, place: Option<Place>) {
        release(&mut self.segments, &mut self.laggards, place);
    }

    /// Takes closed slots that stand in segments up to `segment`, or in laggards' files written no later, out of the
    /// index: a record that replaced them may have been lost there, so they no longer prove what was chosen. They are
    /// fetched from peers instead.
    pub(crate) fn distrust_closed(&mut self, segment: SegmentSequence) {
        let files = &self.laggards.files;
        let doubtful: BTreeSet<LaggardsNumber> =
            files.iter().filter(|(_, file)| file.header.written_in <= u64::from(segment)).map(|(n, _)| *n).collect();
        for log in self.groups.values_mut().flat_map(|group| group.logs.values_mut()) {
            let closed = log.closed.map_or(Slot::ZERO, |kept| kept.value);
            let distrusted: Vec<Slot> = log
                .entries
                .range(..=closed)
                .filter(|(_, place)| match place.home() {
                    Home::Segment(home) => home <= segment,
                    Home::Laggards(number) => doubtful.contains(&number),
                })
                .map(|(slot, _)| *slot)
                .collect();
            for slot in distrusted {
                let place = log.entries.remove(&slot);
                release(&mut self.segments, &mut self.laggards, place);
            }
        }
    }

    /// Where an entry stands, under which ballot, and in which file.
    pub(crate) fn place(&self, group: GroupId, log: LogId, slot: Slot) -> Option<(Place, Ballot, Arc<dyn DiskFile>)> {
        let log = self.groups.get(&group)?.logs.get(&log)?;
        let place = *log.entries.get(&slot)?;
        let file = match place.home() {
            Home::Segment(segment) => self.segments.get(&segment)?.file.clone(),
            Home::Laggards(number) => self.laggards.files.get(&number)?.file.clone(),
        };
        Some((place, log.ballots[place.ballot as usize], file))
    }

    /// What a log says, without the contents of its entries; what is trimmed is closed.
    pub(crate) fn recovered_log(&self, group: GroupId, log: LogId) -> RecoveredLog {
        let Some(log) = self.groups.get(&group).and_then(|group| group.logs.get(&log)) else {
            return RecoveredLog::default();
        };
        let entry = |(slot, place): (&Slot, &Place)| {
            (*slot, RecoveredEntry { ballot: log.ballots[place.ballot as usize], entry: None })
        };
        let closed = log.closed();
        let is_lost = |(slot, place): &(&Slot, &Place)| **slot <= closed && place.is_damaged();
        let lost = log.entries.iter().filter(is_lost);
        RecoveredLog {
            promised: log.promised.map_or(Ballot::ZERO, |kept| kept.value),
            closed,
            lost: lost.map(|(slot, place)| (*slot, log.ballots[place.ballot as usize])).collect(),
            trimmed: log.trimmed.map_or(Slot::ZERO, |kept| kept.value),
            accepted: log.entries.iter().map(entry).collect(),
            applied: Slot::ZERO,
        }
    }

    /// Data logs of a group after this one, in order: closed-up-to and the highest slot of each.
    pub(crate) fn logs_after(
        &self,
        group: GroupId,
        after: Option<LogId>,
    ) -> impl Iterator<Item = (LogId, Slot, Slot)> + '_ {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let logs = self.groups.get(&group).map(|group| group.logs.range((from, std::ops::Bound::Unbounded)));
        logs.into_iter().flatten().filter(|(id, _)| **id != LogId::CONTROL).map(|(id, log)| {
            let highest = log.entries.keys().next_back().copied().unwrap_or_default();
            (*id, log.closed(), highest.max(log.closed()))
        })
    }

    /// Takes note that this place was found damaged; `None` if the entry has moved meanwhile.
    pub(crate) fn found_damaged(&mut self, group: GroupId, log: LogId, slot: Slot, found: Place) -> Option<()> {
        let place = self.groups.get_mut(&group)?.logs.get_mut(&log)?.entries.get_mut(&slot)?;
        let same = (place.home(), place.offset, place.checksum) == (found.home(), found.offset, found.checksum);
        if !same {
            return None;
        }
        if place.flags & COUNTED == 0 {
            self.damage_found += 1;
            tracing::error!(%group, %log, %slot, "scrub found an entry of the log damaged");
        }
        place.flags |= DAMAGED | COUNTED;
        Some(())
    }

    /// The oldest segment.
    pub(crate) fn oldest(&self) -> SegmentSequence {
        *self.segments.keys().next().expect("the segment in use is always there")
    }

    /// Bytes of all segments that belong to the log.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// Bytes used from the oldest segment that must stay to the end of the log.
    pub(crate) fn oldest_kept_bytes(&self) -> u64 {
        self.segments.values().skip_while(|segment| segment.live.count == 0).map(|segment| segment.used_bytes).sum()
    }

    /// Bytes of entries that are kept in segments.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.live.bytes).sum()
    }

    /// Those among them that justify a larger log: not what the store of cold logs can take.
    pub(crate) fn live_bytes_for_log(&self) -> u64 {
        self.segments.values().map(|segment| segment.live.bytes - segment.live.cold_bytes).sum()
    }

    /// Closed-up-to of a log, as far as that is durable.
    pub(crate) fn closed(&self, group: GroupId, log: LogId) -> Slot {
        let log = self.groups.get(&group).and_then(|group| group.logs.get(&log));
        log.map_or(Slot::ZERO, OneLogState::closed)
    }

    /// Whether the segment must stay: some record in it is the only durable one that says what it says.
    pub(crate) fn holds_anything_current(&self, sequence: SegmentSequence) -> bool {
        if self.segments[&sequence].live.count > 0 {
            return true;
        }
        let mut frames = Vec::new();
        self.carry_small(sequence, Sequence(0), Forward::All, &mut frames);
        !frames.is_empty()
    }

    /// Writes again whatever of promises, fences, positions and the like has its current record in this segment.
    pub(crate) fn carry_small(
        &self,
        segment: SegmentSequence,
        position: Sequence,
        forward: Forward,
        frames: &mut Vec<Frame>,
    ) {
        for (group, state) in &self.groups {
            state.carry_small(*group, segment, position, frames);
        }
        for (group, log) in self.segments.get(&segment).map(|segment| &segment.touched).into_iter().flatten() {
            let state = self.groups.get(group).and_then(|group| group.logs.get(log));
            if let Some(state) = state.filter(|_| forward == Forward::All || !self.goes_cold(*group, *log)) {
                state.carry_small((*group, *log), segment, position, frames);
            }
        }
        if let Some(kept) = self.cold.moves.filter(|kept| kept.segment == segment) {
            frames.push(cold_moved(position, kept.value));
        }
        for (node, kept) in self.peers.iter().filter(|(_, kept)| kept.segment == segment) {
            frames.push(Frame::peer_seen(position, *node, kept.value.0, kept.value.1));
        }
        let noted = self.noted.iter().filter(|(_, of)| **of == segment);
        frames.extend(noted.map(|(hole, _)| Frame::damage_noted(position, hole)));
    }

    /// Slots whose entry now stands in this file.
    pub(crate) fn live_in(&self, home: Home) -> BTreeSet<(GroupId, LogId, Slot)> {
        let mut live = BTreeSet::new();
        let of_file = match home {
            Home::Segment(segment) => self.segments.get(&segment).map(|segment| &segment.live),
            Home::Laggards(number) => self.laggards.files.get(&number).map(|file| &file.live),
        };
        for run in of_file.map_or(&[][..], |live| &live.runs) {
            let Some(log) = self.groups.get(&run.group).and_then(|group| group.logs.get(&run.log)) else {
                continue;
            };
            let slots = log.entries.range(run.first..run.first.plus(run.count));
            live.extend(slots.filter(|(_, place)| place.home() == home).map(|(slot, _)| (run.group, run.log, *slot)));
        }
        live
    }
}

impl GroupState {
    fn carry_small(&self, group: GroupId, segment: SegmentSequence, position: Sequence, frames: &mut Vec<Frame>) {
        if let Some((configuration, _)) = self.configuration.as_ref().filter(|(_, of)| *of == segment) {
            frames.push(Frame::configured(position, configuration));
        }
        let barred = self.barred.filter(|kept| kept.segment == segment);
        if let Some(kept) = barred {
            frames.push(Frame::voting_barred(position, group, kept.value));
        }
        // A bar ends the suspicion before it, so one that is later must be written again behind it.
        if self.promises_lost.is_some_and(|of| of == segment || barred.is_some()) {
            frames.push(Frame::bare(
                FrameKind::PromisesLost,
                position,
                group,
                LogId::CONTROL,
                Slot::ZERO,
                Ballot::ZERO,
            ));
        }
    }
}

impl OneLogState {
    fn carry_small(
        &self,
        (group, log): (GroupId, LogId),
        segment: SegmentSequence,
        position: Sequence,
        frames: &mut Vec<Frame>,
    ) {
        let mut carry = |kind, slot, ballot| frames.push(Frame::bare(kind, position, group, log, slot, ballot));
        if let Some(kept) = self.promised.filter(|kept| kept.segment == segment) {
            carry(FrameKind::Promised, Slot::ZERO, kept.value);
        }
        if let Some(kept) = self.closed.filter(|kept| kept.segment == segment) {
            carry(FrameKind::Chosen, kept.value, Ballot::ZERO);
        }
        if let Some(kept) = self.trimmed.filter(|kept| kept.segment == segment) {
            carry(FrameKind::Trimmed, kept.value, Ballot::ZERO);
        }
    }

    /// Whether something current of it stands in this segment.
    pub(crate) fn stands_in(&self, segment: SegmentSequence) -> bool {
        self.promised.is_some_and(|kept| kept.segment == segment)
            || self.closed.is_some_and(|kept| kept.segment == segment)
            || self.trimmed.is_some_and(|kept| kept.segment == segment)
            || self.entries.values().any(|place| place.home() == Home::Segment(segment))
    }

    pub(crate) fn closed(&self) -> Slot {
        let (closed, trimmed) = (self.closed.map(|kept| kept.value), self.trimmed.map(|kept| kept.value));
        closed.max(trimmed).unwrap_or_default()
    }

    /// Ballots change rarely, so entries refer to them by number.
    pub(crate) fn ballot_index(&mut self, ballot: Ballot) -> u32 {
        let index = self.ballots.iter().rposition(|known| *known == ballot).unwrap_or_else(|| {
            self.ballots.push(ballot);
            self.ballots.len() - 1
        });
        u32::try_from(index).expect("fewer ballots than entries")
    }
}

/// Under which ballot an entry of a record takes the place of what stood in its slot; `None` if that stays.
fn takes_slot(
    old: Option<(&Place, Ballot)>,
    learnt: bool,
    ballot: Ballot,
    entry: Option<LandedEntry>,
) -> Option<Ballot> {
    let Some((old, known)) = old else { return Some(ballot) };
    match (entry, learnt) {
        // What was learnt was chosen. But while the slot is open the acceptance binds: it is not forgotten for the same
        // content under a lower ballot, nor is its ballot where its own content is damaged.
        (Some(_), true) if old.is_damaged() => Some(ballot.max(known)),
        (Some(entry), true) => (known <= ballot || !old.holds(entry)).then_some(ballot),
        // A whole copy takes over from its equal, which it heals.
        (Some(_), false) => (known <= ballot).then_some(ballot),
        // Whether this node holds what was chosen is not known any more, and what it accepted still binds.
        (None, true) => (known != ballot || old.is_damaged()).then_some(ballot.max(known)),
        // A damaged copy never replaces its equal.
        (None, false) => (known < ballot || old.is_damaged()).then_some(ballot.max(known)),
    }
}

fn release(segments: &mut BTreeMap<SegmentSequence, Segment>, laggards: &mut Laggards, place: Option<Place>) {
    let Some(place) = place else { return };
    match place.home() {
        Home::Segment(segment) => {
            if let Some(segment) = segments.get_mut(&segment) {
                segment.live.remove(&place);
            }
        }
        Home::Laggards(_) => laggards.release(&place),
    }
}
