//! What a peer says inside a frame.

use super::values::{
    ballot, configuration, entry, epoch, group, log, node, operation_id, perhaps, sequence, several, slot, start,
};
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use consensus::{
    Accepted, ChosenRange, GroupMessage, Heartbeat, Impostor, LogPosition, Message, NotProposed, Room, Slot,
};

/// Lists are bounded: those of a heartbeat and of entries hold 4096 items of at most 112 bytes, twice while they grow.
/// Only the positions of a group's logs are more, 64 thousand of 96 bytes. Entries and texts take their own bytes once, or
/// twice while they are read, and are shown here.
const MEMORY: Bound = Bound { fixed: 2 << 20, per_byte: 8 };

/// [`Message::decode`].
pub const TARGET: Target = Target { name: "peer_message", run, encode, memory: MEMORY, executions: 30_000 };

fn run(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        let _ = format!("{message:?}");
        assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message), "what was decoded encodes");
    }
    if let Ok(message) = message(&mut Unstructured::new(bytes)) {
        assert_eq!(Message::decode(&message.encode()), Ok(message), "what is sent can be read");
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(message(choices)?.encode())
}

fn message(choices: &mut Unstructured<'_>) -> Result<Message> {
    Ok(match choices.int_in_range(0..=9)? {
        0 => Message::Heartbeat(Heartbeat {
            start: start(choices)?,
            incarnation: choices.arbitrary()?,
            position: sequence(choices)?,
            position_at_start: sequence(choices)?,
            hears: several(choices, 5, node)?,
            contacts: several(choices, 5, node)?,
            logs: several(choices, 3, log_position)?,
        }),
        1 => Message::Impostor(match choices.arbitrary()? {
            true => {
                Impostor::LogWentBack { seen: sequence(choices)?, under: start(choices)?, found: sequence(choices)? }
            }
            false => Impostor::RunsTwice { incarnation: choices.arbitrary()? },
        }),
        _ => Message::Group {
            group: group(choices)?,
            epoch: epoch(choices)?,
            start: start(choices)?,
            body: group_message(choices)?,
        },
    })
}

fn log_position(choices: &mut Unstructured<'_>) -> Result<LogPosition> {
    Ok(LogPosition {
        group: group(choices)?,
        epoch: epoch(choices)?,
        log: log(choices)?,
        ballot: ballot(choices)?,
        closed: slot(choices)?,
        held: slot(choices)?,
        room: *choices.choose(&[Room::Enough, Room::Little, Room::None])?,
    })
}

fn accepted(choices: &mut Unstructured<'_>) -> Result<Accepted> {
    Ok(Accepted { slot: slot(choices)?, ballot: ballot(choices)?, entry: perhaps(choices, entry)? })
}

fn range(choices: &mut Unstructured<'_>) -> Result<ChosenRange> {
    Ok(ChosenRange { first: slot(choices)?, last: slot(choices)?, ballot: ballot(choices)? })
}

fn group_message(choices: &mut Unstructured<'_>) -> Result<GroupMessage> {
    let log = log(choices)?;
    match choices.int_in_range(0..=21)? {
        0..=10 => proposing(choices, log),
        _ => learning(choices, log),
    }
}

