//! What this crate decodes, open to `crates/fuzz`: the engine's part of a state copy, and a group as a joiner is told it.

use crate::{checkpoint, description};
use bytes::Bytes;
use client::{GroupDescription, Slot};
use consensus::{Configuration, IdWindow};

/// Decodes a checkpoint as it comes from the disk or from a donor: slot, window of ids, the face's part.
///
/// # Errors
/// What is wrong with it.
pub fn decode_checkpoint(bytes: &[u8]) -> Result<(Slot, IdWindow, Bytes), String> {
    checkpoint::decode(bytes).map(|checkpoint| (checkpoint.slot, checkpoint.window, checkpoint.face))
}

/// Encodes a checkpoint.
#[must_use]
pub fn encode_checkpoint(slot: Slot, window: &IdWindow, face: &[u8]) -> Vec<u8> {
    checkpoint::encode(slot, window, face)
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
