//! What of a batch under way a crash has left, as the real log tells it when it is opened again. Nobody was told of the batch,
//! so any part of it may be there: single records, and of a record single entries, whole or as damage of which slot and
//! ballot are known. What cannot be told from its absence (a later record replaced it) counts as lost.

use consensus::{Ballot, Entry, Record, Recovered, RecoveredLog, Sequence, Slot};
use storage::LogReader;

use crate::disk::Place;
use crate::real_log::read;

/// A record that is there, or the part of one that is.
#[derive(Debug)]
pub(crate) struct Survivor {
    pub(crate) sequence: Sequence,
    pub(crate) record: Record,
    /// The contents of its entries are lost.
    pub(crate) damaged: bool,
}

/// What became of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Whole,
    Damaged,
    Absent,
}

/// What is left of a batch, in its order.
pub(crate) fn survivors(batch: &[(Sequence, Record)], found: &Recovered, reader: &LogReader) -> Vec<Survivor> {
    let mut left = Vec::new();
    for (sequence, record) in batch.iter().filter(|(sequence, _)| *sequence <= found.position) {
        let mut add = |record, damaged| left.push(Survivor { sequence: *sequence, record, damaged });
        match record {
            Record::Accepted { group, log, ballot, first, entries } => {
                let (group, log, ballot) = (*group, *log, *ballot);
                if promised(found, (group, log), ballot) {
                    // An acceptance is a promise too, whatever became of its entries.
                    add(Record::Promised { group, log, ballot }, false);
                }
                let fate = |slot, entry: &Entry| fate(reader, (group, log), slot, (ballot, entry));
                for (first, damaged, run) in runs(*first, entries, fate) {
                    add(Record::Accepted { group, log, ballot, first, entries: run.into() }, damaged);
                }
            }
            Record::Learnt { group, log, first, entries } => {
                let (group, log) = (*group, *log);
                let fate = |slot, (ballot, entry): &(Ballot, Entry)| fate(reader, (group, log), slot, (*ballot, entry));
                for (first, damaged, run) in runs(*first, entries, fate) {
                    add(Record::Learnt { group, log, first, entries: run.into() }, damaged);
                }
            }
            whole if is_there(whole, found) => add(whole.clone(), false),
            _ => {}
        }
    }
    left
}

/// Whether a record without entries has its effect.
fn is_there(record: &Record, found: &Recovered) -> bool {
    let group = |group| found.groups.get(group);
    match record {
        Record::Configured { configuration } => {
            let known = group(&configuration.group).and_then(|group| group.configuration.as_ref());
            known.is_some_and(|known| known.epoch >= configuration.epoch)
        }
        Record::Promised { group, log, ballot } => promised(found, (*group, *log), *ballot),
        Record::Chosen { group, log, up_to } => log_of(found, (*group, *log)).is_some_and(|log| log.closed >= *up_to),
        Record::Installed { group, log, slot: up_to } | Record::Trimmed { group, log, up_to } => {
            log_of(found, (*group, *log)).is_some_and(|log| log.trimmed >= *up_to)
        }
        Record::PeerSeen { node, start, position } => {
            found.peers.get(node).is_some_and(|seen| *seen >= (*start, *position))
        }
        Record::VotingBarred { group: barred, start } => {
            group(barred).is_some_and(|group| group.barred >= Some(*start))
        }
        Record::Forgotten { group: forgotten } => group(forgotten).is_none(),
        Record::Accepted { .. } | Record::Learnt { .. } => unreachable!("looked at entry by entry"),
    }
}

fn promised(found: &Recovered, place: Place, ballot: Ballot) -> bool {
    log_of(found, place).is_some_and(|log| log.promised >= ballot)
}

fn log_of(found: &Recovered, (group, log): Place) -> Option<&RecoveredLog> {
    found.groups.get(&group)?.logs.get(&log)
}

fn fate(reader: &LogReader, place: Place, slot: Slot, (ballot, entry): (Ballot, &Entry)) -> Fate {
    match read(reader, place, (slot, slot), usize::MAX) {
        (found, _) if found.first().is_some_and(|(under, known)| (under, known) == (&ballot, entry)) => Fate::Whole,
        (_, Some(under)) if under == ballot => Fate::Damaged,
        _ => Fate::Absent,
    }
}

/// Neighbouring entries of one fate, but for those that are absent: first slot, whether they are damaged, and they.
fn runs<T: Clone>(first: Slot, entries: &[T], fate: impl Fn(Slot, &T) -> Fate) -> Vec<(Slot, bool, Vec<T>)> {
    let mut runs: Vec<(Slot, bool, Vec<T>)> = Vec::new();
    for (slot, entry) in (first.0..).map(Slot).zip(entries) {
        let fate = fate(slot, entry);
        match runs.last_mut() {
            _ if fate == Fate::Absent => {}
            Some((first, damaged, run))
                if *damaged == (fate == Fate::Damaged) && first.plus(run.len() as u64) == slot =>
            {
                run.push(entry.clone());
            }
            _ => runs.push((slot, fate == Fate::Damaged, vec![entry.clone()])),
        }
    }
    runs
}

/// A slot that a surviving mark says is closed, and of which the record before it in the batch is gone: the mark promises
/// that what was chosen is held here, so it must not be left without it. `known` is closed-up-to before the batch.
pub(crate) fn closed_without_record(
    batch: &[(Sequence, Record)],
    found: &Recovered,
    reader: &LogReader,
    known: impl Fn(Place) -> Slot,
) -> Option<Slot> {
    batch.iter().enumerate().find_map(|(index, (_, record))| {
        let Record::Chosen { group, log, up_to } = record else { return None };
        let place = (*group, *log);
        let log = log_of(found, place).filter(|log| log.closed >= *up_to && *up_to > known(place))?;
        let before = batch[..index].iter().flat_map(|(_, record)| slots_of(record, place));
        let mut closed = before.filter(|slot| *slot <= *up_to && *slot > log.trimmed);
        closed.find(|slot| read(reader, place, (*slot, *slot), usize::MAX) == (Vec::new(), None))
    })
}

/// The slots of a record of this log that holds entries.
fn slots_of(record: &Record, place: Place) -> impl Iterator<Item = Slot> {
    let (first, count) = match record {
        Record::Accepted { group, log, first, entries, .. } if (*group, *log) == place => (first.0, entries.len()),
        Record::Learnt { group, log, first, entries } if (*group, *log) == place => (first.0, entries.len()),
        _ => (0, 0),
    };
    (first..first + count as u64).map(Slot)
}
