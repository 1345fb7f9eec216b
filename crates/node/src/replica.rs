//! One group's replicated state on this node: the decided entries in slot order, through the window of ids, into the
//! face (rule 10). Parts of large operations are put together here; the face sees whole ones only.

use crate::checkpoint;
use crate::decided::{Assembled, Content, Decided, Effectiveness};
use crate::face::{Delivery, Face};
use crate::limits::{ENTRY_OVERHEAD_BYTES, ID_WINDOW, LOG_PER_CHECKPOINT, MARKS_MAX};
use bytes::Bytes;
use client::{OperationId, Origin, Slot, Verdict};
use consensus::{
    Assembly, Configuration, Entry, EntryKind, IdWindow, Incomplete, NodeId, Occurrence, Outcome, Part, Whole,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The state of one group.
pub(crate) struct Replica {
    node: NodeId,
    pub(crate) configuration: Arc<Configuration>,
    face: Box<dyn Face>,
    window: IdWindow,
    assembly: Assembly,
    /// Operations whose parts lapsed or had to make room, since somebody asked.
    given_up: Vec<OperationId>,
    pub(crate) decided: Decided,
    /// Bytes delivered since the last checkpoint was captured.
    bytes_since_capture: u64,
    /// The size of the last one, without parts of unfinished operations.
    captured_bytes: u64,
    captured: Option<Captured>,
    /// A checkpoint is being written by another thread.
    pub(crate) writing: bool,
    /// The slot of the newest durable checkpoint.
    pub(crate) durable: Slot,
    /// The slot of the oldest durable checkpoint: the log must reach back to it.
    pub(crate) oldest_durable: Slot,
    /// Checkpoints that scrub found damaged, until a whole one at their slot or a later one is durable.
    pub(crate) damaged_checkpoints: BTreeSet<Slot>,
    marks: BTreeMap<Slot, Mark>,
    /// The first slot that no member's log reaches back to, if the group told so.
    pub(crate) needs_state: Option<Slot>,
    /// A state copy on its way in.
    pub(crate) installing: Option<Installing>,
    /// Waiting for its first state copy: the core does not know the group yet.
    pub(crate) awaits_state: bool,
}

/// A checkpoint in memory that becomes valid once the face's own store holds its slot.
struct Captured {
    slot: Slot,
    bytes: Arc<Vec<u8>>,
}

/// The checkpoint of a snapshot mark.
struct Mark {
    bytes: Arc<Vec<u8>>,
    /// Bytes delivered since: a copy that takes too long loses its hold on the log.
    delivered_since: u64,
}

/// Pieces of a checkpoint on their way in.
pub(crate) struct Installing {
    pub(crate) slot: Slot,
    pub(crate) length: u64,
    pub(crate) bytes: Vec<u8>,
}

/// What the delivery of a slot means to a local proposer.
#[derive(Debug)]
pub(crate) enum Delivered {
    /// Nobody proposed it.
    Nothing,
    /// An operation or mark, decided here or at the earlier slot named.
    Operation { id: OperationId, slot: Slot, outcome: Outcome },
    /// An operation whose id is older than the window.
    Expired { id: OperationId },
    /// The end of an operation whose parts are not all here: it has no effect.
    Incomplete { id: OperationId, why: Incomplete },
    /// A close entry: what is known of its target now.
    Closed { id: OperationId, target: OperationId, occurrence: Occurrence },
}

impl Replica {
    pub(crate) fn new(node: NodeId, configuration: Arc<Configuration>, face: Box<dyn Face>) -> Replica {
        Replica {
            node,
            configuration,
            face,
            window: IdWindow::new(ID_WINDOW),
            assembly: Assembly::default(),
            given_up: Vec::new(),
            decided: Decided::after(Slot::ZERO),
            bytes_since_capture: 0,
            captured_bytes: 0,
            captured: None,
            writing: false,
            durable: Slot::ZERO,
            oldest_durable: Slot::ZERO,
            damaged_checkpoints: BTreeSet::new(),
            marks: BTreeMap::new(),
            needs_state: None,
            installing: None,
            awaits_state: false,
        }
    }

    /// The last slot given to the face.
    pub(crate) fn delivered(&self) -> Slot {
        self.decided.last()
    }

    /// What the face's own store holds, never beyond what was delivered.
    pub(crate) fn held(&mut self) -> Slot {
        self.face.held().min(self.decided.last())
    }

    /// Why the face applies nothing more.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.face.stopped()
    }

    pub(crate) fn admit(&mut self, body: &Bytes) -> Result<(), Bytes> {
        self.face.admit(body)
    }

    pub(crate) fn look_up(&self, id: OperationId) -> Occurrence {
        self.window.look_up(id)
    }

    pub(crate) fn configure(&mut self, configuration: Arc<Configuration>) {
        self.face.configured(&crate::description::group_description(&configuration));
        self.configuration = configuration;
    }

    /// Replaces the state by a checkpoint.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<Slot, String> {
        let checkpoint = checkpoint::decode(bytes)?;
        self.face.restore(checkpoint.slot, &checkpoint.face)?;
        self.window = checkpoint.window;
        self.assembly = checkpoint.assembly;
        self.given_up.clear();
        self.decided = Decided::after(checkpoint.slot);
        self.bytes_since_capture = 0;
        self.captured_bytes = (bytes.len() as u64).saturating_sub(self.assembly.bytes());
        self.captured = None;
        self.marks.clear();
        Ok(checkpoint.slot)
    }

    /// Gives the next slot to the face. `origin` says who on this node waits for an id.
    pub(crate) fn deliver(
        &mut self,
        slot: Slot,
        entry: Entry,
        origin: impl FnOnce(OperationId) -> Option<Origin>,
    ) -> Delivered {
        assert_eq!(slot, self.decided.last().next(), "slots are delivered in order, each once");
        let bytes = entry.len() as u64 + ENTRY_OVERHEAD_BYTES;
        self.bytes_since_capture += bytes;
        for mark in self.marks.values_mut() {
            mark.delivered_since += bytes;
        }
        let lapsed = self.assembly.lapse(slot);
        self.close_given_up(slot, lapsed);
        let (effectiveness, delivered) = match entry.kind() {
            EntryKind::Operation | EntryKind::SnapshotMark | EntryKind::LastPart => {
                self.operation(slot, &entry, origin)
            }
            kind => {
                let delivered = match kind {
                    EntryKind::Close => self.close(slot, &entry),
                    EntryKind::Part => self.part(slot, entry.to_part().expect("a part names its operation")),
                    _ => Delivered::Nothing,
                };
                self.face.pass(slot);
                self.decided.push(Effectiveness::Nothing, Content { id: entry.id(), body: Bytes::new() });
                (Effectiveness::Nothing, delivered)
            }
        };
        // The checkpoint of a mark is the state after its slot.
        if effectiveness == Effectiveness::Mark {
            if let Delivered::Operation { id, .. } = &delivered {
                if id.node == self.node {
                    self.keep_mark(slot);
                }
            }
        }
        delivered
    }

    fn close(&mut self, slot: Slot, entry: &Entry) -> Delivered {
        let target = entry.closes().expect("a close entry names an id");
        let occurrence = self.window.close(slot, target);
        self.assembly.forget(target);
        Delivered::Closed { id: entry.id(), target, occurrence }
    }

    /// A part is kept unless its operation has ended: then it is a late double.
    fn part(&mut self, slot: Slot, part: Part) -> Delivered {
        if self.window.look_up(part.operation) == Occurrence::First {
            let given_up = self.assembly.take(slot, part);
            self.close_given_up(slot, given_up);
        } else {
            self.assembly.forget(part.operation);
        }
        Delivered::Nothing
    }

    /// What lapsed or made room has definitely failed, whatever comes of it later.
    fn close_given_up(&mut self, slot: Slot, given_up: Vec<OperationId>) {
        for id in given_up {
            // An id that the window forgot meanwhile is refused without an outcome, as any other.
            if self.window.look_up(id) == Occurrence::First {
                self.window.record(slot, id, Outcome::Closed);
                self.given_up.push(id);
            }
        }
    }

    /// Operations that were given up in the log since the last call, for those who still send them.
    pub(crate) fn take_given_up(&mut self) -> Vec<OperationId> {
        std::mem::take(&mut self.given_up)
    }

    /// An entry that takes effect if it is the first of its id, and whole.
    fn operation(
        &mut self,
        slot: Slot,
        entry: &Entry,
        origin: impl FnOnce(OperationId) -> Option<Origin>,
    ) -> (Effectiveness, Delivered) {
        let id = entry.id();
        let without_effect = match self.window.look_up(id) {
            Occurrence::First => None,
            Occurrence::Repeated(slot, outcome) => Some(Delivered::Operation { id, slot, outcome }),
            Occurrence::Expired => Some(Delivered::Expired { id }),
        };
        let whole = match (without_effect, entry.to_last_part()) {
            (Some(delivered), _) => {
                self.assembly.forget(id);
                Err(delivered)
            }
            (None, Some(last)) => self.assembly.finish(id, &last).map(|whole| (whole, true)).map_err(|why| {
                self.window.record(slot, id, Outcome::Closed);
                Delivered::Incomplete { id, why }
            }),
            (None, None) => {
                self.assembly.forget(id);
                let body = entry.bytes().slice_ref(entry.body());
                Ok((Whole { body, slots: Vec::new() }, false))
            }
        };
        let (whole, in_parts) = match whole {
            Ok(whole) => whole,
            Err(delivered) => {
                self.face.pass(slot);
                self.decided.push(Effectiveness::Nothing, Content { id, body: Bytes::new() });
                return (Effectiveness::Nothing, delivered);
            }
        };
        let delivery = Delivery { slot, id, origin: origin(id), body: &whole.body };
        let (effectiveness, outcome) = self.take_effect(entry.kind(), delivery);
        self.window.record(slot, id, outcome.clone());
        self.note_decided(effectiveness, id, whole, in_parts);
        (effectiveness, Delivered::Operation { id, slot, outcome })
    }

    fn take_effect(&mut self, kind: EntryKind, delivery: Delivery<'_>) -> (Effectiveness, Outcome) {
        if kind == EntryKind::SnapshotMark {
            self.face.mark(delivery);
            return (Effectiveness::Mark, Outcome::Applied(Vec::new()));
        }
        match self.face.apply(delivery) {
            Verdict::Accepted => (Effectiveness::Accepted, Outcome::Applied(Vec::new())),
            Verdict::Rejected(mut detail) => {
                // Cut alike on every member, whatever a face does.
                detail.truncate(Verdict::DETAIL_BYTES_MAX);
                (Effectiveness::Rejected, Outcome::Rejected(detail.to_vec()))
            }
        }
    }

    fn note_decided(&mut self, effectiveness: Effectiveness, id: OperationId, whole: Whole, in_parts: bool) {
        let accepted = effectiveness == Effectiveness::Accepted;
        let body = if accepted { whole.body.clone() } else { Bytes::new() };
        self.decided.push(effectiveness, Content { id, body });
        if accepted && in_parts {
            // Up to the oldest checkpoint the log is not kept for this node, or was never here. What stands across it was
            // in the assembly all at once, so what is kept in memory for that is bounded as the assembly is.
            let in_log = whole.slots.iter().all(|part| *part > self.oldest_durable);
            let kept = (!in_log).then_some(whole.body);
            self.decided.note_assembled(Assembled { id, parts: whole.slots, kept });
        }
    }

    fn encode(&self) -> Vec<u8> {
        checkpoint::encode(self.delivered(), &self.window, &self.assembly, &self.face.checkpoint())
    }

    fn keep_mark(&mut self, slot: Slot) {
        let bytes = Arc::new(self.encode());
        self.marks.insert(slot, Mark { bytes, delivered_since: 0 });
        while self.marks.len() > MARKS_MAX {
            self.marks.pop_first();
        }
    }

    /// The checkpoint kept for a mark.
    pub(crate) fn mark(&self, slot: Slot) -> Option<&Arc<Vec<u8>>> {
        self.marks.get(&slot).map(|mark| &mark.bytes)
    }

    /// Whether there was such a mark.
    pub(crate) fn release_mark(&mut self, slot: Slot) -> bool {
        self.marks.remove(&slot).is_some()
    }

    /// Marks whose copies took longer than `bytes_max` of log.
    pub(crate) fn lapse_marks(&mut self, bytes_max: u64) -> Vec<Slot> {
        let lapsed: Vec<Slot> =
            self.marks.iter().filter(|(_, mark)| mark.delivered_since > bytes_max).map(|(slot, _)| *slot).collect();
        for slot in &lapsed {
            self.marks.remove(slot);
        }
        lapsed
    }

    /// Captures a checkpoint if enough was delivered since the last one and that one is durable. It runs between two
    /// deliveries, so it is the state at one slot. A large state is written less often, so that checkpoints never
    /// write more than a fixed part of what the log itself does; so is one with many parts in it, which the end of their
    /// operations makes small again. Returns whether it did.
    pub(crate) fn capture_if_due(&mut self, every_bytes: u64) -> bool {
        let parts = self.assembly.bytes();
        let due = every_bytes.max(self.captured_bytes.max(parts) * LOG_PER_CHECKPOINT);
        let captures = self.bytes_since_capture >= due && self.captured.is_none() && !self.writing;
        if captures {
            self.capture();
        }
        captures
    }

    /// Captures a checkpoint in any case, unless one waits to be written.
    pub(crate) fn capture(&mut self) {
        if self.captured.is_none() {
            let bytes = Arc::new(self.encode());
            self.captured_bytes = (bytes.len() as u64).saturating_sub(self.assembly.bytes());
            self.captured = Some(Captured { slot: self.delivered(), bytes });
            self.bytes_since_capture = 0;
        }
    }

    /// A captured checkpoint that may be written now: the face's own store holds its slot, so that after a restart
    /// nothing at or below it is asked for again.
    pub(crate) fn take_writable(&mut self) -> Option<(Slot, Arc<Vec<u8>>)> {
        let slot = self.captured.as_ref()?.slot;
        if self.writing || self.held() < slot {
            return None;
        }
        let captured = self.captured.take()?;
        self.writing = true;
        Some((captured.slot, captured.bytes))
    }

    /// Up to where this node needs the log no more: its oldest checkpoint, the copies under way, and the parts of
    /// operations that the face's store lacks.
    pub(crate) fn needed_up_to(&mut self) -> Slot {
        let marked = self.marks.keys().next().copied().unwrap_or(Slot::LARGEST);
        let held = self.held();
        let before_parts = self.decided.first_part_above(held).map_or(Slot::LARGEST, Slot::previous);
        self.oldest_durable.min(marked).min(before_parts)
    }

    /// Drops verdicts that nobody can ask for any more: what the face's store holds.
    pub(crate) fn forget_decided(&mut self, streamed: Slot) {
        let held = self.held();
        self.decided.forget(held.min(streamed));
    }
}

#[cfg(test)]
mod tests;
