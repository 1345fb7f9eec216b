//! The write-ahead log: whole segment files, of which a node makes up its mind at a start.
//!
//! The input is a source of choices for a forger (`forged_segment.rs`), who writes segments byte by byte as
//! `docs/on-disk-format.md` says, checksums included: bytes that no checksum fits are refused early and find nothing.
//! Half of the forged logs are honest, and must be read as what was written; in the others any field may hold anything,
//! and some bytes are damaged afterwards.

use super::forged_segment::{Forgery, NODE, SEGMENT_BYTES};
use super::memory_disk::MemoryDisk;
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use consensus::{Discipline, GroupId, LogId, Recovered, RecoveredGroup, Slot, Start};
use std::sync::Arc;
use storage::{Disk, Log, LogOptions, RecoveryError};

/// Segments are 64 KiB here, read whole one at a time; beside them stand the fresh one and the spare ones. What is damaged
/// beyond its identity is told entry by entry, each of 8 bytes on the disk as 64 in memory.
const MEMORY: Bound = Bound { fixed: 8 << 20, per_byte: 64 };

/// [`Log::open_on`].
pub const TARGET: Target = Target { name: "segment", run, encode, memory: MEMORY, executions: 4_000 };

fn run(bytes: &[u8]) {
    let Ok(forgery) = Forgery::new(&mut Unstructured::new(bytes)) else { return };
    let disk = MemoryDisk::default();
    for (number, segment) in (1..).zip(&forgery.segments) {
        disk.put(&format!("segment-{number:08}"), segment.clone());
    }
    let opened = open(&disk, 2);
    if let Some(records) = &forgery.honest {
        let mut expected = Recovered::default();
        records.iter().for_each(|(sequence, record)| expected.apply(*sequence, record));
        expected.groups.values_mut().filter(|group| is_of_values(group)).for_each(|group| {
            // They are loaded when they are used.
            group.logs.retain(|log, _| matches!(*log, LogId::CONTROL | LogId::MAIN));
        });
        let found = opened.as_ref().expect("an honest log is opened");
        assert_eq!(found, &expected, "what was written is what is read");
    }
    let Ok(first) = opened else { return };
    hold(&first);
    let second = open(&disk, 3).expect("what was opened once is opened again");
    hold(&second);
    never_forgets(&first, &second);
}

fn open(disk: &MemoryDisk, start: u64) -> std::result::Result<Recovered, RecoveryError> {
    let options = LogOptions { segment_bytes: SEGMENT_BYTES as u64, ..LogOptions::default() };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (log, recovered) = Log::open_on(shared, NODE, Start(start), options, Box::new(|_| {}))?;
    let reader = log.reader();
    for (group, log, slot) in places(&recovered) {
        // Whether it can be read is the log's to say; what can be read is an entry.
        if let Ok(read) = reader.read_entries(group, log, slot, slot, usize::MAX) {
            assert_eq!((read.len(), read[0].slot), (1, slot));
        }
    }
    Ok(recovered)
}

fn is_of_values(group: &RecoveredGroup) -> bool {
    group.configuration.as_ref().is_some_and(|known| known.discipline == Discipline::Values)
}

fn places(recovered: &Recovered) -> impl Iterator<Item = (GroupId, LogId, Slot)> + '_ {
    recovered.groups.iter().flat_map(|(group, state)| {
        state.logs.iter().flat_map(|(log, state)| state.accepted.keys().map(|slot| (*group, *log, *slot)))
    })
}

/// What the core is given keeps the rules that its arithmetic relies on.
fn hold(recovered: &Recovered) {
    for (group, state) in &recovered.groups {
        if let Some(configuration) = &state.configuration {
            assert_eq!(configuration.check(), Ok(()));
            assert_eq!(configuration.group, *group);
        }
        for log in state.logs.values() {
            assert!(log.closed <= Slot::LARGEST && log.trimmed <= Slot::LARGEST, "slots can be counted on from here");
            assert!(log.accepted.keys().all(|slot| *slot > log.closed && *slot <= Slot::LARGEST));
            let mut ballots = log.accepted.values().map(|accepted| accepted.ballot).chain([log.promised]);
            assert!(ballots.all(|ballot| ballot.round <= 1 << 62 && ballot.epoch.0 <= 1 << 62));
        }
    }
}

/// However damaged the log was, what one start told the core the next one tells as well.
fn never_forgets(first: &Recovered, second: &Recovered) {
    assert!(second.position >= first.position);
    for (group, before) in &first.groups {
        let after = second.groups.get(group).unwrap_or_else(|| panic!("{group} is gone"));
        assert!(after.promises_lost || !before.promises_lost || after.barred > before.barred);
        for (log, before) in &before.logs {
            let after = after.logs.get(log).unwrap_or_else(|| panic!("{log} of {group} is gone"));
            assert!(after.promised >= before.promised && after.closed >= before.closed);
        }
    }
}

/// The choices are the input.
fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(choices.bytes(choices.len())?.to_vec())
}
