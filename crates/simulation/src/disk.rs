//! A node's disk: what is durable, what is being written, what waits. A crash keeps the first, decides the second by
//! chance, and loses the third.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{Ballot, Entry, GroupId, LogId, Record, Recovered, Sequence, Slot};

use crate::face::Face;
use crate::random::Random;

type Place = (GroupId, LogId);

/// The log and the faces' durable states.
#[derive(Debug, Default)]
pub struct Disk {
    durable: Vec<(Sequence, Record)>,
    writing: Vec<(Sequence, Record)>,
    waiting: Vec<(Sequence, Record)>,
    /// What the durable log holds for readers of entries, by place.
    entries: BTreeMap<Place, BTreeMap<Slot, (Ballot, Entry)>>,
    /// Acceptances whose content can no longer be read: the record, and the slot in it.
    damaged: BTreeSet<(Sequence, Slot)>,
    /// The highest record that was lost with what it promised.
    promise_lost: Option<Sequence>,
    /// The faces' states as last made durable.
    pub checkpoints: BTreeMap<Place, Face>,
}

impl Disk {
    /// Takes a record behind those taken before.
    pub fn queue(&mut self, sequence: Sequence, record: Record) {
        let last = self.waiting.last().or(self.writing.last()).or(self.durable.last());
        let expected = last.map_or(1, |(last, _)| last.0 + 1);
        assert_eq!(sequence.0, expected, "records come without gaps");
        self.waiting.push((sequence, record));
    }

    /// Whether a batch should be written now: something waits that somebody waits for, and nothing is being written.
    pub fn wants_sync(&self) -> bool {
        self.writing.is_empty() && self.waiting.iter().any(|(_, record)| !record.is_lazy())
    }

    /// Whether anything at all waits while nothing is being written.
    pub fn could_sync(&self) -> bool {
        self.writing.is_empty() && !self.waiting.is_empty()
    }

    /// Begins to write everything that waits.
    pub fn begin_sync(&mut self) {
        assert!(self.could_sync(), "a batch begins after the one before");
        self.writing = std::mem::take(&mut self.waiting);
    }

    /// The batch is durable: returns it.
    pub fn finish_sync(&mut self) -> Vec<(Sequence, Record)> {
        assert!(!self.writing.is_empty(), "nothing was being written");
        let batch = std::mem::take(&mut self.writing);
        self.keep(&batch);
        batch
    }

    /// Loses what waits, and all but a prefix of what is being written; returns that prefix.
    pub fn crash(&mut self, torn: bool, random: &mut Random) -> Vec<(Sequence, Record)> {
        self.waiting.clear();
        let mut batch = std::mem::take(&mut self.writing);
        let all = batch.len() as u64;
        let kept = if torn { random.between(0, all) } else { all * random.between(0, 1) };
        batch.truncate(kept as usize);
        self.keep(&batch);
        batch
    }

    /// What a node that starts now is told.
    pub fn recover(&self) -> Recovered {
        let mut recovered = Recovered::default();
        for (sequence, record) in &self.durable {
            recovered.apply(*sequence, record);
            self.spoil(*sequence, record, &mut recovered);
        }
        self.tell_of_lost_promises(&mut recovered);
        for ((group, log), face) in &self.checkpoints {
            let Some(group) = recovered.groups.get_mut(group) else { continue };
            group.log(*log).applied = face.applied;
        }
        recovered
    }

    /// Some of what the log holds can no longer be read, and is known to be damaged, as storage knows it by its
    /// checksums and by the second copy of each record's identity (rule 9).
    pub fn damage(&mut self, random: &mut Random) {
        let acceptances: Vec<(Sequence, Place, Slot)> = self.durable.iter().flat_map(acceptances).collect();
        for _ in 0..random.between(1, 5) {
            let latest = &acceptances[acceptances.len().saturating_sub(200)..];
            if let Some((sequence, place, slot)) = random.pick(latest) {
                self.damaged.insert((sequence, slot));
                self.entries.entry(place).or_default().remove(&slot);
            }
        }
        if random.chance(0.3) {
            let is_promise = |(_, record): &(Sequence, Record)| matches!(record, Record::Promised { .. });
            // The place of a lost record is still known, so the last one stays: the log's length does not change.
            let before_last = &self.durable[..self.durable.len() - 1];
            if let Some(index) = before_last.iter().rposition(is_promise) {
                let (sequence, _) = self.durable.remove(index);
                self.promise_lost = self.promise_lost.max(Some(sequence));
            }
        }
    }

