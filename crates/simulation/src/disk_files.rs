//! The real log beside the model of it: both are given the same records, and must say the same.

use std::collections::BTreeMap;

use consensus::{
    Ballot, Entry, GroupId, NodeId, Record, Recovered, RecoveredGroup, RecoveredLog, Sequence, Slot, Start,
};

use crate::disk::{Crashed, Disk, Place};
use crate::random::Random;
use crate::real_log::{Cut, End, RealLog};
use crate::survivors::{closed_without_record, survivors, Survivor};

/// After a crash, how likely it is that the next start does not get far.
const START_CUT_SHORT: f64 = 0.2;

impl Disk {
    /// A disk of real files with segments of this size.
    pub(crate) fn of_files(node: NodeId, segment_bytes: u64) -> Disk {
        let mut disk = Disk::default();
        disk.real = Some(Box::new(RealLog::new(node, segment_bytes)));
        disk
    }

    /// Opens the log for a life: what it says.
    pub(crate) fn open(&mut self, start: Start) -> Recovered {
        let Some(real) = &mut self.real else { return self.folded() };
        let found = real.open(start);
        self.must_be_as_expected(&found);
        found
    }

    /// Consecutive entries from `from`, as many as there are and fit, or the ballot of the first if its content is damaged.
    pub(crate) fn read_entries(
        &self,
        place: Place,
        from: Slot,
        up_to: Slot,
        bytes_max: usize,
    ) -> (Vec<(Ballot, Entry)>, Option<Ballot>) {
        let entries = self.read(place, from, up_to, bytes_max);
        let damaged = self.damaged_ballot(place, from).filter(|_| entries.is_empty());
        if let Some(real) = &self.real {
            let found = real.read(place, from, up_to, bytes_max);
            assert_eq!(found, (entries.clone(), damaged), "read from {from} to {up_to} of {place:?}");
        }
        (entries, damaged)
    }

    /// What is there before the first life.
    pub(crate) fn preset_file(&mut self, batch: &[(Sequence, Record)]) {
        let Some(real) = &mut self.real else { return };
        real.open(Start(0));
        real.append(batch);
        real.end(End::Killed, &[], Cut::BetweenBatches, &mut Random::new(0));
    }

    /// Ends the life of the real log; what it has left of the batch under way is durable, and nothing else is.
    pub(crate) fn end_files(
        &mut self,
        end: End,
        batch: &[(Sequence, Record)],
        cut: Cut,
        random: &mut Random,
    ) -> Crashed {
        let real = self.real.as_mut().expect("the caller looked");
        real.end(end, batch, cut, random);
        let mut starts_cut_short = 0;
        // Before anything counts: what only the system's cache holds may go as long as no start has come to its end.
        while random.chance(START_CUT_SHORT) {
            real.begin_to_open(cut, random);
            starts_cut_short += 1;
        }
        let (found, reader) = real.look();
        let last = batch.last().map_or(self.position, |(sequence, _)| *sequence);
        assert!(
            (self.position..=last).contains(&found.position),
            "the log ends at {:?}, not between {:?} and {last:?}",
            found.position,
            self.position
        );
        let known = |place| self.closed.get(&place).copied().unwrap_or_default();
        let closed = closed_without_record(batch, &found, &reader, known);
        assert_eq!(closed, None, "a slot is closed, and what was written of it before is gone");
        let left = survivors(batch, &found, &reader);
        self.position = found.position;
        for part in &left {
            if part.damaged {
                self.keep_torn(part);
            } else {
                self.keep(&[(part.sequence, part.record.clone())]);
            }
        }
        self.must_be_as_expected(&found);
        let torn_entry = left.iter().any(|part| part.damaged);
        let is_whole = |(sequence, record): &&(Sequence, Record)| {
            left.iter().any(|part| part.sequence == *sequence && part.record == *record && !part.damaged)
        };
        let lost = batch.len() - batch.iter().filter(is_whole).count();
        // A torn acceptance binds as a whole one does: it is answered as damaged, never as nothing accepted.
        let kept = left.into_iter().map(|part| (part.sequence, part.record)).collect();
        Crashed { kept, lost, torn_entry, starts_cut_short }
    }

    /// Entries of which only slots and ballots are known.
    fn keep_torn(&mut self, part: &Survivor) {
        let (place, first, ballots): (Place, Slot, Vec<Ballot>) = match &part.record {
            Record::Accepted { group, log, ballot, first, entries } => {
                ((*group, *log), *first, vec![*ballot; entries.len()])
            }
            Record::Learnt { group, log, first, entries } => {
                ((*group, *log), *first, entries.iter().map(|(ballot, _)| *ballot).collect())
            }
            _ => unreachable!("other records have no entries"),
        };
        for (slot, ballot) in (first.0..).map(Slot).zip(ballots) {
            self.damaged.insert((part.sequence, slot));
            self.entries.entry(place).or_default().remove(&slot);
            self.spoilt.entry(place).or_default().insert(slot, ballot);
        }
        self.durable.push((part.sequence, part.record.clone()));
    }

    /// Panics if the real log does not say what was written to it.
    fn must_be_as_expected(&self, found: &Recovered) {
        let expected = self.folded();
        assert_eq!(found.position, self.position, "the last record of the log");
        assert_eq!(found.peers, expected.peers, "positions of peers in the log");
        let (found, expected) = (known_groups(found), known_groups(&expected));
        assert_eq!(found, expected, "the real log, and what was written to it");
    }
}

/// Without groups and logs that say nothing: whether they are named at all is nobody's concern.
fn known_groups(recovered: &Recovered) -> BTreeMap<GroupId, RecoveredGroup> {
    let mut groups = recovered.groups.clone();
    groups.values_mut().for_each(|group| group.logs.retain(|_, log| *log != RecoveredLog::default()));
    groups.retain(|_, group| *group != RecoveredGroup::default());
    groups
}
