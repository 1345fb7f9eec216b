//! Entries kept only for members that lag leave the shared log for files of their group: they can be read there as before,
//! outlive crashes at any operation, are gone for good when they are trimmed, and damage there is told as anywhere.

use super::script::{ballot, configuration, entry_of, reader, small_segments, Batch, Dice};
use crate::disk::Disk;
use crate::laggards_file::number_in;
use crate::segmented_log::{SegmentedLog, WriteError};
use crate::simulation::{Fault, MemoryDisk};
use crate::{recovery, Log, ReadError, ScrubOptions};
use consensus::{Ballot, Entry, GroupId, LogId, NodeId, Record, RecoveredLog, Sequence, Slot, Start};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NODE: NodeId = NodeId(9);
const IDLE: GroupId = GroupId(1);
const DROPPED: GroupId = GroupId(2);
const BUSY: GroupId = GroupId(3);

fn accepted(group: GroupId, slot: u64, round: u64, entry: Entry) -> Record {
    let (log, ballot, first) = (LogId::MAIN, ballot(round), Slot(slot));
    Record::Accepted { group, log, ballot, first, entries: [entry].into() }
}

fn chosen(group: GroupId, slot: u64) -> Record {
    Record::Chosen { group, log: LogId::MAIN, up_to: Slot(slot) }
}

fn trimmed(group: GroupId, slot: u64) -> Record {
    Record::Trimmed { group, log: LogId::MAIN, up_to: Slot(slot) }
}

/// A log that is written record by record.
struct Written {
    disk: MemoryDisk,
    log: SegmentedLog,
    sequence: u64,
    busy_slot: u64,
}

impl Written {
    fn on(disk: &MemoryDisk) -> (Written, consensus::Recovered) {
        let (log, recovered) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), small_segments()).unwrap();
        let sequence = recovered.position.0;
        let busy_slot = recovered.groups.get(&BUSY).map_or(0, |group| group.logs[&LogId::MAIN].closed.0);
        (Written { disk: disk.clone(), log, sequence, busy_slot }, recovered)
    }

    fn write(&mut self, record: Record) {
        self.try_to_write(record).unwrap();
    }

    fn try_to_write(&mut self, record: Record) -> Result<(), WriteError> {
        self.sequence += 1;
        self.log.append(&[(Sequence(self.sequence), record)]).map(drop)
    }

    fn let_the_log_go_round(&mut self) {
        self.try_to_let_the_log_go_round().unwrap();
    }

    /// Another group writes so much that the log goes round, and keeps nothing.
    fn try_to_let_the_log_go_round(&mut self) -> Result<(), WriteError> {
        for _ in 0..150 {
            self.busy_slot += 1;
            self.try_to_write(accepted(BUSY, self.busy_slot, 1, entry_of("busy", 12_000)))?;
            self.try_to_write(chosen(BUSY, self.busy_slot))?;
            self.try_to_write(trimmed(BUSY, self.busy_slot))?;
        }
        Ok(())
    }

    fn laggards_files(&self) -> Vec<String> {
        self.disk.names().into_iter().filter(|name| number_in(name).is_some()).collect()
    }

    fn read(&self, group: GroupId, slot: u64) -> Result<Entry, ReadError> {
        let read = reader(self.log.state()).read_entries(group, LogId::MAIN, Slot(slot), Slot(slot), usize::MAX);
        read.map(|stored| stored[0].entry.clone())
    }
}

/// Forty closed entries of an idle group and one that is open, of which the closed ones stand in laggards' files.
fn moved() -> Written {
    let mut written = not_moved();
    written.let_the_log_go_round();
    assert!(!written.laggards_files().is_empty());
    written
}

/// The same before they have moved.
fn not_moved() -> Written {
    let (mut written, _) = Written::on(&MemoryDisk::new());
    written.write(Record::Configured { configuration: configuration(IDLE, 1) });
    for slot in 1..=40 {
        written.write(accepted(IDLE, slot, 2, idle_entry(slot)));
    }
    written.write(chosen(IDLE, 40));
    written.write(accepted(IDLE, 41, 2, idle_entry(41)));
    assert!(written.laggards_files().is_empty(), "nothing moves while there is room");
    written
}

