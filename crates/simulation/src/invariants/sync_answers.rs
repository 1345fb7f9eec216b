//! Rule 6: what a member answers to a sync pass shows everything that it had accepted before it was fenced for that epoch, in logs
//! of values in memory or not.
//!
//! The sync pass believes its answers: what one leaves out may have been chosen and be held by no quorum of the new members.

use std::collections::BTreeMap;

use consensus::{Entry, EntryKind, Epoch, GroupId, GroupMessage, LogId, Message, NodeId, Record, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// The highest slot in which a disk has held a value, of each log.
type Highest = BTreeMap<(GroupId, LogId), Slot>;

/// What the disks of members had, and what they had when each epoch came.
#[derive(Debug, Default)]
pub struct SyncAnswers {
    held: BTreeMap<NodeId, Highest>,
    fenced: BTreeMap<(NodeId, GroupId, Epoch), Highest>,
}

impl SyncAnswers {
    fn hold<'a>(&mut self, node: NodeId, log: (GroupId, LogId), first: Slot, entries: impl Iterator<Item = &'a Entry>) {
        for (slot, _) in (first.0..).map(Slot).zip(entries).filter(|(_, entry)| entry.kind() == EntryKind::Value) {
            let highest = self.held.entry(node).or_default().entry(log).or_default();
            *highest = (*highest).max(slot);
        }
    }

    fn became_durable(&mut self, node: NodeId, record: &Record) {
        match record {
            Record::Accepted { group, log, first, entries, .. } => {
                self.hold(node, (*group, *log), *first, entries.iter());
            }
            Record::Learnt { group, log, first, entries } => {
                self.hold(node, (*group, *log), *first, entries.iter().map(|(_, entry)| entry));
            }
            Record::Configured { configuration } => {
                let held = self.held.get(&node).cloned().unwrap_or_default();
                self.fenced.insert((node, configuration.group, configuration.epoch), held);
            }
            _ => {}
        }
    }
}

impl Invariant for SyncAnswers {
    fn name(&self) -> &'static str {
        "sync answers show all"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Durable { node, record, .. } => self.became_durable(*node, record),
            Observation::Sent { from, message: Message::Group { group, epoch, body, .. }, .. } => {
                let GroupMessage::SyncAnswer { after, logs, last, votes: true } = body else { return Ok(()) };
                let Some(fenced) = self.fenced.get(&(*from, *group, *epoch)) else { return Ok(()) };
                let end = logs.last().map(|(log, ..)| *log).filter(|_| !last);
                for ((of, log), slot) in fenced {
                    let asked = of == group && Some(*log) > *after && end.is_none_or(|end| *log <= end);
                    let shown = logs.iter().find(|(shown, ..)| shown == log);
                    let shown = shown.map(|(_, closed, highest)| *closed.max(highest)).unwrap_or_default();
                    ensure!(
                        !asked || shown >= *slot,
                        "{from} shows {log} up to {shown}; before it was fenced for {epoch} it held slot {slot}"
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }
}