fn proposing(choices: &mut Unstructured<'_>, log: consensus::LogId) -> Result<GroupMessage> {
    Ok(match choices.int_in_range(0..=7)? {
        0 => GroupMessage::Prepare { log, ballot: ballot(choices)?, closed: slot(choices)? },
        1 => GroupMessage::Promise {
            log,
            ballot: ballot(choices)?,
            closed: slot(choices)?,
            above: slot(choices)?,
            part: choices.arbitrary()?,
            last: choices.arbitrary()?,
            accepted: several(choices, 3, accepted)?,
            position: sequence(choices)?,
        },
        2 => {
            GroupMessage::Refused { log, ballot: ballot(choices)?, promised: ballot(choices)?, closed: slot(choices)? }
        }
        3 => {
            let mut entries = vec![entry(choices)?];
            entries.extend(several(choices, 3, entry)?);
            GroupMessage::Accept {
                log,
                ballot: ballot(choices)?,
                first: slot(choices)?.max(Slot(1)),
                entries: entries.into(),
                chosen: perhaps(choices, range)?,
                answer_to: node(choices)?,
            }
        }
        4 => GroupMessage::Accepted {
            log,
            ballot: ballot(choices)?,
            first: slot(choices)?,
            last: slot(choices)?,
            closed: slot(choices)?,
            position: sequence(choices)?,
        },
        5 => GroupMessage::Chosen { log, range: range(choices)? },
        6 => GroupMessage::Forward {
            log,
            entries: several(choices, 3, entry)?,
            origin: node(choices)?,
            hops: choices.arbitrary()?,
        },
        _ => GroupMessage::NotProposed {
            log,
            ids: several(choices, 3, operation_id)?,
            reason: *choices.choose(&[NotProposed::NotOwner, NotProposed::Full])?,
            ballot: ballot(choices)?,
        },
    })
}

/// Logs in the order of their ids, each once.
fn page(choices: &mut Unstructured<'_>) -> Result<Vec<(consensus::LogId, consensus::Slot, consensus::Slot)>> {
    let one = |choices: &mut Unstructured<'_>| Ok((super::values::log(choices)?, (slot(choices)?, slot(choices)?)));
    let logs: std::collections::BTreeMap<_, _> = several(choices, 3, one)?.into_iter().collect();
    Ok(logs.into_iter().map(|(log, (closed, highest))| (log, closed, highest)).collect())
}

fn learning(choices: &mut Unstructured<'_>, log: consensus::LogId) -> Result<GroupMessage> {
    Ok(match choices.int_in_range(0..=17)? {
        0 => GroupMessage::ReadAsk { log, round: choices.arbitrary()? },
        1 => GroupMessage::ReadAnswer {
            log,
            round: choices.arbitrary()?,
            closed: slot(choices)?,
            highest: slot(choices)?,
            ballot: ballot(choices)?,
            promised: ballot(choices)?,
        },
        2 => GroupMessage::Fetch { log, from: slot(choices)?, up_to: slot(choices)? },
        3 | 4 => GroupMessage::Fetched {
            log,
            first: slot(choices)?,
            entries: several(choices, 3, |choices| Ok((ballot(choices)?, entry(choices)?)))?.into(),
            closed: slot(choices)?,
            trimmed: slot(choices)?,
        },
        5 => GroupMessage::AskAccepted { log, from: slot(choices)?, up_to: slot(choices)? },
        6 => GroupMessage::HasAccepted { log, closed: slot(choices)?, accepted: several(choices, 3, accepted)? },
        7 => GroupMessage::AskConfiguration,
        8 => GroupMessage::Configured { configuration: configuration(choices)?.into() },
        9 => GroupMessage::Fenced,
        10 => GroupMessage::SyncAsk { after: perhaps(choices, super::values::log)? },
        11 => GroupMessage::SyncAnswer {
            after: perhaps(choices, super::values::log)?,
            logs: page(choices)?,
            last: choices.arbitrary()?,
            votes: choices.arbitrary()?,
        },
        13 => GroupMessage::CompareAsk { number: choices.arbitrary()?, after: perhaps(choices, super::values::log)? },
        14 => GroupMessage::Compare {
            number: choices.arbitrary()?,
            after: perhaps(choices, super::values::log)?,
            logs: page(choices)?,
            last: choices.arbitrary()?,
        },
        15 => GroupMessage::Newer {
            number: choices.arbitrary()?,
            logs: several(choices, 3, |choices| Ok((super::values::log(choices)?, slot(choices)?)))?,
        },
        16 => GroupMessage::UpToDate { number: choices.arbitrary()? },
        12 => GroupMessage::Positions { logs: several(choices, 3, log_position)? },
        _ => GroupMessage::Invite { log, ballot: ballot(choices)? },
    })
}
