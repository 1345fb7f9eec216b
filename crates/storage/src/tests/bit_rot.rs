//! Damage anywhere in a log that was whole: it is told, never lost in silence, and never makes anything up.

use super::script::{fold, reader, script, Batch, Dice};
use crate::disk::Disk;
use crate::log::LogOptions;
use crate::recovery::{self, RecoveryError};
use crate::simulation::MemoryDisk;
use crate::ReadError;
use consensus::{Ballot, Entry, Epoch, GroupId, LogId, NodeId, OperationId, Record, Recovered, Sequence, Slot, Start};
use std::sync::Arc;

const NODE: NodeId = NodeId(9);
const GROUP: GroupId = GroupId(1);

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

fn ballot(round: u64) -> Ballot {
    Ballot { epoch: Epoch(1), round, node: NODE, start: Start(1) }
}

fn entry(text: &str) -> Entry {
    Entry::operation(OperationId::NONE, text.as_bytes())
}

fn accepted(first: u64, texts: &[&str]) -> Record {
    let entries: Arc<[Entry]> = texts.iter().map(|text| entry(text)).collect();
    Record::Accepted { group: GROUP, log: LogId::MAIN, ballot: ballot(2), first: Slot(first), entries }
}

/// A log of these records, one per batch, as a clean stop leaves it.
fn written(records: &[Record]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
    for (sequence, record) in (1..).map(Sequence).zip(records) {
        log.append(&[(sequence, record.clone())]).unwrap();
    }
    disk
}

fn reopen(disk: &MemoryDisk) -> Result<(crate::segmented_log::SegmentedLog, Recovered), RecoveryError> {
    recovery::open(Arc::new(disk.clone()), NODE, Start(2), options())
}

/// Spoils every copy of a text in every file.
fn spoil(disk: &MemoryDisk, text: &str) {
    let mut hits = 0;
    for name in disk.names() {
        disk.with_file(&name, |bytes| {
            let places: Vec<usize> = (0..bytes.len().saturating_sub(text.len()))
                .filter(|at| bytes[*at..].starts_with(text.as_bytes()))
                .collect();
            hits += places.len();
            places.into_iter().for_each(|at| bytes[at] ^= 0x40);
        });
    }
    assert!(hits > 0, "the text was found");
}

/// Where the segment's records begin, and its length.
const FRONT: usize = 4096;
const BYTES: usize = 64 << 10;

fn spoil_at_record(disk: &MemoryDisk, offset: usize) {
    disk.with_file("segment-00000001", |bytes| bytes[offset] ^= 1);
}

fn spoil_apart(disk: &MemoryDisk, number: usize) {
    disk.with_file("segment-00000001", |bytes| bytes[BYTES - FRONT - (number + 1) * 128] ^= 1);
}

#[test]
fn a_damaged_entry_is_known_by_slot_and_ballot_and_costs_its_neighbours_nothing() {
    let disk = written(&[accepted(1, &["alpha", "bravo", "charlie"]), accepted(4, &["delta"])]);
    spoil(&disk, "bravo");
    let (log, recovered) = reopen(&disk).unwrap();
    let found = &recovered.groups[&GROUP].logs[&LogId::MAIN];
    assert_eq!(found.promised, ballot(2));
    assert_eq!(found.accepted[&Slot(1)].entry, Some(entry("alpha")));
    assert_eq!((found.accepted[&Slot(2)].ballot, &found.accepted[&Slot(2)].entry), (ballot(2), &None));
    assert_eq!(found.accepted[&Slot(3)].entry, Some(entry("charlie")));
    assert!(!recovered.groups[&GROUP].promises_lost);
    let reader = reader(log.state());
    let read = reader.read_entries(GROUP, LogId::MAIN, Slot(1), Slot(4), usize::MAX).unwrap();
    assert_eq!(read.len(), 1, "reading stops before the damage");
    let error = reader.read_entries(GROUP, LogId::MAIN, Slot(2), Slot(4), usize::MAX).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { slot: Slot(2), .. }), "{error}");

    // The same record again heals it.
    let mut log = log;
    log.append(&[(Sequence(9), accepted(2, &["bravo"]))]).unwrap();
    assert_eq!(reader.read_entries(GROUP, LogId::MAIN, Slot(1), Slot(4), usize::MAX).unwrap().len(), 4);
    let (_, recovered) = reopen(&disk).unwrap();
    assert_eq!(recovered.groups[&GROUP].logs[&LogId::MAIN].accepted[&Slot(2)].entry, Some(entry("bravo")));
}

