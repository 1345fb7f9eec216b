//! Changes of the group's members under load (rule 6): nodes join, are promoted, removed, and sometimes lost for good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use consensus::{is_planted, Change, Configuration, Epoch, Input, NodeId, Record, Refusal, Role, SeededBug, Token};

use crate::cluster::{member, new_disk, Cluster, Event, GROUP};
use crate::disk::Disk;
use crate::node::Node;
use crate::observation::Observation;
use crate::tally::Fault;

/// No group grows beyond this.
const MEMBERS_MAX: usize = 7;

/// What is known about the group's members from outside.
#[derive(Debug)]
pub struct Membership {
    /// The newest configuration that any node said is in force.
    latest: Arc<Configuration>,
    /// Changes and introductions asked for and not answered, by name.
    asked: BTreeMap<Token, NodeId>,
    /// The epoch in which a change was asked for last: whatever was answered, it may still come into force there.
    asked_in: Option<Epoch>,
    /// A member that never comes back, until it is removed.
    lost: Option<NodeId>,
    /// Nodes made so far.
    nodes: u128,
}

impl Membership {
    /// The group at the beginning.
    pub fn new(first: Arc<Configuration>) -> Membership {
        let nodes = first.members.iter().map(|member| member.node.0).max().unwrap_or(0);
        Membership { latest: first, asked: BTreeMap::new(), asked_in: None, lost: None, nodes }
    }
}

impl Cluster {
    /// Everybody who belongs to the group.
    pub(crate) fn members(&self) -> Vec<NodeId> {
        // One that was switched off may have been named again by a change that was under way.
        self.membership.latest.members.iter().map(|member| member.node).filter(|id| !self.nodes[id].retired).collect()
    }

    /// Whoever votes.
    pub(crate) fn voters(&self) -> Vec<NodeId> {
        self.membership.latest.voters().filter(|id| !self.nodes[id].retired).collect()
    }

    /// Whether the node is a member without a state.
    pub(crate) fn is_witness(&self, id: NodeId) -> bool {
        self.membership.latest.is_witness(id)
    }

    /// An operator wants another group than this.
    pub(crate) fn change_members(&mut self) {
        let latest = self.membership.latest.clone();
        let running: Vec<NodeId> = self.members().into_iter().filter(|id| self.nodes[id].is_running()).collect();
        if let Some(via) = self.random.pick(&running) {
            if self.random.chance(self.plan.lose_disk) {
                self.lose_a_member();
            } else if let Some(change) = self.next_change(&latest) {
                self.ask_for_change(via, change);
            }
        }
        self.again(self.plan.change_every, Event::Change);
    }

    fn next_change(&mut self, latest: &Configuration) -> Option<Change> {
        let role = |role: Role| -> Vec<NodeId> {
            latest.members.iter().filter(|member| member.role == role).map(|member| member.node).collect()
        };
        let (mut learners, away) = (role(Role::Learner), role(Role::Away));
        let voters: Vec<NodeId> = latest.voters().collect();
        learners.extend(role(Role::NewWitness));
        if latest.is_joint() && self.random.chance(0.2) {
            return Some(Change::GoBack);
        }
        match self.random.below(10) {
            0..=2 if latest.members.len() < MEMBERS_MAX => {
                self.membership.nodes += 1;
                let id = NodeId(self.membership.nodes);
                self.nodes.insert(id, Node::new(id, new_disk(&self.plan, id)));
                self.start(id);
                let witness = self.plan.witnesses > 0 && self.random.chance(0.3);
                let add = if witness { Change::AddWitness } else { Change::AddLearner };
                Some(add(member(id, Role::Learner)))
            }
            3..=6 => {
                // A voter that is told of its group only then must take it for lost promises, and does not vote.
                let introduced: Vec<NodeId> = learners.into_iter().filter(|id| self.nodes[id].has_group).collect();
                self.random.pick(&introduced).map(Change::Promote)
            }
            7 | 8 => {
                let all: Vec<NodeId> = latest.members.iter().map(|member| member.node).collect();
                let victim = self.membership.lost.or_else(|| self.random.pick(&all))?;
                // A group of two cannot lose a voter without standing still, so it is not asked to by chance.
                let no_voter = learners.contains(&victim) || away.contains(&victim);
                let spare = voters.len() > 2 || no_voter || self.membership.lost.is_some();
                spare.then_some(Change::Remove(victim))
            }
            _ => self.random.pick(&voters).map(|id| {
                let bring_up_to_date = if latest.is_witness(id) { Change::AddWitness } else { Change::AddLearner };
                bring_up_to_date(member(id, Role::Voter))
            }),
        }
    }

