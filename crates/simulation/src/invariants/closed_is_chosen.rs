//! Rules 1 and 2: whatever a node says is closed has been chosen, by what the disks say at that moment; and what was accepted
//! under the ballot that a chosen notice names is the chosen value.
//!
//! Others act on these words before anything is delivered: they close slots, answer reads, and propose nothing there. (A notice
//! may name a higher ballot than the one that first chose the slot: another member finished the slot under the lower one. Whatever
//! was accepted under the higher one is the same, *Paxos Made Simple*, P2b.)

use std::collections::BTreeMap;
use std::sync::Arc;

use consensus::{
    Ballot, ChosenRange, Configuration, Entry, Epoch, GroupId, GroupMessage, LogId, MemberSet, Message, NodeId, Record,
    Slot,
};

use super::{ensure, Invariant};
use crate::observation::Observation;

type Place = (GroupId, LogId, Slot);

/// What the disks say.
#[derive(Debug, Default)]
pub struct ClosedIsChosen {
    configurations: BTreeMap<(GroupId, Epoch), Arc<Configuration>>,
    accepted: BTreeMap<(Place, Ballot), (Entry, MemberSet)>,
    chosen: BTreeMap<Place, Entry>,
    /// Of each log the slot up to which all is chosen.
    closed: BTreeMap<(GroupId, LogId), Slot>,
}

impl ClosedIsChosen {
    fn accept(&mut self, node: NodeId, place: Place, ballot: Ballot, entry: &Entry) {
        let (group, log, _) = place;
        let Some(configuration) = self.configurations.get(&(group, ballot.epoch)) else { return };
        let Some(index) = configuration.index(node) else { return };
        let (_, acceptors) = self.accepted.entry((place, ballot)).or_insert_with(|| (entry.clone(), MemberSet::EMPTY));
        acceptors.insert(index);
        if !configuration.is_quorum(*acceptors) {
            return;
        }
        self.chosen.entry(place).or_insert_with(|| entry.clone());
        let closed = self.closed.entry((group, log)).or_default();
        while self.chosen.contains_key(&(group, log, closed.next())) {
            *closed = closed.next();
        }
    }

    fn check_closed(&self, node: NodeId, (group, log): (GroupId, LogId), closed: Slot) -> Result<(), String> {
        let truth = self.closed.get(&(group, log)).copied().unwrap_or_default();
        ensure!(
            closed <= truth || log == LogId::CONTROL,
            "{node} says that {log} is closed up to {closed}; the disks have chosen up to {truth}"
        );
        Ok(())
    }

    fn check_notice(&self, node: NodeId, (group, log): (GroupId, LogId), range: ChosenRange) -> Result<(), String> {
        self.check_closed(node, (group, log), range.last)?;
        // Only the end: notices reach back over a whole ownership, and each slot was the end of one, or is delivered.
        let place = (group, log, range.last);
        if let (Some((entry, _)), Some(chosen)) = (self.accepted.get(&(place, range.ballot)), self.chosen.get(&place)) {
            ensure!(
                entry == chosen,
                "{node} says that slot {} of {log} is chosen under {}, where {entry:?} was accepted; chosen is {chosen:?}",
                range.last,
                range.ballot
            );
        }
        Ok(())
    }

    fn check_body(&self, node: NodeId, group: GroupId, body: &GroupMessage) -> Result<(), String> {
        match body {
            GroupMessage::Promise { log, closed, .. }
            | GroupMessage::Refused { log, closed, .. }
            | GroupMessage::Accepted { log, closed, .. }
            | GroupMessage::ReadAnswer { log, closed, .. }
            | GroupMessage::Fetched { log, closed, .. }
            | GroupMessage::HasAccepted { log, closed, .. }
            | GroupMessage::Prepare { log, closed, .. } => self.check_closed(node, (group, *log), *closed),
            GroupMessage::Chosen { log, range } | GroupMessage::Accept { log, chosen: Some(range), .. } => {
                self.check_notice(node, (group, *log), *range)
            }
            GroupMessage::Positions { logs } => logs
                .iter()
                .try_for_each(|position| self.check_closed(node, (position.group, position.log), position.closed)),
            _ => Ok(()),
        }
    }
}

impl Invariant for ClosedIsChosen {
    fn name(&self) -> &'static str {
        "closed is chosen"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Queued { record: Record::Configured { configuration }, .. }
            | Observation::Durable { record: Record::Configured { configuration }, .. } => {
                self.configurations.insert((configuration.group, configuration.epoch), configuration.clone());
            }
            Observation::Durable { node, record: Record::Accepted { group, log, ballot, first, entries }, .. } => {
                for (slot, entry) in (first.0..).map(Slot).zip(entries.iter()) {
                    self.accept(*node, (*group, *log, slot), *ballot, entry);
                }
            }
            Observation::Sent { from, message: Message::Group { group, body, .. }, .. } => {
                self.check_body(*from, *group, body)?;
            }
            Observation::Sent { from, message: Message::Heartbeat(heartbeat), .. } => {
                for position in &heartbeat.logs {
                    self.check_closed(*from, (position.group, position.log), position.closed)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