fn idle_entry(slot: u64) -> Entry {
    entry_of(&format!("idle {slot} "), 3000)
}

fn idle_log(recovered: &consensus::Recovered) -> &RecoveredLog {
    &recovered.groups[&IDLE].logs[&LogId::MAIN]
}

#[test]
fn closed_entries_leave_the_shared_log_and_are_read_as_before() {
    let written = moved();
    let state = written.log.state();
    let in_log: Vec<u64> = {
        let state = state.lock();
        let segments: Vec<u32> = state.segments.keys().copied().collect();
        let live = segments.into_iter().flat_map(|segment| state.live_in(crate::log_state::Home::Segment(segment)));
        live.filter(|(group, ..)| *group == IDLE).map(|(.., slot)| slot.0).collect()
    };
    assert_eq!(in_log, [41], "the open one stays in the log");
    let (bytes, _) = written.log.files();
    assert!(bytes < 14 * (64 << 10) + 2 * 40 * 3100, "{bytes}");
    for slot in 1..=41 {
        assert_eq!(written.read(IDLE, slot).unwrap(), idle_entry(slot));
    }

    // Nothing more is written for them, however often the log goes round.
    let files = written.laggards_files();
    let mut written = written;
    written.let_the_log_go_round();
    assert_eq!(written.laggards_files(), files);

    // A start finds them, and gives the core what it would have given without them.
    let (mut written, recovered) = Written::on(&written.disk);
    let found = idle_log(&recovered);
    assert_eq!((found.closed, found.trimmed, found.promised), (Slot(40), Slot(0), ballot(2)));
    assert!(found.lost.is_empty());
    assert_eq!(found.accepted.keys().copied().collect::<Vec<_>>(), [Slot(41)]);
    for slot in 1..=41 {
        assert_eq!(written.read(IDLE, slot).unwrap(), idle_entry(slot));
    }
    let loaded = reader(written.log.state()).load_log(IDLE, LogId::MAIN).unwrap();
    assert_eq!(loaded.accepted.len(), 41);

    // Trimming removes whole files, a dropped group all of them.
    written.write(trimmed(IDLE, 39));
    assert!(written.laggards_files().len() <= 1);
    assert!(matches!(written.read(IDLE, 39), Err(ReadError::Missing { .. })));
    assert_eq!(written.read(IDLE, 40).unwrap(), idle_entry(40));
    written.write(Record::Forgotten { group: IDLE });
    assert!(written.laggards_files().is_empty());
    let (written, recovered) = Written::on(&written.disk);
    assert!(!recovered.groups.contains_key(&IDLE));
    assert!(matches!(written.read(IDLE, 40), Err(ReadError::Missing { .. })));
}

#[test]
fn a_read_that_fails_while_entries_move_stops_the_log_and_costs_no_entry() {
    let disk = not_moved().disk;
    let mut failed = 0;
    loop {
        let (mut written, _) = Written::on(&disk.copy());
        written.disk.fail_read(failed + 1);
        let Err(error) = written.try_to_let_the_log_go_round() else { break };
        failed += 1;
        let why = error.to_string();
        assert!(why.contains("read an entry") && why.contains("injected fault"), "read {failed}: {why}");
        // Whether the disk had the entry is for the next start to find out, and it had.
        for image in [written.disk.after_crash(&mut || false), written.disk.after_crash(&mut || true)] {
            let (written, recovered) = Written::on(&image);
            assert!(idle_log(&recovered).lost.is_empty(), "read {failed}");
            for slot in 1..=41 {
                assert_eq!(written.read(IDLE, slot).unwrap(), idle_entry(slot), "read {failed}");
            }
        }
    }
    assert!(failed >= 41, "every entry was read once to be moved or written again, not {failed} of them");
}

