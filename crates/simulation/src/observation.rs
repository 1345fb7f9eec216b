//! What can be seen of the cluster from outside: the input of every invariant, and the lines of the trace.

use consensus::{
    Configuration, Entry, GroupId, LogId, LogQueues, Message, NodeId, OperationId, ProposalOutcome, Record, Recovered,
    RecoveredLog, Refusal, Sequence, Slot, Start, Token,
};

use crate::face::Passed;

/// One observation, made at the moment at which it happens.
#[derive(Debug)]
pub enum Observation<'a> {
    /// A node begins a life with what its disk says.
    Started {
        /// Who.
        node: NodeId,
        /// Its new start.
        start: Start,
        /// Its disk.
        recovered: &'a Recovered,
    },
    /// A node's memory is gone; what its disk had under way is decided already.
    Crashed {
        /// Who.
        node: NodeId,
    },
    /// A record enters the log's queue.
    Queued {
        /// Whose log.
        node: NodeId,
        /// Its place.
        sequence: Sequence,
        /// The record.
        record: &'a Record,
    },
    /// A record is durable now, whether the node knows it or not.
    Durable {
        /// Whose log.
        node: NodeId,
        /// Its place.
        sequence: Sequence,
        /// The record.
        record: &'a Record,
    },
    /// A message leaves.
    Sent {
        /// From.
        from: NodeId,
        /// To.
        to: &'a [NodeId],
        /// What.
        message: &'a Message,
    },
    /// A core delivers an entry to its face.
    Delivered {
        /// Where.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The slot.
        slot: Slot,
        /// The entry.
        entry: &'a Entry,
    },
    /// A log of values is taken into memory.
    Loaded {
        /// Where.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// What the disk says of it.
        loaded: &'a RecoveredLog,
    },
    /// A log of values left memory.
    Unloaded {
        /// Where.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
    },
    /// A face passed a slot, with or without effect.
    Applied {
        /// Where.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The slot.
        slot: Slot,
        /// What it did.
        passed: Passed,
    },
    /// A face's state was made durable, or replaced by a copy.
    Checkpointed {
        /// Where.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The state's slot.
        slot: Slot,
        /// What the state comes to.
        digest: u64,
    },
    /// A core has done all that it had to do for now.
    Rested {
        /// Where.
        node: NodeId,
        /// What each of its logs in memory holds.
        queues: &'a [LogQueues],
        /// Ids that a face remembers.
        remembered: usize,
    },
    /// A face's state was replaced by a copy.
    Installed {
        /// Where.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The copy's slot.
        slot: Slot,
    },
    /// A face begins again from its durable state.
    Restored {
        /// Where.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The state's slot.
        slot: Slot,
    },
    /// A proposal is asked for.
    Proposing {
        /// Where.
        node: NodeId,
        /// The entry.
        entry: &'a Entry,
    },
    /// A proposal is withdrawn by its caller.
    Withdrawing {
        /// Where.
        node: NodeId,
        /// The operation.
        id: OperationId,
    },
    /// A proposal is answered.
    Proposed {
        /// Where.
        node: NodeId,
        /// The log.
        log: LogId,
        /// The operation.
        id: OperationId,
        /// The answer.
        outcome: &'a ProposalOutcome,
    },
    /// A barrier is asked for.
    Reading {
        /// Where.
        node: NodeId,
        /// The log.
        log: LogId,
        /// The reader.
        token: Token,
    },
    /// A barrier is answered.
    Barrier {
        /// Where.
        node: NodeId,
        /// The reader.
        token: Token,
        /// The answer.
        result: &'a Result<Slot, Refusal>,
    },
    /// A change of the members is answered; an introduction is none.
    Changed {
        /// Where.
        node: NodeId,
        /// What is in force.
        configuration: &'a Configuration,
    },
    /// A configuration is in force at a node.
    Configured {
        /// Where.
        node: NodeId,
        /// It.
        configuration: &'a Configuration,
    },
}

impl Observation<'_> {
    /// Where it was made.
    pub fn node(&self) -> NodeId {
        match self {
            Observation::Sent { from, .. } => *from,
            Observation::Started { node, .. }
            | Observation::Crashed { node }
            | Observation::Queued { node, .. }
            | Observation::Durable { node, .. }
            | Observation::Delivered { node, .. }
            | Observation::Loaded { node, .. }
            | Observation::Unloaded { node, .. }
            | Observation::Applied { node, .. }
            | Observation::Checkpointed { node, .. }
            | Observation::Rested { node, .. }
            | Observation::Installed { node, .. }
            | Observation::Restored { node, .. }
            | Observation::Proposing { node, .. }
            | Observation::Withdrawing { node, .. }
            | Observation::Proposed { node, .. }
            | Observation::Reading { node, .. }
            | Observation::Barrier { node, .. }
            | Observation::Changed { node, .. }
            | Observation::Configured { node, .. } => *node,
        }
    }
}
