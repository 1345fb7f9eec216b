//! What a face gives to the engine: a deterministic state machine over the decided entries of one group.

use bytes::Bytes;
use client::{GroupDescription, MemberDescription, NodeId, OperationId, Origin, Slot, Start, Verdict};

/// A decided operation or snapshot mark on its way to the face.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Its slot.
    pub slot: Slot,
    /// Its id: this is the first occurrence in the log.
    pub id: OperationId,
    /// Who on this node waits for it, if its proposer still does. No outcome may depend on it.
    pub origin: Option<Origin>,
    /// The payload; empty for a mark.
    pub body: &'a Bytes,
}

/// The state machine of one group on one node.
///
/// Every method runs on the engine thread and must return soon: while it runs, nobody on this node is answered.
/// Every slot after the restored one comes exactly once and in order, through `apply`, `mark` or `pass`. After a
/// restart of the engine slots come again from the restored checkpoint on; a face whose own store is further knows
/// by the slot which effects it has already.
pub trait Face {
    /// Decides about an operation. The same on every member: a function of the state and the body alone.
    fn apply(&mut self, delivery: Delivery<'_>) -> Verdict;

    /// A slot without effect: a no-op, a repeated or closed id.
    fn pass(&mut self, slot: Slot);

    /// A snapshot mark, of whichever node made it. `delivery.origin` is set only on the node that did and still waits.
    fn mark(&mut self, delivery: Delivery<'_>) {
        self.pass(delivery.slot);
    }

    /// Called when a local client proposes, before anything is sent: `Err` with a reason in the face's encoding if
    /// what was already delivered makes a rejection certain. Optional, a matter of speed.
    fn admit(&mut self, _body: &Bytes) -> Result<(), Bytes> {
        Ok(())
    }

    /// The state as of the last delivered slot, in the face's own versioned encoding: what replay needs and the
    /// face's own store lacks.
    fn checkpoint(&self) -> Vec<u8>;

    /// Replaces the state by a checkpoint of `slot`, from this node or another one.
    fn restore(&mut self, slot: Slot, checkpoint: &[u8]) -> Result<(), String>;

    /// Every slot at or below this is durable in the face's own store: after a crash of this machine the face needs
    /// none of them again. A face without a store of its own answers [`Slot`]`(u64::MAX)`: its checkpoint is its store.
    fn held(&mut self) -> Slot;

    /// Why the face applies nothing more, for status; `None` while it does.
    fn stopped(&self) -> Option<String> {
        None
    }

    /// The group's members changed.
    fn configured(&mut self, _group: &GroupDescription) {}
}

/// A group for which a face is wanted.
#[derive(Clone, Copy, Debug)]
pub struct FaceContext<'a> {
    /// The group.
    pub group: &'a GroupDescription,
    /// This node's own entry in it; `None` if it is no longer a member.
    pub member: Option<&'a MemberDescription>,
    /// This node.
    pub node: NodeId,
    /// This start: ids with it belong to proposers of this very run.
    pub start: Start,
}

/// Makes the faces of a node's groups.
pub trait FaceFactory: Send {
    /// Whether groups of this kind can be made.
    fn knows(&self, kind: &str) -> bool;

    /// What the data logs of groups of this kind are. A face of a group of values is told nothing of them: the newest value of
    /// each is asked for with [`client::Request::Value`].
    fn discipline(&self, _kind: &str) -> consensus::Discipline {
        consensus::Discipline::Sequences
    }

    /// Makes an empty face; a checkpoint may be restored into it afterwards. Called on the engine thread when the
    /// engine starts, when a group is created and when one is learnt.
    fn make(&mut self, context: FaceContext<'_>) -> Result<Box<dyn Face>, String>;

    /// The group left this node; its face was dropped.
    fn forgotten(&mut self, _group: client::GroupId) {}
}
