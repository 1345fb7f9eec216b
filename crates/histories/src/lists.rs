//! Transactions over lists to which values are appended: the order of versions from what was read, dependencies from
//! that order, and anomalies from both (Kingsbury and Alvaro, Elle, VLDB 2020; Adya, 1999).
//!
//! A list only grows, and every value is appended once, so a read names the whole order of appends before it. The last
//! appends of a list are known only if somebody reads it afterwards: a load ends with reads of all keys.

use crate::anomaly::{Anomaly, Kind};
use crate::cycles;
use crate::event::{Key, Malformed, Outcome, Process, Step, Value};
use crate::graph::{Graph, Why};
use crate::history::{History, Transaction};
use crate::level::{Isolation, Level, Order};
use crate::verdict::{Counts, Verdict};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Checks the lists of a history at a level. Takes the time that sorting takes, so it needs no budget.
///
/// # Errors
/// [`Malformed::WrittenTwice`] if a value is appended twice to one list.
pub fn check_lists(history: &History, level: Level) -> Result<Verdict, Malformed> {
    let lists = Lists::of(history.transactions())?;
    let mut anomalies = Vec::new();
    for reading in &lists.readings {
        lists.check_reading(reading, &mut anomalies);
    }
    lists.check_repeated_reads(level.isolation, &mut anomalies);
    let orders = lists.orders(&mut anomalies);
    let graph = lists.graph(&orders, level.order);
    anomalies.extend(cycles::find(&graph, level.isolation, lists.transactions));
    match anomalies.is_empty() {
        true => Ok(Verdict::Valid(lists.counts())),
        false => Ok(Verdict::Invalid(anomalies)),
    }
}

/// An append's place in its transaction.
#[derive(Debug, Clone, Copy)]
struct Append {
    transaction: usize,
    /// The value that the same transaction appended to the same list next.
    next: Option<Value>,
}

/// A read of a committed transaction.
struct Reading<'a> {
    transaction: usize,
    key: Key,
    seen: &'a [Value],
    /// What the transaction had appended to the list before.
    own: Vec<Value>,
}

impl Reading<'_> {
    /// What others had appended, if the transaction's own appends are where they must be.
    fn of_others(&self) -> Option<&[Value]> {
        self.seen.strip_suffix(self.own.as_slice())
    }
}

struct Lists<'a> {
    transactions: &'a [Transaction],
    appends: BTreeMap<(Key, Value), Append>,
    /// Acknowledged, or of unknown outcome and seen.
    is_committed: Vec<bool>,
    readings: Vec<Reading<'a>>,
}