#[test]
fn a_promise_survives_the_loss_of_either_copy() {
    let promised = |round| Record::Promised { group: GROUP, log: LogId::MAIN, ballot: ballot(round) };
    for apart in [false, true] {
        // Record 0 of the segment is recovery's own.
        let disk = written(&[promised(5), accepted(1, &["later"])]);
        if apart {
            spoil_apart(&disk, 1);
        } else {
            spoil_at_record(&disk, FRONT + 128 + 60);
        }
        let (_, recovered) = reopen(&disk).unwrap();
        assert_eq!(recovered.groups[&GROUP].logs[&LogId::MAIN].promised, ballot(5));
        assert!(!recovered.groups[&GROUP].promises_lost);
    }
}

#[test]
fn a_record_lost_with_both_copies_is_told_until_the_group_is_barred() {
    let promised = |round| Record::Promised { group: GROUP, log: LogId::MAIN, ballot: ballot(round) };
    let disk = written(&[accepted(1, &["first"]), promised(5), accepted(2, &["later"])]);
    let whole = disk.copy();
    spoil_apart(&disk, 2);
    let offset = disk.with_file("segment-00000001", |bytes| {
        let round: Vec<usize> =
            (FRONT..BYTES / 2).step_by(8).filter(|at| bytes[at + 4] == 2 && bytes[at + 5] == 1).collect();
        round[0]
    });
    spoil_at_record(&disk, offset + 70);
    let (_, recovered) = reopen(&disk).unwrap();
    assert!(recovered.groups[&GROUP].promises_lost);
    assert_eq!(recovered.groups[&GROUP].logs[&LogId::MAIN].accepted.len(), 2, "what is left is still told");

    // Told again at the next start, from the record that the first recovery wrote.
    let (mut log, recovered) = reopen(&disk).unwrap();
    assert!(recovered.groups[&GROUP].promises_lost);
    let last = recovered.position;
    log.append(&[(Sequence(last.0 + 1), Record::VotingBarred { group: GROUP, start: Start(3) })]).unwrap();

    // Once the bar is durable, the damage is accounted for.
    let (_, recovered) = reopen(&disk).unwrap();
    assert!(!recovered.groups[&GROUP].promises_lost);
    assert_eq!(recovered.groups[&GROUP].barred, Some(Start(3)));

    let (_, recovered) = reopen(&whole).unwrap();
    assert!(!recovered.groups[&GROUP].promises_lost, "without damage nothing is told");
}

#[test]
fn behind_a_hole_closed_slots_are_not_served() {
    // The record in the hole may have replaced slot 1, so that what stands there now may not be what was chosen.
    let chosen = Record::Chosen { group: GROUP, log: LogId::MAIN, up_to: Slot(1) };
    let disk = written(&[accepted(1, &["first"]), accepted(1, &["again"]), chosen]);
    let at = disk.with_file("segment-00000001", |bytes| {
        (FRONT..BYTES / 2)
            .step_by(8)
            .find(|at| bytes[*at..].starts_with(b"again"))
            .unwrap_or_else(|| (FRONT..BYTES / 2).find(|at| bytes[*at..].starts_with(b"again")).expect("it is there"))
    });
    spoil_apart(&disk, 2);
    // Its identity stands before header, directory and id of the entry.
    (1..8).for_each(|back| spoil_at_record(&disk, (at - 33 - 8 - 128 + 16 * back) & !7));
    let (log, recovered) = reopen(&disk).unwrap();
    assert!(recovered.groups[&GROUP].promises_lost);
    let error = reader(log.state()).read_entries(GROUP, LogId::MAIN, Slot(1), Slot(1), usize::MAX).unwrap_err();
    assert!(matches!(error, ReadError::Missing { .. }), "{error}");
}

