//! What goes wrong with what a disk holds (rule 9): bit rot, and writes that land where something else stands. It is
//! known to be damaged, as storage knows it by its checksums and by the second copy of each record's identity.

use std::ops::Range;

use consensus::{Record, Sequence, Slot};

use crate::disk::{Disk, Place};
use crate::random::Random;
use crate::tally::Fault;

/// Damage to the last slots hurts most; this many of them are hit most of the time.
const LATEST: usize = 200;

impl Disk {
    /// A content, a whole record, or both in one misdirected write; or everything of late. Says what it was; nothing if there was nothing to hit.
    pub fn damage(&mut self, random: &mut Random) -> Option<Fault> {
        match random.below(10) {
            0..=5 => self.rot_content(random).then_some(Fault::ContentRot),
            6 | 7 => self.rot_record(random).then_some(Fault::RecordRot),
            8 => self.lose_segments(random).then_some(Fault::LostSegments),
            // What should have been written is nowhere, and where it landed something else is gone.
            _ => (self.rot_record(random) && self.rot_content(random)).then_some(Fault::Misdirected),
        }
    }

    /// An entry can no longer be read; its slot and ballot are still known.
    pub fn rot_content(&mut self, random: &mut Random) -> bool {
        let acceptances: Vec<(Sequence, Place, Slot)> = self.durable.iter().flat_map(acceptances).collect();
        let reach = if random.chance(0.8) { LATEST } else { acceptances.len() };
        let latest = &acceptances[acceptances.len().saturating_sub(reach)..];
        let Some((sequence, place, slot)) = random.pick(latest) else { return false };
        self.damaged.insert((sequence, slot));
        let entries = self.entries.entry(place).or_default();
        if entries.get(&slot).is_some_and(|stored| stored.sequence == sequence) {
            let stored = entries.remove(&slot).expect("it is there");
            self.spoilt.entry(place).or_default().insert(slot, stored.ballot);
        }
        true
    }

    /// Nothing is left of a record, of whatever kind, not even what kind it was. What stood before it no longer proves
    /// what was chosen: a record that replaced it may be the one that is gone.
    pub fn rot_record(&mut self, random: &mut Random) -> bool {
        let proven = self.last_batch.min(self.durable.len());
        let reach = if random.chance(0.8) { LATEST.min(proven) } else { proven };
        if reach == 0 {
            return false;
        }
        let index = proven - 1 - random.below(reach as u64) as usize;
        self.remove(index..index + 1);
        true
    }

    /// The latest segments are gone but for the end of the last one, with whole epochs: nothing is left that names them.
    fn lose_segments(&mut self, random: &mut Random) -> bool {
        let proven = self.last_batch.min(self.durable.len());
        if proven == 0 {
            return false;
        }
        let lost = random.between(1, LATEST.min(proven) as u64) as usize;
        self.remove(proven - lost..proven);
        true
    }

    fn remove(&mut self, records: Range<usize>) {
        self.last_batch -= records.len();
        let lost = self.durable.drain(records).map(|(sequence, _)| sequence).max();
        self.hole = self.hole.max(lost);
        self.spoilt.clear();
        for (place, entries) in &mut self.entries {
            let closed = self.closed.get(place).copied().unwrap_or_default();
            let hole = self.hole.expect("there is one");
            entries.retain(|slot, stored| *slot > closed || stored.sequence > hole);
        }
    }
}

/// The slots that a record accepts or learns.
fn acceptances((sequence, record): &(Sequence, Record)) -> Vec<(Sequence, Place, Slot)> {
    let (group, log, first, count) = match record {
        Record::Accepted { group, log, first, entries, .. } => (*group, *log, first.0, entries.len() as u64),
        Record::Learnt { group, log, first, entries } => (*group, *log, first.0, entries.len() as u64),
        _ => return Vec::new(),
    };
    (first..first + count).map(|slot| (*sequence, (group, log), Slot(slot))).collect()
}
