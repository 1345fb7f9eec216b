//! Scrub finds damage that nobody reads, and what it leads to outlasts the next damage and the next start.

use crate::log::LogOptions;
use crate::simulation::MemoryDisk;
use crate::{recovery, Checkpoints, Completion, Log, ScrubOptions, Usage};
use consensus::{Ballot, Entry, Epoch, GroupId, LogId, NodeId, OperationId, Record, Recovered, Sequence, Slot, Start};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NODE: NodeId = NodeId(9);
const GROUP: GroupId = GroupId(1);
const LOG: LogId = LogId::MAIN;
const PATIENCE: Duration = Duration::from_secs(20);

/// Segments of 64 KiB: where records begin, and how long the file is.
const FRONT: usize = 4096;
const BYTES: usize = 64 << 10;

fn options() -> LogOptions {
    LogOptions { segment_bytes: BYTES as u64, ..LogOptions::default() }
}

fn fast() -> ScrubOptions {
    ScrubOptions { bytes_per_second: 1 << 30, pause: Duration::from_millis(5) }
}

fn ballot(round: u64) -> Ballot {
    Ballot { epoch: Epoch(1), round, node: NODE, start: Start(1) }
}

fn entry(text: &str) -> Entry {
    Entry::operation(OperationId::NONE, text.as_bytes())
}

fn accepted(slot: u64, text: &str) -> Record {
    let entries = [entry(text)].into();
    Record::Accepted { group: GROUP, log: LOG, ballot: ballot(2), first: Slot(slot), entries }
}

struct Running {
    log: Log,
    completions: Receiver<Completion>,
    sequence: u64,
}

impl Running {
    fn on(disk: &MemoryDisk) -> (Running, Recovered) {
        let (sender, completions) = channel();
        let completion = Box::new(move |completion| drop(sender.send(completion)));
        let (log, recovered) = Log::open_on(Arc::new(disk.clone()), NODE, Start(1), options(), completion).unwrap();
        let sequence = recovered.position.0;
        (Running { log, completions, sequence }, recovered)
    }

    fn write(&mut self, record: Record) {
        self.sequence += 1;
        self.log.submit(vec![(Sequence(self.sequence), record)]).unwrap();
        let durable = Completion::Durable(Sequence(self.sequence));
        self.wait_for(|completion| *completion == durable);
    }

    fn wait_for(&self, wanted: impl Fn(&Completion) -> bool) {
        loop {
            let completion = self.completions.recv_timeout(PATIENCE).expect("it comes in time");
            assert!(!matches!(completion, Completion::Failed(_)), "{completion:?}");
            if wanted(&completion) {
                return;
            }
        }
    }

    fn until(&self, what: &str, condition: impl Fn(&Usage) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(&self.log.usage()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.log.usage());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Two more whole passes, at least.
    fn let_scrub_pass(&self, log_bytes: u64) {
        let before = self.log.usage().scrubbed_bytes;
        self.until("scrub goes on", |usage| usage.scrubbed_bytes >= before + 3 * log_bytes);
    }
}

/// Some segments of entries, a promise among the first.
fn written() -> (MemoryDisk, Running) {
    let disk = MemoryDisk::new();
    let (mut running, _) = Running::on(&disk);
    running.write(Record::Promised { group: GROUP, log: LogId(7), ballot: ballot(5) });
    for slot in 1..=40 {
        running.write(accepted(slot, &format!("slot {slot} {}", "x".repeat(5000))));
    }
    (disk, running)
}

fn spoil(disk: &MemoryDisk, text: &str) {
    let mut hits = 0;
    for name in disk.names().iter().filter(|name| name.starts_with("segment-")) {
        disk.with_file(name, |bytes| {
            let places: Vec<usize> =
                (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes())).collect();
            hits += places.len();
            places.into_iter().for_each(|at| bytes[at + text.len()] ^= 0x10);
        });
    }
    assert_eq!(hits, 1, "the entry stands in one place");
}

