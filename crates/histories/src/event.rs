//! One line of a history: a client begins a transaction, or learns what became of it.
//!
//! The text form is for keeping a history beside a failure, and for writing one by hand:
//!
//! ```text
//! 120 p3 n1 invoke a 7 41 l 9 ?        process 3, on node 1: append 41 to list 7, read list 9
//! 180 p3 n1 ok a 7 41 l 9 12,40        committed; list 9 held 12 and 40 ("-" is the empty list)
//! 200 p1 n2 invoke w 5 3 r 6 ?         write 3 to register 5, read register 6
//! 900 p1 n2 unknown w 5 3 r 6 ?        nobody knows
//! 950 p2 n2 fail c 5 3 4 ?             compare register 5 with 3 and set it to 4: certainly rolled back
//! ```

use std::fmt;
use std::str::FromStr;

/// Names a client that does one transaction after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process(pub u32);

/// Names the server that a client talked to; only for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub u32);

/// Names a register or a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u32);

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub i64);

/// Nanoseconds on the one clock that all clients of a history share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

/// One step of a transaction. What it returned is `None` before the end, and where the client never learned it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Sets a register.
    Write {
        /// The register.
        key: Key,
        /// Its new value.
        value: Value,
    },
    /// Reads a register.
    Read {
        /// The register.
        key: Key,
        /// What it held.
        seen: Option<Value>,
    },
    /// Sets a register if it holds what is expected.
    CompareAndSet {
        /// The register.
        key: Key,
        /// What it must hold.
        expected: Value,
        /// Its new value.
        value: Value,
        /// Whether it did.
        swapped: Option<bool>,
    },
    /// Appends to a list. A value is appended once in a history.
    Append {
        /// The list.
        key: Key,
        /// What is appended.
        value: Value,
    },
    /// Reads a list, the transaction's own appends included.
    ReadList {
        /// The list.
        key: Key,
        /// What it held.
        seen: Option<Vec<Value>>,
    },
}

/// How a transaction ended, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its commit was acknowledged.
    Committed,
    /// It was certainly rolled back.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// Which end of a transaction an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The client is about to begin.
    Invoke,
    /// The client has learned what became of it.
    Return(Outcome),
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    /// When: taken before the first byte was sent, or after the last was received.
    pub at: Moment,
    /// By which client.
    pub process: Process,
    /// On which server.
    pub node: Node,
    /// Beginning or end.
    pub phase: Phase,
    /// All steps of the transaction; at the end with what they returned.
    pub steps: Vec<Step>,
}

/// What makes a text or a sequence of events no history.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// A line that is no event.
    #[error("not an event: {line:?}: {why}")]
    Line {
        /// The line.
        line: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A client that begins while its last transaction is open, ends what it did not begin, or goes back in time.
    #[error("process {} at {}: {why}", .process.0, .at.0)]
    Sequence {
        /// The client.
        process: Process,
        /// When.
        at: Moment,
        /// What is wrong.
        why: &'static str,
    },
    /// A value that is written twice: what is read could not be told apart.
    #[error("value {} is written to key {} twice", .value.0, .key.0)]
    WrittenTwice {
        /// Where.
        key: Key,
        /// What.
        value: Value,
    },
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Write { key, value } => write!(f, "w {} {value}", key.0),
            Step::Read { key, seen } => match seen {
                Some(value) => write!(f, "r {} {value}", key.0),
                None => write!(f, "r {} ?", key.0),
            },
            Step::CompareAndSet { key, expected, value, swapped } => {
                let swapped = match swapped {
                    None => "?",
                    Some(true) => "yes",
                    Some(false) => "no",
                };
                write!(f, "c {} {expected} {value} {swapped}", key.0)
            }
            Step::Append { key, value } => write!(f, "a {} {value}", key.0),
            Step::ReadList { key, seen } => match seen {
                None => write!(f, "l {} ?", key.0),
                Some(values) if values.is_empty() => write!(f, "l {} -", key.0),
                Some(values) => {
                    let values: Vec<String> = values.iter().map(Value::to_string).collect();
                    write!(f, "l {} {}", key.0, values.join(","))
                }
            },
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Invoke => "invoke",
            Phase::Return(Outcome::Committed) => "ok",
            Phase::Return(Outcome::Failed) => "fail",
            Phase::Return(Outcome::Unknown) => "unknown",
        };
        write!(f, "{} p{} n{} {phase}", self.at.0, self.process.0, self.node.0)?;
        self.steps.iter().try_for_each(|step| write!(f, " {step}"))
    }
}