    /// A damaged acceptance keeps its ballot and loses its content, until a later record brings the slot again.
    fn spoil(&self, sequence: Sequence, record: &Record, recovered: &mut Recovered) {
        for (_, slot) in self.damaged.range((sequence, Slot::ZERO)..=(sequence, Slot::LARGEST)) {
            let (group, log, ballot) = match record {
                Record::Accepted { group, log, ballot, .. } => (group, log, *ballot),
                Record::Learnt { group, log, first, entries } => (group, log, entries[(slot.0 - first.0) as usize].0),
                _ => unreachable!("only acceptances are damaged"),
            };
            let log = recovered.groups.get_mut(group).and_then(|group| group.logs.get_mut(log));
            if let Some(found) = log.and_then(|log| log.accepted.get_mut(slot)).filter(|found| found.ballot == ballot) {
                found.entry = None;
            }
        }
    }

    /// Said at every start until the node has written down that it does not vote.
    fn tell_of_lost_promises(&self, recovered: &mut Recovered) {
        let Some(lost) = self.promise_lost else { return };
        let barred =
            |(sequence, record): &(Sequence, Record)| *sequence > lost && matches!(record, Record::VotingBarred { .. });
        if !self.durable.iter().any(barred) {
            recovered.groups.values_mut().for_each(|group| group.promises_lost = true);
        }
    }

    /// Puts a record there before the first life.
    pub fn preset(&mut self, record: Record) -> Sequence {
        assert!(self.writing.is_empty() && self.waiting.is_empty(), "only before the first life");
        let sequence = Sequence(self.durable.len() as u64 + 1);
        self.keep(&[(sequence, record)]);
        sequence
    }

    /// Consecutive entries from `from`, as many as there are and fit; one at least if there is one.
    pub fn read(&self, place: Place, from: Slot, up_to: Slot, bytes_max: usize) -> Vec<(Ballot, Entry)> {
        let Some(entries) = self.entries.get(&place) else { return Vec::new() };
        let mut read = Vec::new();
        let mut bytes = 0;
        let mut slot = from;
        while slot <= up_to {
            let Some((ballot, entry)) = entries.get(&slot) else { break };
            bytes += entry.len();
            if !read.is_empty() && bytes > bytes_max {
                break;
            }
            read.push((*ballot, entry.clone()));
            slot = slot.next();
        }
        read
    }

    fn keep(&mut self, batch: &[(Sequence, Record)]) {
        for (sequence, record) in batch {
            self.index(record);
            self.durable.push((*sequence, record.clone()));
        }
    }

    fn index(&mut self, record: &Record) {
        match record {
            Record::Accepted { group, log, ballot, first, entries } => {
                for (slot, entry) in (first.0..).map(Slot).zip(entries.iter()) {
                    self.index_entry((*group, *log), slot, *ballot, entry);
                }
            }
            Record::Learnt { group, log, first, entries } => {
                for (slot, (ballot, entry)) in (first.0..).map(Slot).zip(entries.iter()) {
                    self.index_entry((*group, *log), slot, *ballot, entry);
                }
            }
            Record::Installed { group, log, slot } | Record::Trimmed { group, log, up_to: slot } => {
                if let Some(entries) = self.entries.get_mut(&(*group, *log)) {
                    *entries = entries.split_off(&slot.next());
                }
            }
            Record::Forgotten { group } => {
                self.entries.retain(|place, _| place.0 != *group);
                self.checkpoints.retain(|place, _| place.0 != *group);
            }
            _ => {}
        }
    }

    fn index_entry(&mut self, place: Place, slot: Slot, ballot: Ballot, entry: &Entry) {
        let entries = self.entries.entry(place).or_default();
        let known = entries.get(&slot).is_some_and(|(known, _)| *known > ballot);
        if !known {
            entries.insert(slot, (ballot, entry.clone()));
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
