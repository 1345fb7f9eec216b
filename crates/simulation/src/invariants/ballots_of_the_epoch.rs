//! Rule 4: whoever asks for promises or acceptances does so under a ballot of the epoch that is in force where it stands: an
//! owner leaves its ballot when the epoch changes, and runs phase 1 with the new quorums. (Acceptors that know of the epoch
//! refuse it otherwise; those that do not are what fences are for. The proposer must not count on either.)

use consensus::{GroupMessage, Message};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// Messages tell it all: each names the sender's epoch and the ballot.
#[derive(Debug, Default)]
pub struct BallotsOfTheEpoch;

impl Invariant for BallotsOfTheEpoch {
    fn name(&self) -> &'static str {
        "ballots are of the epoch"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Sent { from, message: Message::Group { epoch, body, .. }, .. } = observation else {
            return Ok(());
        };
        match body {
            GroupMessage::Prepare { ballot, .. } | GroupMessage::Accept { ballot, .. } => {
                ensure!(ballot.epoch == *epoch, "{from} is in epoch {epoch} and proposes under {ballot}");
            }
            _ => {}
        }
        Ok(())
    }
}
