//! What users do while faults happen.

use std::time::Duration;

use consensus::{Entry, EntryKind, Input, LogId, NodeId, OperationId};

use crate::cluster::{Cluster, Event, GROUP};
use crate::face::write_set;
use crate::observation::Observation;
use crate::values::log_of;

/// Nobody waits for an answer longer than so many failure time-outs, by the clock of the node that was asked.
pub(crate) const PATIENCE_MAX: u64 = 20;

impl Cluster {
    /// Whether anybody asks this node for anything.
    pub(crate) fn has_users(&self, id: NodeId) -> bool {
        let lone = self.plan.lone_user.filter(|_| self.recovery.is_none());
        lone.is_none_or(|lone| id == NodeId(lone as u128 + 1)) && self.suspect != Some(id) && !self.is_witness(id)
    }

    fn nodes_with_users(&self) -> Vec<NodeId> {
        self.running().into_iter().filter(|id| self.has_users(*id)).collect()
    }

    /// Some new operations, at one node.
    pub(crate) fn user_proposes(&mut self) {
        let nodes = self.nodes_with_users();
        if self.plan.values > 0 {
            self.user_puts(&nodes);
            return self.again(self.plan.propose_every, Event::Propose);
        }
        // Where nearly everything comes from one node, the log is handed over to it.
        let favourite = nodes.last().copied().filter(|_| self.random.chance(self.plan.favourite));
        if let Some(id) = favourite.or_else(|| self.random.pick(&nodes)) {
            let burst = self.random.between(1, self.plan.burst_max);
            for _ in 0..burst {
                if self.plan.in_parts > 0.0 && self.random.chance(self.plan.in_parts) {
                    self.user_proposes_in_parts(id);
                    continue;
                }
                let large = self.random.chance(0.02);
                let bytes = match self.plan.padding_max {
                    _ if large => self.random.below(20_000),
                    0 => 8,
                    most => self.random.below(most),
                };
                let position = self.applied(id);
                let body = write_set(&mut self.random, position, bytes as usize);
                let operation = self.nodes.get_mut(&id).expect("a node of this cluster").next_id();
                self.propose(id, Entry::operation(operation, &body));
                if self.random.chance(self.plan.withdraw) {
                    let wait = self.random.waiting_time(20_000);
                    self.schedule.at(self.now + wait, Event::Withdraw { node: id, id: operation });
                }
            }
        }
        self.again(self.plan.propose_every, Event::Propose);
    }

    /// Asks a node's core to propose an entry, unless it is at it already.
    pub(crate) fn propose(&mut self, id: NodeId, entry: Entry) {
        if !self.nodes[&id].is_running() || self.workload.proposals.contains_key(&(id, entry.id())) {
            return;
        }
        let patience = self.random.between(1, PATIENCE_MAX) * self.plan.failure_timeout;
        let deadline = self.nodes[&id].clock.at(self.now) + Duration::from_micros(patience);
        self.watch.see(self.now, &Observation::Proposing { node: id, entry: &entry });
        self.workload.proposals.insert((id, entry.id()), entry.clone());
        let log = log_of(&entry);
        self.give(id, Input::Propose { group: GROUP, log, entry, deadline });
    }

    /// What may or may not have happened is tried again, or asked after, by somebody.
    pub(crate) fn became_unknown(&mut self, entry: Entry) {
        if self.recovery.is_some() {
            return;
        }
        let wait = self.random.waiting_time(300_000);
        if self.random.chance(self.plan.close) {
            self.schedule.at(self.now + wait, Event::Close { id: entry.id() });
        } else if self.random.chance(self.plan.propose_again) {
            self.schedule.at(self.now + wait, Event::ProposeAgain { entry });
        }
    }

    /// The same operation under the same id, at any node; or what it came to when it was carried out anew.
    pub(crate) fn user_proposes_again(&mut self, entry: Entry) {
        if self.recovery.is_none() {
            if let Some(id) = self.random.pick(&self.nodes_with_users()) {
                let anew = entry.kind() == EntryKind::Operation && self.random.chance(0.5);
                let position = self.applied(id);
                let entry = match anew {
                    true => Entry::operation(entry.id(), &write_set(&mut self.random, position, 0)),
                    false => entry,
                };
                self.propose(id, entry);
            }
        }
    }

    /// An entry that closes the id.
    pub(crate) fn user_closes(&mut self, target: OperationId) {
        if self.recovery.is_none() {
            if let Some(id) = self.random.pick(&self.nodes_with_users()) {
                let own = self.nodes.get_mut(&id).expect("a node of this cluster").next_id();
                self.propose(id, Entry::close(own, target));
            }
        }
    }

    /// The user has lost patience.
    pub(crate) fn user_withdraws(&mut self, node: NodeId, id: OperationId) {
        if let Some(entry) = self.workload.proposals.get(&(node, id)) {
            let log = log_of(entry);
            self.watch.see(self.now, &Observation::Withdrawing { node, id });
            self.give(node, Input::Withdraw { group: GROUP, log, id });
        }
    }

    /// A strong read at some node.
    pub(crate) fn user_reads(&mut self) {
        if let Some(id) = self.random.pick(&self.nodes_with_users()) {
            let log = self.any_log();
            self.read(id, log);
        }
        self.again(self.plan.read_every, Event::Read);
    }

    /// Asks a node's core for a barrier.
    pub(crate) fn read(&mut self, id: NodeId, log: LogId) -> consensus::Token {
        let token = self.workload.next_token();
        let patience = self.random.between(1, PATIENCE_MAX / 2) * self.plan.failure_timeout;
        let deadline = self.nodes[&id].clock.at(self.now) + Duration::from_micros(patience);
        self.watch.see(self.now, &Observation::Reading { node: id, log, token });
        self.workload.reads.insert((id, token));
        self.give(id, Input::Read { group: GROUP, log, token, deadline });
        token
    }

    /// An operator moves the log to another node.
    pub(crate) fn user_hands_over(&mut self) {
        let running = self.running();
        if let (Some(id), Some(to)) = (self.random.pick(&running), self.random.pick(&running)) {
            if id != to {
                self.tell(format_args!("HAND OVER from {id} to {to}"));
                let log = self.any_log();
                self.give(id, Input::HandOver { group: GROUP, log, to });
            }
        }
        self.again(self.plan.hand_over_every, Event::HandOver);
    }
}