impl<'a> Lists<'a> {
    fn of(transactions: &'a [Transaction]) -> Result<Lists<'a>, Malformed> {
        let mut appends: BTreeMap<(Key, Value), Append> = BTreeMap::new();
        for (number, transaction) in transactions.iter().enumerate() {
            let mut last: BTreeMap<Key, Value> = BTreeMap::new();
            for step in &transaction.steps {
                let Step::Append { key, value } = *step else { continue };
                if appends.insert((key, value), Append { transaction: number, next: None }).is_some() {
                    return Err(Malformed::WrittenTwice { key, value });
                }
                if let Some(before) = last.insert(key, value) {
                    appends.get_mut(&(key, before)).expect("just put in").next = Some(value);
                }
            }
        }
        let mut lists = Lists { transactions, appends, is_committed: Vec::new(), readings: Vec::new() };
        lists.find_committed();
        for (number, transaction) in transactions.iter().enumerate() {
            if lists.is_committed[number] {
                lists.readings.extend(readings(number, transaction));
            }
        }
        Ok(lists)
    }

    /// Who has committed: who was told so, and of the unknown those that a committed one saw.
    fn find_committed(&mut self) {
        self.is_committed = self.transactions.iter().map(|one| one.outcome == Outcome::Committed).collect();
        let mut ahead: VecDeque<usize> =
            (0..self.transactions.len()).filter(|number| self.is_committed[*number]).collect();
        while let Some(number) = ahead.pop_front() {
            for (key, seen) in self.transactions[number].steps.iter().filter_map(read) {
                for value in seen {
                    let Some(append) = self.appends.get(&(key, *value)) else { continue };
                    let writer = append.transaction;
                    if self.transactions[writer].outcome == Outcome::Unknown && !self.is_committed[writer] {
                        self.is_committed[writer] = true;
                        ahead.push_back(writer);
                    }
                }
            }
        }
    }

    /// What is wrong with one read, whatever else happened.
    fn check_reading(&self, reading: &Reading, anomalies: &mut Vec<Anomaly>) {
        let mut tell = |kind, what: String, other: Option<usize>| {
            let mut numbers = vec![reading.transaction];
            numbers.extend(other.filter(|other| *other != reading.transaction));
            anomalies.push(self.anomaly(kind, format!("list {}: {what}", reading.key.0), &numbers));
        };
        let mut met = BTreeSet::new();
        for (index, value) in reading.seen.iter().enumerate() {
            if !met.insert(*value) {
                tell(Kind::Duplicate, format!("{value} is there twice"), None);
                continue;
            }
            let Some(append) = self.appends.get(&(reading.key, *value)) else {
                tell(Kind::Garbage, format!("nobody appended {value}"), None);
                continue;
            };
            if append.transaction == reading.transaction {
                continue;
            }
            if self.transactions[append.transaction].outcome == Outcome::Failed {
                tell(Kind::AbortedRead, format!("{value} was rolled back"), Some(append.transaction));
            } else if append.next.is_some() && append.next != reading.seen.get(index + 1).copied() {
                let what = format!("{value} is not followed by what its transaction appended next");
                tell(Kind::IntermediateRead, what, Some(append.transaction));
            }
        }
        let is_own = |value: &Value| {
            self.appends.get(&(reading.key, *value)).is_some_and(|append| append.transaction == reading.transaction)
        };
        match reading.of_others() {
            None => tell(Kind::Internal, "its own appends are not at the end".to_owned(), None),
            Some(others) if others.iter().any(is_own) => {
                tell(Kind::Internal, "it read what it had yet to append".to_owned(), None);
            }
            Some(_) => {}
        }
    }

    /// With one snapshot per transaction, what others had appended is the same at each of its reads.
    fn check_repeated_reads(&self, isolation: Isolation, anomalies: &mut Vec<Anomaly>) {
        if isolation == Isolation::ReadCommitted {
            return;
        }
        let mut first: BTreeMap<(usize, Key), &[Value]> = BTreeMap::new();
        for reading in &self.readings {
            let Some(others) = reading.of_others() else { continue };
            let before = first.entry((reading.transaction, reading.key)).or_insert(others);
            if *before != others {
                let what = format!("list {}: two reads of one snapshot differ", reading.key.0);
                anomalies.push(self.anomaly(Kind::Internal, what, &[reading.transaction]));
            }
        }
    }

    /// Each list's order of appends: its longest read. All others must be beginnings of it.
    fn orders(&self, anomalies: &mut Vec<Anomaly>) -> BTreeMap<Key, &'a [Value]> {
        let mut longest: BTreeMap<Key, (usize, &'a [Value])> = BTreeMap::new();
        for reading in &self.readings {
            let entry = longest.entry(reading.key).or_insert((reading.transaction, reading.seen));
            if reading.seen.len() > entry.1.len() {
                *entry = (reading.transaction, reading.seen);
            }
        }
        let mut told = BTreeSet::new();
        for reading in &self.readings {
            let (holder, order) = longest[&reading.key];
            if !order.starts_with(reading.seen) && told.insert(reading.key) {
                let place = order.iter().zip(reading.seen).take_while(|(one, other)| one == other).count();
                let what = format!("list {}: two reads differ from place {place} on", reading.key.0);
                anomalies.push(self.anomaly(Kind::IncompatibleOrder, what, &[holder, reading.transaction]));
            }
        }
        longest.into_iter().map(|(key, (_, order))| (key, order)).collect()
    }

    fn graph(&self, orders: &BTreeMap<Key, &[Value]>, order: Order) -> Graph {
        let mut graph = Graph::of(self.transactions.len());
        let writer = |key: Key, value: Value| {
            let append = self.appends.get(&(key, value))?;
            self.is_committed[append.transaction].then_some(append.transaction)
        };
        // Committed appends that nobody saw stand after all that were seen, in an order that nobody knows.
        let mut unseen: BTreeMap<Key, Vec<(usize, Value)>> = BTreeMap::new();
        let seen: BTreeSet<(Key, Value)> =
            orders.iter().flat_map(|(key, order)| order.iter().map(|value| (*key, *value))).collect();
        for ((key, value), append) in &self.appends {
            if self.is_committed[append.transaction] && !seen.contains(&(*key, *value)) {
                unseen.entry(*key).or_default().push((append.transaction, *value));
            }
        }
        let nothing = Vec::new();
        for (key, order) in orders {
            for pair in order.windows(2) {
                if let (Some(from), Some(to)) = (writer(*key, pair[0]), writer(*key, pair[1])) {
                    graph.add(from, to, Why::Overwrote { key: *key, first: pair[0], second: pair[1] });
                }
            }
            let Some((first, from)) = order.last().and_then(|last| Some((*last, writer(*key, *last)?))) else {
                continue;
            };
            for (to, second) in unseen.get(key).unwrap_or(&nothing) {
                graph.add(from, *to, Why::Overwrote { key: *key, first, second: *second });
            }
        }
        for reading in &self.readings {
            let Some(others) = reading.of_others() else { continue };
            let key = reading.key;
            if let Some((value, from)) = others.last().and_then(|last| Some((*last, writer(key, *last)?))) {
                graph.add(from, reading.transaction, Why::Read { key, value });
            }
            match orders[&key].get(others.len()) {
                Some(value) => {
                    if let Some(to) = writer(key, *value) {
                        graph.add(reading.transaction, to, Why::Missed { key, value: *value });
                    }
                }
                None => {
                    for (to, value) in unseen.get(&key).unwrap_or(&nothing) {
                        graph.add(reading.transaction, *to, Why::Missed { key, value: *value });
                    }
                }
            }
        }
        match order {
            Order::Any => {}
            Order::Session => self.add_sessions(&mut graph),
            Order::RealTime => {
                let spans: Vec<(usize, u64, Option<u64>)> = (0..self.transactions.len())
                    .filter(|number| self.is_committed[*number])
                    .map(|number| {
                        let one = &self.transactions[number];
                        (number, one.begin.0, one.end.map(|end| end.0))
                    })
                    .collect();
                graph.add_real_time(&spans);
            }
        }
        graph
    }

    fn add_sessions(&self, graph: &mut Graph) {
        let mut acknowledged: BTreeMap<Process, usize> = BTreeMap::new();
        for (number, transaction) in self.transactions.iter().enumerate() {
            if !self.is_committed[number] {
                continue;
            }
            if let Some(before) = acknowledged.get(&transaction.process) {
                graph.add(*before, number, Why::SameClient);
            }
            if transaction.outcome == Outcome::Committed {
                acknowledged.insert(transaction.process, number);
            }
        }
    }

    fn anomaly(&self, kind: Kind, what: String, numbers: &[usize]) -> Anomaly {
        let told = numbers.iter().map(|number| format!("T{number}: {}", self.transactions[*number]));
        Anomaly { kind, story: std::iter::once(what).chain(told).collect() }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (number, transaction) in self.transactions.iter().enumerate() {
            match transaction.outcome {
                Outcome::Committed => counts.committed += 1,
                Outcome::Failed => counts.failed += 1,
                Outcome::Unknown => counts.unknown += 1,
            }
            if self.is_committed[number] {
                counts.steps += transaction.steps.len();
                counts.unknown_but_seen += usize::from(transaction.outcome == Outcome::Unknown);
            }
        }
        let keys: BTreeSet<Key> = self.appends.keys().map(|(key, _)| *key).collect();
        counts.keys = keys.len();
        counts
    }
}

fn read(step: &Step) -> Option<(Key, &[Value])> {
    match step {
        Step::ReadList { key, seen: Some(seen) } => Some((*key, seen)),
        _ => None,
    }
}

fn readings(number: usize, transaction: &Transaction) -> Vec<Reading<'_>> {
    let mut own: BTreeMap<Key, Vec<Value>> = BTreeMap::new();
    let mut readings = Vec::new();
    for step in &transaction.steps {
        if let Step::Append { key, value } = *step {
            own.entry(key).or_default().push(value);
        }
        if let Some((key, seen)) = read(step) {
            let own = own.get(&key).cloned().unwrap_or_default();
            readings.push(Reading { transaction: number, key, seen, own });
        }
    }
    readings
}

#[cfg(test)]
mod tests;
