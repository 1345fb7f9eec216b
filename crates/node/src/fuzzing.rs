//! What this crate decodes, open to `crates/fuzz`: the engine's part of a state copy, and a group as a joiner is told it.

use crate::{checkpoint, description};
use bytes::Bytes;
use client::{GroupDescription, Slot};
use consensus::{Assembly, Configuration, IdWindow};

/// Decodes a checkpoint as it comes from the disk or from a donor: slot, window of ids, parts of operations, the
/// face's part.
///
/// # Errors
/// What is wrong with it.
pub fn decode_checkpoint(bytes: &[u8]) -> Result<(Slot, IdWindow, Assembly, Bytes), String> {
    let checkpoint = checkpoint::decode(bytes)?;
    Ok((checkpoint.slot, checkpoint.window, checkpoint.assembly, checkpoint.face))
}

/// Encodes a checkpoint.
#[must_use]
pub fn encode_checkpoint(slot: Slot, window: &IdWindow, assembly: &Assembly, face: &[u8]) -> Vec<u8> {
    checkpoint::encode(slot, window, assembly, face)
}

/// The configuration inside a description that another server gave.
///
/// # Errors
/// What is wrong with it.
pub fn configuration(description: &GroupDescription) -> Result<Configuration, String> {
    description::configuration(description)
}

/// A group as a joiner is told it.
#[must_use]
pub fn group_description(configuration: &Configuration) -> GroupDescription {
    description::group_description(configuration)
}