#[test]
fn a_damaged_entry_is_told_until_it_is_written_again() {
    let (disk, mut running) = written();
    spoil(&disk, "slot 3 ");
    spoil(&disk, "slot 40 ");
    running.log.start_scrub(None, fast()).unwrap();
    let damaged = |slot| Completion::Damaged { group: GROUP, log: LOG, slot: Slot(slot) };
    running.wait_for(|completion| *completion == damaged(3));
    running.wait_for(|completion| *completion == damaged(3));
    running.wait_for(|completion| *completion == damaged(40));
    running.until("each is counted once", |usage| usage.damage_found == 2);

    let text = |slot: u64| format!("slot {slot} {}", "x".repeat(5000));
    for slot in [3, 40] {
        let entries = [(ballot(2), entry(&text(slot)))].into();
        running.write(Record::Learnt { group: GROUP, log: LOG, first: Slot(slot), entries });
    }
    running.until("both are healed", |usage| usage.damage_healed == 2);
    running.let_scrub_pass(5 * BYTES as u64);
    assert_eq!(running.log.usage().damage_found, 2);
    running.log.close();

    // And they still are after a restart.
    let (mut running, recovered) = Running::on(&disk);
    let found = &recovered.groups[&GROUP].logs[&LOG].accepted;
    assert!((1..=40).all(|slot| found[&Slot(slot)].entry == Some(entry(&text(slot)))));
    running.log.start_scrub(None, fast()).unwrap();
    running.let_scrub_pass(5 * BYTES as u64);
    assert_eq!(running.log.usage().damage_found, 0);
}

/// Where the copies of the promises of this log stand: file and offset, in the order of the file.
fn copies_of_promise(disk: &MemoryDisk, log: u128) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for name in disk.names().into_iter().filter(|name| name.starts_with("segment-")) {
        disk.with_file(&name, |bytes| {
            let at = (FRONT..bytes.len() - FRONT).step_by(8);
            let copies = at.filter(|at| bytes[at + 4] == 2 && bytes[at + 64..at + 80] == log.to_le_bytes());
            found.extend(copies.map(|at| (name.clone(), at)));
        });
    }
    found
}

#[test]
fn a_promise_of_which_one_copy_is_damaged_outlives_the_loss_of_the_other() {
    for first in [0, 1] {
        let (disk, mut running) = written();
        let promise = Record::Promised { group: GROUP, log: LogId(8), ballot: ballot(6) };
        running.write(promise);
        running.write(accepted(41, "one more"));
        let copies = copies_of_promise(&disk, 8);
        assert_eq!(copies.len(), 2);
        let flip = |(name, at): &(String, usize)| disk.with_file(name, |bytes| bytes[at + 20] ^= 1);
        flip(&copies[first]);
        running.log.start_scrub(None, fast()).unwrap();
        running.until("what the segment holds stands elsewhere", |usage| usage.damage_healed == 1);
        running.let_scrub_pass(5 * BYTES as u64);
        assert_eq!(running.log.usage().damage_found, 1, "it is told once");
        running.log.close();
        flip(&copies[1 - first]);
        let (_, recovered) = Running::on(&disk);
        let group = &recovered.groups[&GROUP];
        assert!(!group.promises_lost, "what was lost was accounted for");
        assert_eq!((group.logs[&LogId(7)].promised, group.logs[&LogId(8)].promised), (ballot(5), ballot(6)));
        assert_eq!(group.logs[&LOG].accepted.len(), 41);
        assert!(group.logs[&LOG].accepted.values().all(|found| found.entry.is_some()));
    }
}

#[test]
fn damage_in_the_segment_in_use_hides_nothing_that_comes_later() {
    let disk = MemoryDisk::new();
    let (mut running, _) = Running::on(&disk);
    running.write(Record::Promised { group: GROUP, log: LogId(7), ballot: ballot(5) });
    disk.with_file("segment-00000001", |bytes| bytes[FRONT + 128] ^= 1);
    running.log.start_scrub(None, fast()).unwrap();
    running.until("it is left", |usage| usage.damage_healed == 1);
    running.write(Record::Promised { group: GROUP, log: LogId(8), ballot: ballot(6) });
    running.write(accepted(1, "later"));
    running.log.close();
    // Both copies of the later promise go: that must be told.
    let copies = copies_of_promise(&disk, 8);
    assert_eq!(copies.len(), 2);
    for (name, at) in copies {
        disk.with_file(&name, |bytes| bytes[at + 20] ^= 1);
    }
    let (_, recovered) = Running::on(&disk);
    assert!(recovered.groups[&GROUP].promises_lost);
    assert_eq!(recovered.groups[&GROUP].logs[&LogId(7)].promised, ballot(5));
}

