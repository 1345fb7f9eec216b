//! Linearizability of registers, key by key: a history is linearizable if and only if its part on every key is
//! (Herlihy and Wing's locality).

use crate::anomaly::{Anomaly, Kind};
use crate::event::{Key, Malformed, Outcome, Step, Value};
use crate::history::{History, Transaction};
use crate::linearization;
use crate::verdict::{Counts, Verdict};
use crate::zones;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What every register holds before anybody writes it.
pub const REGISTER_START: Value = Value(0);

/// What an operation does to its register, and what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Write(Value),
    Read(Value),
    CompareAndSet { expected: Value, value: Value, swapped: Option<bool> },
}

/// One operation on one register.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    /// Its number in the history, for reports.
    pub(crate) transaction: usize,
    pub(crate) begin: u64,
    /// `u64::MAX` if nobody knows whether it happened.
    pub(crate) end: u64,
    pub(crate) action: Action,
}

impl Operation {
    /// Whether it certainly happened.
    pub(crate) fn is_certain(&self) -> bool {
        self.end != u64::MAX
    }
}

/// What a checker found out about one key.
pub(crate) enum Finding {
    Linearizable,
    /// Not, by these transactions.
    Not(Vec<usize>),
    OutOfBudget,
}

/// Checks every register of a history for linearizability. The budget is for all keys together.
///
/// Each step counts as an operation with its transaction's times, which is what a transaction of one step promises.
///
/// # Errors
/// [`Malformed::WrittenTwice`] if two writes to a key have the same value: aborted reads could not be told.
pub fn check_registers(history: &History, budget: Duration) -> Result<Verdict, Malformed> {
    let deadline = Instant::now() + budget;
    let transactions = history.transactions();
    let registers = Registers::of(transactions)?;
    let mut anomalies = Vec::new();
    let mut undecided = Vec::new();
    for (key, register) in &registers.keys {
        let strange = register.strange_reads(*key, transactions);
        if !strange.is_empty() {
            anomalies.extend(strange);
            continue;
        }
        let finding = match register.has_comparisons {
            false => zones::check(&register.operations),
            true => linearization::check(&register.operations, deadline),
        };
        match finding {
            Finding::Linearizable => {}
            Finding::Not(concerned) => anomalies.push(Anomaly {
                kind: Kind::NotLinearizable,
                story: std::iter::once(format!("register {}", key.0))
                    .chain(concerned.into_iter().map(|number| format!("T{number}: {}", transactions[number])))
                    .collect(),
            }),
            Finding::OutOfBudget => undecided.push(format!("register {}", key.0)),
        }
    }
    // An anomaly is one, whatever could not be decided beside it.
    Ok(match (anomalies.is_empty(), undecided.is_empty()) {
        (false, _) => Verdict::Invalid(anomalies),
        (true, false) => Verdict::Undecided(format!("{} in {budget:?}", undecided.join(", "))),
        (true, true) => Verdict::Valid(registers.counts),
    })
}

struct Registers {
    keys: BTreeMap<Key, Register>,
    counts: Counts,
}

#[derive(Default)]
struct Register {
    operations: Vec<Operation>,
    /// Written by whom was certainly rolled back.
    aborted: BTreeMap<Value, usize>,
    written: BTreeSet<Value>,
    has_comparisons: bool,
}

impl Registers {
    fn of(transactions: &[Transaction]) -> Result<Registers, Malformed> {
        let mut keys: BTreeMap<Key, Register> = BTreeMap::new();
        let mut counts = Counts::default();
        for (number, transaction) in transactions.iter().enumerate() {
            match transaction.outcome {
                Outcome::Committed => counts.committed += 1,
                Outcome::Failed => counts.failed += 1,
                Outcome::Unknown => counts.unknown += 1,
            }
            for step in &transaction.steps {
                let Some((key, action)) = action(step) else { continue };
                let register = keys.entry(key).or_default();
                register.has_comparisons |= matches!(action, Some(Action::CompareAndSet { .. }));
                if let Some(value) = written(step) {
                    if value == REGISTER_START || !register.written.insert(value) {
                        return Err(Malformed::WrittenTwice { key, value });
                    }
                    if transaction.outcome == Outcome::Failed {
                        register.aborted.insert(value, number);
                    }
                }
                // Neither what was rolled back nor what an unacknowledged reader saw says anything.
                let speaks = match transaction.outcome {
                    Outcome::Committed => true,
                    Outcome::Failed => false,
                    Outcome::Unknown => written(step).is_some(),
                };
                if let (true, Some(action)) = (speaks, action) {
                    counts.steps += usize::from(transaction.outcome == Outcome::Committed);
                    register.operations.push(Operation {
                        transaction: number,
                        // The start's write is at zero, before all.
                        begin: transaction.begin.0 + 1,
                        end: transaction.end.map_or(u64::MAX, |end| end.0 + 1),
                        action,
                    });
                }
            }
        }
        counts.keys = keys.len();
        Ok(Registers { keys, counts })
    }
}

impl Register {
    /// Reads of what was rolled back or never written: wrong whatever the order.
    fn strange_reads(&self, key: Key, transactions: &[Transaction]) -> Vec<Anomaly> {
        let mut found = Vec::new();
        for operation in &self.operations {
            let seen = match operation.action {
                Action::Read(value) => value,
                Action::CompareAndSet { expected, swapped: Some(true), .. } => expected,
                _ => continue,
            };
            let reader = operation.transaction;
            let mut story =
                vec![format!("register {} held {seen}", key.0), format!("T{reader}: {}", transactions[reader])];
            if let Some(writer) = self.aborted.get(&seen) {
                story.push(format!("T{writer}: {}", transactions[*writer]));
                found.push(Anomaly { kind: Kind::AbortedRead, story });
            } else if seen != REGISTER_START && !self.written.contains(&seen) {
                found.push(Anomaly { kind: Kind::Garbage, story });
            }
        }
        found
    }
}

