//! A node's disk: what is durable, what is being written, what waits. A crash keeps the first, decides the second by
//! chance, and loses the third. What goes wrong with the first is in `disk_damage.rs`.
//!
//! In worlds of files the real log stands beside this one, which then says what the real one must (`disk_files.rs`).

use std::collections::{BTreeMap, BTreeSet};

use consensus::{Ballot, Configuration, Discipline, Entry, GroupId, LogId, Record, Recovered, Sequence, Slot};

use crate::face::Face;
use crate::random::Random;
use crate::real_log::{Cut, End, RealLog};

pub(crate) type Place = (GroupId, LogId);

/// Entries before a checkpoint's slot that are read again, by whoever does not trust the checkpoint alone.
const REPLAYED: u64 = 8;

/// An entry where readers find it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) ballot: Ballot,
    pub(crate) entry: Entry,
    /// The record that holds it.
    pub(crate) sequence: Sequence,
}

/// The log and the faces' durable states.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub(crate) durable: Vec<(Sequence, Record)>,
    writing: Vec<(Sequence, Record)>,
    waiting: Vec<(Sequence, Record)>,
    /// The last record that the node believes written.
    pub(crate) position: Sequence,
    /// Where in `durable` the last batch begins: it cannot be told from a torn one, so nothing rots there.
    pub(crate) last_batch: usize,
    /// What the durable log holds for readers of entries, by place.
    pub(crate) entries: BTreeMap<Place, BTreeMap<Slot, Stored>>,
    /// Closed-up-to of each log, as recorded.
    pub(crate) closed: BTreeMap<Place, Slot>,
    /// Acceptances whose content can no longer be read: the record, and the slot in it.
    pub(crate) damaged: BTreeSet<(Sequence, Slot)>,
    /// Slots whose entry cannot be read any more, by place, with the ballot that is still known.
    pub(crate) spoilt: BTreeMap<Place, BTreeMap<Slot, Ballot>>,
    /// The highest record of which nothing is left.
    pub(crate) hole: Option<Sequence>,
    /// The faces' states as last made durable.
    pub checkpoints: BTreeMap<Place, Face>,
    /// The log as the real storage keeps it, in worlds of files.
    pub(crate) real: Option<Box<RealLog>>,
}

/// What a crash did to a disk.
#[derive(Debug)]
pub struct Crashed {
    /// What of the batch under way became durable.
    pub kept: Vec<(Sequence, Record)>,
    /// Records that did not.
    pub lost: usize,
    /// Whether content of an entry was torn, of which slot and ballot are known.
    pub torn_entry: bool,
    /// Starts since that did not get far.
    pub starts_cut_short: u64,
}

impl Disk {
    /// Takes a record behind those taken before.
    pub fn queue(&mut self, sequence: Sequence, record: Record) {
        let last = self.waiting.last().or(self.writing.last()).map_or(self.position, |(last, _)| *last);
        assert_eq!(sequence.0, last.0 + 1, "records come without gaps");
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
        self.position = batch.last().expect("not empty").0;
        self.keep(&batch);
        if let Some(real) = &mut self.real {
            real.append(&batch);
        }
        batch
    }

    /// The sync failed, and somebody tries it again: the system has marked the pages clean, says yes, and writes nothing.
    pub fn pretend_sync(&mut self) -> Sequence {
        let batch = std::mem::take(&mut self.writing);
        self.position = batch.last().expect("something was being written").0;
        self.position
    }

    /// Loses what waits, and all but a prefix of what is being written; with a real log, all but what its files still tell.
    pub(crate) fn crash(&mut self, end: End, cut: Cut, random: &mut Random) -> Crashed {
        let waiting = std::mem::take(&mut self.waiting).len();
        let mut batch = std::mem::take(&mut self.writing);
        if self.real.is_some() {
            let crashed = self.end_files(end, &batch, cut, random);
            return Crashed { lost: crashed.lost + waiting, ..crashed };
        }
        let all = batch.len() as u64;
        let kept = if cut != Cut::BetweenBatches { random.between(0, all) } else { all * random.between(0, 1) };
        batch.truncate(kept as usize);
        self.keep(&batch);
        self.position = self.position();
        Crashed { kept: batch, lost: waiting + (all - kept) as usize, torn_entry: false, starts_cut_short: 0 }
    }

