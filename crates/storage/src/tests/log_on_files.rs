//! The log on the real file system, with its threads.

use crate::{Completion, Log, LogOptions, NodeDirectory, ReadError, StoredEntry};
use bytes::Bytes;
use consensus::{Ballot, Entry, Epoch, GroupId, LogId, NodeId, OperationId, Record, Recovered, Sequence, Slot, Start};
use std::path::Path;
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::Duration;

const GROUP: GroupId = GroupId(7);
const LOG: LogId = LogId::MAIN;

fn ballot(round: u64) -> Ballot {
    Ballot { epoch: Epoch(1), round, node: NodeId(1), start: Start(1) }
}

fn entry(text: &str) -> Entry {
    Entry::operation(OperationId { node: NodeId(1), start: Start(1), sequence: 1 }, text.as_bytes())
}

fn accepted(first: u64, texts: &[&str], round: u64) -> Record {
    let entries: Arc<[Entry]> = texts.iter().map(|text| entry(text)).collect();
    Record::Accepted { group: GROUP, log: LOG, ballot: ballot(round), first: Slot(first), entries }
}

fn open(path: &Path) -> (NodeDirectory, Log, Recovered, Receiver<Completion>) {
    let directory = NodeDirectory::open(path, "").unwrap();
    let (sender, receiver) = channel();
    let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
    let completion = Box::new(move |completion| drop(sender.send(completion)));
    let (log, recovered) = Log::open(&directory, options, completion).unwrap();
    (directory, log, recovered, receiver)
}

fn wait_for(receiver: &Receiver<Completion>, sequence: u64) {
    loop {
        match receiver.recv_timeout(Duration::from_secs(20)).unwrap() {
            Completion::Durable(reached) if reached >= Sequence(sequence) => return,
            Completion::Failed(why) => panic!("{why}"),
            _ => {}
        }
    }
}

#[test]
fn what_was_durable_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (node, log, recovered, completions) = open(directory.path());
    assert_eq!(recovered, Recovered::default());

    // A first life: a promise, two batches of entries, a chosen notice that nobody waits for.
    log.submit(vec![(Sequence(1), Record::Promised { group: GROUP, log: LOG, ballot: ballot(3) })]).unwrap();
    log.submit(vec![(Sequence(2), accepted(1, &["one", "two"], 3)), (Sequence(3), accepted(3, &["three"], 3))])
        .unwrap();
    wait_for(&completions, 3);
    let up_to = Slot(1);
    log.submit(vec![(Sequence(4), Record::Chosen { group: GROUP, log: LOG, up_to })]).unwrap();
    wait_for(&completions, 4);
    log.close();
    drop(node);

    // The second life knows all of it, and reads the chosen entry from the disk.
    let (_node, log, recovered, completions) = open(directory.path());
    assert_eq!(recovered.position, Sequence(4));
    let found = &recovered.groups[&GROUP].logs[&LOG];
    assert_eq!((found.promised, found.closed), (ballot(3), Slot(1)));
    let slots: Vec<u64> = found.accepted.keys().map(|slot| slot.0).collect();
    assert_eq!(slots, [2, 3]);
    assert_eq!(found.accepted[&Slot(3)].entry, Some(entry("three")));
    let read = log.reader().read_entries(GROUP, LOG, Slot(1), Slot(9), usize::MAX).unwrap();
    let expected = |slot, text| StoredEntry { slot: Slot(slot), ballot: ballot(3), entry: entry(text) };
    assert_eq!(read, [expected(1, "one"), expected(2, "two"), expected(3, "three")]);
    assert_eq!(log.reader().read_entries(GROUP, LOG, Slot(1), Slot(9), 1).unwrap().len(), 1);

    // Trimmed entries are gone, at once for readers.
    log.submit(vec![(Sequence(5), Record::Trimmed { group: GROUP, log: LOG, up_to: Slot(1) })]).unwrap();
    wait_for(&completions, 5);
    let gone = log.reader().read_entries(GROUP, LOG, Slot(1), Slot(9), usize::MAX).unwrap_err();
    assert!(matches!(gone, ReadError::Missing { slot: Slot(1), .. }), "{gone}");
}

#[test]
fn an_entry_larger_than_a_segment_gets_a_segment_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let large = Entry::operation(OperationId::NONE, &vec![7u8; (1 << 20) - 64]);
    let record = |entry: &Entry| Record::Accepted {
        group: GROUP,
        log: LOG,
        ballot: ballot(1),
        first: Slot(1),
        entries: Arc::from([entry.clone()]),
    };
    let (node, log, _, completions) = open(directory.path());
    log.submit(vec![(Sequence(1), record(&large))]).unwrap();
    wait_for(&completions, 1);
    log.close();
    drop(node);
    let (_node, log, recovered, _) = open(directory.path());
    assert_eq!(recovered.groups[&GROUP].logs[&LOG].accepted[&Slot(1)].entry, Some(large.clone()));
    let read = log.reader().read_entries(GROUP, LOG, Slot(1), Slot(1), 0).unwrap();
    assert_eq!(read[0].entry, large);
}

#[test]
fn a_long_run_with_trimming_stays_within_its_bound() {
    let directory = tempfile::tempdir().unwrap();
    let (_node, log, _, completions) = open(directory.path());
    let body = "x".repeat(1000);
    let mut sequence = 0;
    // An idle group's entry must not hold the whole log back.
    let idle = Record::Accepted {
        group: GroupId(99),
        log: LOG,
        ballot: ballot(1),
        first: Slot(1),
        entries: Arc::from([entry("idle")]),
    };
    sequence += 1;
    log.submit(vec![(Sequence(sequence), idle)]).unwrap();
    for slot in 1..=5000u64 {
        sequence += 1;
        log.submit(vec![(Sequence(sequence), accepted(slot, &[&body], 1))]).unwrap();
        if slot % 50 == 0 {
            let trimmed = Record::Trimmed { group: GROUP, log: LOG, up_to: Slot(slot - 10) };
            sequence += 1;
            log.submit(vec![(Sequence(sequence), trimmed)]).unwrap();
            wait_for(&completions, sequence - 1);
        }
    }
    let usage = log.usage();
    assert!(usage.bytes_on_disk <= 20 * (64 << 10), "{usage:?}");
    let read = log.reader().read_entries(GroupId(99), LOG, Slot(1), Slot(1), usize::MAX).unwrap();
    assert_eq!(read[0].entry, entry("idle"));
    let content = Bytes::from(body);
    let read = log.reader().read_entries(GROUP, LOG, Slot(4995), Slot(5000), usize::MAX).unwrap();
    assert!(read.iter().all(|stored| stored.entry.body() == content));
}
