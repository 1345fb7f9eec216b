//! What a node knows when it starts again: its records, folded.
//!
//! Storage (and the simulator's disk) replays the durable records in order through [`Recovered::apply`], then says what it
//! found damaged. The node fills in [`RecoveredLog::applied`] from its faces before it gives this to the core.

use crate::ballot::Ballot;
use crate::configuration::Configuration;
use crate::entry::Entry;
use crate::ids::{GroupId, LogId, NodeId, Sequence, Slot, Start};
use crate::record::Record;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that one node's log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last durable record's sequence. The core's first record gets the next one.
    pub position: Sequence,
    /// The groups.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Highest start and position seen of other nodes (rule 7).
    pub peers: BTreeMap<NodeId, (Start, Sequence)>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RecoveredGroup {
    /// The newest chosen configuration that this node was told of; its epoch is the floor of every promise. Without one
    /// (lost to damage) the node holds the group's logs but takes no part until somebody tells it.
    pub configuration: Option<Arc<Configuration>>,
    /// The logs that have any record, the control log among them.
    pub logs: BTreeMap<LogId, RecoveredLog>,
    /// Set by storage when a damaged record may have been a promise or fence of this group: it must not vote (rule 9).
    pub promises_lost: bool,
    /// The latest [`Record::VotingBarred`]: its start. A renewal that names this start or a later one lifts it.
    pub barred: Option<Start>,
}

/// One log.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RecoveredLog {
    /// The highest promise in this log's own records.
    pub promised: Ballot,
    /// Every slot up to this one is known chosen.
    pub closed: Slot,
    /// Entries up to this slot may be gone from storage.
    pub trimmed: Slot,
    /// Accepted entries above `closed`. Those at or below it stay in storage, read with [`crate::Effect::ReadEntries`].
    pub accepted: BTreeMap<Slot, RecoveredEntry>,
    /// Slots from `trimmed` to `closed` whose content was found damaged, each with the ballot that its identity still names.
    pub lost: BTreeMap<Slot, Ballot>,
    /// Up to where the face's durable state (its checkpoint and own store) reaches; set by the node. Delivery begins after it.
    pub applied: Slot,
}

/// An accepted entry found in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredEntry {
    /// The ballot under which it was accepted.
    pub ballot: Ballot,
    /// Its content; none if that is damaged (rule 9) while the record's identity is intact.
    pub entry: Option<Entry>,
}

impl Recovered {
    /// Folds in the next durable record.
    pub fn apply(&mut self, sequence: Sequence, record: &Record) {
        assert!(sequence > self.position, "records are replayed in order");
        self.position = sequence;
        match record {
            Record::Configured { configuration } => self.group(configuration.group).configure(configuration),
            Record::Promised { group, log, ballot } => {
                let log = self.group(*group).log(*log);
                log.promised = log.promised.max(*ballot);
            }
            Record::Accepted { group, log, ballot, first, entries } => {
                let log = self.group(*group).log(*log);
                log.promised = log.promised.max(*ballot);
                let numbered = (first.0..).map(Slot).zip(entries.iter());
                numbered.for_each(|(slot, entry)| log.accept(slot, *ballot, Some(entry.clone())));
            }
            Record::Learnt { group, log, first, entries } => {
                let log = self.group(*group).log(*log);
                let numbered = (first.0..).map(Slot).zip(entries.iter());
                numbered.for_each(|(slot, (ballot, entry))| log.learn(slot, *ballot, Some(entry.clone())));
            }
            Record::Chosen { group, log, up_to } => self.group(*group).log(*log).close(*up_to),
            Record::Installed { group, log, slot } => {
                let log = self.group(*group).log(*log);
                log.close(*slot);
                log.trim(*slot);
            }
            Record::Trimmed { group, log, up_to } => {
                let log = self.group(*group).log(*log);
                log.close(*up_to);
                log.trim(*up_to);
            }
            Record::PeerSeen { node, start, position } => {
                let seen = self.peers.entry(*node).or_default();
                *seen = (*seen).max((*start, *position));
            }
            Record::VotingBarred { group, start } => {
                let group = self.group(*group);
                group.barred = group.barred.max(Some(*start));
            }
            Record::Forgotten { group } => {
                self.groups.remove(group);
            }
        }
    }

    fn group(&mut self, group: GroupId) -> &mut RecoveredGroup {
        self.groups.entry(group).or_default()
    }
}

impl RecoveredGroup {
    /// The log's recovered state, empty if it has no record yet.
    pub fn log(&mut self, log: LogId) -> &mut RecoveredLog {
        self.logs.entry(log).or_default()
    }

    fn configure(&mut self, configuration: &Arc<Configuration>) {
        if self.configuration.as_ref().is_none_or(|known| known.epoch < configuration.epoch) {
            self.configuration = Some(configuration.clone());
            self.log(LogId::CONTROL).close(configuration.epoch.slot());
        }
    }
}

impl RecoveredLog {
    /// An accepted entry, or one whose content storage found damaged (`None`). A later record of the slot replaces an
    /// earlier one, unless its ballot is lower.
    pub fn accept(&mut self, slot: Slot, ballot: Ballot, entry: Option<Entry>) {
        if slot <= self.closed {
            match entry {
                Some(_) => drop(self.lost.remove(&slot)),
                None if slot > self.trimmed => self.lose(slot, ballot),
                None => {}
            }
            return;
        }
        match self.accepted.get(&slot) {
            Some(known) if known.ballot > ballot => {}
            Some(known) if known.ballot == ballot && entry.is_none() => {}
            _ => {
                self.accepted.insert(slot, RecoveredEntry { ballot, entry });
            }
        }
    }

    /// An entry that was learnt, or one whose content storage found damaged (`None`). It was chosen; but that the slot is closed may
    /// be lost, and then an acceptance under a higher ballot binds, also if its content is damaged: what was learnt is its content,
    /// or a higher ballot has chosen it, which others answer.
    pub fn learn(&mut self, slot: Slot, ballot: Ballot, entry: Option<Entry>) {
        let damaged = self.accepted.get(&slot).filter(|known| known.entry.is_none()).map(|known| known.ballot);
        self.accept(slot, damaged.map_or(ballot, |known| known.max(ballot)), entry);
    }

    fn close(&mut self, up_to: Slot) {
        self.closed = self.closed.max(up_to);
        let open = self.accepted.split_off(&self.closed.next());
        let closed = std::mem::replace(&mut self.accepted, open);
        for (slot, found) in closed.into_iter().filter(|(_, found)| found.entry.is_none()) {
            self.lose(slot, found.ballot);
        }
    }

    fn trim(&mut self, up_to: Slot) {
        self.trimmed = self.trimmed.max(up_to);
        self.lost = self.lost.split_off(&self.trimmed.next());
    }

    fn lose(&mut self, slot: Slot, ballot: Ballot) {
        let known = self.lost.entry(slot).or_default();
        *known = (*known).max(ballot);
    }
}
