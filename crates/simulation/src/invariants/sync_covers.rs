//! Rule 6: before a joint epoch ends, a quorum of the voters from then on knows closed all that was chosen before it began. A
//! witness counts as knowing what all new voters with a state know, as it may skip that (decision 0008).
//!
//! Who goes back, or renews a voter's promises, keeps the voters: their quorums have it.

use std::collections::BTreeMap;
use std::sync::Arc;

use consensus::{Configuration, Epoch, GroupId, LogId, NodeId, Record, Role, Slot};

use super::acceptances::Acceptances;
use super::{ensure, Invariant};
use crate::observation::Observation;

/// What the nodes write down.
#[derive(Debug, Default)]
pub struct SyncCovers {
    acceptances: Acceptances,
    configurations: BTreeMap<(GroupId, Epoch), Arc<Configuration>>,
    /// Of each log and epoch the highest slot that was first chosen in it.
    chosen: BTreeMap<(GroupId, LogId), BTreeMap<Epoch, Slot>>,
    closed: BTreeMap<(NodeId, GroupId, LogId), Slot>,
}

impl SyncCovers {
    fn close(&mut self, node: NodeId, group: GroupId, log: LogId, slot: Slot) {
        let closed = self.closed.entry((node, group, log)).or_default();
        *closed = (*closed).max(slot);
    }

    /// A configuration is in force somewhere.
    fn see(&mut self, configuration: &Arc<Configuration>) -> Result<(), String> {
        let (group, epoch) = (configuration.group, configuration.epoch);
        if self.configurations.insert((group, epoch), configuration.clone()).is_some() || configuration.is_joint() {
            return Ok(());
        }
        let Some(joint) = self.configurations.get(&(group, Epoch(epoch.0.saturating_sub(1)))) else { return Ok(()) };
        let voters: Vec<NodeId> = configuration.voters().collect();
        if joint.old_voters.as_ref().is_none_or(|old| *old == voters) {
            return Ok(());
        }
        // The control log is the epochs: fences carry it.
        let counts = |(of, log): &(GroupId, LogId)| *of == group && *log != LogId::CONTROL;
        for ((_, log), chosen) in self.chosen.iter().filter(|(place, _)| counts(place)) {
            let before = chosen.range(..joint.epoch).map(|(_, slot)| *slot).max().unwrap_or_default();
            self.check(configuration, *log, before)?;
        }
        Ok(())
    }

    fn check(&self, configuration: &Configuration, log: LogId, before: Slot) -> Result<(), String> {
        let knows =
            |node: NodeId| self.closed.get(&(node, configuration.group, log)).copied().unwrap_or_default() >= before;
        let with_state = || configuration.members.iter().filter(|member| member.role == Role::Voter);
        let skipped = with_state().all(|member| knows(member.node));
        let counts = |node: &NodeId| knows(*node) || (configuration.is_witness(*node) && skipped);
        let holders: Vec<NodeId> = configuration.voters().filter(counts).collect();
        ensure!(
            configuration.is_new_quorum(configuration.set_of(holders.iter().copied())),
            "{configuration:?} begins, and of {log}, chosen up to slot {before} before, only {holders:?} know all"
        );
        Ok(())
    }
}

impl Invariant for SyncCovers {
    fn name(&self) -> &'static str {
        "a sync pass covers all"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        // Contradictions among acceptances are told by the invariant of what is chosen.
        for (group, log, slot) in self.acceptances.take_in(observation).unwrap_or_default() {
            let Some(epoch) = self.acceptances.chosen_in((group, log, slot)) else { continue };
            let highest = self.chosen.entry((group, log)).or_default().entry(epoch).or_default();
            *highest = (*highest).max(slot);
        }
        match observation {
            // Its mark may still be lost: what it marks is durable, and counts with the members' acceptances then.
            Observation::Queued { node, record, .. } => match record {
                Record::Configured { configuration } => self.see(configuration)?,
                Record::Chosen { group, log, up_to: slot }
                | Record::Trimmed { group, log, up_to: slot }
                | Record::Installed { group, log, slot } => self.close(*node, *group, *log, *slot),
                _ => {}
            },
            // Its state has it, whatever its log says of it so far.
            Observation::Checkpointed { node, group, log, slot, .. } => self.close(*node, *group, *log, *slot),
            _ => {}
        }
        Ok(())
    }
}
