//! Rule 3: what a node says it promised or accepted is on its disk; a read answer reflects durable state only.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{Ballot, Epoch, GroupId, GroupMessage, LogId, Message, NodeId, Record, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// One node's disk, as far as replies speak of it. Nothing is ever taken out: what was durable once may be said.
#[derive(Debug, Default)]
struct Disk {
    promised: BTreeMap<(GroupId, LogId), Ballot>,
    fences: BTreeMap<GroupId, Epoch>,
    accepted: BTreeSet<(GroupId, LogId, Slot, Ballot)>,
}

impl Disk {
    fn take(&mut self, record: &Record) {
        let mut promise = |group: GroupId, log: LogId, ballot: Ballot| {
            let promised = self.promised.entry((group, log)).or_default();
            *promised = (*promised).max(ballot);
        };
        match record {
            Record::Configured { configuration } => {
                let fence = self.fences.entry(configuration.group).or_default();
                *fence = (*fence).max(configuration.epoch);
            }
            Record::Promised { group, log, ballot } => promise(*group, *log, *ballot),
            Record::Accepted { group, log, ballot, first, entries } => {
                promise(*group, *log, *ballot);
                for offset in 0..entries.len() as u64 {
                    self.accepted.insert((*group, *log, first.plus(offset), *ballot));
                }
            }
            Record::Learnt { group, log, first, entries } => {
                for (slot, (ballot, _)) in (first.0..).map(Slot).zip(entries.iter()) {
                    self.accepted.insert((*group, *log, slot, *ballot));
                }
            }
            _ => {}
        }
    }

    fn promised(&self, group: GroupId, log: LogId) -> Ballot {
        let floor = Ballot::floor(self.fences.get(&group).copied().unwrap_or_default());
        self.promised.get(&(group, log)).copied().unwrap_or_default().max(floor)
    }

    fn check(&self, node: NodeId, group: GroupId, epoch: Epoch, body: &GroupMessage) -> Result<(), String> {
        match body {
            GroupMessage::Promise { log, ballot, .. } => {
                let promised = self.promised(group, *log);
                ensure!(promised >= *ballot, "{node} says that it promised {ballot} in {log}; durable is {promised}");
            }
            GroupMessage::Accepted { log, ballot, first, last, .. } => {
                for slot in (first.0..=last.0).map(Slot) {
                    let durable = self.accepted.contains(&(group, *log, slot, *ballot));
                    ensure!(
                        durable,
                        "{node} says that it accepted slot {slot} of {log} under {ballot}; its disk does not"
                    );
                }
            }
            // Its promise only names a ballot that somebody uses, as a refusal does: whom to ask, not what binds.
            GroupMessage::ReadAnswer { log, closed, highest, ballot, .. } => {
                // A slot at or below closed-up-to is chosen whatever this disk holds.
                let durable = *highest <= *closed || self.accepted.contains(&(group, *log, *highest, *ballot));
                ensure!(
                    durable,
                    "{node} answers a read with slot {highest} of {log} under {ballot}; its disk does not"
                );
            }
            GroupMessage::Fenced => {
                let fence = self.fences.get(&group).copied().unwrap_or_default();
                ensure!(fence >= epoch, "{node} says that it fenced {epoch}; durable is {fence}");
            }
            _ => {}
        }
        Ok(())
    }
}

/// The disks of all nodes.
#[derive(Debug, Default)]
pub struct DurableBeforeReply {
    disks: BTreeMap<NodeId, Disk>,
}

impl Invariant for DurableBeforeReply {
    fn name(&self) -> &'static str {
        "durable before the reply"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Durable { node, record, .. } => self.disks.entry(*node).or_default().take(record),
            Observation::Sent { from, message: Message::Group { group, epoch, body, .. }, .. } => {
                self.disks.entry(*from).or_default().check(*from, *group, *epoch, body)?;
            }
            _ => {}
        }
        Ok(())
    }
}
