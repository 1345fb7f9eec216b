//! The disk says no: a failed write or sync ends the log, is reported once, and is never tried again.

use super::script::{check, reader, script};
use crate::log::LogOptions;
use crate::simulation::{Fault, MemoryDisk};
use crate::{recovery, Completion, Log, SubmitError};
use consensus::{Ballot, Epoch, GroupId, LogId, NodeId, Record, Sequence, Start};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::Duration;

const NODE: NodeId = NodeId(9);

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

fn open(disk: &MemoryDisk, options: LogOptions) -> (Log, Receiver<Completion>) {
    let (sender, receiver) = channel();
    let completion = Box::new(move |completion| drop(sender.send(completion)));
    let (log, _) = Log::open_on(Arc::new(disk.clone()), NODE, Start(1), options, completion).unwrap();
    (log, receiver)
}

fn promised(round: u64) -> Record {
    let ballot = Ballot { epoch: Epoch(1), round, node: NODE, start: Start(1) };
    Record::Promised { group: GroupId(1), log: LogId::MAIN, ballot }
}

fn next(receiver: &Receiver<Completion>) -> Completion {
    receiver.recv_timeout(Duration::from_secs(20)).unwrap()
}

#[test]
fn a_failed_write_or_sync_at_any_operation_is_reported_and_nothing_is_written_after_it() {
    for seed in 51..=52 {
        let script = script(seed, 60);
        let count = |disk: &MemoryDisk| {
            let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
            let opened = disk.operations();
            script.iter().for_each(|batch| assert!(log.append(batch).is_ok()));
            (opened, disk.operations())
        };
        let (opened, all) = count(&MemoryDisk::new());
        for operation in opened + 1..=all {
            let disk = MemoryDisk::new();
            let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
            disk.fail_at(operation, Fault::Error);
            let failed = script.iter().position(|batch| log.append(batch).is_err()).expect("the fault is reported");
            // What was acknowledged before is there; the rest was never promised.
            drop(log);
            for image in [disk.after_crash(&mut || false), disk.after_crash(&mut || true)] {
                let (log, recovered) = recovery::open(Arc::new(image), NODE, Start(2), options()).unwrap();
                check(&recovered, &reader(log.state()), &script[..failed], &script[failed..=failed]);
            }
        }
    }
}

#[test]
fn a_failed_sync_poisons_the_log() {
    let disk = MemoryDisk::new();
    let (log, completions) = open(&disk, options());
    log.submit(vec![(Sequence(1), promised(1))]).unwrap();
    assert_eq!(next(&completions), Completion::Durable(Sequence(1)));
    // The third operation of a batch is its sync, once the spare segment (three operations) has been prepared beside it.
    let alone = MemoryDisk::new();
    recovery::open(Arc::new(alone.clone()), NODE, Start(1), options()).unwrap();
    while disk.operations() < alone.operations() + 6 {
        std::thread::yield_now();
    }
    disk.fail_at(disk.operations() + 3, Fault::Error);
    let mut failure = None;
    for sequence in 2..20 {
        match log.submit(vec![(Sequence(sequence), promised(sequence))]) {
            Ok(()) => match next(&completions) {
                Completion::Durable(reached) => assert_eq!(reached, Sequence(sequence)),
                Completion::Failed(why) => failure = Some(why),
                other => panic!("{other:?}"),
            },
            Err(SubmitError::Failed(why)) => {
                assert_eq!(Some(why), failure);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let why = failure.expect("the failure was reported before it was refused");
    assert!(why.contains("sync") && why.contains("injected fault"), "{why}");
    let operations = disk.writes_and_syncs();
    drop(log);
    assert_eq!(disk.writes_and_syncs(), operations, "nothing is written after a failure");
    assert!(completions.recv_timeout(Duration::from_millis(10)).is_err(), "the failure is told once");
}

#[test]
fn a_full_disk_stops_the_log_with_a_clear_word_and_loses_nothing() {
    let disk = MemoryDisk::new();
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
    disk.fail_at(0, Fault::Full);
    let script = script(61, 200);
    let (failed, error) = script
        .iter()
        .enumerate()
        .find_map(|(number, batch)| log.append(batch).err().map(|error| (number, error)))
        .expect("the disk was too small");
    assert!(error.to_string().contains("make a segment") && error.to_string().contains("no storage space"), "{error}");
    // With room again, the node starts and has all that was acknowledged.
    let image = disk.after_crash(&mut || true);
    let (log, recovered) = recovery::open(Arc::new(image), NODE, Start(2), options()).unwrap();
    check(&recovered, &reader(log.state()), &script[..failed], &script[failed..=failed]);
}

#[test]
fn one_record_is_two_writes_and_one_sync() {
    let disk = MemoryDisk::new();
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
    let before = disk.writes_and_syncs();
    log.append(&[(Sequence(1), promised(1))]).unwrap();
    let after = disk.writes_and_syncs();
    assert_eq!((after.0 - before.0, after.1 - before.1), (2, 1));
    // So are a thousand.
    let many: Vec<(Sequence, Record)> = (2..=200).map(|sequence| (Sequence(sequence), promised(sequence))).collect();
    log.append(&many).unwrap();
    let last = disk.writes_and_syncs();
    assert_eq!((last.0 - after.0, last.1 - after.1), (2, 1));
}

#[test]
fn a_queue_that_is_full_refuses_at_once() {
    let disk = MemoryDisk::new();
    let hold = Arc::new(std::sync::Mutex::new(()));
    let blocked = hold.lock().unwrap();
    let options = LogOptions { queue_bytes_max: 1000, ..options() };
    let gate = hold.clone();
    // The completion of the first batch holds the writer up, as a disk that stands still would.
    let completion = Box::new(move |_| drop(gate.lock().unwrap_or_else(std::sync::PoisonError::into_inner)));
    let (log, _) = Log::open_on(Arc::new(disk), NODE, Start(1), options, completion).unwrap();
    let mut refused = None;
    for sequence in 1..100 {
        if let Err(error) = log.submit(vec![(Sequence(sequence), promised(sequence))]) {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(SubmitError::Full(_))), "{refused:?}");
    drop(blocked);
}

#[test]
fn an_idle_node_does_not_write_because_its_peers_do() {
    let disk = MemoryDisk::new();
    let (log, completions) = open(&disk, options());
    let seen = |position| Record::PeerSeen { node: NodeId(3), start: Start(1), position: Sequence(position) };
    log.submit(vec![(Sequence(1), seen(10))]).unwrap();
    log.submit(vec![(Sequence(2), seen(11))]).unwrap();
    // Several times as long as other records that nobody waits for would take.
    let silence = completions.recv_timeout(4 * options().lazy_wait);
    assert!(silence.is_err(), "{silence:?}");
    log.submit(vec![(Sequence(3), promised(1))]).unwrap();
    assert_eq!(next(&completions), Completion::Durable(Sequence(3)));
}
