//! The checkers against the definitions themselves, on histories so small that every execution can be tried. They share
//! no idea with the checkers: no zones, no graph, only "is there an execution that shows this?".

use crate::event::{Event, Key, Moment, Node, Outcome, Phase, Process, Step, Value};
use crate::registers::{Action, Finding, Operation};
use crate::{check_lists, linearization, zones, History, Isolation, Level, Order, Transaction};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// xorshift64*, from a seed that a failure names.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn from_seed(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..4).for_each(|_| {
            random.below(2);
        });
        random
    }
}

type State = BTreeMap<Key, Vec<Value>>;

/// What an execution has still to do.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Execution {
    committed: State,
    /// Per transaction: the next step, `None` before its snapshot.
    at: Vec<Option<usize>>,
    is_done: Vec<bool>,
    snapshots: Vec<State>,
    own: Vec<State>,
    /// Per list that a transaction has appended to and not yet committed (READ COMMITTED's row lock).
    locks: BTreeMap<Key, usize>,
    /// When a list was last committed to, in numbers of commits; and each snapshot's number.
    changed: BTreeMap<Key, usize>,
    commits: usize,
    snapshot_at: Vec<usize>,
}

/// Whether the transactions can have been executed at the level, every one of them.
fn is_possible(transactions: &[Transaction], level: Level) -> bool {
    let count = transactions.len();
    let execution = Execution {
        committed: State::new(),
        at: vec![None; count],
        is_done: vec![false; count],
        snapshots: vec![State::new(); count],
        own: vec![State::new(); count],
        locks: BTreeMap::new(),
        changed: BTreeMap::new(),
        commits: 0,
        snapshot_at: vec![0; count],
    };
    explore(&execution, transactions, level, &mut HashSet::new())
}

fn explore(now: &Execution, transactions: &[Transaction], level: Level, visited: &mut HashSet<Execution>) -> bool {
    if now.is_done.iter().all(|done| *done) {
        return true;
    }
    (0..transactions.len()).filter(|number| !now.is_done[*number]).any(|number| {
        advance(now, transactions, level, number)
            .is_some_and(|next| visited.insert(next.clone()) && explore(&next, transactions, level, visited))
    })
}

/// One transaction's next move: its snapshot, a step, or its commit. At the snapshot levels the steps belong to the
/// commit; at SERIALIZABLE all is one move.
fn advance(now: &Execution, transactions: &[Transaction], level: Level, number: usize) -> Option<Execution> {
    let mut next = now.clone();
    let one = &transactions[number];
    let Some(at) = now.at[number] else {
        let precedes = |other: &Transaction| match level.order {
            Order::RealTime => other.end.is_some_and(|end| end < one.begin),
            Order::Session => other.end.is_some() && other.process == one.process && other.begin < one.begin,
            Order::Any => false,
        };
        if (0..transactions.len()).any(|other| precedes(&transactions[other]) && !now.is_done[other]) {
            return None;
        }
        next.at[number] = Some(0);
        next.snapshots[number] = now.committed.clone();
        next.snapshot_at[number] = now.commits;
        return match level.isolation {
            Isolation::Serializable => run_to_commit(next, one, number, 0),
            Isolation::Snapshot | Isolation::ReadCommitted => Some(next),
        };
    };
    match level.isolation {
        Isolation::Serializable => unreachable!("done in one move"),
        Isolation::Snapshot => {
            let is_beaten =
                appended(one).any(|key| now.changed.get(&key).is_some_and(|at| *at > now.snapshot_at[number]));
            if is_beaten {
                return None;
            }
            run_to_commit(next, one, number, at)
        }
        Isolation::ReadCommitted => {
            if at == one.steps.len() {
                return run_to_commit(next, one, number, at);
            }
            next.snapshots[number] = now.committed.clone();
            if let Step::Append { key, .. } = one.steps[at] {
                if now.locks.get(&key).is_some_and(|holder| *holder != number) {
                    return None;
                }
                next.locks.insert(key, number);
            }
            run_step(&mut next, &one.steps[at], number)?;
            next.at[number] = Some(at + 1);
            Some(next)
        }
    }
}

fn appended(one: &Transaction) -> impl Iterator<Item = Key> + '_ {
    one.steps.iter().filter_map(|step| match step {
        Step::Append { key, .. } => Some(*key),
        _ => None,
    })
}

fn run_step(next: &mut Execution, step: &Step, number: usize) -> Option<()> {
    match step {
        Step::Append { key, value } => next.own[number].entry(*key).or_default().push(*value),
        Step::ReadList { key, seen: Some(seen) } => {
            let mut held = next.snapshots[number].get(key).cloned().unwrap_or_default();
            held.extend(next.own[number].get(key).into_iter().flatten());
            return (held == *seen).then_some(());
        }
        _ => {}
    }
    Some(())
}