#[test]
fn a_segment_that_vanished_or_lost_both_headers_is_told() {
    let body = "x".repeat(5000);
    let records: Vec<Record> = (1..=40).map(|slot| accepted(slot, &[&body])).collect();
    let disk = written(&records);
    assert!(disk.names().len() >= 4, "{:?}", disk.names());
    let headers = |bytes: &mut Vec<u8>| {
        bytes[20] ^= 1;
        bytes[BYTES - FRONT + 20] ^= 1;
    };
    for victim in disk.names().iter().filter(|name| name.starts_with("segment-")) {
        let spoilt = disk.copy();
        spoilt.with_file(victim, headers);
        let (_, recovered) = reopen(&spoilt).unwrap();
        assert!(recovered.groups[&GROUP].promises_lost, "{victim}");
        assert!(spoilt.names().contains(&format!("damaged-{victim}")));
        let (_, recovered) = reopen(&spoilt).unwrap();
        assert!(recovered.groups[&GROUP].promises_lost, "{victim}: and again");

        // One header is enough.
        let spoilt = disk.copy();
        spoilt.with_file(victim, |bytes| bytes[20] ^= 1);
        let (_, recovered) = reopen(&spoilt).unwrap();
        assert_eq!(recovered.groups[&GROUP].logs[&LogId::MAIN].accepted.len(), 40);
        assert!(!recovered.groups[&GROUP].promises_lost);
    }
}

#[test]
fn what_was_cut_before_an_unreadable_segment_stays_cut() {
    // A batch of two, of which the first record is torn: the second says that the group is gone, and must not count.
    let disk = MemoryDisk::new();
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
    log.append(&[(Sequence(1), accepted(1, &["first"]))]).unwrap();
    let torn = Record::Promised { group: GroupId(2), log: LogId::MAIN, ballot: ballot(9) };
    log.append(&[(Sequence(2), torn), (Sequence(3), Record::Forgotten { group: GROUP })]).unwrap();
    spoil_apart(&disk, 2);
    let place = FRONT + 128 + (128 + 8 + entry("first").len()).next_multiple_of(8);
    spoil_at_record(&disk, place + 20);
    // Behind it lies a file that nobody can read.
    crate::disk::Disk::create(&disk, "segment-00000009", BYTES as u64).unwrap();
    disk.with_file("segment-00000009", |bytes| bytes[..4].fill(7));
    for start in 1..=3 {
        let (_, recovered) = reopen(&disk).unwrap();
        assert!(recovered.groups[&GROUP].promises_lost, "start {start}: the unreadable file may have held anything");
        let found = &recovered.groups[&GROUP].logs[&LogId::MAIN];
        assert_eq!(found.accepted[&Slot(1)].entry, Some(entry("first")), "start {start}");
    }
}

#[test]
fn a_log_that_is_gone_is_not_taken_for_a_new_one() {
    let disk = written(&[accepted(1, &["first"])]);
    for name in disk.names().iter().filter(|name| name.starts_with("segment-")) {
        crate::disk::Disk::remove(&disk, name).unwrap();
    }
    let error = reopen(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, RecoveryError::Gone { .. }), "{error}");
    assert!(error.to_string().contains("join anew"));
}

#[test]
fn another_nodes_segment_and_a_copied_segment_are_refused() {
    let disk = written(&[accepted(1, &["first"])]);
    let error = recovery::open(Arc::new(disk.copy()), NodeId(10), Start(2), options()).map(|_| ()).unwrap_err();
    assert!(matches!(error, RecoveryError::Foreign { .. }), "{error}");
    let bytes = disk.with_file("segment-00000001", |bytes| bytes.clone());
    crate::disk::Disk::create(&disk, "segment-00000077", bytes.len() as u64).unwrap();
    disk.with_file("segment-00000077", |copy| *copy = bytes);
    let error = reopen(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, RecoveryError::Twice { .. }), "{error}");
}

