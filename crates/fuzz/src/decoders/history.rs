//! The text of a history, as kept beside a failure or written by hand.

use super::values::{perhaps, several};
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use histories::{Event, History, Key, Moment, Node, Outcome, Phase, Process, Step, Value};

/// The shortest step takes 6 bytes ("w 1 2 ") and becomes 40; a history holds its steps once as events, once as transactions.
const MEMORY: Bound = Bound { fixed: 64 << 10, per_byte: 128 };

/// [`History::parse`] and `Event`'s `FromStr`.
pub const TARGET: Target = Target { name: "history", run, encode, memory: MEMORY, executions: 20_000 };

fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        if let Ok(event) = line.parse::<Event>() {
            assert_eq!(event.to_string().parse(), Ok(event));
        }
    }
    if let Ok(history) = History::parse(&text) {
        history.transactions().iter().for_each(|transaction| drop(transaction.to_string()));
    }
    if let Ok(event) = event(&mut Unstructured::new(bytes)) {
        assert_eq!(event.to_string().parse(), Ok(event));
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let lines = several(choices, 6, |choices| Ok(event(choices)?.to_string()))?;
    Ok(lines.join("\n").into_bytes())
}

fn event(choices: &mut Unstructured<'_>) -> Result<Event> {
    let phases = [
        Phase::Invoke,
        Phase::Return(Outcome::Committed),
        Phase::Return(Outcome::Failed),
        Phase::Return(Outcome::Unknown),
    ];
    Ok(Event {
        at: Moment(choices.arbitrary()?),
        process: Process(choices.int_in_range(0..=3)?),
        node: Node(choices.int_in_range(1..=3)?),
        phase: *choices.choose(&phases)?,
        steps: several(choices, 4, step)?,
    })
}

fn step(choices: &mut Unstructured<'_>) -> Result<Step> {
    let key = Key(choices.int_in_range(0..=9)?);
    let value = |choices: &mut Unstructured<'_>| Ok(Value(choices.arbitrary()?));
    Ok(match choices.int_in_range(0..=4)? {
        0 => Step::Write { key, value: value(choices)? },
        1 => Step::Read { key, seen: perhaps(choices, value)? },
        2 => Step::CompareAndSet {
            key,
            expected: value(choices)?,
            value: value(choices)?,
            swapped: perhaps(choices, |choices| choices.arbitrary())?,
        },
        3 => Step::Append { key, value: value(choices)? },
        _ => Step::ReadList { key, seen: perhaps(choices, |choices| several(choices, 3, value))? },
    })
}
