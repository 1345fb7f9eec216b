//! A node's log as the real storage keeps it, on a simulated disk that tells what was written from what is durable. The
//! writer and what prepares segments are driven by hand ([`SteppedLog`]), so that one seed decides everything.

use std::fmt;

use consensus::{Ballot, Entry, NodeId, Record, Recovered, Sequence, Slot, Start};
use storage::simulation::{Fault, MemoryDisk, SteppedLog};
use storage::{LogOptions, LogReader, ReadError};

use crate::disk::Place;
use crate::random::Random;

/// Operations of the disk that a batch takes in most cases: two writes and a sync; with a new segment, moves of entries to
/// other files and removals, many more.
const OPERATIONS: u64 = 3;
const OPERATIONS_MAX: u64 = 30;
/// Operations of a start: a segment made, written, its headers, their syncs, and what is tidied up.
const OPERATIONS_OF_A_START: u64 = 16;

/// How a life ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The process is gone; what it wrote, synced or not, is what the system shows the next one.
    Killed,
    /// The machine is gone, and with it any of the sectors and names that were not synced.
    PowerLost,
    /// A write or a sync failed, and the process ended itself.
    WriteFailed,
}

/// Where a crash may cut what is being written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// Anywhere: any of the sectors of a write may be there, and of an entry slot and ballot alone.
    Anywhere,
    /// A write is there or not.
    BetweenWrites,
    /// A batch is there or not.
    BetweenBatches,
}

/// What a log did beside writing records.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Segments that took the place of one that had left the log.
    pub segments_used_again: u64,
    /// Laggards' files written.
    pub laggards_files: u64,
}

/// The log, and the disk under it.
pub(crate) struct RealLog {
    node: NodeId,
    options: LogOptions,
    disk: MemoryDisk,
    /// While the node runs.
    log: Option<SteppedLog>,
    /// Of earlier lives.
    figures: Figures,
}

impl RealLog {
    /// An empty disk.
    pub(crate) fn new(node: NodeId, segment_bytes: u64) -> RealLog {
        let options = LogOptions { segment_bytes, ..LogOptions::default() };
        RealLog { node, options, disk: MemoryDisk::new(), log: None, figures: Figures::default() }
    }

    /// Opens it for a life: what it says.
    pub(crate) fn open(&mut self, start: Start) -> Recovered {
        assert!(self.log.is_none(), "one life after the other");
        let opened = SteppedLog::open(&self.disk, self.node, start, self.options);
        let (log, recovered) = opened.unwrap_or_else(|error| panic!("{} cannot open its log: {error}", self.node));
        self.log = Some(log);
        recovered
    }

    /// Writes a batch and syncs it.
    pub(crate) fn append(&mut self, batch: &[(Sequence, Record)]) {
        let (node, log) = (self.node, self.log.as_mut().expect("the node runs"));
        log.append(batch).unwrap_or_else(|why| panic!("{node} cannot write to a disk without faults: {why}"));
    }

    /// What the log does beside the writer at moments of its own.
    pub(crate) fn prepare_segment(&self) {
        let log = self.log.as_ref().expect("the node runs");
        log.prepare_segment().expect("a disk without faults");
    }

    /// Consecutive entries, or the ballot of the first if its content is damaged.
    pub(crate) fn read(
        &self,
        place: Place,
        from: Slot,
        up_to: Slot,
        bytes_max: usize,
    ) -> (Vec<(Ballot, Entry)>, Option<Ballot>) {
        read(&self.log.as_ref().expect("the node runs").reader(), place, (from, up_to), bytes_max)
    }

