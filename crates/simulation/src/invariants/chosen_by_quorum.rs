//! Rule 1: a value is chosen when a quorum accepted it, durably, under one ballot of that ballot's epoch; never two
//! values at a slot; and nothing is delivered that is not chosen at that moment.
//!
//! It sees the disks, not what nodes believe, so it finds a second chosen value before any node delivers it.

use super::acceptances::Acceptances;
use super::{ensure, Invariant};
use crate::observation::Observation;

/// What is chosen by what the disks hold.
#[derive(Debug, Default)]
pub struct ChosenByQuorum(Acceptances);

impl Invariant for ChosenByQuorum {
    fn name(&self) -> &'static str {
        "chosen by a quorum under one ballot"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        self.0.take_in(observation)?;
        if let Observation::Delivered { node, group, log, slot, entry } = observation {
            let chosen = self.0.chosen((*group, *log, *slot));
            ensure!(
                chosen == Some(entry),
                "{node} delivers {entry:?} at slot {slot} of {log}; chosen there is {chosen:?}"
            );
        }
        Ok(())
    }
}
