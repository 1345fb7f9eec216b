//! Logs of a group of values are not given at the start; each is loaded when it is used, as it would have been given.

use super::script::{fold, reader};
use crate::log::LogOptions;
use crate::recovery;
use crate::simulation::MemoryDisk;
use consensus::{
    Ballot, Configuration, Discipline, Entry, Epoch, GroupId, LogId, Member, NodeId, OperationId, Record, RecoveredLog,
    Role, Sequence, Slot, Start,
};
use std::sync::Arc;

const NODE: NodeId = NodeId(9);
const GROUP: GroupId = GroupId(1);

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

fn ballot(round: u64) -> Ballot {
    Ballot { epoch: Epoch(1), round, node: NODE, start: Start(1) }
}

fn of_values() -> Record {
    let member = Member {
        node: NODE,
        address: "127.0.0.1:1".to_string(),
        public_key: vec![1],
        role: Role::Voter,
        label: String::new(),
    };
    let configuration = Configuration::first(GROUP, "a", "values", "", member).with_discipline(Discipline::Values);
    Record::Configured { configuration: Arc::new(configuration) }
}

fn accepted(log: u128, slot: u64, round: u64, text: &str) -> Record {
    let entries = [Entry::operation(OperationId::NONE, text.as_bytes())].into();
    Record::Accepted { group: GROUP, log: LogId(log), ballot: ballot(round), first: Slot(slot), entries }
}

#[test]
fn a_log_of_values_is_loaded_when_it_is_used() {
    let records = [
        of_values(),
        accepted(10, 1, 2, "ten, first"),
        Record::Chosen { group: GROUP, log: LogId(10), up_to: Slot(1) },
        accepted(10, 2, 2, "ten, open"),
        Record::Promised { group: GROUP, log: LogId(11), ballot: ballot(7) },
        accepted(12, 1, 3, "twelve, damaged"),
        Record::Trimmed { group: GROUP, log: LogId(13), up_to: Slot(4) },
    ];
    let batch: Vec<(Sequence, Record)> = (1..).map(Sequence).zip(records).collect();
    let disk = MemoryDisk::new();
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
    batch.iter().for_each(|record| assert!(log.append(std::slice::from_ref(record)).is_ok()));
    drop(log);
    for name in disk.names().iter().filter(|name| name.starts_with("segment-")) {
        disk.with_file(name, |bytes| {
            let at = (0..bytes.len() - 6).find(|at| bytes[*at..].starts_with(b"twelve"));
            at.into_iter().for_each(|at| bytes[at] ^= 1);
        });
    }
    let (mut log, recovered) = recovery::open(Arc::new(disk), NODE, Start(2), options()).unwrap();
    let given: Vec<LogId> = recovered.groups[&GROUP].logs.keys().copied().collect();
    assert_eq!(given, [LogId::CONTROL], "data logs are not given at the start");

    // Each is as it would have been given, with the kept entries at or below closed-up-to as well.
    let reader = reader(log.state());
    let mut expected = fold([&batch]).groups.remove(&GROUP).unwrap().logs;
    for id in [11, 12, 13] {
        let mut expected = expected.remove(&LogId(id)).unwrap();
        expected.accepted.values_mut().for_each(|found| found.entry = None);
        assert_eq!(reader.load_log(GROUP, LogId(id)).unwrap(), expected);
    }
    let ten = reader.load_log(GROUP, LogId(10)).unwrap();
    assert_eq!((ten.closed, ten.promised), (Slot(1), ballot(2)));
    let bodies: Vec<&[u8]> = ten.accepted.values().map(|found| found.entry.as_ref().unwrap().body()).collect();
    assert_eq!(bodies, [b"ten, first".as_slice(), b"ten, open"]);
    assert_eq!(reader.load_log(GROUP, LogId(99)).unwrap(), RecoveredLog::default());

    // They are listed in pages.
    let (first, last) = reader.list_logs(GROUP, None, 3).unwrap();
    assert_eq!(first, [(LogId(10), Slot(1), Slot(2)), (LogId(11), Slot(0), Slot(0)), (LogId(12), Slot(0), Slot(1))]);
    assert!(!last);
    let (rest, last) = reader.list_logs(GROUP, Some(LogId(12)), 3).unwrap();
    assert_eq!((rest, last), (vec![(LogId(13), Slot(4), Slot(4))], true));

    // What is written shows at once, and a group that was dropped has no logs.
    log.append(&[(Sequence(8), accepted(11, 1, 8, "eleven"))]).unwrap();
    assert_eq!(reader.load_log(GROUP, LogId(11)).unwrap().promised, ballot(8));
    log.append(&[(Sequence(9), Record::Forgotten { group: GROUP })]).unwrap();
    assert_eq!(reader.list_logs(GROUP, None, 3).unwrap(), (Vec::new(), true));
    assert_eq!(reader.load_log(GROUP, LogId(10)).unwrap(), RecoveredLog::default());
}
