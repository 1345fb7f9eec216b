//! The formats as they stand on disks out there. A change that breaks one of these tests breaks every existing node:
//! it needs a new version number, and this version must refuse it clearly or go on reading the old one.
//!
//! The golden files are text: one line per 32 bytes that are not all zero, offset first.

use super::script::configuration;
use crate::checkpoints::Checkpoints;
use crate::cold_log::ColdLog;
use crate::cold_store::key_of;
use crate::disk::Disk;
use crate::log::LogOptions;
use crate::simulation::MemoryDisk;
use crate::{describe, recovery};
use consensus::{
    Ballot, Configuration, Entry, Epoch, GroupId, LogId, NodeId, OperationId, Record, Recovered, RecoveredEntry,
    RecoveredLog, Renewal, Sequence, Slot, Start,
};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

const NODE: NodeId = NodeId(0x9999_8888_7777_6666_5555_4444_3333_2222);
const GROUP: GroupId = GroupId(0x1111_2222_3333_4444_5555_6666_7777_8888);
const LOG: LogId = LogId::MAIN;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

fn dump(bytes: &[u8]) -> String {
    let mut text = format!("bytes {}\n", bytes.len());
    for (number, row) in bytes.chunks(32).enumerate() {
        if row.iter().any(|byte| *byte != 0) {
            let hexadecimal: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "{:06x} {hexadecimal}", number * 32).unwrap();
        }
    }
    text
}

fn parse(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let length = lines.next().and_then(|line| line.strip_prefix("bytes ")).unwrap().parse().unwrap();
    let mut bytes = vec![0u8; length];
    for line in lines {
        let (offset, row) = line.split_once(' ').unwrap();
        let offset = usize::from_str_radix(offset, 16).unwrap();
        for (index, pair) in row.as_bytes().chunks(2).enumerate() {
            bytes[offset + index] = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
    }
    bytes
}

/// Compares with the golden file; `UPDATE_GOLDEN=1` writes it, for a new format only.
fn golden(name: &str, found: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "{name}: the format changed");
    expected
}

fn ballot(round: u64) -> Ballot {
    Ballot { epoch: Epoch(2), round, node: NodeId(0xabc), start: Start(4) }
}

fn entry(text: &str) -> Entry {
    Entry::operation(OperationId { node: NODE, start: Start(3), sequence: 77 }, text.as_bytes())
}

fn renewed() -> Arc<Configuration> {
    let mut configuration = (*configuration(GROUP, 2)).clone();
    let member = configuration.members[0].node;
    configuration.renewed.insert(member, Renewal { joint: Epoch(1), start: Start(300) });
    Arc::new(configuration)
}

/// An operation in two parts.
fn in_parts() -> [Entry; 2] {
    let id = |sequence| OperationId { node: NODE, start: Start(3), sequence };
    [Entry::part(id(78), id(79), 0, b"fi"), Entry::last_part(id(79), 1, 4, b"ve")]
}

/// One of every kind.
fn records() -> Vec<Record> {
    let (group, log) = (GROUP, LOG);
    vec![
        Record::Configured { configuration: renewed() },
        Record::Promised { group, log, ballot: ballot(5) },
        Record::Accepted {
            group,
            log,
            ballot: ballot(6),
            first: Slot(1),
            entries: Arc::from([entry("one"), entry("two")]),
        },
        Record::Learnt {
            group,
            log,
            first: Slot(3),
            entries: Arc::from([(ballot(6), entry("three")), (ballot(7), entry("four"))]),
        },
        Record::Accepted { group, log, ballot: ballot(7), first: Slot(5), entries: Arc::from(in_parts()) },
        Record::Chosen { group, log, up_to: Slot(2) },
        Record::Trimmed { group, log, up_to: Slot(1) },
        Record::PeerSeen { node: NodeId(0xdef), start: Start(9), position: Sequence(1234) },
        Record::VotingBarred { group, start: Start(3) },
        Record::Installed { group: GroupId(5), log, slot: Slot(100) },
        Record::Forgotten { group: GroupId(5) },
    ]
}

#[test]
fn a_segment_is_written_and_read_as_in_version_2() {
    let disk = MemoryDisk::new();
    disk.fix_id(Some(0x0123_4567_89ab_cdef));
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(3), options()).unwrap();
    let numbered: Vec<(Sequence, Record)> = (1..).map(Sequence).zip(records()).collect();
    log.append(&numbered[..4]).unwrap();
    log.append(&numbered[4..]).unwrap();
    disk.fix_id(None);
    let bytes = disk.with_file("segment-00000001", |bytes| bytes.clone());
    let text = golden("segment_v2.txt", &dump(&bytes));

    // What is read back from the golden bytes is what was written.
    let from_golden = MemoryDisk::new();
    from_golden.create("segment-00000001", 64 << 10).unwrap();
    from_golden.with_file("segment-00000001", |bytes| *bytes = parse(&text));
    let mut described = Vec::new();
    describe::describe_log(&from_golden, &mut described).unwrap();
    golden("segment_v2_described.txt", &String::from_utf8(described).unwrap());
    let (_, recovered) = recovery::open(Arc::new(from_golden), NODE, Start(4), options()).unwrap();
    let mut expected = Recovered::default();
    numbered.iter().for_each(|(sequence, record)| expected.apply(*sequence, record));
    assert_eq!(recovered, expected);
}