#[test]
fn a_damaged_header_is_written_again() {
    let (disk, mut running) = written();
    disk.with_file("segment-00000001", |bytes| bytes[40] ^= 1);
    running.log.start_scrub(None, fast()).unwrap();
    running.until("it is whole again", |usage| usage.damage_healed == 1);
    running.log.close();
    disk.with_file("segment-00000001", |bytes| bytes[BYTES - FRONT + 40] ^= 1);
    let (_, recovered) = Running::on(&disk);
    assert!(!recovered.groups[&GROUP].promises_lost);
    assert_eq!(recovered.groups[&GROUP].logs[&LOG].accepted.len(), 40);
}

#[test]
fn a_healthy_log_is_left_in_peace() {
    let (disk, mut running) = written();
    let checkpoints = Checkpoints::open_on(Arc::new(MemoryDisk::new()), NODE).unwrap();
    checkpoints.write(GROUP, Slot(3), &vec![7; 700_000]).unwrap();
    running.log.start_scrub(Some(checkpoints), fast()).unwrap();
    let before = disk.writes_and_syncs();
    running.let_scrub_pass(6 * BYTES as u64 + 700_000);
    assert_eq!(disk.writes_and_syncs(), before, "scrub writes nothing");
    let usage = running.log.usage();
    assert_eq!((usage.damage_found, usage.damage_healed), (0, 0));
    assert!(running.completions.try_recv().is_err());
}

#[test]
fn a_damaged_checkpoint_is_told_until_it_is_replaced() {
    let (_, mut running) = written();
    let disk = MemoryDisk::new();
    let checkpoints = Checkpoints::open_on(Arc::new(disk.clone()), NODE).unwrap();
    checkpoints.write(GROUP, Slot(3), &vec![7; 700_000]).unwrap();
    checkpoints.write(GROUP, Slot(5), &vec![8; 300]).unwrap();
    disk.with_file(&disk.names()[0], |bytes| bytes[600_000] ^= 1);
    running.log.start_scrub(Some(checkpoints.clone()), fast()).unwrap();
    let damaged = Completion::CheckpointDamaged { group: GROUP, slot: Slot(3) };
    running.wait_for(|completion| *completion == damaged);
    running.wait_for(|completion| *completion == damaged);
    assert_eq!(running.log.usage().damage_found, 1);
    checkpoints.write(GROUP, Slot(5), &vec![8; 300]).unwrap();
    checkpoints.remove_damaged(GROUP, Slot(3)).unwrap();
    assert_eq!(checkpoints.oldest_kept(GROUP).unwrap(), Some(Slot(5)));
    assert_eq!(checkpoints.newest(GROUP).unwrap().unwrap().fallen_back, None);
}

#[test]
fn a_damaged_fence_is_made_good_by_a_later_one() {
    let disk = MemoryDisk::new();
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
    for (sequence, epoch) in [(1, 3), (2, 4)] {
        let configuration = super::script::configuration(GROUP, epoch);
        log.append(&[(Sequence(sequence), Record::Configured { configuration })]).unwrap();
    }
    log.append(&[(Sequence(3), accepted(1, "later"))]).unwrap();
    drop(log);
    let (older, newer) = (disk.copy(), disk.copy());
    // The text of each configuration's address, the first and the second.
    for (disk, which) in [(&older, 0), (&newer, 1)] {
        disk.with_file("segment-00000001", |bytes| {
            let mut places = (0..bytes.len() - 9).filter(|at| bytes[*at..].starts_with(b"127.0.0.1"));
            let at = places.nth(which).unwrap();
            bytes[at] ^= 1;
        });
    }
    let (_, recovered) = recovery::open(Arc::new(older), NODE, Start(2), options()).unwrap();
    assert!(!recovered.groups[&GROUP].promises_lost, "the later one covers it");
    let (_, recovered) = recovery::open(Arc::new(newer), NODE, Start(2), options()).unwrap();
    assert!(recovered.groups[&GROUP].promises_lost);
}
