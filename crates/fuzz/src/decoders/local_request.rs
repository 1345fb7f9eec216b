//! What a local client sends to the engine: frames of requests, cut anywhere.

use super::group_description::description;
use super::values::{group, log, node, operation_id, perhaps, several, slot, some_bytes, text};
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use client::frame::{self, Decoder};
use client::{Answer, NewMember, Origin, Request, RequestNumber};
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::fmt::Debug;

/// A frame's bytes stand in the decoder and once more in the request, and all of it twice here to be compared; a group
/// has at most 32 members.
const MEMORY: Bound = Bound { fixed: 64 << 10, per_byte: 24 };

/// The decoder of frames, for [`Request`].
pub const TARGET: Target = Target { name: "local_request", run, encode, memory: MEMORY, executions: 30_000 };

fn run(bytes: &[u8]) {
    hold::<Request>(bytes, several_requests);
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(frames(&several_requests(choices)?))
}

/// What holds of every kind of value in frames.
pub(super) fn hold<T: DeserializeOwned + Serialize + PartialEq + Debug>(
    bytes: &[u8],
    make: impl FnOnce(&mut Unstructured<'_>) -> Result<Vec<T>>,
) {
    // The bytes as a stream of frames, and as the content of one frame.
    let length = u32::try_from(bytes.len()).expect("inputs are small").to_le_bytes();
    for stream in [bytes.to_vec(), [&length, bytes].concat()] {
        hold_stream::<T>(&stream);
    }
    if let Ok(made) = make(&mut Unstructured::new(bytes)) {
        assert_eq!(decoded::<T>(&frames(&made), 100), made, "what is sent can be read");
    }
}

fn hold_stream<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    let whole = decoded::<T>(bytes, bytes.len().max(1));
    let cut = decoded::<T>(bytes, 1 + bytes.len() / 7);
    assert_eq!(whole, cut, "where the stream is cut changes nothing");
    assert_eq!(decoded::<T>(&frames(&whole), 4096), whole, "what was decoded encodes");
}

pub(super) fn frames<T: Serialize>(values: &[T]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        frame::encode(RequestNumber(7), value, &mut out).expect("small values are encoded");
    }
    out
}

/// The values of a stream that arrives in pieces, up to the first that is none.
fn decoded<T: DeserializeOwned>(bytes: &[u8], piece_bytes: usize) -> Vec<T> {
    let mut decoder = Decoder::default();
    let mut values = Vec::new();
    for piece in bytes.chunks(piece_bytes) {
        decoder.push(piece);
        loop {
            match decoder.next_frame::<T>() {
                Ok(Some((_, value))) => values.push(value),
                Ok(None) => break,
                Err(_) => return values,
            }
        }
    }
    values
}

fn several_requests(choices: &mut Unstructured<'_>) -> Result<Vec<Request>> {
    several(choices, 3, request)
}

fn request(choices: &mut Unstructured<'_>) -> Result<Request> {
    match choices.int_in_range(0..=1)? {
        0 => of_groups(choices),
        _ => of_entries(choices),
    }
}

fn of_groups(choices: &mut Unstructured<'_>) -> Result<Request> {
    let (group, wait_ms) = (group(choices)?, choices.arbitrary()?);
    Ok(match choices.int_in_range(0..=9)? {
        0 => Request::Hello { version: choices.arbitrary()? },
        1 => Request::OperationId,
        2 => Request::CreateGroup {
            name: text(choices)?,
            kind: text(choices)?,
            label: text(choices)?,
            database: text(choices)?,
        },
        3 => Request::Groups,
        4 => Request::Status,
        5 => Request::JoinRequest {
            group,
            member: NewMember {
                node: node(choices)?,
                address: text(choices)?,
                public_key: some_bytes(choices)?,
                label: text(choices)?,
                database: text(choices)?,
                witness: choices.arbitrary()?,
            },
            wait_ms,
        },
        6 => Request::LearnGroup { group: description(choices)?, await_state: choices.arbitrary()? },
        7 => Request::Promote { group, node: node(choices)?, wait_ms },
        8 => Request::Remove { group, node: node(choices)?, wait_ms },
        _ => Request::Forget { group },
    })
}

fn of_entries(choices: &mut Unstructured<'_>) -> Result<Request> {
    let (group, id, wait_ms) = (group(choices)?, operation_id(choices)?, choices.arbitrary()?);
    let slot = slot(choices)?;
    let origin = |choices: &mut Unstructured<'_>| Ok(Origin(choices.arbitrary()?));
    Ok(match choices.int_in_range(0..=12)? {
        10 => Request::PutValue { group, log: log(choices)?, id, follows: slot, value: some_bytes(choices)?, wait_ms },
        11 => Request::Value { group, log: log(choices)?, wait_ms },
        0 => Request::Propose {
            group,
            id,
            body: some_bytes(choices)?,
            origin: perhaps(choices, origin)?,
            answer: *choices.choose(&[Answer::Always, Answer::OnRefusal])?,
            wait_ms,
        },
        1 => Request::Withdraw { id },
        2 => Request::Barrier { group, wait_ms },
        3 => Request::LookUp { group, id },
        4 => Request::OutcomeOf { group, id, wait_ms },
        5 => Request::Entries { group, from: slot, omit_own: choices.arbitrary()? },
        6 => Request::Entry { group, slot },
        7 => Request::Mark { group, id, origin: perhaps(choices, origin)?, wait_ms },
        8 => Request::Checkpoint { group, slot, offset: choices.arbitrary()? },
        9 => Request::ReleaseMark { group, slot },
        _ => Request::InstallCheckpoint {
            group,
            slot,
            offset: choices.arbitrary()?,
            length: choices.arbitrary()?,
            piece: some_bytes(choices)?,
        },
    })
}
