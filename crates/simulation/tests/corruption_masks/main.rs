//! The corruption masks of *Protocol-Aware Recovery for Consensus-Based Storage* (FAST 2018): four entries on three
//! nodes, and every subset of the twelve copies damaged. Whatever is left somewhere must be recovered; where nothing is
//! left, nothing may be made up (rule 9).
//!
//! The storage and the cores are the real ones; the disk is in memory, and the bytes are damaged where the segments hold them.

mod history;
mod injury;
mod machine;
mod trio;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Duration;

use consensus::{Change, Entry, ProposalOutcome, Slot, Token};
use storage::simulation::MemoryDisk;

use history::{operation, wounds_of, History, Story, Wounds, ENTRIES};
use injury::{Injury, Rot};
use trio::{node, Trio, GROUP, NODES};

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
    fn of(disks: Vec<MemoryDisk>, at_once: bool) -> Aftermath {
        let mut trio = Trio::start(disks, 4);
        trio.run(if at_once { Duration::from_millis(1) } else { QUIET });
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

    /// A damaged disk is no reason to stop a node.
    fn check_running(&self) -> Result<(), String> {
        match self.trio.machines.iter().find_map(|machine| machine.stopped.as_ref()) {
            Some(stopped) => Err(format!("a node stopped: {stopped}")),
            None => Ok(()),
        }
    }

    /// Too few vote: what some node knows chosen may be learnt, nothing else may be decided.
    fn check_nothing_made_up(&self, entries: &[Entry], all_are_known: bool) -> Result<(), String> {
        for index in 0..NODES {
            let delivered = self.delivered(index);
            let missing = all_are_known && delivered.len() < entries.len();
            if missing || !entries.starts_with(&delivered) || self.is_chosen(index) {
                return Err(format!("node {index} delivered {delivered:?}"));
            }
        }
        Ok(())
    }

    /// An operator lets the nodes that lost their promises vote again; what they were asked for is asked for again.
    fn renew(&mut self, barred: &[usize]) -> Result<(), String> {
        let asker = (0..NODES).find(|index| !barred.contains(index)).expect("one is whole");
        let change = Change::Renew(barred.iter().map(|index| node(*index)).collect());
        if !barred.is_empty() {
            self.trio.change(asker, Token(2), change, PATIENCE);
            self.trio.run(PATIENCE);
        }
        for index in barred {
            if !self.trio.may_vote(*index) {
                return Err(format!("node {index} does not vote again"));
            }
            self.asked[*index] = operation(200 + *index as u64);
            self.trio.propose(*index, self.asked[*index].clone(), PATIENCE);
            self.trio.read(*index, Token(1), PATIENCE);
            self.trio.run(PATIENCE + Duration::from_secs(1));
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
        let lost = Slot(before.len() as u64 + 1);
        let said: Vec<Option<Slot>> = (0..NODES).map(|index| self.trio.status(index).damaged).collect();
        if !said.contains(&Some(lost)) {
            return Err(format!("nobody says that slot {lost} is lost: {said:?}"));
        }
        Ok(())
    }
}

/// Entries of which no intact copy is left.
fn first_loss(intact: &[[bool; ENTRIES]; NODES]) -> Option<usize> {
    (0..ENTRIES).find(|slot| !(0..NODES).any(|index| intact[index][*slot]))
}

/// Content is damaged; slots and ballots are known.
fn judge_content(history: &History, wounds: &Wounds, at_once: bool) -> Result<bool, String> {
    let (disks, intact) = history.damaged(wounds);
    let lost = first_loss(&intact);
    let aftermath = Aftermath::of(disks, at_once);
    aftermath.check_running()?;
    match lost {
        None => aftermath.check_recovered(&history.entries)?,
        Some(slot) => aftermath.check_stopped(&history.entries[..slot])?,
    }
    Ok(lost.is_none())
}

/// Whole records are gone, perhaps beside damaged content: a node that misses one does not know what else it promised, and
/// votes no more.
fn judge_records(history: &History, wounds: &Wounds, at_once: bool) -> Result<bool, String> {
    let (disks, intact) = history.damaged(wounds);
    let barred: Vec<usize> = (0..NODES).filter(|index| wounds[*index].contains(&Some(Injury::Record))).collect();
    let mut aftermath = Aftermath::of(disks, at_once);
    aftermath.check_running()?;
    for index in 0..NODES {
        let expected = !barred.contains(&index);
        if aftermath.trio.may_vote(index) != expected {
            return Err(format!("node {index} votes: {}", !expected));
        }
    }
    if barred.len() > 1 {
        // Learning is never fenced (rule 6): what one node knows chosen and can read, all come to know.
        let knows = |index: usize| intact[index] == [true; ENTRIES] && history.closed[index] == ENTRIES;
        let known = (0..NODES).any(|index| !barred.contains(&index) && knows(index));
        aftermath.check_nothing_made_up(&history.entries, known)?;
        return Ok(false);
    }
    // What a node that misses records holds at or below closed-up-to may have been replaced by one of them: it is not served.
    let mut served = intact;
    barred.iter().for_each(|index| served[*index][..history.closed[*index]].fill(false));
    let lost = first_loss(&served);
    match lost {
        None => {
            aftermath.renew(&barred)?;
            aftermath.check_recovered(&history.entries)?;
        }
        Some(slot) => aftermath.check_stopped(&history.entries[..slot])?,
    }
    Ok(lost.is_none())
}

type Judge = fn(&History, &Wounds, bool) -> Result<bool, String>;

/// Judges every case, on all processors. Every other cluster is asked for something before it has come to rest.
fn judge_all(history: &History, cases: &[Wounds], judge: Judge) -> Count {
    let next = AtomicUsize::new(0);
    let results = Mutex::new((Count::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(wounds) = cases.get(number) else { break };
                for at_once in [false, true] {
                    let judged = judge(history, wounds, at_once);
                    let mut results = results.lock().expect("no panic while holding the results");
                    match judged {
                        Ok(true) => results.0.recovered += 1,
                        Ok(false) => results.0.stopped += 1,
                        Err(what) => results.1.push(format!("at once {at_once}, {wounds:?}: {what}")),
                    }
                }
            });
        }
    });
    let (count, failures) = results.into_inner().expect("no panic while holding the results");
    println!(
        "{:?}: {} recovered, {} stopped, {} failed",
        history.story,
        count.recovered,
        count.stopped,
        failures.len()
    );
    failures.iter().take(6).for_each(|failure| println!("  {failure}"));
    assert!(failures.is_empty(), "{:?}: {} cases failed", history.story, failures.len());
    count
}