#[test]
fn small_files_of_a_group_are_put_together() {
    let (mut written, _) = Written::on(&MemoryDisk::new());
    for slot in 1..=200 {
        written.write(accepted(IDLE, slot, 2, idle_entry(slot)));
        written.write(chosen(IDLE, slot));
        for _ in 0..5 {
            written.busy_slot += 1;
            written.write(accepted(BUSY, written.busy_slot, 1, entry_of("busy", 12_000)));
            written.write(chosen(BUSY, written.busy_slot));
            written.write(trimmed(BUSY, written.busy_slot));
        }
        let files = written.laggards_files().len();
        assert!(files <= crate::bounds::LAGGARDS_FILES_SMALL_MAX, "{files} files");
    }
    let moves = written.log.state().lock().laggards.last_number;
    assert!(moves > 100, "{moves} moves");
    for slot in 1..=200 {
        assert_eq!(written.read(IDLE, slot).unwrap(), idle_entry(slot));
    }
    let (written, _) = Written::on(&written.disk);
    for slot in 1..=200 {
        assert_eq!(written.read(IDLE, slot).unwrap(), idle_entry(slot));
    }
}

/// Groups that move, are trimmed, dropped and made again.
fn script(seed: u64, batches: usize) -> Vec<Batch> {
    let mut dice = Dice::new(seed);
    let mut sequence = 0;
    let mut slots: BTreeMap<GroupId, (u64, u64)> = BTreeMap::new();
    let mut life = 1;
    (0..batches)
        .map(|_| {
            let mut records = Vec::new();
            let busy = slots.entry(BUSY).or_default();
            busy.0 += 1;
            records.push(accepted(BUSY, busy.0, 1, entry_of("busy", 12_000)));
            records.push(chosen(BUSY, busy.0));
            records.push(trimmed(BUSY, busy.0));
            let group = [IDLE, DROPPED][dice.below(2) as usize];
            let of_group = slots.entry(group).or_default();
            match dice.below(12) {
                0 if of_group.0 > of_group.1 => {
                    of_group.1 += 1 + dice.below(of_group.0 - of_group.1);
                    records.push(trimmed(group, of_group.1));
                }
                1 if group == DROPPED && dice.below(3) == 0 => {
                    life += 1;
                    *of_group = (0, 0);
                    records.push(Record::Forgotten { group });
                }
                2 if of_group.0 > of_group.1 => {
                    // The newest again, learnt under a lower ballot.
                    let text = entry_of(&format!("life {life} slot {} again ", of_group.0), 900);
                    let (log, first) = (LogId::MAIN, Slot(of_group.0));
                    records.push(Record::Learnt { group, log, first, entries: [(ballot(1), text)].into() });
                }
                _ => {
                    of_group.0 += 1;
                    let size = [100, 900, 5000][dice.below(3) as usize];
                    let text = entry_of(&format!("life {life} slot {} ", of_group.0), size);
                    records.push(accepted(group, of_group.0, 2, text));
                    if dice.below(3) > 0 {
                        records.push(chosen(group, of_group.0));
                    }
                }
            }
            records
                .into_iter()
                .map(|record| {
                    sequence += 1;
                    (Sequence(sequence), record)
                })
                .collect()
        })
        .collect()
}

/// What a correct log holds after these batches: entries that are not trimmed.
fn model(batches: &[Batch]) -> BTreeMap<(GroupId, Slot), (Ballot, Entry)> {
    let mut model = BTreeMap::new();
    for (_, record) in batches.iter().flatten() {
        match record {
            Record::Accepted { group, ballot, first, entries, .. } => {
                model.insert((*group, *first), (*ballot, entries[0].clone()));
            }
            Record::Learnt { group, first, entries, .. } => {
                model.insert((*group, *first), entries[0].clone());
            }
            Record::Trimmed { group, up_to, .. } => model.retain(|(of, slot), _| of != group || slot > up_to),
            Record::Forgotten { group } => model.retain(|(of, _), _| of != group),
            _ => {}
        }
    }
    model
}

