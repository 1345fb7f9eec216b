//! Who is known to have the configuration in force on disk (rule 6).
//!
//! A joint epoch acts once a quorum has it: that is its fence. A change is answered once a quorum of the configuration that it led
//! to has it, and a node that was removed is told only then. Whoever is gone may be switched off, and those that stay must not
//! need it to find out what was decided: the epoch before counts its vote.

use crate::configuration::{Configuration, MemberSet};
use crate::context::Context;
use crate::group::Group;
use crate::ids::{Epoch, NodeId};
use crate::message::GroupMessage;
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(crate) struct Confirmation {
    /// Members that have the configuration in force on disk.
    confirmed: MemberSet,
    /// When the others were last asked.
    asked: Option<Time>,
    /// Nodes that do not belong to the group any more, to be told so.
    removed: BTreeSet<NodeId>,
}

impl Confirmation {
    /// Another configuration is in force at this node. Whoever it removed is to be told, by those that stay.
    pub(crate) fn epoch_changed(&mut self, node: NodeId, before: &Configuration, after: &Configuration) {
        let mut removed = std::mem::take(&mut self.removed);
        removed.extend(before.members.iter().map(|member| member.node));
        removed.retain(|id| after.index(*id).is_none() && after.index(node).is_some());
        *self = Confirmation { removed, ..Confirmation::default() };
    }

    /// Nodes that are not told yet that they were removed.
    pub(crate) fn removed(&self) -> &BTreeSet<NodeId> {
        &self.removed
    }
}

impl Group {
    /// Whether a quorum has the configuration in force on disk; if not, those that have not said so are asked, now and then.
    pub(crate) fn is_confirmed(&mut self, context: &mut Context) -> bool {
        // A node that was removed has heard so from one that knew this.
        if !self.scope.is_member() || self.scope.configuration.is_quorum(self.confirmation.confirmed) {
            return true;
        }
        let pause = context.options.failure_timeout / 20;
        if self.confirmation.asked.is_none_or(|at| context.now - at >= pause) {
            self.ask_to_confirm(context);
        }
        false
    }

    /// Tells the members that have not said that they have the configuration in force.
    pub(crate) fn ask_to_confirm(&mut self, context: &mut Context) {
        self.confirmation.asked = Some(context.now);
        let configuration = self.scope.configuration.clone();
        let members = configuration.members.iter().enumerate();
        let silent = members.filter(|(index, _)| !self.confirmation.confirmed.contains(*index));
        let to: Vec<NodeId> = silent.map(|(_, member)| member.node).collect();
        context.send(&self.scope, to, GroupMessage::Configured { configuration });
    }

    pub(crate) fn on_fenced(&mut self, context: &mut Context, from: NodeId, epoch: Epoch) {
        let index = self.scope.configuration.index(from).filter(|_| epoch == self.scope.epoch());
        if let Some(index) = index {
            self.confirmation.confirmed.insert(index);
            context.dirty_groups.insert(self.scope.group);
        }
    }

    /// Tells a node the configuration in force: one that it removed, once that is confirmed.
    pub(crate) fn tell_configuration(&mut self, context: &mut Context, to: NodeId) {
        let at_once = self.scope.configuration.index(to).is_some() || is_planted(SeededBug::RemovedToldAtOnce);
        if at_once || self.is_confirmed(context) {
            let configuration = self.scope.configuration.clone();
            context.send(&self.scope, [to], GroupMessage::Configured { configuration });
        } else {
            self.confirmation.removed.insert(to);
            context.dirty_groups.insert(self.scope.group);
        }
    }

    /// Those that were removed are told, as soon as they may be.
    pub(crate) fn tell_the_removed(&mut self, context: &mut Context) {
        if !self.confirmation.removed.is_empty() && self.is_confirmed(context) {
            let removed = std::mem::take(&mut self.confirmation.removed);
            let configuration = self.scope.configuration.clone();
            context.send(&self.scope, removed, GroupMessage::Configured { configuration });
        }
    }
}
