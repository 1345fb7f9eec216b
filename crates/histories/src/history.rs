//! Transactions, made of the two events of each.

use crate::event::{Event, Malformed, Moment, Node, Outcome, Phase, Process, Step};
use std::collections::BTreeMap;
use std::fmt;

/// One transaction: what it did, and between which moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its client.
    pub process: Process,
    /// The server that it ran on.
    pub node: Node,
    /// It had not begun before.
    pub begin: Moment,
    /// When its client learned the outcome; `None` if it never did.
    pub end: Option<Moment>,
    /// What became of it.
    pub outcome: Outcome,
    /// What it did, with what it was told.
    pub steps: Vec<Step>,
}

/// All transactions of a history, in the order of their beginnings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    transactions: Vec<Transaction>,
}

impl History {
    /// Pairs beginnings with ends. Events may come in any order between clients, but in the order of time for each.
    /// A transaction without an end has an unknown outcome.
    ///
    /// # Errors
    /// [`Malformed::Sequence`] if a client does two things at once or goes back in time.
    pub fn of(events: impl IntoIterator<Item = Event>) -> Result<History, Malformed> {
        let mut open: BTreeMap<Process, Event> = BTreeMap::new();
        let mut last: BTreeMap<Process, Moment> = BTreeMap::new();
        let mut transactions = Vec::new();
        for event in events {
            let refuse = |why| Err(Malformed::Sequence { process: event.process, at: event.at, why });
            if last.insert(event.process, event.at).is_some_and(|before| before > event.at) {
                return refuse("time runs backwards");
            }
            match event.phase {
                Phase::Invoke => {
                    if open.contains_key(&event.process) {
                        return refuse("begins while its last transaction is open");
                    }
                    open.insert(event.process, event);
                }
                Phase::Return(outcome) => {
                    let Some(begin) = open.remove(&event.process) else {
                        return refuse("ends what it did not begin");
                    };
                    // Of an unknown outcome the client's error is no end: it may still happen.
                    let end = (outcome != Outcome::Unknown).then_some(event.at);
                    transactions.push(Transaction {
                        process: event.process,
                        node: event.node,
                        begin: begin.at,
                        end,
                        outcome,
                        steps: event.steps,
                    });
                }
            }
        }
        for (process, begin) in open {
            transactions.push(Transaction {
                process,
                node: begin.node,
                begin: begin.at,
                end: None,
                outcome: Outcome::Unknown,
                steps: begin.steps,
            });
        }
        transactions.sort_by_key(|transaction| (transaction.begin, transaction.process));
        Ok(History { transactions })
    }

    /// Reads the text form, an event per line; empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// The first line that is no event, and as [`of`](Self::of).
    pub fn parse(text: &str) -> Result<History, Malformed> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        History::of(lines.map(str::parse).collect::<Result<Vec<Event>, Malformed>>()?)
    }

    /// The transactions, by beginning.
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Committed => "committed",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
        };
        write!(f, "process {} on node {}, from {} to ", self.process.0, self.node.0, self.begin.0)?;
        match self.end {
            Some(end) => write!(f, "{}", end.0)?,
            None => write!(f, "?")?,
        }
        write!(f, ", {outcome}:")?;
        self.steps.iter().try_for_each(|step| write!(f, " {}", Shortened(step)))
    }
}

/// A step as reports show it: of a long list only the end, where the news is.
struct Shortened<'a>(&'a Step);

const VALUES_SHOWN: usize = 8;

impl fmt::Display for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Step::ReadList { key, seen: Some(values) } if values.len() > VALUES_SHOWN => {
                let tail: Vec<String> = values[values.len() - VALUES_SHOWN..].iter().map(ToString::to_string).collect();
                write!(f, "l {} ({} values) ...,{}", key.0, values.len(), tail.join(","))
            }
            step => write!(f, "{step}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_and_ends_are_paired() {
        let history = History::parse("1 p1 n1 invoke a 1 1\n2 p2 n1 invoke l 1 ?\n3 p2 n1 ok l 1 1\n").unwrap();
        let [writer, reader] = history.transactions() else { panic!("{history:?}") };
        assert_eq!((writer.outcome, writer.end), (Outcome::Unknown, None));
        assert_eq!((reader.begin, reader.end), (Moment(2), Some(Moment(3))));
    }

    #[test]
    fn a_client_does_one_thing_after_another() {
        assert!(History::parse("1 p1 n1 invoke\n2 p1 n1 invoke").is_err());
        assert!(History::parse("1 p1 n1 ok").is_err());
        assert!(History::parse("2 p1 n1 invoke\n1 p1 n1 ok").is_err());
    }
}