    /// Ends the life in the middle of a batch, if one was under way.
    pub(crate) fn end(&mut self, end: End, batch: &[(Sequence, Record)], cut: Cut, random: &mut Random) {
        let mut log = self.log.take().expect("the node runs");
        if !batch.is_empty() {
            let most = if random.chance(0.7) { OPERATIONS + 1 } else { OPERATIONS_MAX };
            match cut {
                Cut::Anywhere if end == End::WriteFailed => {
                    self.disk.fail_at(self.disk.operations() + random.between(1, most), Fault::Error);
                }
                // Between the first write and the sync.
                Cut::Anywhere if end == End::PowerLost && random.chance(0.6) => {
                    self.end_after(random.between(1, OPERATIONS - 1));
                }
                Cut::Anywhere | Cut::BetweenWrites => self.end_after(random.below(most + 1)),
                Cut::BetweenBatches if random.chance(0.5) => self.end_after(0),
                Cut::BetweenBatches => {}
            }
            // An error that nobody hears.
            drop(log.append(batch));
            self.disk.mend();
        }
        self.figures = self.figures_with(Some(&log));
        if end == End::PowerLost {
            self.lose_power(cut, random);
        }
    }

    /// A start that does not get far: the process or the machine ends in the middle. Nobody was told of anything.
    pub(crate) fn begin_to_open(&mut self, cut: Cut, random: &mut Random) {
        self.end_after(random.below(OPERATIONS_OF_A_START));
        drop(SteppedLog::open(&self.disk, self.node, Start(0), self.options));
        self.disk.mend();
        if random.chance(0.5) {
            self.lose_power(cut, random);
        }
    }

    /// What a start would find now: what the log says, and its entries. Changes nothing.
    pub(crate) fn look(&self) -> (Recovered, LogReader) {
        let opened = SteppedLog::open(&self.disk.copy(), self.node, Start(0), self.options);
        let (log, recovered) = opened.unwrap_or_else(|error| panic!("{} cannot open its log: {error}", self.node));
        (recovered, log.reader())
    }

    /// Since the first life.
    pub(crate) fn figures(&self) -> Figures {
        self.figures_with(self.log.as_ref())
    }

    fn figures_with(&self, log: Option<&SteppedLog>) -> Figures {
        Figures {
            segments_used_again: self.figures.segments_used_again + log.map_or(0, SteppedLog::segments_used_again),
            laggards_files: self.figures.laggards_files + log.map_or(0, SteppedLog::laggards_files),
        }
    }

    /// So many more operations are done, and none after them.
    fn end_after(&self, operations: u64) {
        self.disk.fail_at(self.disk.operations() + operations + 1, Fault::End);
    }

    /// Unsynced sectors and names are kept each by chance, or up to a certain one; where no write is cut, all or none.
    fn lose_power(&mut self, cut: Cut, random: &mut Random) {
        let some = cut == Cut::Anywhere;
        let kept = if some && random.chance(0.3) { random.below(12) } else { u64::MAX };
        let chance = match kept {
            u64::MAX if some => [0.0, 0.5, 0.8, 0.95, 1.0][random.below(5) as usize],
            u64::MAX => random.below(2) as f64,
            _ => 1.0,
        };
        let mut asked = 0;
        self.disk = self.disk.after_crash(&mut || {
            asked += 1;
            asked <= kept && random.chance(chance)
        });
    }
}

/// Consecutive entries, or the ballot of the first if its content is damaged.
pub(crate) fn read(
    reader: &LogReader,
    (group, log): Place,
    (from, up_to): (Slot, Slot),
    bytes_max: usize,
) -> (Vec<(Ballot, Entry)>, Option<Ballot>) {
    match reader.read_entries(group, log, from, up_to, bytes_max) {
        Ok(found) => (found.into_iter().map(|stored| (stored.ballot, stored.entry)).collect(), None),
        Err(ReadError::Damaged { ballot, .. }) => (Vec::new(), Some(ballot)),
        Err(ReadError::Missing { .. }) => (Vec::new(), None),
        Err(error) => panic!("a disk without faults: {error}"),
    }
}

/// Of what the disk shows now. It is not open.
impl Clone for RealLog {
    fn clone(&self) -> RealLog {
        RealLog { disk: self.disk.copy(), log: None, figures: self.figures(), ..*self }
    }
}

impl fmt::Debug for RealLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealLog").field("node", &self.node).finish_non_exhaustive()
    }
}
