//! What leaves the oldest segment so that it can be used again, and where it goes.
//!
//! Small state (promises, fences, positions) and open acceptances are written again at the end of the log: they are few, and
//! the log is where whoever restarts looks for them. Closed entries are kept only for members that lag, perhaps for long and
//! many, so they move to a laggards' file of their group, which is synced before the index points to it (the design,
//! section 4). Each batch takes a bounded part of the work along.

use crate::bounds;
use crate::disk::DiskFile;
use crate::frame::{Frame, FrameKind};
use crate::laggards::{LaggardsEntry, LaggardsFile};
use crate::laggards_file::{assemble, bytes_for, name_of, write, LaggardsHeader, LaggardsNumber, OpenedOnUse};
use crate::live_entries::LiveEntries;
use crate::log_state::{Home, LandedEntry, Place, SegmentSequence};
use crate::segmented_log::{SegmentedLog, WriteError};
use bytes::Bytes;
use consensus::{Ballot, GroupId, LogId, Slot};
use std::collections::BTreeSet;
use std::sync::Arc;

/// An entry that is to move.
struct Moving {
    group: GroupId,
    log: LogId,
    slot: Slot,
    place: Place,
    ballot: Ballot,
    file: Arc<dyn DiskFile>,
}

/// What of a segment is written again at the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forward {
    /// Entries above closed-up-to and small state, of logs that do not go to the store of cold logs.
    Open,
    All,
}

impl SegmentedLog {
    /// What must be written again so that the oldest segment can leave the log: its small state once no entry in it is
    /// live; while the log is larger than its bound the live entries too, some at a time, of which the closed ones move to a
    /// laggards' file at once. Then what stands in files that are being left because of damage.
    pub(crate) fn carry(&mut self) -> Result<Vec<Frame>, WriteError> {
        let state = self.state.lock();
        let oldest = state.oldest();
        let bound = 2 * state.live_bytes_for_log() + bounds::SLACK_SEGMENTS * self.options.segment_bytes;
        let emptied = state.segments[&oldest].live.count == 0;
        let over = state.bytes() > bound;
        drop(state);
        let mut frames = Vec::new();
        if oldest != self.current.sequence() && (emptied || over) {
            frames = self.move_cold(oldest)?;
            if !emptied {
                self.move_closed(oldest)?;
            }
            frames.extend(self.carry_from(oldest, Forward::Open)?);
        }
        if frames.is_empty() {
            frames = self.carry_from_damaged()?;
        }
        self.merge_crowded()?;
        Ok(frames)
    }

    /// The small state that stands in a segment, and as many of its live entries as one batch takes.
    pub(crate) fn carry_from(&self, segment: SegmentSequence, forward: Forward) -> Result<Vec<Frame>, WriteError> {
        let mut frames = Vec::new();
        let state = self.state.lock();
        state.carry_small(segment, self.position, forward, &mut frames);
        let mut slots = state.live_in(Home::Segment(segment));
        if forward == Forward::Open {
            slots.retain(|(group, log, slot)| *slot > state.closed(*group, *log) && !state.goes_cold(*group, *log));
        }
        drop(state);
        for moving in self.look_up(&slots, bounds::CARRY_BYTES_MAX) {
            frames.push(self.frame_of(&moving)?);
        }
        Ok(frames)
    }

    /// Moves closed entries of one group out of a segment, as many as one laggards' file takes.
    fn move_closed(&mut self, segment: SegmentSequence) -> Result<(), WriteError> {
        let slots: BTreeSet<_> = self.state.lock().closed_in(segment).into_iter().collect();
        let mut moving = self.look_up(&slots, bounds::LAGGARDS_FILE_BYTES);
        let Some(group) = moving.first().map(|first| first.group) else { return Ok(()) };
        // Small files of earlier moves join in, or idle groups would have ever more of them.
        let bytes: u64 = moving.iter().map(|moving| u64::from(moving.place.bytes)).sum();
        let room = bounds::LAGGARDS_FILE_BYTES.saturating_sub(bytes);
        let merged = self.state.lock().laggards.to_merge(group, room);
        for number in merged {
            moving.extend(self.all_of(number));
        }
        self.write_for_laggards(group, &moving)
    }

    /// Puts small files of a group together where it has too many.
    fn merge_crowded(&mut self) -> Result<(), WriteError> {
        let mut state = self.state.lock();
        let Some(group) = state.laggards.crowded() else { return Ok(()) };
        let merged = state.laggards.to_merge(group, bounds::LAGGARDS_FILE_BYTES);
        drop(state);
        let moving: Vec<Moving> = merged.into_iter().flat_map(|number| self.all_of(number)).collect();
        self.write_for_laggards(group, &moving)
    }