/// Nothing acknowledged is missing, and nothing is there that was not written, was trimmed, or is of a dropped group. Of
/// the batch on its way any part may be there.
fn check(image: MemoryDisk, batches: &[Batch], acknowledged: usize) {
    let (log, recovered) =
        recovery::open(Arc::new(image), NODE, Start(2), small_segments()).expect("it opens after a crash");
    assert!(recovered.groups.values().all(|group| !group.promises_lost), "a crash is no damage");
    let on_its_way: BTreeSet<(GroupId, Slot)> = match batches.get(acknowledged) {
        Some(batch) => (0..=batch.len()).flat_map(|part| model(&[batch[..part].to_vec()]).into_keys()).collect(),
        None => BTreeSet::new(),
    };
    for (group, state) in &recovered.groups {
        let mut lost = state.logs.get(&LogId::MAIN).into_iter().flat_map(|log| log.lost.keys());
        assert!(lost.all(|slot| on_its_way.contains(&(*group, *slot))), "{group} lost what was acknowledged");
    }
    let before = model(&batches[..acknowledged]);
    let after = model(&batches[..(acknowledged + 1).min(batches.len())]);
    let reader = reader(log.state());
    for (group, state) in &log.state().lock().groups {
        for slot in state.logs.get(&LogId::MAIN).map(|log| log.entries.keys()).into_iter().flatten() {
            let at = (*group, *slot);
            assert!(before.contains_key(&at) || on_its_way.contains(&at), "slot {slot} of {group} came back");
        }
    }
    for ((group, slot), expected) in &before {
        if after.get(&(*group, *slot)) == Some(expected) {
            let read = reader.read_entries(*group, LogId::MAIN, *slot, *slot, usize::MAX);
            let read = read.unwrap_or_else(|error| panic!("acknowledged {acknowledged}: {error}"));
            assert_eq!((read[0].ballot, &read[0].entry), (expected.0, &expected.1), "slot {slot} of {group}");
        }
    }
}

#[test]
fn a_crash_at_any_operation_of_a_move_or_a_removal_loses_nothing_and_brings_nothing_back() {
    for seed in 61..=63 {
        println!("seed {seed}");
        let batches = Arc::new(script(seed, 330));
        let disk = MemoryDisk::new();
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), small_segments()).unwrap();
        for (number, batch) in batches.iter().enumerate() {
            if number == 50 {
                // From here on the log goes round. Now and then all is looked at, moves always.
                let observed = (batches.clone(), acknowledged.clone());
                disk.observe(Some(Box::new(move |disk| {
                    let done = observed.1.load(Ordering::SeqCst);
                    let moving = disk.names().iter().any(|name| name == crate::laggards_file::UNFINISHED);
                    if !moving && !done.is_multiple_of(11) {
                        return;
                    }
                    for mixture in 0..4 {
                        let mut dice = Dice::new(seed * 1000 + disk.operations() * 10 + mixture);
                        let image = disk.after_crash(&mut || match mixture {
                            0 => false,
                            1 => true,
                            _ => dice.below(2) == 0,
                        });
                        check(image, &observed.0, done);
                    }
                })));
            }
            log.append(batch).unwrap();
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        disk.observe(None);
        let moves = log.state().lock().laggards.last_number;
        assert!(moves > 20, "{moves} moves");
        check(disk.after_crash(&mut || false), &batches, batches.len());
    }
}

#[test]
fn a_failed_operation_of_a_move_is_reported_and_loses_nothing() {
    let batches = script(71, 120);
    let count = || {
        let disk = MemoryDisk::new();
        let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), small_segments()).unwrap();
        let begun = batches.iter().position(|batch| {
            log.append(batch).unwrap();
            log.state().lock().laggards.last_number > 0
        });
        (begun.expect("something moves"), disk.operations())
    };
    let (batch, last) = count();
    for operation in last - 25..=last {
        let disk = MemoryDisk::new();
        let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), small_segments()).unwrap();
        disk.fail_at(operation, Fault::Error);
        let failed = batches.iter().position(|batch| log.append(batch).is_err()).expect("the fault is reported");
        assert!(failed <= batch);
        drop(log);
        for image in [disk.after_crash(&mut || false), disk.after_crash(&mut || true)] {
            check(image, &batches, failed);
        }
    }
}

