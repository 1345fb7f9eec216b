//! Liveness: once the faults stop, every member becomes able to write and to read, all of them arrive at the same
//! slot, and nobody waits for an answer any more, within a bound.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{Entry, LogId, NodeId, OperationId, ProposalOutcome, Token};

use crate::cluster::{Cluster, Event, GROUP};
use crate::schedule::Moment;
use crate::users::PATIENCE_MAX;
use crate::worlds::World;

/// What was seen to work since the faults stopped.
#[derive(Debug)]
pub struct Recovery {
    bound: Moment,
    writes: BTreeMap<OperationId, NodeId>,
    reads: BTreeMap<Token, NodeId>,
    pub(crate) writing: BTreeSet<NodeId>,
    reading: BTreeSet<NodeId>,
    /// In a group of values: whether all members had the same at the last look.
    pub(crate) alike: bool,
}

impl Recovery {
    /// Everything must work by `bound`.
    pub fn new(bound: Moment) -> Recovery {
        Recovery {
            bound,
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            writing: BTreeSet::new(),
            reading: BTreeSet::new(),
            alike: false,
        }
    }
}

impl Cluster {
    /// Tries a write and a read at every member where none worked yet; at the bound says what still does not.
    pub(crate) fn probe(&mut self) {
        let members = self.holders();
        let Some(recovery) = &self.recovery else { return };
        if self.now > recovery.bound {
            if self.plan.world == World::NoGoodCopy {
                // Nothing is asked for any more, and what was asked for must have been answered, one way or the other.
                // The deadlines are kept by the nodes' own clocks, of which the slowest counts.
                let patience = (PATIENCE_MAX * self.plan.failure_timeout) as f64 / (1.0 - self.plan.clock_drift);
                let wait = patience as u64 + 10 * self.plan.failure_timeout + 1_000_000;
                self.schedule.at(self.now + wait, Event::Stopped);
                return;
            }
            let detail = self.what_is_missing(&members);
            self.watch.violate("the cluster recovers", detail);
            return;
        }
        self.renew_the_barred();
        self.look_at_values();
        for id in self.serving() {
            let Some(recovery) = &self.recovery else { return };
            let write = !recovery.writing.contains(&id) && !recovery.writes.values().any(|node| *node == id);
            let read = !recovery.reading.contains(&id) && !recovery.reads.values().any(|node| *node == id);
            if !self.nodes[&id].is_running() {
                continue;
            }
            if write && self.plan.values > 0 {
                self.probe_value(id);
            } else if write {
                let operation = self.nodes.get_mut(&id).expect("a node of this cluster").next_id();
                self.recovery.as_mut().expect("recovering").writes.insert(operation, id);
                self.propose(id, Entry::operation(operation, b"probe"));
            }
            if read {
                let log = self.any_log();
                let token = self.read(id, log);
                self.recovery.as_mut().expect("recovering").reads.insert(token, id);
            }
        }
        self.schedule.at(self.now + 100_000, Event::Probe);
    }

    /// Whoever must be able to write and read at the end.
    fn serving(&self) -> Vec<NodeId> {
        self.voters().into_iter().filter(|id| !self.is_witness(*id)).collect()
    }

    /// Whoever must hold everything at the end.
    fn holders(&self) -> Vec<NodeId> {
        self.members().into_iter().filter(|id| !self.is_witness(*id)).collect()
    }

    /// A probe was answered.
    pub(crate) fn probe_proposed(&mut self, node: NodeId, id: OperationId, outcome: &ProposalOutcome) {
        let Some(recovery) = &mut self.recovery else { return };
        if recovery.writes.remove(&id).is_some() && matches!(outcome, ProposalOutcome::Chosen(_)) {
            recovery.writing.insert(node);
        }
    }

    /// A probe was answered.
    pub(crate) fn probe_read(&mut self, node: NodeId, token: Token, answered: bool) {
        let Some(recovery) = &mut self.recovery else { return };
        if recovery.reads.remove(&token).is_some() && answered {
            recovery.reading.insert(node);
        }
    }

    /// Whether everything works again.
    pub(crate) fn is_recovered(&self) -> bool {
        let Some(recovery) = &self.recovery else { return false };
        let (members, voters) = (self.holders(), self.serving());
        let all_in = |set: &BTreeSet<NodeId>| voters.iter().all(|id| set.contains(id));
        all_in(&recovery.writing)
            && all_in(&recovery.reading)
            && self.workload.proposals.is_empty()
            && self.workload.reads.is_empty()
            && (self.plan.values > 0 || members.iter().all(|id| self.applied(*id) == self.applied(members[0])))
            && (self.plan.values > 0 || self.applied(members[0]).0 == self.report.slots)
            && (self.plan.values == 0 || recovery.alike)
            && self.membership_is_settled()
    }

    /// No copy of something was left, so the group stands still: whoever asked it for anything must know.
    pub(crate) fn check_stop(&mut self) {
        let (proposals, reads) = (&self.workload.proposals, &self.workload.reads);
        if !proposals.is_empty() || !reads.is_empty() {
            let detail = format!("still without an answer: {:?}, {reads:?}", proposals.keys());
            self.watch.violate("a group that stopped says so", detail);
        }
        self.report.stops += 1;
    }

    /// Whether the world ended so.
    pub(crate) fn has_stopped(&self) -> bool {
        self.report.stops > 0
    }

    pub(crate) fn applied(&self, id: NodeId) -> consensus::Slot {
        self.nodes[&id].faces.get(&(GROUP, LogId::MAIN)).map(|face| face.applied).unwrap_or_default()
    }

    fn what_is_missing(&self, members: &[NodeId]) -> String {
        let recovery = self.recovery.as_ref().expect("recovering");
        let missing = |set: &BTreeSet<NodeId>| -> Vec<NodeId> {
            self.serving().into_iter().filter(|id| !set.contains(id)).collect()
        };
        let positions: Vec<_> = members.iter().map(|id| (*id, self.applied(*id))).collect();
        let running: Vec<_> = members.iter().filter(|id| self.nodes[id].is_running()).collect();
        let statuses: Vec<_> = self
            .nodes
            .values()
            .filter_map(|node| Some((node.id, node.core.as_ref()?.status(node.clock.at(self.now)))))
            .collect();
        format!(
            "{}us after the faults stopped: no write at {:?}, no read at {:?}, unanswered {} proposals and {} reads, \
             applied {positions:?} of {}, running {running:?}, {} {}; {statuses:?}",
            self.plan.recovery_bound,
            missing(&recovery.writing),
            missing(&recovery.reading),
            self.workload.proposals.len(),
            self.workload.reads.len(),
            self.report.slots,
            self.membership_is_missing(),
            self.values_that_differ().unwrap_or_default(),
        )
    }
}
