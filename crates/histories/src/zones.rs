//! Linearizability of a register in which every value is written once, decided exactly in the time that sorting takes
//! (Gibbons and Korach, Testing Shared Memories, 1997, section 4).
//!
//! A value's write and reads must stand together in any order that explains the history. Between the first of them to
//! end and the last to begin, the register certainly held that value: a forward zone. Where that span is empty, all of
//! them have the opposite span in common, and can stand together anywhere in it: a backward zone. There is such an order
//! if and only if no read ends before its write begins, no two forward zones overlap, and no backward zone lies inside
//! a forward one.

use crate::event::Value;
use crate::registers::{Action, Finding, Operation, REGISTER_START};
use std::collections::BTreeMap;

struct Zone {
    /// The end of the first to end, and who that is.
    first_end: (u64, usize),
    /// The beginning of the last to begin.
    last_begin: (u64, usize),
    write_begin: u64,
    is_certain: bool,
    is_read: bool,
}

impl Zone {
    fn of_write(begin: u64, end: u64, transaction: usize, is_certain: bool) -> Zone {
        Zone {
            first_end: (end, transaction),
            last_begin: (begin, transaction),
            write_begin: begin,
            is_certain,
            is_read: false,
        }
    }

    fn is_forward(&self) -> bool {
        self.first_end.0 < self.last_begin.0
    }
}

/// Judges the writes and reads of one register; every value read has been written by one of them, or is the start's.
pub(crate) fn check(operations: &[Operation]) -> Finding {
    // Who wrote the start is nobody: reports never need it, as its zone begins before all.
    let start = Zone::of_write(0, 0, usize::MAX, true);
    let mut zones: BTreeMap<Value, Zone> = BTreeMap::from([(REGISTER_START, start)]);
    for operation in operations {
        if let Action::Write(value) = operation.action {
            let zone = Zone::of_write(operation.begin, operation.end, operation.transaction, operation.is_certain());
            assert!(zones.insert(value, zone).is_none(), "values are written once");
        }
    }
    for operation in operations {
        let Action::Read(value) = operation.action else { continue };
        let zone = zones.get_mut(&value).expect("values read were written");
        zone.is_read = true;
        if operation.end < zone.write_begin {
            return Finding::Not(vec![operation.transaction]);
        }
        zone.first_end = zone.first_end.min((operation.end, operation.transaction));
        zone.last_begin = zone.last_begin.max((operation.begin, operation.transaction));
    }
    // A write of unknown outcome that nobody saw need not have happened.
    zones.retain(|_, zone| zone.is_certain || zone.is_read);
    let (mut forward, backward): (Vec<Zone>, Vec<Zone>) = zones.into_values().partition(Zone::is_forward);
    forward.sort_by_key(|zone| zone.first_end);
    for pair in forward.windows(2) {
        if pair[1].first_end.0 < pair[0].last_begin.0 {
            return conflict(&pair[0], &pair[1]);
        }
    }
    for inner in &backward {
        // Forward zones do not overlap: only the last that begins before can hold it.
        let before = forward.partition_point(|outer| outer.first_end.0 < inner.last_begin.0);
        if let Some(outer) = before.checked_sub(1).map(|index| &forward[index]) {
            if inner.first_end.0 < outer.last_begin.0 {
                return conflict(outer, inner);
            }
        }
    }
    Finding::Linearizable
}

fn conflict(one: &Zone, other: &Zone) -> Finding {
    let mut concerned = vec![one.first_end.1, one.last_begin.1, other.first_end.1, other.last_begin.1];
    concerned.retain(|transaction| *transaction != usize::MAX);
    concerned.sort_unstable();
    concerned.dedup();
    Finding::Not(concerned)
}
