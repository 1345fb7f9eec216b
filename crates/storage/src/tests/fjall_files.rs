//! The store of cold logs on the real file system: many logs cost disk and not memory; what was synced survives a kill; what
//! rots is found.

use super::script::{configuration, Dice};
use crate::cold_store::{key_of, number_in, number_value, ColdStore, ColdStoreError, MOVES};
use crate::fjall_store::FjallStore;
use crate::{Completion, Log, LogOptions, NodeDirectory, ScrubOptions};
use consensus::{Ballot, Entry, Epoch, GroupId, LogId, NodeId, OperationId, Record, Recovered, Sequence, Slot, Start};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::Duration;

const VALUES: GroupId = GroupId(1);

fn ballot() -> Ballot {
    Ballot { epoch: Epoch(1), round: 2, node: NodeId(9), start: Start(1) }
}

fn value(log: u128) -> Entry {
    Entry::operation(OperationId::NONE, format!("value of {log}").as_bytes())
}

fn open(path: &Path) -> (NodeDirectory, Log, Recovered, Receiver<Completion>) {
    let directory = NodeDirectory::open(path, "").unwrap();
    let (sender, receiver) = channel();
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
    let completion = Box::new(move |completion| drop(sender.send(completion)));
    let (log, recovered) = Log::open(&directory, options, completion).unwrap();
    (directory, log, recovered, receiver)
}

fn wait_for(receiver: &Receiver<Completion>, sequence: u64) {
    loop {
        match receiver.recv_timeout(Duration::from_secs(60)).unwrap() {
            Completion::Durable(reached) if reached >= Sequence(sequence) => return,
            Completion::Failed(why) => panic!("{why}"),
            _ => {}
        }
    }
}

/// The logs of the group that are in memory.
fn in_memory(log: &Log) -> usize {
    let state = log.shared_state();
    let state = state.lock();
    state.groups[&VALUES].logs.len()
}

#[test]
fn two_hundred_thousand_logs_cost_disk_and_not_memory() {
    const LOGS: u128 = 200_000;
    let directory = tempfile::tempdir().unwrap();
    let (node, log, _, completions) = open(directory.path());
    let mut of_values = (*configuration(VALUES, 1)).clone();
    of_values.discipline = consensus::Discipline::Values;
    log.submit(vec![(Sequence(1), Record::Configured { configuration: Arc::new(of_values) })]).unwrap();
    let mut sequence = 1;
    let mut most = 0;
    for first in (100..100 + LOGS).step_by(2000) {
        let mut records = Vec::new();
        for id in (first..first + 2000).map(LogId) {
            let (group, first) = (VALUES, Slot(1));
            let entries = [value(id.0)].into();
            sequence += 2;
            let accepted = Record::Accepted { group, log: id, ballot: ballot(), first, entries };
            records.push((Sequence(sequence - 1), accepted));
            records.push((Sequence(sequence), Record::Chosen { group, log: id, up_to: first }));
        }
        log.submit(records).unwrap();
        wait_for(&completions, sequence);
        most = most.max(in_memory(&log));
    }
    // The log is bounded by eight segments of 1 MiB, of which a log takes half a KiB.
    assert!(most < 30_000, "{most} logs in memory");
    let usage = log.usage();
    println!("{most} logs in memory at most; {usage:?}");
    assert!(usage.bytes_on_disk < 150 << 20, "{usage:?}");
    let check = |log: &Log| {
        let reader = log.reader();
        for id in (100..100 + LOGS).step_by(997).map(LogId) {
            let found = reader.load_log(VALUES, id).unwrap();
            assert_eq!((found.promised, found.closed), (ballot(), Slot(1)), "{id}");
            assert_eq!(found.accepted[&Slot(1)].entry, Some(value(id.0)));
        }
        let (mut listed, mut after, mut is_last) = (0, None, false);
        while !is_last {
            let (page, last) = reader.list_logs(VALUES, after, 5000).unwrap();
            listed += page.len() as u128;
            (after, is_last) = (page.last().map(|(id, ..)| *id), last);
        }
        assert_eq!(listed, LOGS);
    };
    check(&log);
    drop((log, node));

    let (_node, mut log, recovered, _) = open(directory.path());
    assert!(!recovered.groups[&VALUES].promises_lost);
    assert!(in_memory(&log) < 30_000);
    check(&log);

    // Scrub goes through all of it and finds nothing.
    log.start_scrub(None, ScrubOptions { bytes_per_second: 1 << 30, pause: Duration::from_millis(5) }).unwrap();
    let (mut scrubbed, mut since) = (0, std::time::Instant::now());
    while scrubbed < 60 << 20 {
        std::thread::sleep(Duration::from_millis(5));
        let usage = log.usage();
        if usage.scrubbed_bytes > scrubbed {
            (scrubbed, since) = (usage.scrubbed_bytes, std::time::Instant::now());
        }
        assert!(since.elapsed() < Duration::from_secs(60), "it stands still: {usage:?}");
    }
    assert_eq!(log.usage().damage_found, 0);
}

fn keys() -> impl Iterator<Item = Vec<u8>> {
    (0..3000).map(|log| key_of(VALUES, LogId(log)))
}

