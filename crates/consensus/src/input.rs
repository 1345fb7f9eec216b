//! Everything that can happen to a core.

use crate::ballot::Ballot;
use crate::configuration::{Configuration, Discipline, Member};
use crate::entry::Entry;
use crate::ids::{GroupId, LogId, NodeId, OperationId, Sequence, Slot, Token};
use crate::message::Message;
use crate::recovered::RecoveredLog;
use crate::time::Time;
use std::sync::Arc;

/// One input. Requests with a token or id are answered by exactly one effect that carries it.
#[derive(Clone, Debug)]
pub enum Input {
    /// A peer's message. The link has proved that it comes from `from`.
    Message {
        /// The peer.
        from: NodeId,
        /// What it said.
        message: Message,
    },
    /// Every record up to this sequence is durable.
    Persisted {
        /// The last durable record.
        sequence: Sequence,
    },
    /// Time has passed; give it at [`crate::Core::next_deadline`] at the latest. Every other input counts as one too.
    Tick,
    /// A link to the node is up.
    Connected {
        /// The peer.
        node: NodeId,
    },
    /// The link is down.
    Disconnected {
        /// The peer.
        node: NodeId,
    },
    /// Put this entry into the log. Answered by [`crate::Effect::Proposed`] with the entry's id.
    Propose {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The entry; its id must be new, or a repetition of the same operation.
        entry: Entry,
        /// When the caller wants an answer at the latest.
        deadline: Time,
    },
    /// The caller of this proposal has lost interest. Answered at once, unless an answer was given already: definitely failed
    /// if it was never sent, else unknown.
    Withdraw {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The operation.
        id: OperationId,
    },
    /// Ask for a barrier (rule 5). Answered by [`crate::Effect::Barrier`].
    Read {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The caller's name for it.
        token: Token,
        /// When the caller wants an answer at the latest.
        deadline: Time,
    },
    /// The answer to [`crate::Effect::ReadEntries`].
    EntriesRead {
        /// The effect's token.
        token: Token,
        /// Entries in consecutive slots from the one asked for, with a ballot under which each was accepted; as many as fit.
        /// Empty if the first one is missing or damaged: it is then fetched from a peer.
        entries: Vec<(Ballot, Entry)>,
        /// If the first one is damaged: the ballot that its identity still names.
        damaged: Option<Ballot>,
    },
    /// The answer to [`crate::Effect::LoadLog`]: what the disk says of the log, everything kept in it included. A read that failed
    /// is an I/O error: the node stops.
    LogLoaded {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// What storage holds of it.
        loaded: RecoveredLog,
        /// Up to where the face's own durable state reaches, if it has one: values up to there are not delivered again.
        held: Slot,
    },
    /// The answer to [`crate::Effect::ListLogs`]: data logs in the order of their ids, with closed-up-to and the highest accepted
    /// slot of each, as the disk has them.
    LogsListed {
        /// The effect's token.
        token: Token,
        /// The logs.
        logs: Vec<(LogId, Slot, Slot)>,
        /// Whether no more follow.
        last: bool,
    },
    /// Storage found the content of this entry damaged, although nobody asked for it. What memory holds is written again; what is
    /// chosen and not in memory is fetched from a member and written again; anything else waits for phase 1 (rule 9).
    Damaged {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The slot.
        slot: Slot,
    },
    /// Make a new group with this node as its only member. Answered by [`crate::Effect::Changed`], once durable.
    CreateGroup {
        /// The caller's name for it.
        token: Token,
        /// A new random id.
        group: GroupId,
        /// Its name: a label.
        name: String,
        /// Which face it serves.
        kind: String,
        /// The face's own text.
        detail: String,
        /// What its data logs are.
        discipline: Discipline,
        /// This node.
        member: Member,
    },
    /// A member told this node, outside the core, that it was added to a group. Answered by [`crate::Effect::Changed`], once durable.
    LearnGroup {
        /// The caller's name for it.
        token: Token,
        /// The group's chosen configuration.
        configuration: Arc<Configuration>,
    },
    /// Change who belongs to the group. Answered by [`crate::Effect::Changed`] when it is in force, refused, or out of time
    /// (then it may still come into force; asking again is safe).
    Change {
        /// The caller's name for it.
        token: Token,
        /// The group.
        group: GroupId,
        /// What is wanted.
        change: Change,
        /// When the caller wants an answer at the latest.
        deadline: Time,
    },
    /// The face holds a complete copy of the state at this slot, durably, taken from another member.
    Installed {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The state's slot.
        slot: Slot,
    },
    /// The face holds everything up to this slot durably (its checkpoint too): the log may be trimmed up to
    /// what [`crate::CoreOptions::log_keep_bytes`] keeps for laggards.
    Held {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// Held up to here.
        slot: Slot,
    },
    /// Invite `to` to become the log's owner; has no effect unless this node is the owner.
    HandOver {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The member invited.
        to: NodeId,
    },
    /// Drop everything about a group of which this node is no member any more (or its only member).
    Forget {
        /// The group.
        group: GroupId,
    },
}

/// A change of a group's members (rule 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a learner, or bring an existing member's address, key or label up to date.
    AddLearner(Member),
    /// Add a witness that does not vote yet, or bring its address, key or label up to date.
    AddWitness(Member),
    /// Make a learner a voter, or a new witness one that votes, through a joint epoch.
    Promote(NodeId),
    /// Make a voter a learner that becomes a voter again by itself once it has caught up, through a joint epoch.
    SetAway(NodeId),
    /// Remove a member; a voter through a joint epoch.
    Remove(NodeId),
    /// End a joint epoch by going back to the old voters.
    GoBack,
    /// Renew the epoch with the same members, through a joint epoch, so that these voters, which lost their promises, vote again (rule 9).
    Renew(Vec<NodeId>),
}