    /// The last durable record.
    pub fn position(&self) -> Sequence {
        self.durable.last().map_or(Sequence(0), |(last, _)| *last)
    }

    /// A copy of what is durable.
    pub fn as_after_a_crash(&self) -> Disk {
        Disk { writing: Vec::new(), waiting: Vec::new(), position: self.position(), ..self.clone() }
    }

    /// What the log says.
    pub(crate) fn folded(&self) -> Recovered {
        let mut recovered = Recovered::default();
        for (sequence, record) in &self.durable {
            // A record that survived in parts stands here as several.
            recovered.position = Sequence(sequence.0 - 1);
            self.fold(&mut recovered, *sequence, record);
        }
        recovered
    }

    /// What a node that starts now is told: what its log says, with what is known beside it.
    pub(crate) fn recover(&self, mut recovered: Recovered) -> Recovered {
        self.tell_of_lost_promises(&mut recovered);
        // Logs of values are loaded one by one.
        for group in recovered.groups.values_mut() {
            let of_values = |known: &Configuration| known.discipline == Discipline::Values;
            if group.configuration.as_deref().is_some_and(of_values) {
                group.logs.retain(|log, _| *log == LogId::CONTROL);
            }
        }
        for ((group, log), face) in &self.checkpoints {
            let group = recovered.groups.get_mut(group).filter(|group| group.configuration.is_some());
            let Some(group) = group else { continue };
            group.log(*log).applied = face.applied;
        }
        recovered
    }

    /// The faces as they begin again; those of a group that the log no longer knows begin with nothing, once they do.
    pub fn restored_faces(&self, recovered: &Recovered) -> BTreeMap<Place, Face> {
        let known = |group| recovered.groups.get(group).is_some_and(|group| group.configuration.is_some());
        let restore = |(place, face): (&Place, &Face)| {
            let first = Slot(face.applied.0.saturating_sub(REPLAYED)).next();
            (*place, face.restored(&self.read(*place, first, face.applied, usize::MAX), first))
        };
        self.checkpoints.iter().filter(|((group, _), _)| known(group)).map(restore).collect()
    }

    /// As storage does it: a damaged acceptance keeps its ballot and loses its content, until a later record brings it.
    fn fold(&self, recovered: &mut Recovered, sequence: Sequence, record: &Record) {
        let spoilt = self.damaged.range((sequence, Slot::ZERO)..=(sequence, Slot::LARGEST)).next().is_some();
        let entries: Vec<(Ballot, Entry)> = match record {
            Record::Accepted { group, log, ballot, entries, .. } if spoilt => {
                recovered.apply(sequence, &Record::Promised { group: *group, log: *log, ballot: *ballot });
                entries.iter().map(|entry| (*ballot, entry.clone())).collect()
            }
            Record::Learnt { entries, .. } if spoilt => {
                recovered.position = sequence;
                entries.to_vec()
            }
            _ => {
                recovered.apply(sequence, record);
                return;
            }
        };
        let (Record::Accepted { group, log, first, .. } | Record::Learnt { group, log, first, .. }) = record else {
            unreachable!("only acceptances are damaged")
        };
        let log = recovered.groups.entry(*group).or_default().log(*log);
        for (slot, (ballot, entry)) in (first.0..).map(Slot).zip(entries) {
            let whole = !self.damaged.contains(&(sequence, slot));
            match record {
                Record::Learnt { .. } => log.learn(slot, ballot, whole.then_some(entry)),
                _ => log.accept(slot, ballot, whole.then_some(entry)),
            }
        }
    }

    /// Said at every start until the node has written down that it does not vote.
    fn tell_of_lost_promises(&self, recovered: &mut Recovered) {
        let Some(lost) = self.hole else { return };
        let barred =
            |(sequence, record): &(Sequence, Record)| *sequence > lost && matches!(record, Record::VotingBarred { .. });
        if !self.durable.iter().any(barred) {
            recovered.groups.values_mut().for_each(|group| group.promises_lost = true);
        }
    }