    fn ask_for_change(&mut self, via: NodeId, change: Change) {
        let token = self.workload.next_token();
        let patience = self.random.between(2, 20) * self.plan.failure_timeout;
        let deadline = self.nodes[&via].clock.at(self.now) + Duration::from_micros(patience);
        self.tell(format_args!("{via} is asked for the change {token} {change:?}"));
        self.membership.asked.insert(token, via);
        self.membership.asked_in = Some(self.membership.latest.epoch);
        self.give(via, Input::Change { token, group: GROUP, change, deadline });
    }

    /// A voter that lost its promises votes again once the operator has the epoch renewed (rule 9).
    pub(crate) fn renew_the_barred(&mut self) {
        let known = |id: &NodeId| self.may_vote(*id).is_some();
        let (voting, barred): (Vec<NodeId>, Vec<NodeId>) =
            self.voters().into_iter().filter(known).partition(|id| self.may_vote(*id) == Some(true));
        if !barred.is_empty() && self.membership.asked.is_empty() {
            if let Some(via) = self.random.pick(&voting) {
                self.ask_for_change(via, Change::Renew(barred));
            }
        }
    }

    fn may_vote(&self, id: NodeId) -> Option<bool> {
        let node = &self.nodes[&id];
        let status = node.core.as_ref()?.status(node.clock.at(self.now));
        status.groups.first().map(|group| group.may_vote)
    }

    /// Whether a voter lost its promises while another was being set aside, without which there is no quorum now: the one loss that
    /// the group bears had been used up, and neither the change nor another one can be decided (`docs/gaps.md`).
    pub(crate) fn was_set_aside_too_early(&self) -> bool {
        let latest = &self.membership.latest;
        let voting = latest.set_of(latest.voters().filter(|id| self.may_vote(*id) == Some(true)));
        let sets_aside = latest.members.iter().any(|member| member.role == Role::Away);
        latest.is_joint() && sets_aside && !latest.is_new_quorum(voting)
    }

    /// A voter is gone for good, if the others can do without it.
    fn lose_a_member(&mut self) {
        let latest = &self.membership.latest;
        if latest.is_joint() || !self.membership.asked.is_empty() || self.membership.lost.is_some() {
            return;
        }
        // A removal that is still to come, of another one, would leave too few: no operator could help that.
        if self.membership.asked_in == Some(latest.epoch) {
            return;
        }
        let voters: Vec<NodeId> = latest.voters().collect();
        // Nor may the witnesses be a quorum by themselves without it: it could not be removed.
        let witnesses = voters.iter().filter(|id| latest.is_witness(**id)).count();
        if voters.len() < 3 || 2 * witnesses >= voters.len() {
            return;
        }
        let Some(victim) = self.random.pick(&voters) else { return };
        self.tell(format_args!("{victim} is LOST for good"));
        self.report.faults.count(Fault::LostDisk);
        if is_planted(SeededBug::LostDiskRejoins) {
            // Its name and its group stood elsewhere.
            let record = Record::Configured { configuration: latest.clone() };
            self.crash(victim);
            let node = self.nodes.get_mut(&victim).expect("a node of this cluster");
            node.disk = Disk::default();
            node.disk.preset(record);
            return;
        }
        self.membership.lost = Some(victim);
        self.retire(victim);
    }

    fn retire(&mut self, id: NodeId) {
        self.crash(id);
        self.nodes.get_mut(&id).expect("a node of this cluster").retired = true;
    }

