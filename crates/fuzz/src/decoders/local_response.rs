//! What the engine answers to a local client: frames of responses, cut anywhere.

use super::group_description::description;
use super::local_request::{frames, hold};
use super::values::{group, node, operation_id, perhaps, several, slot, some_bytes, start, text};
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use client::{
    Certainty, DecidedBatch, DecidedEntry, Engine, GroupStatus, LogStatus, MemberRole, MemberStatus, Metrics, Outcome,
    Progress, Refusal, RefusalReason, Response, Settled, Status, Verdict,
};

/// Lists are bounded (the longest holds 4096 entries of 128 bytes, or groups of 200, twice while it grows); a frame's
/// bytes stand in the decoder and once more in the response.
const MEMORY: Bound = Bound { fixed: 4 << 20, per_byte: 24 };

/// The decoder of frames, for [`Response`].
pub const TARGET: Target = Target { name: "local_response", run, encode, memory: MEMORY, executions: 30_000 };

fn run(bytes: &[u8]) {
    hold::<Response>(bytes, several_responses);
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(frames(&several_responses(choices)?))
}

fn several_responses(choices: &mut Unstructured<'_>) -> Result<Vec<Response>> {
    several(choices, 3, response)
}

fn response(choices: &mut Unstructured<'_>) -> Result<Response> {
    Ok(match choices.int_in_range(0..=15)? {
        0 => Response::Hello(engine(choices)?),
        1 => Response::OperationId(operation_id(choices)?),
        2 => Response::Group(description(choices)?),
        3 => Response::Groups(several(choices, 2, description)?),
        4 => Response::Status(Box::new(status(choices)?)),
        5 => Response::Progress(Progress { message: text(choices)? }),
        6 => Response::Done,
        7 => Response::Outcome(outcome(choices)?),
        8 => Response::Withdrawn(choices.arbitrary()?),
        9 => Response::Barrier { slot: slot(choices)? },
        10 => Response::Settled(match choices.int_in_range(0..=2)? {
            0 => Settled::Decided(outcome(choices)?),
            1 => Settled::Closed { slot: slot(choices)? },
            _ => Settled::Expired,
        }),
        11 => Response::Undecided,
        12 => Response::Decided(DecidedBatch {
            from: slot(choices)?,
            through: slot(choices)?,
            entries: several(choices, 4, decided_entry)?,
        }),
        14 => Response::Value { slot: slot(choices)?, value: some_bytes(choices)? },
        13 => Response::CheckpointPiece { length: choices.arbitrary()?, piece: some_bytes(choices)? },
        _ => Response::Refused(refusal(choices)?),
    })
}

fn engine(choices: &mut Unstructured<'_>) -> Result<Engine> {
    Ok(Engine {
        node: node(choices)?,
        start: start(choices)?,
        address: text(choices)?,
        public_key: some_bytes(choices)?,
    })
}

fn verdict(choices: &mut Unstructured<'_>) -> Result<Verdict> {
    Ok(if choices.arbitrary()? { Verdict::Accepted } else { Verdict::Rejected(some_bytes(choices)?) })
}

fn outcome(choices: &mut Unstructured<'_>) -> Result<Outcome> {
    Ok(Outcome { id: operation_id(choices)?, slot: slot(choices)?, verdict: verdict(choices)? })
}

fn decided_entry(choices: &mut Unstructured<'_>) -> Result<DecidedEntry> {
    Ok(DecidedEntry {
        slot: slot(choices)?,
        id: operation_id(choices)?,
        verdict: verdict(choices)?,
        mark: choices.arbitrary()?,
        body: perhaps(choices, some_bytes)?,
    })
}

fn refusal(choices: &mut Unstructured<'_>) -> Result<Refusal> {
    let reasons = [RefusalReason::NoQuorum, RefusalReason::Conflict, RefusalReason::Storage];
    Ok(Refusal {
        certainty: *choices.choose(&[Certainty::Definite, Certainty::Unknown])?,
        hint: text(choices)?,
        id: perhaps(choices, operation_id)?,
        detail: some_bytes(choices)?.to_vec(),
        answering: several(choices, 3, |choices| Ok((node(choices)?, text(choices)?)))?,
        silent: several(choices, 3, |choices| Ok((node(choices)?, text(choices)?)))?,
        ..Refusal::definite(*choices.choose(&reasons)?, text(choices)?)
    })
}

fn status(choices: &mut Unstructured<'_>) -> Result<Status> {
    let metrics = Metrics { proposals: choices.arbitrary()?, clients: choices.arbitrary()?, ..Metrics::default() };
    Ok(Status { engine: engine(choices)?, metrics, groups: several(choices, 2, group_status)? })
}

fn group_status(choices: &mut Unstructured<'_>) -> Result<GroupStatus> {
    let roles = [
        MemberRole::Voter,
        MemberRole::Learner,
        MemberRole::Leaving,
        MemberRole::Witness,
        MemberRole::NewWitness,
        MemberRole::Away,
    ];
    let log = LogStatus { owner: perhaps(choices, node)?, chosen: slot(choices)?, ..LogStatus::default() };
    Ok(GroupStatus {
        group: group(choices)?,
        name: text(choices)?,
        kind: text(choices)?,
        database: text(choices)?,
        epoch: choices.arbitrary()?,
        changing: choices.arbitrary()?,
        role: perhaps(choices, |choices| Ok(*choices.choose(&roles)?))?,
        needs_state: perhaps(choices, slot)?,
        stopped: perhaps(choices, text)?,
        log,
        members: several(choices, 3, |choices| {
            Ok(MemberStatus {
                node: node(choices)?,
                role: *choices.choose(&roles)?,
                address: text(choices)?,
                label: text(choices)?,
                database: text(choices)?,
                live: choices.arbitrary()?,
                chosen: slot(choices)?,
                held: perhaps(choices, slot)?,
            })
        })?,
    })
}
