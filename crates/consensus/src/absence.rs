//! Voters that are away for so long that a witness has no more room for what they lack (design, section 4).
//!
//! The witness at its bound has the voter made a learner, through an ordinary change, and trims. Once it has caught up, any
//! member makes it a voter again. A change that would leave the witnesses a quorum by themselves is not made; then the group
//! admits nothing new when the witness is full (`log/trimming.rs`).

use crate::configuration::Role;
use crate::context::Context;
use crate::effect::Refusal;
use crate::group::Group;
use crate::ids::{Epoch, NodeId};
use crate::input::Change;
use crate::time::Time;

/// What one node does about members that are away.
#[derive(Debug, Default)]
pub(crate) struct Absence {
    /// When this node makes the change that is due, unless another one has.
    at: Option<Time>,
    /// The epoch that it proposed last.
    began: Option<Epoch>,
}

impl Absence {
    pub(crate) fn next_deadline(&self) -> Time {
        self.at.unwrap_or(Time::NEVER)
    }

    /// Whether this node began the change of this epoch: then it sees it through.
    pub(crate) fn began(&self, epoch: Epoch) -> bool {
        self.began == Some(epoch)
    }
}

impl Group {
    /// Has a voter set aside, or one that has returned made a voter again, if that is due.
    pub(crate) fn consider_absence(&mut self, context: &mut Context) {
        let due = self.change_for_absence(context);
        let Some(next) = due.and_then(|change| self.next_configuration(context, &change).ok()) else {
            self.changes.absence.at = None;
            return;
        };
        let again = context.now + self.patience(context);
        let at = *self.changes.absence.at.get_or_insert(again);
        if context.now >= at {
            self.changes.absence = Absence { at: Some(again), began: Some(next.epoch) };
            self.propose_configuration(context, &next);
        }
    }

    fn change_for_absence(&self, context: &Context) -> Option<Change> {
        let configuration = &self.scope.configuration;
        if !configuration.has_witnesses() && configuration.members.iter().all(|member| member.role != Role::Away) {
            return None;
        }
        if configuration.is_joint() || self.has_requests() || !self.scope.may_vote() {
            return None;
        }
        if self.scope.is_witness() {
            if let Some(laggard) = self.logs.values().find_map(|log| log.laggard(context, &self.scope)) {
                return Some(Change::SetAway(laggard));
            }
        }
        let away = configuration.members.iter().filter(|member| member.role == Role::Away).map(|member| member.node);
        let returned = |node: &NodeId| {
            self.check_caught_up(context, *node).is_ok()
                && self.logs.values().all(|log| log.has_returned(context, &self.scope, *node))
        };
        away.into_iter().find(returned).map(Change::Promote)
    }

    /// A new witness counts in the change that lets it vote only if it has what some voter's state may lack.
    pub(crate) fn check_witness_has_enough(&self, context: &Context, witness: NodeId) -> Result<(), Refusal> {
        for voter in self.scope.configuration.state_voters() {
            for log in self.logs.values() {
                let (held, trimmed) = (log.known_held(context, voter), log.known_held(context, witness));
                if held < trimmed {
                    return Err(Refusal::Behind { held, closed: trimmed });
                }
                // The witness must know it as well.
                if trimmed.0 > 0 && !context.peers.is_live(voter, context.now) {
                    return Err(Refusal::NotInContact(voter));
                }
            }
        }
        Ok(())
    }

    /// Whether this node, if it is a witness, counts in a sync pass. What it has trimmed, the voters of before hold; those for
    /// which it kept nothing until now must hold it too.
    pub(crate) fn has_enough_for_sync(&self, context: &Context) -> bool {
        let configuration = &self.scope.configuration;
        if !self.scope.is_witness() || !configuration.is_joint() {
            return true;
        }
        let old: Vec<NodeId> = configuration.old_voters.iter().flatten().copied().collect();
        let is_new = !old.contains(&context.node);
        let mut strangers = configuration
            .state_voters()
            .filter(|node| configuration.member(*node).is_some_and(|member| member.role == Role::Voter))
            .filter(|node| is_new || !old.contains(node));
        strangers.all(|node| {
            self.logs.values().all(|log| log.known_held(context, node) >= log.known_held(context, context.node))
        })
    }
}