fn run_to_commit(mut next: Execution, one: &Transaction, number: usize, from: usize) -> Option<Execution> {
    one.steps[from..].iter().try_for_each(|step| run_step(&mut next, step, number))?;
    next.commits += 1;
    for (key, values) in std::mem::take(&mut next.own[number]) {
        next.committed.entry(key).or_default().extend(values);
        next.changed.insert(key, next.commits);
    }
    next.locks.retain(|_, holder| *holder != number);
    next.is_done[number] = true;
    Some(next)
}

/// Whether some choice of the unknown outcomes makes the history possible.
fn is_explained(history: &History, level: Level) -> bool {
    let all = history.transactions();
    let unknown: Vec<usize> = (0..all.len()).filter(|number| all[*number].outcome == Outcome::Unknown).collect();
    (0..1u32 << unknown.len()).any(|choice| {
        let happened: Vec<Transaction> = (0..all.len())
            .filter(|number| match unknown.iter().position(|one| one == number) {
                Some(bit) => choice & (1 << bit) != 0,
                None => all[*number].outcome == Outcome::Committed,
            })
            .map(|number| all[number].clone())
            .collect();
        is_possible(&happened, level)
    })
}

/// A tiny history: a random execution at random isolation, with a lie now and then, and a last read of everything.
fn random_history(random: &mut Random) -> History {
    let keys = 1 + random.below(2) as u32;
    let count = 2 + random.below(3) as usize;
    let mut next_value = 0;
    let mut transactions: Vec<(u64, u64, Outcome, Vec<Step>)> = (0..count)
        .map(|_| {
            let begin = random.below(40);
            let end = begin + 1 + random.below(25);
            let outcome = match random.below(8) {
                0 => Outcome::Failed,
                1 => Outcome::Unknown,
                _ => Outcome::Committed,
            };
            let steps = (0..1 + random.below(3))
                .map(|_| {
                    let key = Key(random.below(u64::from(keys)) as u32);
                    if random.below(2) == 0 {
                        return Step::ReadList { key, seen: None };
                    }
                    next_value += 1;
                    Step::Append { key, value: Value(next_value) }
                })
                .collect();
            (begin, end, outcome, steps)
        })
        .collect();
    transactions.push((100, 101, Outcome::Committed, {
        (0..keys).map(|key| Step::ReadList { key: Key(key), seen: None }).collect()
    }));
    fill_in(random, &mut transactions);
    let mut events = Vec::new();
    for (process, (begin, end, outcome, steps)) in transactions.into_iter().enumerate() {
        let process = Process(process as u32);
        let event = |at, phase| Event { at: Moment(at), process, node: Node(1), phase, steps: steps.clone() };
        events.push(event(begin, Phase::Invoke));
        events.push(event(end, Phase::Return(outcome)));
    }
    History::of(events).unwrap()
}

/// Executes the transactions in some order near that of time, each against the state of its own or an older commit.
fn fill_in(random: &mut Random, transactions: &mut [(u64, u64, Outcome, Vec<Step>)]) {
    let mut order: Vec<usize> = (0..transactions.len()).collect();
    order.sort_by_key(|number| transactions[*number].0);
    let last = transactions.len() - 1;
    for index in 0..last {
        if random.below(4) == 0 && index + 1 < last {
            order.swap(index, index + 1);
        }
    }
    let mut states = vec![State::new()];
    for number in order {
        let outcome = transactions[number].2;
        let is_old = number != last && random.below(2) == 0;
        let mut at = states.len() - 1;
        if is_old {
            at = at.saturating_sub(1 + random.below(2) as usize);
        }
        let changes_midway = random.below(6) == 0;
        let mut own = State::new();
        for step in &mut transactions[number].3 {
            match step {
                Step::Append { key, value } => own.entry(*key).or_default().push(*value),
                Step::ReadList { key, seen } => {
                    let mut held = states[at].get(key).cloned().unwrap_or_default();
                    held.extend(own.get(key).into_iter().flatten());
                    if random.below(60) == 0 {
                        held.pop();
                    }
                    *seen = Some(held);
                }
                _ => {}
            }
            if changes_midway {
                at = states.len() - 1;
            }
        }
        let takes_effect = match outcome {
            Outcome::Committed => random.below(50) != 0,
            Outcome::Unknown => random.below(2) == 0,
            Outcome::Failed => random.below(20) == 0,
        };
        if takes_effect {
            let mut state = states.last().expect("there is a first").clone();
            for (key, values) in own {
                state.entry(key).or_default().extend(values);
            }
            states.push(state);
        }
    }
}