/// Flips a bit behind a text in the laggards' files.
fn spoil(written: &Written, text: &str) {
    let mut hits = 0;
    for name in written.laggards_files() {
        written.disk.with_file(&name, |bytes| {
            let places: Vec<usize> =
                (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes())).collect();
            hits += places.len();
            places.into_iter().for_each(|at| bytes[at + text.len()] ^= 1);
        });
    }
    assert_eq!(hits, 1, "the text was found");
}

#[test]
fn damage_to_an_entry_is_known_by_slot_and_ballot_and_healed_by_the_log() {
    let written = moved();
    spoil(&written, "idle 7 ");
    assert!(matches!(written.read(IDLE, 7), Err(ReadError::Damaged { slot: Slot(7), .. })));
    let (mut written, recovered) = Written::on(&written.disk);
    assert_eq!(idle_log(&recovered).lost, BTreeMap::from([(Slot(7), ballot(2))]));
    assert!(!recovered.groups[&IDLE].promises_lost);
    assert!(matches!(written.read(IDLE, 7), Err(ReadError::Damaged { slot: Slot(7), .. })));
    assert_eq!(written.read(IDLE, 8).unwrap(), idle_entry(8));

    // Fetched from another member it stands in the log, and then in a laggards' file again.
    let (group, log, first) = (IDLE, LogId::MAIN, Slot(7));
    written.write(Record::Learnt { group, log, first, entries: [(ballot(2), idle_entry(7))].into() });
    assert_eq!(written.read(IDLE, 7).unwrap(), idle_entry(7));
    let (mut written, recovered) = Written::on(&written.disk);
    assert!(idle_log(&recovered).lost.is_empty());
    written.let_the_log_go_round();
    let (written, recovered) = Written::on(&written.disk);
    assert!(idle_log(&recovered).lost.is_empty());
    assert_eq!(written.read(IDLE, 7).unwrap(), idle_entry(7));
}

#[test]
fn damage_moves_along_as_damage() {
    let (mut written, _) = Written::on(&MemoryDisk::new());
    written.write(accepted(IDLE, 1, 2, idle_entry(1)));
    written.write(accepted(IDLE, 2, 2, idle_entry(2)));
    written.write(chosen(IDLE, 2));
    written.disk.with_file("segment-00000001", |bytes| {
        let at = (0..bytes.len()).find(|at| bytes[*at..].starts_with(b"idle 1 ")).unwrap();
        bytes[at] ^= 1;
    });
    written.let_the_log_go_round();
    for _ in 0..2 {
        let (again, recovered) = Written::on(&written.disk);
        assert_eq!(idle_log(&recovered).lost, BTreeMap::from([(Slot(1), ballot(2))]));
        assert!(matches!(again.read(IDLE, 1), Err(ReadError::Damaged { ballot: found, .. }) if found == ballot(2)));
        assert_eq!(again.read(IDLE, 2).unwrap(), idle_entry(2));
        written = again;
    }
}

