//! The corruption masks of *Protocol-Aware Recovery for Consensus-Based Storage* (FAST 2018, section 5.1): four entries on three
//! nodes, and every subset of the twelve copies damaged. Whatever is left somewhere must be recovered; where nothing is
//! left, nothing may be made up (rule 9).
//!
//! The storage and the cores are the real ones; the disk is in memory, and the bytes are damaged where the segments hold them.

mod history;
mod injury;
mod machine;
mod memory_disk;
mod trio;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Duration;

use consensus::{Entry, ProposalOutcome, Slot, Token};

use history::{operation, History, Story, ENTRIES};
use injury::Injury;
use trio::{Trio, GROUP, NODES};

/// Long enough for contact, phase 1, healing, and several attempts at each.
const QUIET: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    recovered: usize,
    stopped: usize,
}

/// The cluster after every node has started from damaged disks, has been asked for everything, and rests.
struct Aftermath {
    trio: Trio,
    asked: Vec<Entry>,
}

impl Aftermath {
    fn of(disks: Vec<memory_disk::MemoryDisk>) -> Aftermath {
        let mut trio = Trio::start(disks, 4);
        trio.run(QUIET);
        let asked: Vec<Entry> = (0..NODES as u64).map(|index| operation(100 + index)).collect();
        for (index, entry) in asked.iter().enumerate() {
            trio.propose(index, entry.clone(), PATIENCE);
            trio.read(index, Token(1), PATIENCE);
        }
        trio.run(PATIENCE + Duration::from_secs(1));
        Aftermath { trio, asked }
    }

    fn delivered(&self, index: usize) -> Vec<Entry> {
        self.trio.machines[index].delivered.iter().map(|(_, entry)| entry.clone()).collect()
    }

    fn is_chosen(&self, index: usize) -> bool {
        let outcome = self.trio.machines[index].outcomes.get(&self.asked[index].id());
        matches!(outcome, Some(ProposalOutcome::Chosen(_)))
    }

    /// Everything is there, in order, on every node and every disk; writes and reads go on.
    fn check_recovered(&self, entries: &[Entry]) -> Result<(), String> {
        let first = self.delivered(0);
        for (index, machine) in self.trio.machines.iter().enumerate() {
            let delivered = self.delivered(index);
            if !delivered.starts_with(entries) {
                return Err(format!("node {index} delivered {delivered:?}"));
            }
            if !self.asked.iter().all(|asked| delivered.contains(asked)) || !self.is_chosen(index) {
                return Err(format!("new writes stand still: node {index} has {delivered:?}, {:?}", machine.outcomes));
            }
            if delivered != first {
                return Err(format!("node {index} delivered {delivered:?}, node 0 {first:?}"));
            }
            if !matches!(machine.barriers.get(&Token(1)), Some(Ok(slot)) if slot.0 >= ENTRIES as u64) {
                return Err(format!("reads stand still at node {index}: {:?}", machine.barriers));
            }
            let stored = machine.stored(GROUP, Slot(ENTRIES as u64));
            if stored != entries {
                return Err(format!("the disk of node {index} is not healed: {stored:?}"));
            }
        }
        Ok(())
    }

    /// What came before the first loss is there; nothing at or after it is, and nobody was told that anything was done.
    fn check_stopped(&self, before: &[Entry]) -> Result<(), String> {
        for (index, machine) in self.trio.machines.iter().enumerate() {
            let delivered = self.delivered(index);
            if delivered != before {
                return Err(format!("node {index} delivered {delivered:?}, expected {before:?}"));
            }
            if self.is_chosen(index) {
                return Err(format!("node {index} says that a write behind the loss is done"));
            }
            let read = machine.barriers.get(&Token(1));
            if matches!(read, Some(Ok(slot)) if slot.0 <= before.len() as u64) {
                return Err(format!("a read at node {index} leaves out the loss: {read:?}"));
            }
        }
        Ok(())
    }
}

/// Every mask of a history under an injury: content is damaged, slots and ballots are known.
fn judge_content(history: &History, injury: Injury, mask: u32) -> Result<bool, String> {
    let (disks, intact) = history.damaged(injury, mask);
    let lost = (0..ENTRIES).find(|slot| !(0..NODES).any(|index| intact[index][*slot]));
    let aftermath = Aftermath::of(disks);
    if let Some(stopped) = aftermath.trio.machines.iter().find_map(|machine| machine.stopped.as_ref()) {
        return Err(format!("a node stopped: {stopped}"));
    }
    match lost {
        None => aftermath.check_recovered(&history.entries)?,
        Some(slot) => aftermath.check_stopped(&history.entries[..slot])?,
    }
    Ok(lost.is_none())
}

/// Judges every mask, on all processors.
fn every_mask(
    history: &History,
    injury: Injury,
    judge: fn(&History, Injury, u32) -> Result<bool, String>,
) -> (Count, Vec<String>) {
    let masks: Vec<u32> = history.masks().collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new((Count::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(mask) = masks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let judged = judge(history, injury, *mask);
                    let mut results = results.lock().expect("no panic while holding the results");
                    match judged {
                        Ok(true) => results.0.recovered += 1,
                        Ok(false) => results.0.stopped += 1,
                        Err(what) => results.1.push(format!("{:?} {injury:?} mask {mask:012b}: {what}", history.story)),
                    }
                }
            });
        }
    });
    results.into_inner().expect("no panic while holding the results")
}

fn report(story: Story, injury: Injury, count: Count, failures: &[String]) {
    println!("{story:?}, {injury:?}: {} recovered, {} stopped, {} failed", count.recovered, count.stopped, failures.len());
    failures.iter().take(12).for_each(|failure| println!("  {failure}"));
}

#[test]
fn every_recoverable_mask_recovers_and_every_other_stops_safely() {
    let mut failed = 0;
    for story in Story::ALL {
        let history = History::of(story);
        for injury in [Injury::Bit, Injury::Value] {
            let (count, failures) = every_mask(&history, injury, judge_content);
            report(story, injury, count, &failures);
            failed += failures.len();
        }
    }
    assert_eq!(failed, 0, "masks failed");
}
