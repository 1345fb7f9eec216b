//! Streams of decided entries to the appliers of faces, as fast as each takes them.

use super::Node;
use crate::clients::{ClientNumber, ReplyTo};
use crate::decided::{Content, Decided, Effectiveness};
use crate::limits::{STREAM_BATCH_BYTES, STREAM_BATCH_SLOTS};
use crate::stored_bodies::Unread;
use bytes::Bytes;
use client::{DecidedBatch, DecidedEntry, GroupId, NodeId, Refusal, RefusalReason, Response, Slot, Start, Verdict};
use std::collections::BTreeMap;

/// One stream.
#[derive(Debug)]
struct Stream {
    to: ReplyTo,
    next: Slot,
    omit_own: bool,
    /// Entries for it are being read from the log.
    reading: bool,
}

/// All streams; one per client and group.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: BTreeMap<(ClientNumber, GroupId), Stream>,
}

impl Streams {
    pub(super) fn forget_client(&mut self, client: ClientNumber) {
        self.streams.retain(|(of, _), _| *of != client);
    }

    pub(super) fn forget_group(&mut self, group: GroupId) {
        self.streams.retain(|(_, of), _| *of != group);
    }

    /// The last slot that every stream of the group is past.
    pub(super) fn position(&self, group: GroupId) -> Slot {
        let of_group = self.streams.iter().filter(|((_, of), _)| *of == group);
        of_group.map(|(_, stream)| stream.next.previous()).min().unwrap_or(Slot::LARGEST)
    }
}

impl Node {
    pub(super) fn open_stream(
        &mut self,
        to: ReplyTo,
        group: GroupId,
        from: Slot,
        omit_own: bool,
    ) -> Result<(), Refusal> {
        let replica = self.replica(group)?;
        // A copy that is awaited brings its own slot.
        if from < replica.decided.first() {
            return Err(gone(from, replica.decided.first()));
        }
        let stream = Stream { to, next: from, omit_own, reading: false };
        self.streams.streams.insert((to.client, group), stream);
        Ok(())
    }

    /// Sends what is decided to the streams whose sockets have room.
    pub(super) fn pump_streams(&mut self) {
        if self.streams.streams.is_empty() {
            return;
        }
        let keys: Vec<(ClientNumber, GroupId)> = self.streams.streams.keys().copied().collect();
        for key in keys {
            while self.pump(key) {}
        }
    }

    /// Sends one batch; whether there may be another.
    fn pump(&mut self, key: (ClientNumber, GroupId)) -> bool {
        let (client, group) = key;
        let (Some(stream), Some(replica)) = (self.streams.streams.get_mut(&key), self.replicas.get(&group)) else {
            return false;
        };
        let decided = &replica.decided;
        if stream.reading || stream.next > decided.last() || !self.clients.is_drained(client) {
            return false;
        }
        if stream.next < decided.first() {
            // A state copy went past it.
            let refusal = gone(stream.next, decided.first());
            let to = stream.to;
            self.streams.streams.remove(&key);
            self.clients.refuse(to, refusal);
            return false;
        }
        let own = stream.omit_own.then_some((self.node, self.start));
        let last = Slot(decided.last().0.min(stream.next.0 + STREAM_BATCH_SLOTS - 1));
        let mut batch = DecidedBatch { from: stream.next, through: stream.next.previous(), entries: Vec::new() };
        if stream.next < decided.first_cached() {
            let up_to = last.min(decided.first_cached().previous());
            if let Some(content) = kept_or_own(decided, stream.next, own) {
                batch.through = stream.next;
                batch.entries.extend(decided_entry(decided, stream.next, &content, own));
            } else {
                // What has no effect, such as the parts of large operations, need not be read.
                batch.through = decided.idle_through(stream.next, up_to);
            }
            if batch.through < batch.from {
                stream.reading = true;
                let unread = decided.unread(stream.next, up_to);
                self.read_for_stream(key, batch.from, unread);
                return false;
            }
        } else {
            let mut bytes = 0;
            while batch.through < last {
                let slot = batch.through.next();
                let content = decided.content(slot).expect("slots from the first cached one on are in memory");
                // A large body goes by itself: it leaves room in a frame for little else.
                if bytes > 0 && bytes + content.body.len() + 64 > STREAM_BATCH_BYTES {
                    break;
                }
                batch.through = slot;
                if let Some(decided_entry) = decided_entry(decided, slot, content, own) {
                    bytes += decided_entry.body.as_ref().map_or(0, Bytes::len) + 64;
                    batch.entries.push(decided_entry);
                }
            }
        }
        stream.next = batch.through.next();
        self.clients.answer(stream.to, &Response::Decided(batch));
        // Written at once, so that the socket says whether there is room for more.
        self.clients.flush();
        true
    }