    /// Puts a record there before the first life.
    pub fn preset(&mut self, record: Record) -> Sequence {
        assert!(self.writing.is_empty() && self.waiting.is_empty(), "only before the first life");
        self.position = Sequence(self.position.0 + 1);
        let batch = [(self.position, record)];
        self.keep(&batch);
        self.preset_file(&batch);
        self.position
    }

    /// Consecutive entries from `from`, as many as there are and fit; one at least if there is one.
    pub fn read(&self, place: Place, from: Slot, up_to: Slot, bytes_max: usize) -> Vec<(Ballot, Entry)> {
        let Some(entries) = self.entries.get(&place) else { return Vec::new() };
        let mut read = Vec::new();
        let mut bytes = 0;
        let mut slot = from;
        while slot <= up_to {
            let Some(stored) = entries.get(&slot) else { break };
            bytes += stored.entry.len();
            if !read.is_empty() && bytes > bytes_max {
                break;
            }
            read.push((stored.ballot, stored.entry.clone()));
            slot = slot.next();
        }
        read
    }

    /// The ballot of an entry whose content cannot be read.
    pub fn damaged_ballot(&self, place: Place, slot: Slot) -> Option<Ballot> {
        self.spoilt.get(&place)?.get(&slot).copied()
    }

    pub(crate) fn keep(&mut self, batch: &[(Sequence, Record)]) {
        if !batch.is_empty() {
            self.last_batch = self.durable.len();
        }
        for (sequence, record) in batch {
            self.index(*sequence, record);
            self.durable.push((*sequence, record.clone()));
        }
    }

    fn index(&mut self, sequence: Sequence, record: &Record) {
        match record {
            Record::Accepted { group, log, ballot, first, entries } => {
                for (slot, entry) in (first.0..).map(Slot).zip(entries.iter()) {
                    let stored = Stored { ballot: *ballot, entry: entry.clone(), sequence };
                    self.index_entry((*group, *log), slot, stored, false);
                }
            }
            Record::Learnt { group, log, first, entries } => {
                for (slot, (ballot, entry)) in (first.0..).map(Slot).zip(entries.iter()) {
                    let stored = Stored { ballot: *ballot, entry: entry.clone(), sequence };
                    self.index_entry((*group, *log), slot, stored, true);
                }
            }
            Record::Chosen { group, log, up_to } => self.close((*group, *log), *up_to),
            Record::Installed { group, log, slot } | Record::Trimmed { group, log, up_to: slot } => {
                self.close((*group, *log), *slot);
                if let Some(entries) = self.entries.get_mut(&(*group, *log)) {
                    *entries = entries.split_off(&slot.next());
                }
                if let Some(spoilt) = self.spoilt.get_mut(&(*group, *log)) {
                    *spoilt = spoilt.split_off(&slot.next());
                }
            }
            Record::Forgotten { group } => {
                self.entries.retain(|place, _| place.0 != *group);
                self.spoilt.retain(|place, _| place.0 != *group);
                self.checkpoints.retain(|place, _| place.0 != *group);
                self.closed.retain(|place, _| place.0 != *group);
            }
            _ => {}
        }
    }

    fn close(&mut self, place: Place, up_to: Slot) {
        let closed = self.closed.entry(place).or_default();
        *closed = (*closed).max(up_to);
    }

    /// What is learnt was chosen, so it counts whatever stands there; only of one value the higher ballot stays.
    fn index_entry(&mut self, place: Place, slot: Slot, stored: Stored, learnt: bool) {
        let entries = self.entries.entry(place).or_default();
        let higher = |known: &&Stored| known.ballot > stored.ballot && (!learnt || known.entry == stored.entry);
        let known = entries.get(&slot).as_ref().is_some_and(higher);
        if !known {
            entries.insert(slot, stored);
            if let Some(spoilt) = self.spoilt.get_mut(&place) {
                spoilt.remove(&slot);
            }
        }
    }
}
