//! What is learnt was chosen, and yet the acceptance that stood in its slot binds while the slot is open.

use super::script::{ballot, entry_of, reader, small_segments};
use crate::recovery;
use crate::segmented_log::SegmentedLog;
use crate::simulation::MemoryDisk;
use crate::ReadError;
use consensus::{Entry, GroupId, LogId, NodeId, Record, Recovered, RecoveredEntry, Sequence, Slot, Start};
use std::sync::Arc;

const NODE: NodeId = NodeId(9);
const GROUP: GroupId = GroupId(7);
const BUSY: GroupId = GroupId(8);
const SLOT: Slot = Slot(1);

fn open(disk: &MemoryDisk) -> (SegmentedLog, Recovered) {
    recovery::open(Arc::new(disk.clone()), NODE, Start(1), small_segments()).unwrap()
}

fn accepted(group: GroupId, slot: Slot, round: u64, entry: Entry) -> Record {
    Record::Accepted { group, log: LogId::MAIN, ballot: ballot(round), first: slot, entries: [entry].into() }
}

/// A log in which this stood, was accepted under ballot 7, and that was then learnt under ballot 3.
fn accepted_then_learnt(own: Entry, learnt: Entry) -> (MemoryDisk, SegmentedLog) {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).0;
    log.append(&[(Sequence(1), accepted(GROUP, SLOT, 7, own))]).unwrap();
    let entries = [(ballot(3), learnt)].into();
    log.append(&[(Sequence(2), Record::Learnt { group: GROUP, log: LogId::MAIN, first: SLOT, entries })]).unwrap();
    (disk, log)
}

/// Another group writes until no header names the first segments any more.
fn let_the_log_go_round(log: &mut SegmentedLog) {
    let first = log.state().lock().oldest();
    let mut sequence = log.position.0;
    for slot in 1.. {
        let trimmed = Record::Trimmed { group: BUSY, log: LogId::MAIN, up_to: Slot(slot) };
        for record in [accepted(BUSY, Slot(slot), 1, entry_of("busy", 12_000)), trimmed] {
            sequence += 1;
            log.append(&[(Sequence(sequence), record)]).unwrap();
        }
        if log.state().lock().oldest() > first + 15 {
            return;
        }
    }
}

fn open_entry(disk: &MemoryDisk) -> RecoveredEntry {
    let (_, recovered) = open(disk);
    assert_eq!(recovered.groups[&GROUP].logs[&LogId::MAIN].promised, ballot(7));
    recovered.groups[&GROUP].logs[&LogId::MAIN].accepted[&SLOT].clone()
}

#[test]
fn an_acceptance_outlives_the_same_content_learnt_under_a_lower_ballot() {
    let (disk, mut log) = accepted_then_learnt(entry_of("one value", 900), entry_of("one value", 900));
    let expected = RecoveredEntry { ballot: ballot(7), entry: Some(entry_of("one value", 900)) };
    assert_eq!(open_entry(&disk.copy()), expected);
    let_the_log_go_round(&mut log);
    assert_eq!(open_entry(&disk), expected);
}

#[test]
fn what_was_learnt_is_read_in_place_of_another_acceptance() {
    let (disk, mut log) = accepted_then_learnt(entry_of("never chosen", 900), entry_of("chosen", 900));
    let read = |log: &SegmentedLog| reader(log.state()).read_entries(GROUP, LogId::MAIN, SLOT, SLOT, usize::MAX);
    assert_eq!(read(&log).unwrap()[0].entry, entry_of("chosen", 900));
    let_the_log_go_round(&mut log);
    assert_eq!(read(&log).unwrap()[0].entry, entry_of("chosen", 900));
    assert_eq!(read(&open(&disk).0).unwrap()[0].entry, entry_of("chosen", 900));
}

#[test]
fn behind_a_learnt_entry_that_is_damaged_the_ballot_of_the_acceptance_is_still_told() {
    let (disk, log) = accepted_then_learnt(entry_of("accepted", 900), entry_of("learnt", 900));
    drop(log);
    disk.with_file("segment-00000001", |bytes| {
        let at = (0..bytes.len()).find(|at| bytes[*at..].starts_with(b"learnt")).expect("it is there");
        bytes[at] ^= 1;
    });
    let (mut log, _) = open(&disk);
    let read = reader(log.state()).read_entries(GROUP, LogId::MAIN, SLOT, SLOT, usize::MAX);
    assert!(matches!(read, Err(ReadError::Damaged { ballot: found, .. }) if found == ballot(7)), "{read:?}");
    let_the_log_go_round(&mut log);
    assert_eq!(open_entry(&disk), RecoveredEntry { ballot: ballot(7), entry: None });
}

#[test]
fn what_is_learnt_heals_a_damaged_acceptance_and_leaves_it_its_ballot() {
    let (disk, log) = accepted_then_learnt(entry_of("accepted", 900), entry_of("learnt", 900));
    drop(log);
    disk.with_file("segment-00000001", |bytes| {
        let at = (0..bytes.len()).find(|at| bytes[*at..].starts_with(b"accepted")).expect("it is there");
        bytes[at] ^= 1;
    });
    let expected = RecoveredEntry { ballot: ballot(7), entry: Some(entry_of("learnt", 900)) };
    assert_eq!(open_entry(&disk.copy()), expected);
    let mut log = open(&disk).0;
    let_the_log_go_round(&mut log);
    assert_eq!(open_entry(&disk), expected);
}

#[test]
fn a_torn_copy_of_what_stands_whole_is_no_loss_wherever_the_whole_one_moves() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).0;
    let value = entry_of("accepted", 900);
    log.append(&[(Sequence(1), accepted(GROUP, SLOT, 7, value.clone()))]).unwrap();
    let (group, entries) = (GROUP, [(ballot(7), value.clone())].into());
    let learnt = Record::Learnt { group, log: LogId::MAIN, first: SLOT, entries };
    let chosen = Record::Chosen { group, log: LogId::MAIN, up_to: SLOT };
    log.append(&[(Sequence(2), learnt), (Sequence(3), chosen)]).unwrap();
    drop(log);
    disk.with_file("segment-00000001", |bytes| {
        let at = (0..bytes.len()).rfind(|at| bytes[*at..].starts_with(b"accepted")).expect("it is there");
        bytes[at] ^= 1;
    });
    let mut log = open(&disk).0;
    let first = log.state().lock().oldest();
    for slot in 1.. {
        let recovered = open(&disk.copy()).1;
        assert!(recovered.groups[&GROUP].logs[&LogId::MAIN].lost.is_empty(), "after {slot} batches");
        let read = reader(log.state()).read_entries(GROUP, LogId::MAIN, SLOT, SLOT, usize::MAX);
        assert_eq!(read.unwrap()[0].entry, value);
        if log.state().lock().oldest() > first + 15 {
            return;
        }
        let trimmed = Record::Trimmed { group: BUSY, log: LogId::MAIN, up_to: Slot(slot) };
        let busy = accepted(BUSY, Slot(slot), 1, entry_of("busy", 12_000));
        let last = log.position.0;
        log.append(&[(Sequence(last + 1), busy), (Sequence(last + 2), trimmed)]).unwrap();
    }
}
