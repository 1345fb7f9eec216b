//! Reading the bodies of decided slots back from the log, on another thread than the engine's.

use crate::decided::Content;
use crate::limits::STREAM_BATCH_BYTES;
use bytes::BytesMut;
use client::{GroupId, Slot};
use consensus::{Entry, LogId};
use storage::LogReader;

/// What is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Slots whose bodies stand each in its own slot.
    Slots { from: Slot, up_to: Slot },
    /// One operation that came in parts.
    Parts { slot: Slot, parts: Vec<Slot> },
}

impl Unread {
    /// The contents of consecutive slots from the first on: as many as make a batch, one at least.
    pub(crate) fn read(&self, reader: &LogReader, group: GroupId) -> Result<Vec<Content>, String> {
        match self {
            Unread::Slots { from, up_to } => {
                let stored = reader.read_entries(group, LogId::MAIN, *from, *up_to, STREAM_BATCH_BYTES);
                let stored = stored.map_err(|error| error.to_string())?;
                Ok(stored.into_iter().map(|stored| content(&stored.entry)).collect())
            }
            Unread::Parts { slot, parts } => read_parts(reader, group, *slot, parts).map(|content| vec![content]),
        }
    }
}

/// What a slot with a whole operation holds.
pub(crate) fn content(entry: &Entry) -> Content {
    Content { id: entry.id(), body: entry.bytes().slice_ref(entry.body()) }
}

fn read_parts(reader: &LogReader, group: GroupId, slot: Slot, parts: &[Slot]) -> Result<Content, String> {
    let read_one = |slot: Slot| -> Result<Entry, String> {
        let stored = reader.read_entries(group, LogId::MAIN, slot, slot, 0).map_err(|error| error.to_string())?;
        stored.into_iter().next().map(|stored| stored.entry).ok_or_else(|| format!("slot {slot} is not there"))
    };
    let entry = read_one(slot)?;
    let last = entry.to_last_part().ok_or_else(|| format!("slot {slot} holds no last part"))?;
    let mut body = BytesMut::with_capacity(last.length as usize);
    for part_slot in parts {
        let part = read_one(*part_slot)?.to_part();
        let part = part.filter(|part| part.operation == entry.id());
        let part = part.ok_or_else(|| format!("slot {part_slot} holds no part of the operation of slot {slot}"))?;
        body.extend_from_slice(&part.piece);
    }
    body.extend_from_slice(&last.piece);
    if body.len() != last.length as usize {
        return Err(format!("the parts of slot {slot} make {} bytes, not {}", body.len(), last.length));
    }
    Ok(Content { id: entry.id(), body: body.freeze() })
}