/// All of it with `make masks`; a part of it, always the same, in every test run.
fn every_so_many(part: usize) -> usize {
    if std::env::var("MASKS").is_ok_and(|masks| masks == "all") {
        1
    } else {
        part
    }
}

/// Four entries on three nodes: of 4,096 masks those leave every entry somewhere that are not full in any of four columns.
#[test]
fn every_recoverable_mask_recovers_and_every_other_stops_safely() {
    for (story, injury, part) in [
        (Story::NobodyKnows, Injury::Bit, 1),
        (Story::NobodyKnows, Injury::Value, 7),
        (Story::Killed, Injury::Bit, 5),
        (Story::OwnerKnows, Injury::Value, 5),
        (Story::AllKnow, Injury::Bit, 5),
        (Story::QuorumNobodyKnows, Injury::Bit, 1),
        (Story::QuorumOwnerKnows, Injury::Bit, 1),
    ] {
        let history = History::of(story);
        let masks: Vec<u32> = history.masks().collect();
        let part = every_so_many(part);
        let cases: Vec<Wounds> = masks.iter().step_by(part).map(|mask| wounds_of(*mask, injury)).collect();
        let count = judge_all(&history, &cases, judge_content);
        if part == 1 {
            let recoverable = if story.is_of_a_quorum() { 3usize.pow(4) } else { 7usize.pow(4) };
            assert_eq!((count.recovered, count.stopped), (2 * recoverable, 2 * (masks.len() - recoverable)));
        }
    }
}

/// The same with whole records lost, by themselves and beside damaged content.
#[test]
fn lost_records_bar_their_node_and_the_others_recover_or_stop() {
    for story in Story::ALL {
        let history = History::of(story).settled();
        let masks = history.masks().step_by(every_so_many(17)).map(|mask| wounds_of(mask, Injury::Record));
        let mixed = history.mixtures().step_by(every_so_many(97));
        let cases: Vec<Wounds> = masks.chain(mixed).collect();
        judge_all(&history, &cases, judge_records);
    }
}

/// Headers, whole segments, and the records that say who belongs to the group.
#[test]
fn damage_beside_the_entries_costs_a_minority_nothing_and_makes_nothing_up() {
    for (story, rot) in [Story::NobodyKnows, Story::Killed, Story::AllKnow]
        .into_iter()
        .flat_map(|story| [Rot::OneHeader, Rot::Segment, Rot::Configuration].map(|rot| (story, rot)))
    {
        let history = History::of(story).settled();
        for (subset, at_once) in (0..1 << NODES).flat_map(|subset| [(subset, false), (subset, true)]) {
            let hurt: Vec<usize> = (0..NODES).filter(|index| subset & 1 << index != 0).collect();
            let whole: Vec<usize> = (0..NODES).filter(|index| !rot.costs_promises() || !hurt.contains(index)).collect();
            let aftermath = Aftermath::of(history.rotten(rot, &hurt), at_once);
            aftermath.check_running().unwrap_or_else(|what| panic!("{story:?} {rot:?} on {hurt:?}: {what}"));
            for index in 0..NODES {
                let delivered = aftermath.delivered(index);
                let what = format!("{story:?}, {rot:?} on {hurt:?}, at once {at_once}: node {index} has {delivered:?}");
                // One that does not vote may still be served by the others.
                let quorum = whole.len() > NODES / 2;
                if quorum && whole.contains(&index) {
                    assert!(aftermath.is_chosen(index) && delivered.starts_with(&history.entries), "{what}");
                } else if !quorum {
                    assert!(!aftermath.is_chosen(index) && history.entries.starts_with(&delivered), "{what}");
                }
            }
        }
    }
}

/// Rule 9 broken on purpose: a mask must show it.
#[cfg(feature = "seeded_bugs")]
#[test]
fn a_damaged_copy_taken_for_nothing_is_found() {
    consensus::plant(Some(consensus::SeededBug::NoOpOverDamage));
    let history = History::of(Story::NobodyKnows);
    let found = history.masks().find_map(|mask| judge_content(&history, &wounds_of(mask, Injury::Bit), true).err());
    consensus::plant(None);
    println!("found as: {}", found.expect("a decision over damage shows"));
}
