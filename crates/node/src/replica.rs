//! One group's replicated state on this node: the decided entries in slot order, through the window of ids, into the
//! face (rule 10).

use crate::checkpoint;
use crate::decided::{Decided, Effectiveness};
use crate::face::{Delivery, Face};
use crate::limits::{ENTRY_OVERHEAD_BYTES, ID_WINDOW, LOG_PER_CHECKPOINT, MARKS_MAX};
use bytes::Bytes;
use client::{OperationId, Origin, Slot, Verdict};
use consensus::{Configuration, Entry, EntryKind, IdWindow, NodeId, Occurrence, Outcome};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The state of one group.
pub(crate) struct Replica {
    node: NodeId,
    pub(crate) configuration: Arc<Configuration>,
    face: Box<dyn Face>,
    window: IdWindow,
    pub(crate) decided: Decided,
    /// Bytes delivered since the last checkpoint was captured.
    bytes_since_capture: u64,
    /// The size of the last one.
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
        self.decided = Decided::after(checkpoint.slot);
        self.bytes_since_capture = 0;
        self.captured_bytes = bytes.len() as u64;
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
        let (effectiveness, delivered) = match entry.kind() {
            EntryKind::Operation | EntryKind::SnapshotMark => self.operation(slot, &entry, origin),
            EntryKind::Close => {
                let target = entry.closes().expect("a close entry names an id");
                let occurrence = self.window.close(slot, target);
                self.face.pass(slot);
                let id = entry.id();
                (Effectiveness::Nothing, Delivered::Closed { id, target, occurrence })
            }
            _ => {
                self.face.pass(slot);
                (Effectiveness::Nothing, Delivered::Nothing)
            }
        };
        self.decided.push(effectiveness, entry);
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

    fn operation(
        &mut self,
        slot: Slot,
        entry: &Entry,
        origin: impl FnOnce(OperationId) -> Option<Origin>,
    ) -> (Effectiveness, Delivered) {
        let id = entry.id();
        match self.window.look_up(id) {
            Occurrence::First => {}
            Occurrence::Repeated(first, outcome) => {
                self.face.pass(slot);
                let delivered = Delivered::Operation { id, slot: first, outcome };
                return (Effectiveness::Nothing, delivered);
            }
            Occurrence::Expired => {
                self.face.pass(slot);
                return (Effectiveness::Nothing, Delivered::Expired { id });
            }
        }
        let body = entry.bytes().slice_ref(entry.body());
        let delivery = Delivery { slot, id, origin: origin(id), body: &body };
        let (effectiveness, outcome) = if entry.kind() == EntryKind::SnapshotMark {
            self.face.mark(delivery);
            (Effectiveness::Mark, Outcome::Applied(Vec::new()))
        } else {
            match self.face.apply(delivery) {
                Verdict::Accepted => (Effectiveness::Accepted, Outcome::Applied(Vec::new())),
                Verdict::Rejected(mut detail) => {
                    // Cut alike on every member, whatever a face does.
                    detail.truncate(Verdict::DETAIL_BYTES_MAX);
                    (Effectiveness::Rejected, Outcome::Rejected(detail.to_vec()))
                }
            }
        };
        self.window.record(slot, id, outcome.clone());
        (effectiveness, Delivered::Operation { id, slot, outcome })
    }

    fn encode(&self) -> Vec<u8> {
        checkpoint::encode(self.delivered(), &self.window, &self.face.checkpoint())
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
    /// write more than a fixed part of what the log itself does. Returns whether it did.
    pub(crate) fn capture_if_due(&mut self, every_bytes: u64) -> bool {
        let due = every_bytes.max(self.captured_bytes * LOG_PER_CHECKPOINT);
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
            self.captured_bytes = bytes.len() as u64;
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

    /// Up to where this node needs the log no more: its oldest checkpoint, and the copies under way.
    pub(crate) fn needed_up_to(&self) -> Slot {
        let marked = self.marks.keys().next().copied().unwrap_or(Slot::LARGEST);
        self.oldest_durable.min(marked)
    }

    /// Drops verdicts that nobody can ask for any more: what the face's store holds.
    pub(crate) fn forget_decided(&mut self, streamed: Slot) {
        let held = self.held();
        self.decided.forget(held.min(streamed));
    }
}
