//! The laggards' files of a node and what of them the index points to; part of [`LogState`]. `laggards_file.rs` says why
//! there are such files.

use crate::bounds;
use crate::disk::DiskFile;
use crate::frame::FrameKind;
use crate::laggards_file::{LaggardsHeader, LaggardsNumber};
use crate::live_entries::LiveEntries;
use crate::log_state::{Home, LandedEntry, LogState, Place};
use consensus::{Ballot, GroupId, LogId, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A file of which an entry counts, or counted until a moment ago.
pub(crate) struct LaggardsFile {
    pub file: Arc<dyn DiskFile>,
    pub name: String,
    pub header: LaggardsHeader,
    pub live: LiveEntries,
    /// Scrub found it damaged, and it is being left for another one.
    pub leaving: bool,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Laggards {
    pub files: BTreeMap<LaggardsNumber, LaggardsFile>,
    /// Files in which nothing counts any more; they are to be removed.
    emptied: BTreeSet<LaggardsNumber>,
    /// Groups of which a file was written, or lost an entry, since [`Laggards::crowded`] was asked.
    changed: BTreeSet<GroupId>,
    /// The highest number there was, and the next one's predecessor.
    pub last_number: LaggardsNumber,
}

impl Laggards {
    /// Takes a file in; its entries follow.
    pub(crate) fn add(&mut self, file: LaggardsFile) {
        let number = file.header.number;
        self.last_number = self.last_number.max(number);
        self.changed.insert(GroupId(file.header.group));
        // Until an entry of it counts.
        self.emptied.insert(number);
        let known = self.files.insert(number, file);
        assert!(known.is_none(), "a number is used once");
    }

    pub(crate) fn release(&mut self, place: &Place) {
        let Some(file) = self.files.get_mut(&place.number()) else { return };
        file.live.remove(place);
        self.changed.insert(GroupId(file.header.group));
        if file.live.count == 0 {
            self.emptied.insert(place.number());
        }
    }

    /// Names of the files in which nothing counts any more. They are not told again.
    pub(crate) fn take_emptied(&mut self) -> Vec<String> {
        let emptied = std::mem::take(&mut self.emptied);
        let gone = emptied.into_iter().filter_map(|number| {
            let empty = self.files.get(&number).is_some_and(|file| file.live.count == 0);
            empty.then(|| self.files.remove(&number)).flatten()
        });
        gone.map(|file| file.name).collect()
    }

    /// The smallest of a group's small files, as many as there are too many of them and as fit into `bytes`.
    pub(crate) fn to_merge(&self, group: GroupId, mut bytes: u64) -> Vec<LaggardsNumber> {
        let of_group = self.files.values().filter(|file| file.header.group == group.0);
        let small = of_group.filter(|file| file.live.bytes < bounds::LAGGARDS_FILE_BYTES / 2);
        let mut small: Vec<(u64, LaggardsNumber)> = small.map(|file| (file.live.bytes, file.header.number)).collect();
        if small.len() < bounds::LAGGARDS_FILES_SMALL_MAX {
            return Vec::new();
        }
        small.sort_unstable();
        let fits = small.into_iter().take_while(|(live, _)| {
            let fits = *live <= bytes;
            bytes = bytes.saturating_sub(*live);
            fits
        });
        fits.map(|(_, number)| number).collect()
    }

    /// A group with more small files than there may be; asked again only after a change.
    pub(crate) fn crowded(&mut self) -> Option<GroupId> {
        while let Some(group) = self.changed.pop_first() {
            // One alone would only become another one.
            if self.to_merge(group, bounds::LAGGARDS_FILE_BYTES).len() > 1 {
                return Some(group);
            }
        }
        None
    }

    /// Bytes on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.header.bytes).sum()
    }
}

/// An entry that stands, or is to stand, in a laggards' file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaggardsEntry {
    pub kind: FrameKind,
    pub log: LogId,
    pub slot: Slot,
    pub ballot: Ballot,
    /// `None`: damaged.
    pub landed: Option<LandedEntry>,
}

impl LogState {
    /// Points the index to an entry of a laggards' file, whatever it pointed to before.
    pub(crate) fn put_for_laggards(&mut self, group: GroupId, number: LaggardsNumber, entry: &LaggardsEntry) {
        let cold = self.goes_cold(group, entry.log);
        let log = self.log(group, entry.log);
        let ballot = log.ballot_index(entry.ballot);
        let mut place = Place::of(Home::Laggards(number), entry.landed, ballot, entry.kind == FrameKind::Learnt);
        if cold {
            place.mark_cold();
        }
        place.follow(log.entries.get(&entry.slot));
        let replaced = log.entries.insert(entry.slot, place);
        self.release(replaced);
        if let Some(file) = self.laggards.files.get_mut(&number) {
            file.live.add(group, entry.log, entry.slot, &place);
        }
    }

    /// Slots whose entry stands in this segment and is closed, of the first group that has any.
    pub(crate) fn closed_in(&self, segment: crate::log_state::SegmentSequence) -> Vec<(GroupId, LogId, Slot)> {
        let mut closed = self.live_in(Home::Segment(segment));
        closed.retain(|(group, log, slot)| *slot <= self.closed(*group, *log) && !self.goes_cold(*group, *log));
        let first = closed.first().map(|(group, ..)| *group);
        closed.retain(|(group, ..)| Some(*group) == first);
        closed.into_iter().collect()
    }
}
