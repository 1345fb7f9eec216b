//! Logs of values that nobody uses leave the shared log and memory for an ordered store, are loaded from there as if they
//! had never left, and lose nothing in crashes; what the store loses is told.

use super::disk_store::DiskStore;
use super::script::{ballot, configuration, entry_of, small_segments, Batch, Dice};
use crate::cold_store::{key_of, ColdStore};
use crate::segmented_log::SegmentedLog;
use crate::simulation::{Fault, MemoryDisk};
use crate::{recovery, Completion, Log, LogReader, ReadError};
use consensus::{Entry, GroupId, LogId, NodeId, Record, Recovered, RecoveredLog, Sequence, Slot, Start};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

const NODE: NodeId = NodeId(9);
const VALUES: GroupId = GroupId(1);
const TABLES: GroupId = GroupId(2);

fn of_values() -> Record {
    let mut of_values = (*configuration(VALUES, 1)).clone();
    of_values.discipline = consensus::Discipline::Values;
    Record::Configured { configuration: Arc::new(of_values) }
}

fn accepted(group: GroupId, log: u128, slot: u64, round: u64, entry: Entry) -> Record {
    let (ballot, first) = (ballot(round), Slot(slot));
    Record::Accepted { group, log: LogId(log), ballot, first, entries: [entry].into() }
}

fn chosen(group: GroupId, log: u128, slot: u64) -> Record {
    Record::Chosen { group, log: LogId(log), up_to: Slot(slot) }
}

fn trimmed(group: GroupId, log: u128, slot: u64) -> Record {
    Record::Trimmed { group, log: LogId(log), up_to: Slot(slot) }
}

fn value(log: u128) -> Entry {
    entry_of(&format!("value {log} "), 300)
}

/// A log that is written record by record, with a store on its own disk.
struct Written {
    disk: MemoryDisk,
    store: Arc<DiskStore>,
    log: SegmentedLog,
    sequence: u64,
    busy_slot: u64,
}

fn open(disk: &MemoryDisk) -> (Arc<DiskStore>, SegmentedLog, Recovered) {
    let shared = Arc::new(disk.clone());
    let store = Arc::new(DiskStore::open(shared.clone()));
    let cold: Arc<dyn ColdStore> = store.clone();
    let (log, recovered) = recovery::open_with(shared, Some(cold), (NODE, Start(1)), small_segments()).unwrap();
    (store, log, recovered)
}

impl Written {
    fn on(disk: &MemoryDisk) -> (Written, Recovered) {
        let (store, log, recovered) = open(disk);
        let sequence = recovered.position.0;
        let busy_slot = recovered.groups.get(&TABLES).map_or(0, |group| group.logs[&LogId::MAIN].closed.0);
        (Written { disk: disk.clone(), store, log, sequence, busy_slot }, recovered)
    }

    fn write(&mut self, record: Record) {
        self.sequence += 1;
        self.log.append(&[(Sequence(self.sequence), record)]).unwrap();
    }

    fn let_the_log_go_round(&mut self) {
        for _ in 0..150 {
            self.busy_slot += 1;
            self.write(accepted(TABLES, 1, self.busy_slot, 1, entry_of("busy", 12_000)));
            self.write(chosen(TABLES, 1, self.busy_slot));
            self.write(trimmed(TABLES, 1, self.busy_slot));
        }
    }

    fn reader(&self) -> LogReader {
        LogReader::with_store(self.log.state(), Some(self.store.clone()), None)
    }

    fn load(&self, log: u128) -> RecoveredLog {
        self.reader().load_log(VALUES, LogId(log)).unwrap()
    }

    fn in_memory(&self) -> usize {
        let state = self.log.state();
        let state = state.lock();
        state.groups.get(&VALUES).map_or(0, |group| group.logs.keys().filter(|log| **log != LogId::CONTROL).count())
    }
}

/// Logs 100 to 299, each with a chosen value; the odd ones have an open acceptance too, of a higher ballot.
fn moved() -> Written {
    let (mut written, _) = Written::on(&MemoryDisk::new());
    written.write(of_values());
    written.write(Record::Configured { configuration: configuration(TABLES, 1) });
    for log in 100..300 {
        written.write(accepted(VALUES, log, 1, 2, value(log)));
        written.write(chosen(VALUES, log, 1));
        if log % 2 == 1 {
            written.write(accepted(VALUES, log, 2, 3, entry_of("open", 10)));
        }
    }
    written.let_the_log_go_round();
    written
}