impl FromStr for Event {
    type Err = Malformed;

    fn from_str(line: &str) -> Result<Event, Malformed> {
        parse(line).map_err(|why| Malformed::Line { line: line.to_owned(), why })
    }
}

fn parse(line: &str) -> Result<Event, &'static str> {
    let mut words = line.split_whitespace();
    let at = Moment(number(words.next())?);
    let process = Process(number(words.next().and_then(|word| word.strip_prefix('p')))?);
    let node = Node(number(words.next().and_then(|word| word.strip_prefix('n')))?);
    let phase = match words.next() {
        Some("invoke") => Phase::Invoke,
        Some("ok") => Phase::Return(Outcome::Committed),
        Some("fail") => Phase::Return(Outcome::Failed),
        Some("unknown") => Phase::Return(Outcome::Unknown),
        _ => return Err("the fourth word is invoke, ok, fail or unknown"),
    };
    let mut steps = Vec::new();
    while let Some(word) = words.next() {
        let key = Key(number(words.next())?);
        steps.push(match word {
            "w" => Step::Write { key, value: Value(number(words.next())?) },
            "r" => Step::Read { key, seen: if_known(words.next(), |word| number(Some(word)).map(Value))? },
            "c" => Step::CompareAndSet {
                key,
                expected: Value(number(words.next())?),
                value: Value(number(words.next())?),
                swapped: if_known(words.next(), |word| match word {
                    "yes" => Ok(true),
                    "no" => Ok(false),
                    _ => Err("a comparison ends with yes, no or ?"),
                })?,
            },
            "a" => Step::Append { key, value: Value(number(words.next())?) },
            "l" => Step::ReadList { key, seen: if_known(words.next(), list)? },
            _ => return Err("a step is one of w, r, c, a, l"),
        });
    }
    Ok(Event { at, process, node, phase, steps })
}

fn list(word: &str) -> Result<Vec<Value>, &'static str> {
    match word {
        "-" => Ok(Vec::new()),
        values => values.split(',').map(|value| number(Some(value)).map(Value)).collect(),
    }
}

fn number<T: FromStr>(word: Option<&str>) -> Result<T, &'static str> {
    word.and_then(|word| word.parse().ok()).ok_or("a number is missing")
}

fn if_known<T>(word: Option<&str>, read: impl Fn(&str) -> Result<T, &'static str>) -> Result<Option<T>, &'static str> {
    match word {
        None => Err("a step is cut short"),
        Some("?") => Ok(None),
        Some(word) => read(word).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_event_are_the_same() {
        for line in [
            "120 p3 n1 invoke a 7 41 l 9 ?",
            "180 p3 n1 ok a 7 41 l 9 12,40 l 8 -",
            "200 p1 n2 unknown w 5 3 r 6 ?",
            "200 p1 n2 ok r 6 -4",
            "950 p2 n2 fail c 5 3 4 ?",
            "950 p2 n2 ok c 5 3 4 no c 5 3 4 yes",
        ] {
            assert_eq!(line.parse::<Event>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for line in
            ["", "1 p1 n1", "1 p1 n1 done", "1 p1 n1 ok a 7", "1 p1 n1 ok x 7 1", "1 1 n1 ok", "1 p1 n1 ok c 1 2 3"]
        {
            assert!(matches!(line.parse::<Event>(), Err(Malformed::Line { .. })), "{line}");
        }
    }
}