#[test]
fn one_spoilt_sector_anywhere_makes_nothing_up_and_costs_little() {
    let written = moved();
    let mut dice = Dice::new(81);
    for name in written.laggards_files() {
        let length = written.disk.with_file(&name, |bytes| bytes.len());
        for sector in 0..length / 512 {
            let spoilt = written.disk.copy();
            spoilt.with_file(&name, |bytes| match dice.below(2) {
                0 => bytes[sector * 512 + dice.below(512) as usize] ^= 1 << dice.below(8),
                _ => bytes[sector * 512..][..512].fill(0),
            });
            let (after, recovered) = Written::on(&spoilt);
            let found = idle_log(&recovered);
            assert_eq!((found.closed, found.promised), (Slot(40), ballot(2)));
            let mut lost = 0;
            for slot in 1..=40 {
                match after.read(IDLE, slot) {
                    Ok(read) => assert_eq!(read, idle_entry(slot), "{name} sector {sector}"),
                    Err(ReadError::Damaged { ballot: under, .. }) => {
                        assert_eq!(found.lost.get(&Slot(slot)), Some(&under));
                        lost += 1;
                    }
                    Err(error) => panic!("{name} sector {sector}: {error}"),
                }
            }
            assert!(lost <= 2, "{name} sector {sector}: a sector touches two entries at most, not {lost}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_told_apart_is_kept_aside_and_its_slots_are_missing() {
    let written = moved();
    let name = written.laggards_files()[0].clone();
    written.disk.with_file(&name, |bytes| {
        let last = bytes.len() - 4096;
        bytes[9] ^= 1;
        bytes[last + 9] ^= 1;
    });
    let (written, recovered) = Written::on(&written.disk);
    assert!(written.disk.names().contains(&format!("damaged-{name}")));
    assert_eq!(idle_log(&recovered).closed, Slot(40), "the log says so too");
    assert!(matches!(written.read(IDLE, 1), Err(ReadError::Missing { .. })));
}

#[test]
fn other_versions_and_other_nodes_files_are_refused() {
    let written = moved();
    let name = written.laggards_files()[0].clone();
    let spoilt = written.disk.copy();
    spoilt.with_file(&name, |bytes| {
        bytes[8] = 7;
        let checksum = crc32c::crc32c(&bytes[..124]).to_le_bytes();
        bytes[124..128].copy_from_slice(&checksum);
    });
    let error = recovery::open(Arc::new(spoilt), NODE, Start(2), small_segments()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("format version 7"), "{error}");
    let copied = written.disk.copy();
    let bytes = copied.with_file(&name, |bytes| bytes.clone());
    let other = crate::laggards_file::name_of(IDLE, 0xffff);
    copied.create(&other, bytes.len() as u64).unwrap();
    copied.with_file(&other, |copy| *copy = bytes);
    let error = recovery::open(Arc::new(copied), NODE, Start(2), small_segments()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("claim the same place"), "{error}");
}

#[test]
fn scrub_covers_them_and_what_it_finds_is_healed() {
    let written = moved();
    let (disk, files) = (written.disk.clone(), written.laggards_files());
    spoil(&written, "idle 7 ");
    // One copy of an identity, and one header, of the first and the last file.
    disk.with_file(&files[0], |bytes| bytes[4096 + 20] ^= 1);
    disk.with_file(&files[files.len() - 1], |bytes| bytes[9] ^= 1);
    drop(written);
    let (sender, completions) = std::sync::mpsc::channel();
    let completion = Box::new(move |completion| drop(sender.send(completion)));
    let (mut log, recovered) =
        Log::open_on(Arc::new(disk.clone()), NODE, Start(2), small_segments(), completion).unwrap();
    log.start_scrub(None, ScrubOptions { bytes_per_second: 1 << 30, pause: Duration::from_millis(5) }).unwrap();
    let damaged = crate::Completion::Damaged { group: IDLE, log: LogId::MAIN, slot: Slot(7) };
    let deadline = Instant::now() + Duration::from_secs(20);
    while completions.recv_timeout(Duration::from_secs(20)).expect("it is told in time") != damaged {
        assert!(Instant::now() < deadline);
    }
    let (group, first) = (IDLE, Slot(7));
    let entries = [(ballot(2), idle_entry(7))].into();
    let learnt = Record::Learnt { group, log: LogId::MAIN, first, entries };
    log.submit(vec![(Sequence(recovered.position.0 + 1), learnt)]).unwrap();
    // The entry, and each file once.
    let all = if files.len() > 1 { 3 } else { 2 };
    let healed = |log: &Log| (log.usage().damage_found, log.usage().damage_healed) == (all, all);
    while !healed(&log) {
        assert!(Instant::now() < deadline, "{:?}", log.usage());
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = log.usage();
    while log.usage().scrubbed_bytes < before.scrubbed_bytes + (4 << 20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(log.usage().damage_found, all, "further passes find nothing");
    for slot in 1..=40 {
        let read = log.reader().read_entries(IDLE, LogId::MAIN, Slot(slot), Slot(slot), usize::MAX).unwrap();
        assert_eq!(read[0].entry, idle_entry(slot));
    }
}
