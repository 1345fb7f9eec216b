//! Everything that a core can want done. An effect is cheap to make and to move.

use crate::configuration::Configuration;
use crate::entry::Entry;
use crate::ids::{Epoch, GroupId, LogId, NodeId, OperationId, Sequence, Slot, Token};
use crate::message::{Impostor, Message};
use crate::record::Record;
use std::sync::Arc;

/// One effect. They must be carried out in the order in which they come; those that concern different parties
/// (disk, peers, faces) may overlap. A `Send` may always leave at once: the core holds back what must wait for the disk.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write this record to the log. Records come in the order of their sequence, without gaps; several may be written and synced
    /// together; then [`crate::Input::Persisted`] with the last one's sequence acknowledges all. A record that [`Record::is_lazy`]
    /// needs no sync of its own: it may wait for the next batch that does.
    Persist {
        /// Its place in the log.
        sequence: Sequence,
        /// The record.
        record: Record,
    },
    /// Send this to each of these nodes. May be lost, doubled or late; per link the order should be kept, for speed only.
    Send {
        /// The receivers; never this node.
        to: Vec<NodeId>,
        /// The message; encode it once for all.
        message: Arc<Message>,
    },
    /// The next entry of the log is chosen. Slots come in order, without gaps, each once per life of the core. Of a log of values
    /// the newest one is delivered: slots come in order, with gaps, and again after the log was unloaded.
    Deliver {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The slot.
        slot: Slot,
        /// What was chosen.
        entry: Entry,
    },
    /// The answer to a proposal.
    Proposed {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The operation.
        id: OperationId,
        /// What became of it.
        outcome: ProposalOutcome,
    },
    /// The answer to a read: once the face has applied this slot, the read sees everything that was completed before it was asked.
    Barrier {
        /// The reader's token.
        token: Token,
        /// The barrier, or why there is none.
        result: Result<Slot, Refusal>,
    },
    /// Read chosen entries from storage, in consecutive slots from `from`, as many as fit; answer with [`crate::Input::EntriesRead`].
    ReadEntries {
        /// To be handed back.
        token: Token,
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The first slot wanted.
        from: Slot,
        /// The last slot wanted.
        up_to: Slot,
        /// Stop after this many bytes; one entry at least.
        bytes_max: usize,
    },
    /// Load a log of values; answer with [`crate::Input::LogLoaded`]. Messages about it wait meanwhile.
    LoadLog {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
    },
    /// The log left memory; it is loaded again when it is used. A face may forget what it was delivered of it: the newest value
    /// is delivered again then.
    Unloaded {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
    },
    /// List data logs of the group that come after this one, as the disk has them now; answer with [`crate::Input::LogsListed`].
    ListLogs {
        /// To be handed back.
        token: Token,
        /// The group.
        group: GroupId,
        /// The log before the first; none to begin.
        after: Option<LogId>,
        /// Stop after this many.
        count_max: usize,
    },
    /// No member's log reaches back to this slot any more: the face must copy a state from another member, then say
    /// [`crate::Input::Installed`]. Said again from time to time as long as it is so.
    NeedState {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The first slot that is missing.
        from: Slot,
        /// Members that hold a state beyond it.
        donors: Vec<NodeId>,
    },
    /// A witness has little room for what this member's state does not hold durably: the face should make it durable now, and
    /// say [`crate::Input::Held`].
    HoldMore {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
    },
    /// A new configuration is in force here. If this node is not in it, it was removed.
    Configured {
        /// The configuration, with its group.
        configuration: Arc<Configuration>,
    },
    /// The answer to a creation or change.
    Changed {
        /// The caller's token.
        token: Token,
        /// The configuration that came out of it, or why there is none.
        result: Result<Arc<Configuration>, Refusal>,
    },
    /// The node must stop: going on could break a promise. Nothing else follows.
    Stop {
        /// Why, for the log and the user.
        reason: StopReason,
    },
}

/// What became of a proposal (rule 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposalOutcome {
    /// Chosen at this slot, and delivered there. (Whether the operation took effect is the face's and the id window's word.)
    Chosen(Slot),
    /// Never sent and never will be.
    Failed(Refusal),
    /// It was sent; it may be chosen, now or later.
    Unknown,
}

/// Why something was refused. Definite: nothing of it was done, except where said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The node knows no such group.
    #[error("this node is not in the group")]
    UnknownGroup,
    /// The node was removed from the group.
    #[error("this node was removed from the group in epoch {0}")]
    Removed(Epoch),
    /// Too few members answer.
    #[error("no quorum of the group answers; answering: {answering:?}, silent: {silent:?}")]
    NoQuorum {
        /// Members in contact, this node included.
        answering: Vec<NodeId>,
        /// Voters that are not.
        silent: Vec<NodeId>,
    },
    /// The deadline passed although a quorum is in contact.
    #[error("the deadline passed")]
    DeadlinePassed,
    /// The caller withdrew it.
    #[error("withdrawn")]
    Withdrawn,
    /// A queue is full.
    #[error("too much is waiting: {0}")]
    Full(&'static str),
    /// The entry is larger than any may be.
    #[error("an entry of {0} bytes is larger than the largest allowed")]
    TooLarge(usize),
    /// The group exists already on this node.
    #[error("the group exists already")]
    Exists,
    /// Another change is under way, in this epoch.
    #[error("another change of the group is under way since epoch {0}")]
    ChangeUnderWay(Epoch),
    /// The change makes no sense for the configuration in force.
    #[error("the change does not fit the group: {0}")]
    Unfit(&'static str),
    /// The member concerned does not answer now.
    #[error("the member {0} is not in contact")]
    NotInContact(NodeId),
    /// A value was made from another one than the newest: something else was chosen in its slot.
    #[error("another value was chosen meanwhile: the log is at slot {0}")]
    Superseded(Slot),
    /// The node is still copying or catching up.
    #[error("the member has not caught up: it holds slot {held}, the group is at {closed}")]
    Behind {
        /// What it holds.
        held: Slot,
        /// What is chosen.
        closed: Slot,
    },
    /// The node holds no state: it can neither take operations nor answer reads.
    #[error("this node is a witness of the group: it holds no state, ask another member")]
    Witness,
    /// The node may not vote or serve now.
    #[error("this node lost its promises and does not vote until the group's epoch is renewed")]
    Barred,
}

/// Why a node must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// Others have seen more of this node than it has: its directory is a copy or was restored (rule 7).
    #[error("this node is not what it was: {0:?}; its data directory is an old copy, or it runs twice; join it anew under a new identity")]
    Impostor(Impostor),
    /// Two values were seen under one ballot: some node broke the protocol or its disk lied (rule 2).
    #[error("two values under one ballot in log {log} of group {group} at slot {slot}")]
    TwoValues {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The slot.
        slot: Slot,
    },
}
