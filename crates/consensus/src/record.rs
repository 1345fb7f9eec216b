//! What a node writes to its log before it says anything that depends on it (rule 3).
//!
//! Storage writes records in the order of their sequence and knows nothing of their meaning beyond
//! [`crate::Recovered::apply`], which folds them, in that order, into what a restarted core needs.

use crate::ballot::Ballot;
use crate::configuration::Configuration;
use crate::entry::Entry;
use crate::ids::{GroupId, LogId, NodeId, Sequence, Slot, Start};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One record of the write-ahead log. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// A chosen configuration; also the fence: from here on no vote of an older epoch.
    Configured {
        /// The configuration, with its group and epoch.
        configuration: Arc<Configuration>,
    },
    /// A promise in one log.
    Promised {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// Nothing lower will be accepted or promised.
        ballot: Ballot,
    },
    /// Entries accepted under one ballot in consecutive slots; a promise of that ballot too.
    Accepted {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The ballot of all of them.
        ballot: Ballot,
        /// Slot of the first.
        first: Slot,
        /// Their content.
        entries: Arc<[Entry]>,
    },
    /// Entries learnt to be chosen, in consecutive slots, each with a ballot under which its value was accepted. No promise.
    Learnt {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// Slot of the first.
        first: Slot,
        /// Their ballots and content.
        entries: Arc<[(Ballot, Entry)]>,
    },
    /// Every slot up to this one is known chosen, and what this log holds there is what was chosen. Written lazily.
    Chosen {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// Closed-up-to.
        up_to: Slot,
    },
    /// A state copy that holds everything up to this slot was installed: accepted entries up to it are void.
    Installed {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The state's slot, closed-up-to at least.
        slot: Slot,
    },
    /// Entries up to this slot are needed no more; storage may drop them. Written lazily.
    Trimmed {
        /// The group.
        group: GroupId,
        /// The log.
        log: LogId,
        /// The last slot not needed.
        up_to: Slot,
    },
    /// The highest position seen of another node's log (rule 7). Written lazily.
    PeerSeen {
        /// The other node.
        node: NodeId,
        /// Its start.
        start: Start,
        /// Its log's durable length.
        position: Sequence,
    },
    /// This node cannot know what it promised in the group: it must not vote until a change is final that renews it and names
    /// this start or a later one (rule 9).
    VotingBarred {
        /// The group.
        group: GroupId,
        /// The start of this node in which the loss was found, before it sent anything.
        start: Start,
    },
    /// The node dropped the group; everything about it is void.
    Forgotten {
        /// The group.
        group: GroupId,
    },
}

impl Record {
    /// The group it belongs to; none for what belongs to the node.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Record::Configured { configuration } => Some(configuration.group),
            Record::Promised { group, .. }
            | Record::Accepted { group, .. }
            | Record::Learnt { group, .. }
            | Record::Chosen { group, .. }
            | Record::Installed { group, .. }
            | Record::Trimmed { group, .. }
            | Record::VotingBarred { group, .. }
            | Record::Forgotten { group } => Some(*group),
            Record::PeerSeen { .. } => None,
        }
    }

    /// Whether it may wait for the next batch: nobody is told anything that depends on it.
    #[must_use]
    pub fn is_lazy(&self) -> bool {
        matches!(self, Record::Chosen { .. } | Record::Trimmed { .. } | Record::PeerSeen { .. })
    }

    /// About how many bytes it takes on the disk.
    #[must_use]
    pub fn size_hint(&self) -> usize {
        64 + match self {
            Record::Accepted { entries, .. } => entries.iter().map(|entry| entry.len() + 8).sum(),
            Record::Learnt { entries, .. } => entries.iter().map(|(_, entry)| entry.len() + 48).sum(),
            Record::Configured { configuration } => configuration.members.len() * 256,
            _ => 0,
        }
    }
}