/// The register of a step and what it does there; no action where the client was not told enough.
fn action(step: &Step) -> Option<(Key, Option<Action>)> {
    match *step {
        Step::Write { key, value } => Some((key, Some(Action::Write(value)))),
        Step::Read { key, seen } => Some((key, seen.map(Action::Read))),
        Step::CompareAndSet { key, expected, value, swapped } => {
            Some((key, Some(Action::CompareAndSet { expected, value, swapped })))
        }
        Step::Append { .. } | Step::ReadList { .. } => None,
    }
}

fn written(step: &Step) -> Option<Value> {
    match *step {
        Step::Write { value, .. } => Some(value),
        Step::CompareAndSet { value, swapped, .. } if swapped != Some(false) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> Verdict {
        check_registers(&History::parse(text).unwrap(), Duration::from_secs(10)).unwrap()
    }

    /// One process per line: begin, end, outcome and step.
    fn of(lines: &[(u64, u64, &str, &str)]) -> String {
        let mut text = String::new();
        for (process, (begin, end, outcome, step)) in lines.iter().enumerate() {
            text.push_str(&format!("{begin} p{process} n1 invoke {step}\n{end} p{process} n1 {outcome} {step}\n"));
        }
        text
    }

    fn kinds(text: &str) -> Vec<Kind> {
        verdict(text).anomalies().iter().map(|anomaly| anomaly.kind).collect()
    }

    #[test]
    fn what_overlaps_may_be_seen_or_not() {
        let old = of(&[(0, 10, "ok", "w 1 1"), (1, 9, "ok", "r 1 0")]);
        let new = of(&[(0, 10, "ok", "w 1 1"), (1, 9, "ok", "r 1 1")]);
        assert!(verdict(&old).is_valid());
        assert!(verdict(&new).is_valid());
    }

    #[test]
    fn a_stale_read_is_found() {
        assert_eq!(kinds(&of(&[(0, 1, "ok", "w 1 1"), (2, 3, "ok", "r 1 0")])), [Kind::NotLinearizable]);
    }

    #[test]
    fn a_read_that_goes_back_is_found() {
        let text = of(&[(0, 100, "ok", "w 1 1"), (1, 2, "ok", "r 1 1"), (3, 4, "ok", "r 1 0")]);
        assert_eq!(kinds(&text), [Kind::NotLinearizable]);
    }

    #[test]
    fn an_unknown_write_may_come_late_or_never_but_does_not_come_and_go() {
        let never = of(&[(0, 1, "unknown", "w 1 1"), (2, 3, "ok", "r 1 0")]);
        let late = of(&[(0, 1, "unknown", "w 1 1"), (2, 3, "ok", "r 1 0"), (4, 5, "ok", "r 1 1")]);
        let gone = of(&[(0, 1, "unknown", "w 1 1"), (2, 3, "ok", "r 1 1"), (4, 5, "ok", "r 1 0")]);
        assert!(verdict(&never).is_valid());
        assert!(verdict(&late).is_valid());
        assert_eq!(kinds(&gone), [Kind::NotLinearizable]);
    }

    #[test]
    fn reads_of_what_was_rolled_back_or_never_written_are_found() {
        assert_eq!(kinds(&of(&[(0, 1, "fail", "w 1 1"), (0, 3, "ok", "r 1 1")])), [Kind::AbortedRead]);
        assert_eq!(kinds(&of(&[(0, 3, "ok", "r 1 8")])), [Kind::Garbage]);
        assert_eq!(kinds(&of(&[(0, 1, "ok", "r 1 1"), (2, 3, "ok", "w 1 1")])), [Kind::NotLinearizable]);
    }

    #[test]
    fn of_two_comparisons_with_one_value_one_succeeds() {
        let both = of(&[(0, 5, "ok", "c 1 0 1 yes"), (0, 5, "ok", "c 1 0 2 yes")]);
        let one = of(&[(0, 5, "ok", "c 1 0 1 yes"), (0, 5, "ok", "c 1 0 2 no"), (6, 7, "ok", "r 1 1")]);
        assert_eq!(kinds(&both), [Kind::NotLinearizable]);
        assert!(verdict(&one).is_valid());
    }

    #[test]
    fn registers_are_judged_one_by_one() {
        let text = of(&[(0, 1, "ok", "w 1 1"), (0, 1, "ok", "w 2 1"), (2, 3, "ok", "r 2 1"), (2, 3, "ok", "r 1 0")]);
        let found = verdict(&text);
        let [anomaly] = found.anomalies() else { panic!("{found:?}") };
        assert_eq!(anomaly.story[0], "register 1");
    }

    #[test]
    fn a_spent_budget_is_not_a_pass() {
        let text = of(&[(0, 5, "ok", "c 1 0 1 yes"), (0, 5, "ok", "c 1 1 2 yes")]);
        let found = check_registers(&History::parse(&text).unwrap(), Duration::ZERO).unwrap();
        assert!(matches!(found, Verdict::Undecided(_)), "{found:?}");
        assert!(!found.is_valid());
    }

    #[test]
    fn equal_values_are_refused() {
        let text = of(&[(0, 1, "ok", "w 1 1"), (2, 3, "ok", "w 1 1")]);
        let refused = check_registers(&History::parse(&text).unwrap(), Duration::ZERO);
        assert_eq!(refused, Err(Malformed::WrittenTwice { key: Key(1), value: Value(1) }));
    }
}