#[test]
fn a_laggards_file_is_written_and_read_as_in_version_1() {
    let disk = MemoryDisk::new();
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(3), options()).unwrap();
    let (group, log_id, first) = (GROUP, LOG, Slot(1));
    let kept = [
        Record::Accepted { group, log: log_id, ballot: ballot(6), first, entries: [entry("one")].into() },
        Record::Learnt { group, log: log_id, first: Slot(2), entries: [(ballot(7), entry("two"))].into() },
        Record::Chosen { group, log: log_id, up_to: Slot(2) },
    ];
    let busy = (1..).map(|slot| {
        let entries = [Entry::operation(OperationId::NONE, &[7; 30_000])].into();
        let (group, log, ballot, first) = (GroupId(5), LOG, ballot(1), Slot(slot));
        [Record::Accepted { group, log, ballot, first, entries }, Record::Trimmed { group, log, up_to: Slot(slot) }]
    });
    disk.fix_id(Some(0x0123_4567_89ab_cdef));
    let name = "laggards-11112222333344445555666677778888-00000001";
    for (sequence, record) in (1..).zip(kept.into_iter().chain(busy.flatten())) {
        log.append(&[(Sequence(sequence), record)]).unwrap();
        if disk.names().iter().any(|found| found == name) {
            break;
        }
    }
    disk.fix_id(None);
    let text = golden("laggards_v1.txt", &disk.with_file(name, |bytes| dump(bytes)));

    let from_golden = MemoryDisk::new();
    drop(recovery::open(Arc::new(from_golden.clone()), NODE, Start(3), options()).unwrap());
    from_golden.create(name, 0).unwrap();
    from_golden.with_file(name, |bytes| *bytes = parse(&text));
    let (log, recovered) = recovery::open(Arc::new(from_golden), NODE, Start(4), options()).unwrap();
    assert_eq!(recovered.groups[&GROUP].logs[&LOG].closed, Slot(2), "what stands there was closed");
    let read = super::script::reader(log.state()).read_entries(GROUP, LOG, Slot(1), Slot(2), usize::MAX).unwrap();
    let found: Vec<_> = read.into_iter().map(|stored| (stored.ballot, stored.entry)).collect();
    assert_eq!(found, [(ballot(6), entry("one")), (ballot(7), entry("two"))]);
}

#[test]
fn the_state_of_a_cold_log_is_written_and_read_as_in_version_1() {
    let accepted = BTreeMap::from([
        (Slot(5), RecoveredEntry { ballot: ballot(6), entry: Some(entry("five")) }),
        (Slot(6), RecoveredEntry { ballot: ballot(7), entry: None }),
    ]);
    let (promised, closed, trimmed) = (ballot(8), Slot(5), Slot(4));
    let state = ColdLog::of(3, RecoveredLog { promised, closed, trimmed, accepted, ..RecoveredLog::default() });
    let key = key_of(GROUP, LogId(0x77));
    let both = format!("key\n{}value\n{}", dump(&key), dump(&state.encode(&key)));
    let text = golden("cold_log_v1.txt", &both);
    let (_, value) = text.split_once("value\n").unwrap();
    assert_eq!(ColdLog::decode(&key, &parse(value)), Some(state));
}

#[test]
fn a_log_of_an_older_version_is_refused_and_left_as_it_is() {
    let disk = MemoryDisk::new();
    drop(recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap());
    let old = disk.with_file("segment-00000001", |bytes| {
        for header in [0, bytes.len() - 4096] {
            bytes[header + 8] = 1;
            let checksum = crc32c::crc32c(&bytes[header..header + 124]).to_le_bytes();
            bytes[header + 124..header + 128].copy_from_slice(&checksum);
        }
        bytes.clone()
    });
    let error = recovery::open(Arc::new(disk.clone()), NODE, Start(2), options()).map(|_| ()).unwrap_err();
    let said = error.to_string();
    for part in ["segment-00000001", "format version 1", "reads 2", "start the program that wrote it", "join anew"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(disk.with_file("segment-00000001", |bytes| bytes.clone()), old);
}

#[test]
fn a_checkpoint_is_written_and_read_as_in_version_1() {
    let disk = MemoryDisk::new();
    let checkpoints = Checkpoints::open_on(Arc::new(disk.clone()), NODE).unwrap();
    checkpoints.write(GROUP, Slot(42), b"certification state").unwrap();
    let [name] = &disk.names()[..] else { panic!("one file") };
    assert_eq!(name, "11112222333344445555666677778888-000000000000002a.checkpoint");
    let text = golden("checkpoint_v1.txt", &disk.with_file(name, |bytes| dump(bytes)));
    disk.with_file(name, |bytes| *bytes = parse(&text));
    assert_eq!(checkpoints.newest(GROUP).unwrap().unwrap().bytes, b"certification state");
}