    /// A node says that a configuration is in force.
    pub(crate) fn member_configured(&mut self, configuration: &Arc<Configuration>) {
        if configuration.epoch <= self.membership.latest.epoch {
            return;
        }
        self.report.configurations += 1;
        self.membership.latest = configuration.clone();
        if !self.membership.asked.is_empty() {
            self.membership.asked_in = Some(configuration.epoch);
        }
        if self.membership.lost.is_some_and(|lost| configuration.index(lost).is_none()) {
            self.membership.lost = None;
        }
    }

    /// A node says that it was removed, or whoever asked for that was told so: it may be switched off.
    pub(crate) fn retire_later(&mut self, node: NodeId) {
        let wait = self.random.waiting_time(500_000);
        self.schedule.at(self.now + wait, Event::Retire { node });
    }

    fn was_removed(&self, id: NodeId) -> bool {
        let node = &self.nodes[&id];
        node.has_group && !node.retired && self.membership.latest.index(id).is_none()
    }

    /// The time to switch a removed node off, if it still is removed.
    pub(crate) fn retire_removed(&mut self, id: NodeId) {
        if self.was_removed(id) && !self.membership.latest.is_joint() {
            self.tell(format_args!("{id} is switched off"));
            self.retire(id);
        }
    }

    /// The answer to a change or an introduction.
    pub(crate) fn member_changed(&mut self, id: NodeId, token: Token, result: Result<Arc<Configuration>, Refusal>) {
        self.tell(format_args!("{id} answers the change {token}: {result:?}"));
        if self.membership.asked.remove(&token) != Some(id) {
            self.watch.violate("a request is answered once", format!("{id} answers the change {token} unasked"));
        }
        let Ok(configuration) = result else { return };
        self.member_configured(&configuration);
        // Whoever answers has made it durable.
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let was_introduced = std::mem::replace(&mut node.has_group, true);
        if was_introduced {
            self.watch.see(self.now, &Observation::Changed { node: id, configuration: &configuration });
            let removed: Vec<NodeId> = self.nodes.keys().copied().filter(|id| self.was_removed(*id)).collect();
            removed.into_iter().for_each(|node| self.retire_later(node));
        }
    }

    /// Members that do not know it yet are told, outside the group's own messages, as whoever adds them does.
    pub(crate) fn introduce_members(&mut self) {
        for id in self.members() {
            let node = &self.nodes[&id];
            let asked = self.membership.asked.values().any(|asked| *asked == id);
            if node.is_running() && !node.has_group && !asked && self.random.chance(0.3) {
                let token = self.workload.next_token();
                self.membership.asked.insert(token, id);
                let configuration = self.membership.latest.clone();
                self.tell(format_args!("{id} is told of its group, {token} {configuration:?}"));
                self.give(id, Input::LearnGroup { token, configuration });
            }
        }
    }

    /// A node's memory is gone.
    pub(crate) fn member_crashed(&mut self, id: NodeId) {
        self.membership.asked.retain(|_, asked| *asked != id);
    }

    /// Whether no change is under way and every member knows it.
    pub(crate) fn membership_is_settled(&self) -> bool {
        self.membership_is_missing().is_empty()
    }

    /// What is not settled.
    pub(crate) fn membership_is_missing(&self) -> String {
        let latest = &self.membership.latest;
        let epoch = |id: &NodeId| {
            let node = &self.nodes[id];
            let status = node.core.as_ref()?.status(node.clock.at(self.now));
            status.groups.first().map(|group| group.configuration.epoch)
        };
        let late: Vec<NodeId> = self.members().into_iter().filter(|id| epoch(id) != Some(latest.epoch)).collect();
        let mut missing = String::new();
        if latest.is_joint() {
            missing += &format!("still joint: {latest:?}; ");
        }
        if !late.is_empty() {
            missing += &format!("not in {}: {late:?}; ", latest.epoch);
        }
        if !self.membership.asked.is_empty() {
            missing += &format!("unanswered changes: {:?}", self.membership.asked);
        }
        missing
    }
}