/// Some seconds' worth.
const SEEDS: u64 = 1_000;

#[test]
fn lists_are_judged_as_the_definitions_judge_them() {
    let isolations = [Isolation::Snapshot, Isolation::Serializable, Isolation::ReadCommitted];
    let mut found: BTreeMap<(u8, bool), usize> = BTreeMap::new();
    for seed in 0..SEEDS {
        let history = random_history(&mut Random::from_seed(seed));
        for (number, isolation) in isolations.into_iter().enumerate() {
            for order in [Order::RealTime, Order::Any] {
                let level = Level { isolation, order };
                let verdict = check_lists(&history, level).unwrap();
                let possible = is_explained(&history, level);
                *found.entry((number as u8, verdict.is_valid())).or_default() += 1;
                // At READ COMMITTED a transaction's statements are ordered too, which the dependencies do not say: there
                // the checker may miss something, never invent it. Without real time, the last read need not be last.
                let is_exact = isolation != Isolation::ReadCommitted && order == Order::RealTime;
                let agrees = if is_exact { verdict.is_valid() == possible } else { verdict.is_valid() || !possible };
                assert!(agrees, "seed {seed}, {level:?}: possible: {possible}, {verdict:?}\n{history:#?}");
            }
        }
    }
    // Both answers must have been asked for, often.
    for number in 0..isolations.len() as u8 {
        for valid in [true, false] {
            assert!(found.get(&(number, valid)).copied().unwrap_or(0) > 100, "{found:?}");
        }
    }
}

/// Whether some order of the operations, each within its time, explains what they returned.
fn is_linearizable(operations: &[Operation], taken: u32, value: Value) -> bool {
    let is_left = |number: usize| taken & (1 << number) == 0;
    if (0..operations.len()).all(|number| !is_left(number) || !operations[number].is_certain()) {
        return true;
    }
    (0..operations.len()).filter(|number| is_left(*number)).any(|number| {
        let one = &operations[number];
        let waits = (0..operations.len()).any(|other| is_left(other) && operations[other].end < one.begin);
        let after = match one.action {
            Action::Write(written) => Some(written),
            Action::Read(seen) => (seen == value).then_some(value),
            Action::CompareAndSet { expected, value: new, swapped } => match swapped {
                Some(true) => (expected == value).then_some(new),
                Some(false) => (expected != value).then_some(value),
                None => Some(if expected == value { new } else { value }),
            },
        };
        !waits && after.is_some_and(|after| is_linearizable(operations, taken | 1 << number, after))
    })
}

fn random_operations(random: &mut Random, with_comparisons: bool) -> Vec<Operation> {
    let count = 2 + random.below(6) as usize;
    let mut next = 0;
    let mut operations: Vec<Operation> = (0..count)
        .map(|transaction| {
            let begin = 1 + random.below(30);
            let end = begin + 1 + random.below(15);
            let action = match random.below(if with_comparisons { 3 } else { 2 }) {
                0 => Action::Read(Value(0)),
                1 => {
                    next += 1;
                    Action::Write(Value(next))
                }
                _ => {
                    next += 1;
                    let swapped = [None, Some(true), Some(false)][random.below(3) as usize];
                    Action::CompareAndSet { expected: Value(0), value: Value(next), swapped }
                }
            };
            Operation { transaction, begin, end, action }
        })
        .collect();
    for operation in &mut operations {
        let value = Value(random.below(next as u64 + 1) as i64);
        match &mut operation.action {
            Action::Read(seen) => *seen = value,
            Action::CompareAndSet { expected, swapped, .. } => {
                *expected = value;
                if swapped.is_none() {
                    operation.end = u64::MAX;
                }
            }
            Action::Write(_) if random.below(5) == 0 => operation.end = u64::MAX,
            Action::Write(_) => {}
        }
    }
    operations
}

#[test]
fn registers_are_judged_as_the_definition_judges_them() {
    let later = Instant::now() + Duration::from_secs(600);
    for with_comparisons in [false, true] {
        let mut found = [0; 2];
        for seed in 0..40_000 {
            let operations = random_operations(&mut Random::from_seed(seed), with_comparisons);
            let expected = is_linearizable(&operations, 0, Value(0));
            found[usize::from(expected)] += 1;
            let searched = matches!(linearization::check(&operations, later), Finding::Linearizable);
            assert_eq!(searched, expected, "seed {seed}: search: {operations:?}");
            if !with_comparisons {
                let zoned = matches!(zones::check(&operations), Finding::Linearizable);
                assert_eq!(zoned, expected, "seed {seed}: zones: {operations:?}");
            }
        }
        assert!(found.iter().all(|count| *count > 2_000), "both answers must be asked for: {found:?}");
    }
}