fn check_moved(written: &Written) {
    for log in 100..300 {
        let found = written.load(log);
        assert_eq!((found.closed, found.trimmed), (Slot(1), Slot(0)));
        assert_eq!(found.promised, ballot(if log % 2 == 1 { 3 } else { 2 }));
        assert_eq!(found.accepted[&Slot(1)].entry, Some(value(log)));
        assert_eq!(found.accepted[&Slot(1)].ballot, ballot(2));
        let open = found.accepted.get(&Slot(2)).and_then(|open| open.entry.clone());
        assert_eq!(open, (log % 2 == 1).then(|| entry_of("open", 10)));
        assert!(found.lost.is_empty());
        let read = written.reader().read_entries(VALUES, LogId(log), Slot(1), Slot(1), usize::MAX).unwrap();
        assert_eq!(read[0].entry, value(log));
    }
}

#[test]
fn logs_that_nobody_uses_leave_memory_and_are_loaded_as_before() {
    let written = moved();
    assert_eq!(written.in_memory(), 0, "all of them are cold");
    let (bytes, _) = written.log.files();
    assert!(bytes < 14 * (64 << 10), "nothing of them is carried forward: {bytes}");
    assert!(!written.disk.names().iter().any(|name| name.starts_with("laggards-")));
    check_moved(&written);
    assert_eq!(written.load(99), RecoveredLog::default());
    let missing = written.reader().read_entries(VALUES, LogId(100), Slot(2), Slot(2), usize::MAX);
    assert!(matches!(missing, Err(ReadError::Missing { .. })));

    // They are listed in pages, whichever place they stand in.
    let mut written = written;
    written.write(accepted(VALUES, 150, 2, 4, entry_of("new", 10)));
    written.write(accepted(VALUES, 1000, 1, 4, entry_of("new", 10)));
    assert_eq!(written.in_memory(), 2);
    let mut listed = BTreeMap::new();
    let mut after = None;
    loop {
        let (page, last) = written.reader().list_logs(VALUES, after, 7).unwrap();
        assert!(page.len() <= 7);
        after = page.last().map(|(log, ..)| *log);
        listed.extend(page.into_iter().map(|(log, closed, highest)| (log.0, (closed.0, highest.0))));
        if last {
            break;
        }
    }
    let expected = (100..300).map(|log| (log, (1, 1 + u64::from(log % 2 == 1 || log == 150)))).chain([(1000, (0, 1))]);
    assert_eq!(listed, expected.collect());

    // A start gives the core none of them and finds the same.
    let (written, recovered) = Written::on(&written.disk);
    assert_eq!(recovered.groups[&VALUES].logs.keys().collect::<Vec<_>>(), [&LogId::CONTROL]);
    assert!(!recovered.groups[&VALUES].promises_lost);
    let now = written.load(150);
    assert_eq!((now.promised, now.closed), (ballot(4), Slot(1)));
    assert_eq!(now.accepted.len(), 2);
}

#[test]
fn what_the_log_says_is_newer_than_the_store() {
    let mut written = moved();
    written.write(Record::Promised { group: VALUES, log: LogId(100), ballot: ballot(9) });
    written.write(accepted(VALUES, 101, 2, 5, entry_of("instead", 10)));
    written.write(chosen(VALUES, 101, 2));
    written.write(trimmed(VALUES, 101, 1));
    written.write(Record::Installed { group: VALUES, log: LogId(102), slot: Slot(7) });
    let check = |written: &Written| {
        let promised = written.load(100);
        assert_eq!((promised.promised, promised.accepted.len()), (ballot(9), 1));
        let replaced = written.load(101);
        assert_eq!((replaced.promised, replaced.closed, replaced.trimmed), (ballot(5), Slot(2), Slot(1)));
        assert_eq!(replaced.accepted.keys().copied().collect::<Vec<_>>(), [Slot(2)]);
        assert_eq!(replaced.accepted[&Slot(2)].entry, Some(entry_of("instead", 10)));
        let gone = written.reader().read_entries(VALUES, LogId(101), Slot(1), Slot(1), usize::MAX);
        assert!(matches!(gone, Err(ReadError::Missing { .. })));
        let installed = written.load(102);
        assert_eq!((installed.closed, installed.trimmed, installed.accepted.len()), (Slot(7), Slot(7), 0));
    };
    check(&written);
    let (mut written, _) = Written::on(&written.disk);
    check(&written);
    written.let_the_log_go_round();
    assert_eq!(written.in_memory(), 0);
    check(&written);
}

