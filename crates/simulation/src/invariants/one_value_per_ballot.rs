//! *Paxos Made Simple*, section 2.2: a proposal number is never used for two proposals. Whatever is asked to be accepted,
//! by its owner or by whoever finishes it, is one value per slot and ballot; and promises are asked for
//! under ballots of the asker's own only.

use std::collections::BTreeMap;

use consensus::{Ballot, Entry, GroupId, GroupMessage, LogId, Message, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// What was proposed.
#[derive(Debug, Default)]
pub struct OneValuePerBallot {
    proposed: BTreeMap<(GroupId, LogId, Slot, Ballot), Entry>,
}

impl Invariant for OneValuePerBallot {
    fn name(&self) -> &'static str {
        "one value per ballot"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Sent { from, message: Message::Group { group, body, .. }, .. } = observation else {
            return Ok(());
        };
        match body {
            GroupMessage::Prepare { ballot, .. } => {
                ensure!(ballot.node == *from, "{from} asks for promises under {ballot}, which is not its own");
            }
            GroupMessage::Accept { log, ballot, first, entries, .. } => {
                for (slot, entry) in (first.0..).map(Slot).zip(entries.iter()) {
                    let place = (*group, *log, slot, *ballot);
                    let known = self.proposed.entry(place).or_insert_with(|| entry.clone());
                    ensure!(
                        known == entry,
                        "{from} proposes {entry:?} at slot {slot} of {log} under {ballot}, where {known:?} was proposed"
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }
}
