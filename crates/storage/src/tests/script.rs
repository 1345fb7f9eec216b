//! A made-up acceptor's life as batches of records, from a seed; and what a log must say after a part of it.

use crate::log::LogOptions;
use crate::log_state::SharedState;
use crate::LogReader;
use consensus::{
    Ballot, Configuration, Entry, Epoch, GroupId, LogId, Member, NodeId, OperationId, Record, Recovered, Role,
    Sequence, Slot, Start,
};
use std::sync::Arc;

/// A small generator, so that a test is its seed and nothing else.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

pub(crate) type Batch = Vec<(Sequence, Record)>;

struct LogLife {
    group: GroupId,
    log: LogId,
    round: u64,
    highest: u64,
    closed: u64,
    trimmed: u64,
}

pub(crate) fn ballot(round: u64) -> Ballot {
    Ballot { epoch: Epoch(1), round, node: NodeId(9), start: Start(1) }
}

/// An operation that begins with this text and is so many bytes longer.
pub(crate) fn entry_of(text: &str, bytes: usize) -> Entry {
    let mut body = text.as_bytes().to_vec();
    body.resize(body.len() + bytes, b'.');
    Entry::operation(OperationId::NONE, &body)
}

/// Segments so small that a few entries fill one.
pub(crate) fn small_segments() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

fn entry(dice: &mut Dice, slot: u64, round: u64) -> Entry {
    let bytes = match dice.below(12) {
        0 => 20_000,
        1..=4 => 3_000,
        _ => dice.below(200) as usize,
    };
    let mut body = format!("slot {slot} round {round} ").into_bytes();
    body.resize(body.len() + bytes, (slot % 251) as u8);
    Entry::operation(OperationId { node: NodeId(9), start: Start(1), sequence: slot }, &body)
}

pub(crate) fn configuration(group: GroupId, epoch: u64) -> Arc<Configuration> {
    let member = Member {
        node: NodeId(9),
        address: "127.0.0.1:1".to_string(),
        public_key: vec![1, 2, 3],
        role: Role::Voter,
        label: String::new(),
    };
    let mut configuration = Configuration::first(group, "a", "tables", "", member);
    configuration.epoch = Epoch(epoch);
    Arc::new(configuration)
}

/// Batches as a correct acceptor of two groups might submit them.
pub(crate) fn script(seed: u64, batches: usize) -> Vec<Batch> {
    let mut dice = Dice::new(seed);
    let life = |group, log| LogLife { group: GroupId(group), log, round: 1, highest: 0, closed: 0, trimmed: 0 };
    let mut logs = [life(1, LogId::MAIN), life(1, LogId(5)), life(2, LogId::MAIN)];
    let mut sequence = 0;
    let mut epoch = 1;
    let mut add = |batch: &mut Batch, record| {
        sequence += 1;
        batch.push((Sequence(sequence), record));
    };
    let mut script = Vec::new();
    let mut first = Batch::new();
    for group in [1, 2] {
        add(&mut first, Record::Configured { configuration: configuration(GroupId(group), 1) });
    }
    script.push(first);
    for number in 1..batches {
        let mut batch = Batch::new();
        for _ in 0..=dice.below(4) {
            // The last log is idle after a while: it must neither be lost nor hold the rest back.
            let choice = dice.below(if number < batches / 4 { 3 } else { 2 }) as usize;
            let log = &mut logs[choice];
            match dice.below(20) {
                0 => {
                    log.round += 1;
                    add(&mut batch, Record::Promised { group: log.group, log: log.log, ballot: ballot(log.round) });
                }
                1 if log.group == GroupId(1) => {
                    epoch += 1;
                    add(&mut batch, Record::Configured { configuration: configuration(log.group, epoch) });
                }
                2 => add(
                    &mut batch,
                    Record::PeerSeen { node: NodeId(3), start: Start(1), position: Sequence(number as u64) },
                ),
                3 if dice.below(4) == 0 => {
                    log.closed = log.highest + 3;
                    log.highest = log.closed;
                    log.trimmed = log.closed;
                    add(&mut batch, Record::Installed { group: log.group, log: log.log, slot: Slot(log.closed) });
                }
                4 => {
                    let first = log.highest + 1;
                    let entries: Vec<(Ballot, Entry)> = (first..=first + dice.below(3))
                        .map(|slot| (ballot(log.round - slot % 2 * (log.round - 1)), entry(&mut dice, slot, log.round)))
                        .collect();
                    log.highest = first + entries.len() as u64 - 1;
                    // What is learnt is chosen; everything below it is too, by now.
                    log.closed = log.highest;
                    add(
                        &mut batch,
                        Record::Learnt { group: log.group, log: log.log, first: Slot(first), entries: entries.into() },
                    );
                    add(&mut batch, Record::Chosen { group: log.group, log: log.log, up_to: Slot(log.closed) });
                }
                5 if log.highest > log.closed => {
                    // A new ballot proposes again what is open.
                    log.round += 1;
                    let first = log.closed + 1;
                    let entries: Arc<[Entry]> =
                        (first..=log.highest).map(|slot| entry(&mut dice, slot, log.round)).collect();
                    let accepted = Record::Accepted {
                        group: log.group,
                        log: log.log,
                        ballot: ballot(log.round),
                        first: Slot(first),
                        entries,
                    };
                    add(&mut batch, accepted);
                }
                6..=8 => {
                    log.closed = log.highest.max(log.closed);
                    add(&mut batch, Record::Chosen { group: log.group, log: log.log, up_to: Slot(log.closed) });
                }
                9..=10 if log.closed > log.trimmed + 2 && number < batches - 10 => {
                    log.trimmed = log.closed - 2;
                    add(&mut batch, Record::Trimmed { group: log.group, log: log.log, up_to: Slot(log.trimmed) });
                }
                _ => {
                    let first = log.highest + 1;
                    let entries: Arc<[Entry]> =
                        (first..=first + dice.below(3)).map(|slot| entry(&mut dice, slot, log.round)).collect();
                    log.highest = first + entries.len() as u64 - 1;
                    let accepted = Record::Accepted {
                        group: log.group,
                        log: log.log,
                        ballot: ballot(log.round),
                        first: Slot(first),
                        entries,
                    };
                    add(&mut batch, accepted);
                }
            }
        }
        script.push(batch);
    }
    script
}