#[test]
fn a_group_that_was_dropped_leaves_nothing_in_the_store_and_begins_anew() {
    let mut written = moved();
    assert!(written.store.len() >= 200);
    written.write(Record::Forgotten { group: VALUES });
    assert!(written.store.len() < 5);
    written.write(of_values());
    written.write(accepted(VALUES, 150, 1, 1, entry_of("anew", 10)));
    let check = |written: &Written| {
        assert_eq!(written.load(100), RecoveredLog::default());
        assert_eq!(written.load(150).promised, ballot(1));
        assert_eq!(written.reader().list_logs(VALUES, None, 9).unwrap().0.len(), 1);
    };
    check(&written);
    written.let_the_log_go_round();
    check(&written);
    let (written, _) = Written::on(&written.disk);
    check(&written);
}

/// Some logs of values, used at random, beside a busy group.
fn script(seed: u64, batches: usize) -> Vec<Batch> {
    let mut dice = Dice::new(seed);
    let mut sequence = 0;
    let mut logs: BTreeMap<u128, (u64, u64)> = BTreeMap::new();
    let mut script = Vec::new();
    for number in 0..batches as u64 {
        let mut records = Vec::new();
        if number == 0 {
            records.extend([of_values(), Record::Configured { configuration: configuration(TABLES, 1) }]);
        }
        records.push(accepted(TABLES, 1, number + 1, 1, entry_of("busy", 12_000)));
        records.push(chosen(TABLES, 1, number + 1));
        records.push(trimmed(TABLES, 1, number + 1));
        let log = 100 + u128::from(dice.below(40));
        let (slot, round) = logs.entry(log).or_insert((0, 1));
        match dice.below(8) {
            0 => {
                *round += 1;
                records.push(Record::Promised { group: VALUES, log: LogId(log), ballot: ballot(*round) });
            }
            1 if *slot > 0 => records.push(trimmed(VALUES, log, *slot)),
            2 if dice.below(6) == 0 => {
                logs.clear();
                records.push(Record::Forgotten { group: VALUES });
                records.push(of_values());
            }
            _ => {
                *slot += 1;
                let text = format!("{number} slot {slot} of {log} ");
                records.push(accepted(VALUES, log, *slot, *round, entry_of(&text, [50, 2000][dice.below(2) as usize])));
                if dice.below(3) > 0 {
                    records.push(chosen(VALUES, log, *slot));
                }
            }
        }
        let numbered = records.into_iter().map(|record| {
            sequence += 1;
            (Sequence(sequence), record)
        });
        script.push(numbered.collect());
    }
    script
}

/// What each log of values must say after these batches.
fn model(batches: &[Batch]) -> BTreeMap<LogId, RecoveredLog> {
    let mut kept: BTreeMap<LogId, RecoveredLog> = BTreeMap::new();
    let records = batches.iter().flatten().map(|(_, record)| record);
    for record in records.filter(|record| record.group() == Some(VALUES)) {
        match record {
            Record::Promised { log, ballot, .. } => kept.entry(*log).or_default().promised = *ballot,
            Record::Accepted { log, ballot, first, entries, .. } => {
                let state = kept.entry(*log).or_default();
                state.promised = *ballot;
                let accepted = consensus::RecoveredEntry { ballot: *ballot, entry: Some(entries[0].clone()) };
                state.accepted.insert(*first, accepted);
            }
            Record::Chosen { log, up_to, .. } => kept.entry(*log).or_default().closed = *up_to,
            Record::Trimmed { log, up_to, .. } => {
                let state = kept.entry(*log).or_default();
                (state.trimmed, state.closed) = (*up_to, state.closed.max(*up_to));
                state.accepted.retain(|slot, _| slot > up_to);
            }
            Record::Forgotten { .. } => kept.clear(),
            _ => {}
        }
    }
    kept
}