    fn read_for_stream(&mut self, key: (ClientNumber, GroupId), from: Slot, unread: Unread) {
        let reader = self.reader.clone();
        self.in_background(
            move || unread.read(&reader, key.1),
            move |node, result| match result {
                Ok(contents) => node.streamed(key, from, contents),
                Err(error) => node.end_stream(key, &error),
            },
        );
    }

    /// Bodies that were read from the log for a stream.
    fn streamed(&mut self, key: (ClientNumber, GroupId), from: Slot, read: Vec<Content>) {
        let (Some(stream), Some(replica)) = (self.streams.streams.get_mut(&key), self.replicas.get(&key.1)) else {
            return;
        };
        // The client may have asked anew from elsewhere.
        if !stream.reading || stream.next != from {
            return;
        }
        stream.reading = false;
        if read.is_empty() {
            return self.end_stream(key, "the log lacks it");
        }
        let own = stream.omit_own.then_some((self.node, self.start));
        let through = Slot(from.0 + read.len() as u64 - 1);
        let slots = (from.0..).map(Slot);
        let entries =
            slots.zip(&read).filter_map(|(slot, content)| decided_entry(&replica.decided, slot, content, own));
        let entries = entries.collect();
        stream.next = through.next();
        self.clients.answer(stream.to, &Response::Decided(DecidedBatch { from, through, entries }));
    }

    fn end_stream(&mut self, key: (ClientNumber, GroupId), why: &str) {
        if let Some(stream) = self.streams.streams.remove(&key) {
            let what = format!("cannot read slot {} of the log: {why}", stream.next);
            self.clients.refuse(stream.to, Refusal::definite(RefusalReason::Storage, what));
        }
    }

    /// Answers with one decided slot.
    pub(super) fn entry(&mut self, to: ReplyTo, group: GroupId, slot: Slot) -> Result<(), Refusal> {
        let replica = self.replica(group)?;
        let decided = &replica.decided;
        if slot < decided.first() || slot > decided.last() {
            return Err(gone(slot, decided.first()));
        }
        let kept = || kept_or_own(decided, slot, None);
        if let Some(content) = decided.content(slot).cloned().or_else(kept) {
            let response = single(decided, slot, &content);
            self.clients.answer(to, &response);
            return Ok(());
        }
        let (unread, reader) = (decided.unread(slot, slot), self.reader.clone());
        self.in_background(
            move || unread.read(&reader, group),
            move |node, result| {
                let content = result.and_then(|mut read| read.pop().ok_or_else(|| "the log lacks it".to_string()));
                match (content, node.replicas.get(&group)) {
                    (Ok(content), Some(replica)) => {
                        let response = single(&replica.decided, slot, &content);
                        node.clients.answer(to, &response);
                    }
                    (Ok(_), None) => node.clients.refuse(to, gone(slot, slot)),
                    (Err(why), _) => {
                        let what = format!("cannot read slot {slot} of the log: {why}");
                        node.clients.refuse(to, Refusal::definite(RefusalReason::Storage, what));
                    }
                }
            },
        );
        Ok(())
    }
}

fn gone(slot: Slot, first: Slot) -> Refusal {
    Refusal::definite(RefusalReason::Gone, format!("slot {slot} is not available here: slots from {first} on are"))
}

fn single(decided: &Decided, slot: Slot, content: &Content) -> Response {
    Response::Decided(DecidedBatch {
        from: slot,
        through: slot,
        entries: decided_entry(decided, slot, content, None).into_iter().collect(),
    })
}

/// What there is to say of an operation in parts without reading any: its body is in memory, or is left out.
fn kept_or_own(decided: &Decided, slot: Slot, own: Option<(NodeId, Start)>) -> Option<Content> {
    let assembled = decided.assembled(slot)?;
    let id = assembled.id;
    let omitted = own == Some((id.node, id.start));
    let body = if omitted { Some(Bytes::new()) } else { assembled.kept.clone() };
    body.map(|body| Content { id, body })
}

/// A slot as an applier sees it; `None` if it has no effect. `own` names proposers whose bodies are left out.
fn decided_entry(
    decided: &Decided,
    slot: Slot,
    content: &Content,
    own: Option<(NodeId, Start)>,
) -> Option<DecidedEntry> {
    let id = content.id;
    let body = || {
        let omitted = own == Some((id.node, id.start));
        (!omitted).then(|| content.body.clone())
    };
    let (verdict, mark, body) = match decided.effectiveness(slot)? {
        Effectiveness::Nothing => return None,
        Effectiveness::Accepted => (Verdict::Accepted, false, body()),
        // Why it was rejected is for its proposer only.
        Effectiveness::Rejected => (Verdict::Rejected(Bytes::new()), false, None),
        Effectiveness::Mark => (Verdict::Accepted, true, None),
    };
    Some(DecidedEntry { slot, id, verdict, mark, body })
}