/// What the records say when nothing is lost.
pub(crate) fn fold<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Recovered {
    let mut recovered = Recovered::default();
    for (sequence, record) in batches.into_iter().flatten() {
        recovered.apply(*sequence, record);
    }
    recovered
}

/// Checks what came back against what was acknowledged and what was on its way: nothing acknowledged is missing,
/// nothing else is made up, and no false alarm is raised.
pub(crate) fn check(recovered: &Recovered, reader: &LogReader, acknowledged: &[Batch], on_its_way: &[Batch]) {
    let least = fold(acknowledged);
    let most = fold(acknowledged.iter().chain(on_its_way));
    assert!(recovered.position >= least.position, "{:?} >= {:?}", recovered.position, least.position);
    assert!(recovered.position <= most.position);
    for (node, seen) in &least.peers {
        assert!(recovered.peers[node] >= *seen);
    }
    for (group, least) in &least.groups {
        let found = &recovered.groups[group];
        let most = &most.groups[group];
        assert!(!found.promises_lost, "a crash is no damage");
        let epoch = |group: &consensus::RecoveredGroup| group.configuration.as_ref().map(|known| known.epoch);
        assert!(epoch(found) >= epoch(least) && epoch(found) <= epoch(most));
        for (log, least) in &least.logs {
            let (found, most) = (&found.logs[log], &most.logs[log]);
            assert!(found.promised >= least.promised && found.promised <= most.promised);
            assert!(found.closed >= least.closed && found.closed <= most.closed);
            assert!(found.trimmed >= least.trimmed && found.trimmed <= most.trimmed);
            for (slot, expected) in least.accepted.range(found.closed.next()..) {
                let got = &found.accepted[slot];
                assert!(got.ballot >= expected.ballot);
                if got.ballot == expected.ballot {
                    assert_eq!(got.entry, expected.entry, "slot {slot} of log {log} in {group}");
                }
            }
        }
    }
    check_entries(recovered, reader, acknowledged, on_its_way);
}

/// Every acknowledged entry that was not trimmed can be read, whether it is closed or not, and every entry that came
/// back is one that was submitted under that ballot.
fn check_entries(recovered: &Recovered, reader: &LogReader, acknowledged: &[Batch], on_its_way: &[Batch]) {
    let submitted = entries(acknowledged.iter().chain(on_its_way));
    for (group, log, slot, entry) in all_accepted(recovered) {
        let Some(content) = &entry.entry else {
            continue;
        };
        let known = submitted
            .iter()
            .any(|(at, ballot, known)| (*at, *ballot, known) == ((group, log, slot), entry.ballot, content));
        assert!(known, "slot {slot} of {log} in {group} was never submitted like that");
    }
    let most = fold(acknowledged.iter().chain(on_its_way));
    let mut newest = std::collections::BTreeMap::new();
    for (at, _, entry) in entries(acknowledged) {
        newest.insert(at, entry);
    }
    let replaced = entries(on_its_way);
    for ((group, log, slot), entry) in newest {
        let gone =
            slot <= most.groups[&group].logs[&log].trimmed || replaced.iter().any(|(at, ..)| *at == (group, log, slot));
        if !gone {
            let read =
                reader.read_entries(group, log, slot, slot, usize::MAX).expect("an acknowledged entry can be read");
            assert_eq!(read[0].entry, entry, "slot {slot} of {log} in {group}");
        }
    }
}

type EntryAt = ((GroupId, LogId, Slot), Ballot, Entry);

fn entries<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Vec<EntryAt> {
    let mut all = Vec::new();
    for (_, record) in batches.into_iter().flatten() {
        match record {
            Record::Accepted { group, log, ballot, first, entries } => {
                let numbered = (0..).zip(entries.iter());
                all.extend(numbered.map(|(n, entry)| ((*group, *log, first.plus(n)), *ballot, entry.clone())));
            }
            Record::Learnt { group, log, first, entries } => {
                let numbered = (0..).zip(entries.iter());
                all.extend(
                    numbered.map(|(n, (ballot, entry))| ((*group, *log, first.plus(n)), *ballot, entry.clone())),
                );
            }
            _ => {}
        }
    }
    all
}

fn all_accepted(recovered: &Recovered) -> impl Iterator<Item = (GroupId, LogId, Slot, &consensus::RecoveredEntry)> {
    recovered.groups.iter().flat_map(|(group, state)| {
        state
            .logs
            .iter()
            .flat_map(|(log, state)| state.accepted.iter().map(|(slot, entry)| (*group, *log, *slot, entry)))
    })
}

/// A reader of a log that no thread writes.
pub(crate) fn reader(state: SharedState) -> LogReader {
    LogReader::new(state)
}