/// Every log is as after the acknowledged batches, and of the batch on its way any part may be there.
fn check(image: &MemoryDisk, batches: &[Batch], acknowledged: usize) {
    let (store, log, recovered) = open(image);
    let told = recovered.groups.values().any(|group| group.promises_lost);
    assert!(!told, "a crash is no damage");
    let reader = LogReader::with_store(log.state(), Some(store), None);
    let before = model(&batches[..acknowledged]);
    let next = &batches[acknowledged..(acknowledged + 1).min(batches.len())];
    let dropped = next.iter().flatten().any(|(_, record)| matches!(record, Record::Forgotten { .. }));
    let on_its_way = model(next);
    for id in (100..140).map(LogId) {
        let found = reader.load_log(VALUES, id).unwrap();
        let known = before.get(&id).cloned().unwrap_or_default();
        let what = format!("log {id} after {acknowledged}: {found:?}, before {known:?}");
        if found == known || (dropped && found == RecoveredLog::default()) {
            continue;
        }
        let Some(more) = on_its_way.get(&id).filter(|_| !dropped) else { panic!("{what}") };
        assert!(found.promised == known.promised || found.promised == more.promised, "{what}");
        assert!(found.closed == known.closed || found.closed == more.closed.max(more.trimmed), "{what}");
        assert!(found.trimmed == known.trimmed || found.trimmed == more.trimmed, "{what}");
        for (slot, entry) in known.accepted.range(found.trimmed.next()..) {
            assert_eq!(found.accepted.get(slot), Some(entry), "{what}");
        }
        for (slot, entry) in found.accepted.iter().filter(|(slot, _)| !known.accepted.contains_key(slot)) {
            // Its content may be torn.
            let same = |known: &consensus::RecoveredEntry| entry.entry.is_none() || entry == known;
            assert!(more.accepted.get(slot).is_some_and(same), "{what}");
        }
    }
}

#[test]
fn a_crash_at_any_operation_of_a_move_to_the_store_loses_nothing() {
    for seed in 91..=93 {
        println!("seed {seed}");
        let batches = Arc::new(script(seed, 250));
        let disk = MemoryDisk::new();
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let looked = Arc::new(AtomicUsize::new(0));
        let changes_before = Arc::new(AtomicUsize::new(0));
        let changes = |disk: &MemoryDisk| disk.names().iter().filter(|name| name.starts_with("cold-")).count();
        let (store, mut log, _) = open(&disk);
        for (number, batch) in batches.iter().enumerate() {
            if number == 50 {
                let observed = (batches.clone(), acknowledged.clone());
                // Every operation of a batch from its first change of the store on; of the others some.
                let changes_before = changes_before.clone();
                let looked = looked.clone();
                disk.observe(Some(Box::new(move |disk| {
                    let done = observed.1.load(Ordering::SeqCst);
                    let moving = changes(disk) > changes_before.load(Ordering::SeqCst);
                    if !moving && !done.is_multiple_of(11) {
                        return;
                    }
                    looked.fetch_add(usize::from(moving), Ordering::SeqCst);
                    for mixture in 0..4 {
                        let mut dice = Dice::new(seed * 1000 + disk.operations() * 10 + mixture);
                        let image = disk.after_crash(&mut || match mixture {
                            0 => false,
                            1 => true,
                            _ => dice.below(2) == 0,
                        });
                        check(&image, &observed.0, done);
                    }
                })));
            }
            log.append(batch).unwrap();
            acknowledged.fetch_add(1, Ordering::SeqCst);
            changes_before.store(changes(&disk), Ordering::SeqCst);
        }
        disk.observe(None);
        let looked = looked.load(Ordering::SeqCst);
        assert!(store.len() > 5 && looked > 100, "{looked} operations of moves");
        check(&disk.after_crash(&mut || false), &batches, batches.len());
    }
}

#[test]
fn a_failed_write_or_sync_of_the_store_ends_the_log_and_loses_nothing() {
    let batches = script(95, 120);
    let count = {
        let disk = MemoryDisk::new();
        let (store, mut log, _) = open(&disk);
        let moved = batches.iter().position(|batch| {
            log.append(batch).unwrap();
            store.len() > 0
        });
        (moved.expect("something moves"), disk.operations())
    };
    for operation in count.1 - 12..=count.1 {
        let disk = MemoryDisk::new();
        let (_, mut log, _) = open(&disk);
        disk.fail_at(operation, Fault::Error);
        let failed = batches.iter().position(|batch| log.append(batch).is_err()).expect("the fault is reported");
        assert!(failed <= count.0);
        drop(log);
        for image in [disk.after_crash(&mut || false), disk.after_crash(&mut || true)] {
            check(&image, &batches, failed);
        }
    }
}