fn content(key: &[u8]) -> Vec<u8> {
    key.repeat(4)
}

/// A store of three changes, still open.
fn written(path: &Path) -> FjallStore {
    let store = FjallStore::at(path);
    let keys: Vec<Vec<u8>> = keys().collect();
    for (number, part) in (1..).zip(keys.chunks(1000)) {
        let mut changes = vec![(MOVES.to_vec(), Some(number_value(MOVES, number)))];
        changes.extend(part.iter().map(|key| (key.clone(), Some(content(key)))));
        store.change(&changes).unwrap();
    }
    store
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        // The journal is empty, but for its length.
        let length = std::fs::metadata(&file).unwrap().len();
        if length > 16 << 20 {
            std::fs::File::create(&target).unwrap().set_len(length).unwrap();
        } else {
            std::fs::copy(&file, &target).unwrap();
        }
    }
}

#[test]
fn a_change_is_durable_on_return_and_a_kill_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cold");
    let store = written(&path);
    // What a kill right now would leave: the files as they are.
    let killed = directory.path().join("killed");
    copy(&path, &killed);
    let after = FjallStore::at(&killed);
    assert_eq!(number_in(&after, MOVES).unwrap(), 3);
    assert!(keys().all(|key| after.get(&key).unwrap() == Some(content(&key))));

    // Later changes win, and removals stay.
    let key = keys().nth(7).unwrap();
    after.change(&[(key.clone(), None), (keys().nth(8).unwrap(), Some(vec![1]))]).unwrap();
    drop(after);
    let again = FjallStore::at(&killed);
    assert_eq!(again.get(&key).unwrap(), None);
    assert_eq!(again.get(&keys().nth(8).unwrap()).unwrap(), Some(vec![1]));
    let page = again.scan(&key, &keys().nth(20).unwrap(), 5).unwrap();
    assert_eq!(page.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), keys().skip(8).take(5).collect::<Vec<_>>());

    // Only one may have it open.
    let other = FjallStore::at(&path);
    assert!(matches!(other.get(&key), Err(ColdStoreError::Io(_))));
    drop(store);
    assert_eq!(other.get(&key).unwrap(), Some(content(&key)));
    other.set_aside().unwrap();
    assert_eq!(other.get(&key).unwrap(), None);
    assert!(directory.path().join("damaged-cold-1").exists());
}

#[test]
fn a_crash_while_the_store_is_made_or_changed_leaves_one_that_can_be_told() {
    // Files that the crash cut short or left out, in any mixture: of a store whose making was under way, all of them.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cold");
    let whole = directory.path().join("whole");
    drop(written(&path));
    copy(&path, &whole);
    let relative: Vec<PathBuf> =
        files(&whole).iter().map(|file| file.strip_prefix(&whole).unwrap().to_path_buf()).collect();
    for missing in &relative {
        let cut = directory.path().join("cut");
        copy(&whole, &cut);
        std::fs::remove_file(cut.join(missing)).unwrap();
        let store = FjallStore::at(&cut);
        match number_in(&store, MOVES) {
            Ok(moves) => {
                let all = keys().all(|key| matches!(store.get(&key), Ok(Some(found)) if found == content(&key)));
                assert!(all || moves < 3, "{missing:?} is gone in silence");
            }
            Err(ColdStoreError::Damaged(_)) => {}
            Err(ColdStoreError::Io(error)) => panic!("{missing:?}: {error}"),
        }
        drop(store);
        std::fs::remove_dir_all(&cut).unwrap();
    }
}

/// Bits flipped in each file, one at a time. Sixty, once, found nothing more.
const FLIPS: usize = 8;

#[test]
fn rot_in_any_of_its_files_is_found_and_makes_nothing_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cold");
    drop(written(&path));
    let mut dice = Dice::new(7);
    let (mut found, mut harmless) = (0, 0);
    for file in files(&path) {
        let length = std::fs::metadata(&file).unwrap().len();
        if length == 0 || length > 16 << 20 {
            continue;
        }
        for _ in 0..FLIPS {
            let rotten = directory.path().join("rotten");
            copy(&path, &rotten);
            let target = rotten.join(file.strip_prefix(&path).unwrap());
            let mut bytes = std::fs::read(&target).unwrap();
            let at = dice.below(length) as usize;
            bytes[at] ^= 1 << dice.below(8);
            std::fs::write(&target, bytes).unwrap();
            let store = FjallStore::at(&rotten);
            let complete = matches!(number_in(&store, MOVES), Ok(3));
            let mut told = !complete;
            for key in keys().filter(|_| complete) {
                match store.get(&key) {
                    Ok(value) => assert_eq!(value, Some(content(&key)), "{file:?} at {at}: lost in silence"),
                    Err(ColdStoreError::Damaged(_)) => told = true,
                    Err(error) => panic!("{file:?} at {at}: {error}"),
                }
            }
            if told {
                found += 1;
            } else {
                harmless += 1;
            }
            drop(store);
            std::fs::remove_dir_all(&rotten).unwrap();
        }
    }
    println!("{found} told, {harmless} harmless");
    assert!(found > 20, "{found}");
}
