//! Linearizability by search: takes operations one after another, each among those that could be next, and goes back
//! where that leads nowhere (Wing and Gong), never twice into the same set of operations with the same value (Lowe).
//!
//! Of unknown outcomes it is asked whether some choice of them explains the rest, so they may be taken at any time after
//! they began, or left.

use crate::event::Value;
use crate::registers::{Action, Finding, Operation, REGISTER_START};
use std::collections::HashSet;
use std::time::Instant;

/// How many words of visited sets are kept, 256 MiB: past it the search gives up, as when time is out.
const VISITED_WORDS_MAX: usize = 1 << 25;

/// The clock is looked at once in so many steps.
const STEPS_BETWEEN_LOOKS: u64 = 1 << 10;

/// A report tells so many of the operations that were explained before those that cannot be.
const TAKEN_TOLD_MAX: usize = 3;

/// The list's end.
const NOTHING: usize = usize::MAX;

/// A beginning or an end in the list of what is not taken yet.
#[derive(Clone, Copy)]
struct Entry {
    operation: usize,
    is_end: bool,
    /// The entry of the same operation's end; none for an unknown outcome.
    end: usize,
    previous: usize,
    next: usize,
}

/// Beginnings and ends in order of time, doubly linked; what is taken is lifted out and put back.
struct Line {
    entries: Vec<Entry>,
    first: usize,
}

pub(crate) fn check(operations: &[Operation], deadline: Instant) -> Finding {
    let mut line = Line::of(operations);
    let mut taken = vec![0u64; operations.len().div_ceil(64)];
    let mut visited: HashSet<(Vec<u64>, Value)> = HashSet::new();
    let mut path: Vec<(usize, Value)> = Vec::new();
    let mut missing = operations.iter().filter(|operation| operation.is_certain()).count();
    let mut value = REGISTER_START;
    let mut at = line.first;
    let mut furthest: (usize, Vec<usize>) = (0, Vec::new());
    let mut steps = 0u64;
    while missing > 0 {
        if steps.is_multiple_of(STEPS_BETWEEN_LOOKS) && Instant::now() >= deadline {
            return Finding::OutOfBudget;
        }
        steps += 1;
        assert!(at != NOTHING, "the end of a missing operation bounds the search");
        let entry = line.entries[at];
        let operation = &operations[entry.operation];
        if !entry.is_end {
            if let Some(after) = step(operation.action, value) {
                let (word, bit) = (entry.operation / 64, 1u64 << (entry.operation % 64));
                taken[word] |= bit;
                if visited.len() * (taken.len() + 1) > VISITED_WORDS_MAX {
                    return Finding::OutOfBudget;
                }
                if visited.insert((taken.clone(), after)) {
                    path.push((at, value));
                    value = after;
                    missing -= usize::from(operation.is_certain());
                    line.lift(at);
                    at = line.first;
                    continue;
                }
                taken[word] &= !bit;
            }
            at = entry.next;
            continue;
        }
        // This one has ended, so it had to be among those taken: the last choice was wrong.
        if furthest.1.is_empty() || path.len() > furthest.0 {
            let before = path[path.len().saturating_sub(TAKEN_TOLD_MAX)..].iter();
            let mut concerned: Vec<usize> =
                before.map(|(begin, _)| operations[line.entries[*begin].operation].transaction).collect();
            concerned.extend(line.until(at, operations));
            furthest = (path.len(), concerned);
        }
        let Some((back, before)) = path.pop() else { return Finding::Not(furthest.1) };
        let undone = line.entries[back].operation;
        taken[undone / 64] &= !(1u64 << (undone % 64));
        missing += usize::from(operations[undone].is_certain());
        value = before;
        line.put_back(back);
        at = line.entries[back].next;
    }
    Finding::Linearizable
}

/// The register's value after the operation, or `None` if it cannot have been told what it was told.
fn step(action: Action, value: Value) -> Option<Value> {
    match action {
        Action::Write(written) => Some(written),
        Action::Read(seen) => (seen == value).then_some(value),
        Action::CompareAndSet { expected, value: new, swapped } => match (expected == value, swapped) {
            (true, None | Some(true)) => Some(new),
            (false, None | Some(false)) => Some(value),
            (true, Some(false)) | (false, Some(true)) => None,
        },
    }
}

impl Line {
    fn of(operations: &[Operation]) -> Line {
        // At one moment, beginnings first: then the two overlap.
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            moments.push((operation.begin, false, number));
            if operation.is_certain() {
                moments.push((operation.end, true, number));
            }
        }
        moments.sort_unstable();
        let mut begins = vec![NOTHING; operations.len()];
        let mut entries = Vec::with_capacity(moments.len());
        for (index, (_, is_end, operation)) in moments.iter().copied().enumerate() {
            let previous = index.checked_sub(1).unwrap_or(NOTHING);
            let next = if index + 1 == moments.len() { NOTHING } else { index + 1 };
            entries.push(Entry { operation, is_end, end: NOTHING, previous, next });
            match is_end {
                false => begins[operation] = index,
                true => entries[begins[operation]].end = index,
            }
        }
        let first = if entries.is_empty() { NOTHING } else { 0 };
        Line { entries, first }
    }

    fn lift(&mut self, begin: usize) {
        self.unlink(begin);
        match self.entries[begin].end {
            NOTHING => {}
            end => self.unlink(end),
        }
    }

    /// Undoes the last `lift`.
    fn put_back(&mut self, begin: usize) {
        match self.entries[begin].end {
            NOTHING => {}
            end => self.link(end),
        }
        self.link(begin);
    }

    fn unlink(&mut self, index: usize) {
        let Entry { previous, next, .. } = self.entries[index];
        match previous {
            NOTHING => self.first = next,
            previous => self.entries[previous].next = next,
        }
        if next != NOTHING {
            self.entries[next].previous = previous;
        }
    }

    fn link(&mut self, index: usize) {
        let Entry { previous, next, .. } = self.entries[index];
        match previous {
            NOTHING => self.first = index,
            previous => self.entries[previous].next = index,
        }
        if next != NOTHING {
            self.entries[next].previous = index;
        }
    }

    /// The transactions that stood before an end that could not be passed: none of them could be next.
    fn until(&self, end: usize, operations: &[Operation]) -> Vec<usize> {
        let mut stuck = Vec::new();
        let mut at = self.first;
        while at != end {
            stuck.push(operations[self.entries[at].operation].transaction);
            at = self.entries[at].next;
        }
        stuck
    }
}