#[test]
fn a_store_that_lost_something_is_set_aside_and_its_groups_are_told_until_they_are_barred() {
    let written = moved();
    // The last change is gone, as if somebody had put an older copy of the store there.
    let last = written.disk.names().into_iter().rfind(|name| name.starts_with("cold-")).unwrap();
    crate::disk::Disk::remove(&written.disk, &last).unwrap();
    for start in 1..=2 {
        let (_, recovered) = Written::on(&written.disk);
        assert!(recovered.groups[&VALUES].promises_lost, "start {start}");
        assert!(!recovered.groups[&TABLES].promises_lost, "nothing of it stood there");
    }
    let (mut again, _) = Written::on(&written.disk);
    assert_eq!(again.load(100), RecoveredLog::default());
    again.write(Record::VotingBarred { group: VALUES, start: Start(1) });
    let (again, recovered) = Written::on(&again.disk);
    assert!(!recovered.groups[&VALUES].promises_lost, "the two agree again");
    assert!(again.store.len() <= 1);
}

#[test]
fn rot_in_the_store_ends_the_node_once_and_is_told_at_the_next_start() {
    let written = moved();
    let (disk, damaged) = (written.disk.clone(), key_of(VALUES, LogId(120)));
    drop(written);
    let store = Arc::new(DiskStore::open(Arc::new(disk.clone())));
    store.spoil(&damaged, |value| value[20] ^= 1);
    let (sender, completions) = std::sync::mpsc::channel();
    let completion = Box::new(move |completion| drop(sender.send(completion)));
    let shared: Arc<dyn ColdStore> = store.clone();
    let (log, _) =
        Log::open_with(Arc::new(disk.clone()), Some(shared), (NODE, Start(2)), small_segments(), completion).unwrap();
    assert_eq!(log.reader().load_log(VALUES, LogId(121)).unwrap().promised, ballot(3), "others are whole");
    let error = log.reader().load_log(VALUES, LogId(120)).unwrap_err();
    assert!(matches!(error, ReadError::StateLost { .. }), "{error}");
    let failure = completions.recv_timeout(Duration::from_secs(20)).unwrap();
    let Completion::Failed(why) = failure else { panic!("{failure:?}") };
    assert!(why.contains("set aside"), "{why}");
    drop(log);
    let (written, recovered) = Written::on(&disk);
    assert!(recovered.groups[&VALUES].promises_lost);
    assert!(!recovered.groups[&TABLES].promises_lost);
    assert_eq!(written.load(120), RecoveredLog::default());
}

#[test]
fn damage_to_an_entry_in_the_store_is_known_by_slot_and_ballot_and_healed_by_the_log() {
    let mut written = moved();
    written.store.spoil(&key_of(VALUES, LogId(120)), |value| *value.last_mut().unwrap() ^= 1);
    let found = written.load(120);
    assert_eq!((found.promised, found.closed), (ballot(2), Slot(1)));
    assert_eq!(found.lost, BTreeMap::from([(Slot(1), ballot(2))]));
    assert_eq!(found.accepted[&Slot(1)].entry, None);
    let read = written.reader().read_entries(VALUES, LogId(120), Slot(1), Slot(1), usize::MAX);
    assert!(matches!(read, Err(ReadError::Damaged { ballot: under, .. }) if under == ballot(2)));
    let entries = [(ballot(2), value(120))].into();
    written.write(Record::Learnt { group: VALUES, log: LogId(120), first: Slot(1), entries });
    check_moved(&written);
    written.let_the_log_go_round();
    check_moved(&written);
}

#[test]
fn behind_a_gap_in_the_log_closed_slots_of_the_store_are_not_served_any_more() {
    let mut written = moved();
    // A record that replaced the value of log 101 may stand in a segment that is lost; what is open there stays.
    let state = written.log.state();
    let victim = {
        let state = state.lock();
        state.segments[&state.oldest()].name.clone()
    };
    written.disk.with_file(&victim, |bytes| bytes.fill(0x55));
    let (again, recovered) = Written::on(&written.disk);
    assert!(recovered.groups[&VALUES].promises_lost);
    let check = |written: &Written| {
        let found = written.load(101);
        assert_eq!((found.closed, found.promised), (Slot(1), ballot(3)));
        assert_eq!(found.accepted.keys().copied().collect::<Vec<_>>(), [Slot(2)]);
    };
    check(&again);
    // Still so when the gap has left the log.
    written = again;
    written.let_the_log_go_round();
    let (written, _) = Written::on(&written.disk);
    check(&written);
}
