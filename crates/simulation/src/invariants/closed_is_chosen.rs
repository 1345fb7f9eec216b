//! Rules 1 and 2: whatever a node says is closed has been chosen, by what the disks say at that moment; and what was accepted
//! under the ballot that a chosen notice names is the chosen value.
//!
//! Others act on these words before anything is delivered: they close slots, answer reads, and propose nothing there. (A notice
//! may name a higher ballot than the one that first chose the slot: another member finished the slot under the lower one. Whatever
//! was accepted under the higher one is the same, *Paxos Made Simple*, P2b.)

use std::collections::BTreeMap;

use consensus::{ChosenRange, GroupId, GroupMessage, LogId, Message, NodeId, Slot};

use super::acceptances::Acceptances;
use super::{ensure, Invariant};
use crate::observation::Observation;

/// What the disks say.
#[derive(Debug, Default)]
pub struct ClosedIsChosen {
    acceptances: Acceptances,
    /// Of each log the slot up to which all is chosen.
    closed: BTreeMap<(GroupId, LogId), Slot>,
}

impl ClosedIsChosen {
    fn advance(&mut self, group: GroupId, log: LogId) {
        let closed = self.closed.entry((group, log)).or_default();
        while self.acceptances.chosen((group, log, closed.next())).is_some() {
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
        let (accepted, chosen) = (self.acceptances.accepted(place, range.ballot), self.acceptances.chosen(place));
        if let (Some(entry), Some(chosen)) = (accepted, chosen) {
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
        // Contradictions among acceptances are told by the invariant of what is chosen.
        for (group, log, _) in self.acceptances.take_in(observation).unwrap_or_default() {
            self.advance(group, log);
        }
        match observation {
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