    /// Writes what counts in a laggards' file to another one.
    pub(crate) fn rewrite_for_laggards(&mut self, number: LaggardsNumber) -> Result<(), WriteError> {
        let moving = self.all_of(number);
        match moving.first().map(|first| first.group) {
            Some(group) => self.write_for_laggards(group, &moving),
            None => Ok(()),
        }
    }

    fn all_of(&self, number: LaggardsNumber) -> Vec<Moving> {
        let slots = self.state.lock().live_in(Home::Laggards(number));
        self.look_up(&slots, u64::MAX)
    }

    /// Where these entries stand, until the next would be one too many.
    fn look_up(&self, slots: &BTreeSet<(GroupId, LogId, Slot)>, bytes_max: u64) -> Vec<Moving> {
        let state = self.state.lock();
        let mut found = Vec::new();
        let mut bytes = 0u64;
        for (group, log, slot) in slots {
            let (place, ballot, file) = state.place(*group, *log, *slot).expect("it is live");
            bytes += u64::from(place.bytes);
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(Moving { group: *group, log: *log, slot: *slot, place, ballot, file });
        }
        found
    }

    /// The entry as a frame; damage is said to be lost, by slot and ballot. A read that fails is no damage yet: it stops the log,
    /// and the next start finds out which it is.
    fn frame_of(&self, moving: &Moving) -> Result<Frame, WriteError> {
        let Moving { group, log, slot, place, ballot, file } = moving;
        let kind = if place.is_learnt() { FrameKind::Learnt } else { FrameKind::Accepted };
        let mut content = vec![0u8; place.bytes as usize];
        if !place.is_damaged() {
            file.read_at(u64::from(place.offset), &mut content)
                .map_err(|source| self.failed("read an entry", source))?;
        }
        if place.is_damaged() || crc32c::crc32c(&content) != place.checksum {
            return Ok(Frame::lost(self.position, (*group, *log), (*slot, *ballot)));
        }
        let entry = (Bytes::from(content), place.checksum);
        Ok(Frame::entries((kind, self.position), (*group, *log), (*slot, *ballot), &mut std::iter::once(entry)))
    }

    /// Writes a laggards' file, and points the index to it once it is durable.
    fn write_for_laggards(&mut self, group: GroupId, moving: &[Moving]) -> Result<(), WriteError> {
        let frames = moving.iter().map(|moving| self.frame_of(moving)).collect::<Result<Vec<Frame>, _>>()?;
        let number = self.state.lock().laggards.last_number + 1;
        let disk = self.pool.disk();
        let header = LaggardsHeader {
            bytes: bytes_for(&frames),
            number,
            id: disk.new_file_id().map_err(|source| self.failed("get random bytes for a laggards' file", source))?,
            node: self.node.0,
            start: self.start.0,
            written_in: u64::from(self.current.sequence()),
            group: group.0,
            records: u32::try_from(frames.len()).expect("files are bounded"),
        };
        let (bytes, places) = assemble(&header, &frames);
        let name = name_of(group, number);
        write(&**disk, &name, &bytes).map_err(|source| self.failed("write a laggards' file", source))?;
        self.moved_bytes += header.bytes;
        let file = Arc::new(OpenedOnUse { disk: disk.clone(), name: name.clone() });
        let mut state = self.state.lock();
        state.laggards.add(LaggardsFile { file, name, header, live: LiveEntries::default(), leaving: false });
        for (frame, at) in frames.iter().zip(places) {
            let landed = frame.entry_places().first().map(|place| LandedEntry::at(at, place));
            let (kind, log, slot, ballot) = (frame.kind, frame.log, frame.slot, frame.ballot);
            state.put_for_laggards(group, number, &LaggardsEntry { kind, log, slot, ballot, landed });
        }
        Ok(())
    }

    /// Removes laggards' files in which nothing counts any more. Durable on return: the record that emptied them may leave
    /// the log next, and what they hold of a group that was dropped must never come back.
    pub(crate) fn remove_emptied(&mut self) -> Result<(), WriteError> {
        let names = self.state.lock().laggards.take_emptied();
        if names.is_empty() {
            return Ok(());
        }
        let disk = self.pool.disk();
        for name in &names {
            disk.remove(name).map_err(|source| self.failed("remove a laggards' file", source))?;
        }
        disk.sync().map_err(|source| self.failed("sync the directory of laggards' files", source))
    }
}