/// Damage may take things away only if it says so: what it takes is damaged by slot and ballot, or the group's promises
/// are reported lost, or it lay in the last batch with both its identities.
#[test]
fn one_spoilt_sector_anywhere_is_never_silent() {
    for seed in 31..=33 {
        let script = script(seed, 60);
        let disk = MemoryDisk::new();
        let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
        script.iter().for_each(|batch| assert!(log.append(batch).is_ok()));
        let segments: Vec<String> = disk.names().into_iter().filter(|name| name.starts_with("segment-")).collect();
        let mut dice = Dice::new(seed);
        for name in &segments {
            for sector in 0..BYTES / 512 {
                let spoilt = disk.copy();
                spoilt.with_file(name, |bytes| match dice.below(3) {
                    // A flipped bit, a sector of zeroes, a sector that belongs elsewhere.
                    0 => bytes[sector * 512 + dice.below(512) as usize] ^= 1 << dice.below(8),
                    1 => bytes[sector * 512..][..512].fill(0),
                    _ => {
                        let other = dice.below((BYTES / 512) as u64) as usize * 512;
                        let copy: Vec<u8> = bytes[other..][..512].to_vec();
                        bytes[sector * 512..][..512].copy_from_slice(&copy);
                    }
                });
                let Ok((_, recovered)) = reopen(&spoilt) else {
                    panic!("{name} sector {sector}: one sector never stops a start")
                };
                never_silent(&recovered, &script, &format!("seed {seed} {name} sector {sector}"));
            }
        }
    }
}

fn never_silent(recovered: &Recovered, script: &[Batch], what: &str) {
    let truth = fold(script);
    let (_, before_last) = script.split_last().unwrap();
    let sure = fold(before_last);
    for (group, expected) in &sure.groups {
        let found = &recovered.groups[group];
        if found.promises_lost {
            continue;
        }
        for (log, expected) in &expected.logs {
            let found = &found.logs[log];
            assert!(found.promised >= expected.promised, "{what}: a promise is gone");
            for (slot, entry) in expected.accepted.range(found.closed.next()..) {
                let got = found.accepted.get(slot).unwrap_or_else(|| panic!("{what}: slot {slot} of {log} is gone"));
                assert!(got.ballot >= entry.ballot, "{what}");
                let known = truth.groups[group].logs[log].accepted.get(slot).filter(|known| known.ballot == got.ballot);
                if let (Some(content), Some(known)) = (&got.entry, known) {
                    assert_eq!(Some(content), known.entry.as_ref(), "{what}: made up");
                }
            }
        }
    }
}

#[test]
fn hostile_bytes_never_panic() {
    let script = script(41, 40);
    let disk = MemoryDisk::new();
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
    script.iter().for_each(|batch| assert!(log.append(batch).is_ok()));
    let segments: Vec<String> = disk.names().into_iter().filter(|name| name.starts_with("segment-")).collect();
    let mut dice = Dice::new(41);
    for _ in 0..300 {
        let spoilt = disk.copy();
        for _ in 0..=dice.below(40) {
            let name = &segments[dice.below(segments.len() as u64) as usize];
            spoilt.with_file(name, |bytes| {
                let at = dice.below(bytes.len() as u64) as usize;
                let end = (at + 1 + dice.below(2000) as usize).min(bytes.len());
                bytes[at..end].iter_mut().for_each(|byte| *byte = dice.below(256) as u8);
            });
        }
        if dice.below(4) == 0 {
            spoilt.with_file(&segments[0], |bytes| bytes.truncate(dice.below(BYTES as u64) as usize));
        }
        let _ = reopen(&spoilt);
    }
}

#[test]
fn a_copy_of_the_last_batch_is_no_newer_than_what_may_be_missing_behind_it() {
    // The unreadable segment may have come next, and may have held what replaced slot 1.
    let disk = MemoryDisk::new();
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
    let chosen = Record::Chosen { group: GROUP, log: LogId::MAIN, up_to: Slot(1) };
    log.append(&[(Sequence(1), accepted(1, &["first", "open"])), (Sequence(2), chosen)]).unwrap();
    disk.create("segment-00000009", BYTES as u64).unwrap();
    disk.with_file("segment-00000009", |bytes| bytes.fill(7));
    for start in 2..=3 {
        let (log, recovered) = recovery::open(Arc::new(disk.clone()), NODE, Start(start), options()).unwrap();
        assert!(recovered.groups[&GROUP].promises_lost);
        let read = |slot| reader(log.state()).read_entries(GROUP, LogId::MAIN, Slot(slot), Slot(slot), usize::MAX);
        assert!(matches!(read(1), Err(ReadError::Missing { .. })), "start {start}");
        assert_eq!(read(2).unwrap()[0].entry, entry("open"), "start {start}");
    }
}
