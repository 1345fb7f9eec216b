//! The simulated world: takes one event after the other, gives each to whom it concerns, carries out what the cores
//! want done, and shows everything to the invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use consensus::{
    Configuration, Core, CoreOptions, Effect, Entry, Epoch, GroupId, Input, LogId, Member, Message, NodeId,
    OperationId, ProposalOutcome, Record, Role, Slot, Token,
};

use crate::face::Face;
use crate::invariants::{Invariants, Violation};
use crate::membership::Membership;
use crate::network::Network;
use crate::node::{Clock, Node};
use crate::observation::Observation;
use crate::plan::Plan;
use crate::random::Random;
use crate::recovery::Recovery;
use crate::schedule::{Moment, Schedule};
use crate::trace::Trace;
use crate::workload::Workload;

/// The one group of the simulation.
pub const GROUP: GroupId = GroupId(0xa);

/// A run of more events than this is going round in circles: usual ones have some ten thousands.
const EVENTS_MAX: u64 = 1_000_000;

/// Everything that can happen.
#[derive(Debug)]
pub(crate) enum Event {
    Arrive {
        from: NodeId,
        to: NodeId,
        message: Arc<Message>,
    },
    Poll {
        node: NodeId,
        life: u64,
    },
    Wake {
        node: NodeId,
        life: u64,
        at: Moment,
    },
    FlushLazy {
        node: NodeId,
        life: u64,
    },
    Synced {
        node: NodeId,
        life: u64,
    },
    EntriesRead {
        node: NodeId,
        life: u64,
        token: Token,
        place: (GroupId, LogId),
        from: Slot,
        up_to: Slot,
        bytes_max: usize,
    },
    CopyState {
        node: NodeId,
        life: u64,
        place: (GroupId, LogId),
        donor: NodeId,
    },
    Checkpoint {
        node: NodeId,
        life: u64,
    },
    CheckLinks,
    Restart {
        node: NodeId,
    },
    Resume {
        node: NodeId,
    },
    Crash,
    Partition,
    Heal {
        number: u64,
    },
    Pause,
    Propose,
    ProposeAgain {
        entry: Entry,
    },
    Close {
        id: OperationId,
    },
    Withdraw {
        node: NodeId,
        id: OperationId,
    },
    Read,
    HandOver,
    Change,
    Retire {
        node: NodeId,
    },
    FaultsEnd,
    Probe,
}

/// What is seen, and who looks.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) trace: Trace,
    pub(crate) invariants: Invariants,
    pub(crate) violation: Option<Violation>,
}

impl Watch {
    pub(crate) fn see(&mut self, now: Moment, observation: &Observation<'_>) {
        self.trace.tell(now, format_args!("{observation:?}"));
        if self.violation.is_none() {
            self.violation = self.invariants.observe(observation);
        }
    }

    pub(crate) fn violate(&mut self, invariant: &'static str, detail: String) {
        self.violation.get_or_insert(Violation { invariant, detail });
    }
}

/// What a run was like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Events that happened.
    pub events: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Partitions.
    pub partitions: u64,
    /// Configurations that came into force.
    pub configurations: u64,
    /// Copies of state.
    pub copies: u64,
    /// Proposals answered as chosen.
    pub chosen: u64,
    /// Proposals answered as failed.
    pub failed: u64,
    /// Proposals that became unknown.
    pub unknown: u64,
    /// Reads answered with a barrier.
    pub barriers: u64,
    /// Reads refused.
    pub refused: u64,
    /// Highest slot delivered.
    pub slots: u64,
}

/// The world of one seed.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Moment,
    pub(crate) schedule: Schedule<Event>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) lives: BTreeMap<NodeId, u64>,
    pub(crate) network: Network,
    pub(crate) partition_number: u64,
    pub(crate) workload: Workload,
    pub(crate) membership: Membership,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) watch: Watch,
    pub(crate) report: Report,
    dirty: BTreeSet<NodeId>,
}

impl Cluster {
    /// The world of a plan, with its nodes not yet started.
    pub fn new(plan: Plan, trace: bool) -> Cluster {
        let random = Random::new(plan.seed);
        let ids: Vec<NodeId> = (1..=plan.nodes as u128).map(NodeId).collect();
        let configuration = Arc::new(Configuration {
            members: ids.iter().map(|id| member(*id, Role::Voter)).collect(),
            ..Configuration::first(GROUP, "group", "simulation", "", member(ids[0], Role::Voter))
        });
        let mut cluster = Cluster {
            plan,
            random,
            now: 0,
            schedule: Schedule::default(),
            nodes: ids.iter().map(|id| (*id, Node::new(*id))).collect(),
            lives: BTreeMap::new(),
            network: Network::default(),
            partition_number: 0,
            workload: Workload::default(),
            membership: Membership::new(configuration.clone()),
            recovery: None,
            watch: Watch::default(),
            report: Report::default(),
            dirty: BTreeSet::new(),
        };
        cluster.watch.trace.enabled = trace;
        cluster.tell(format_args!("{:?}", cluster.plan));
        assert_eq!(configuration.epoch, Epoch(1));
        for id in &ids {
            cluster.preset(*id, Record::Configured { configuration: configuration.clone() });
        }
        for id in ids {
            let delay = cluster.random.below(50_000);
            cluster.schedule.at(delay, Event::Restart { node: id });
        }
        cluster.plan_events();
        cluster
    }

    /// A record that is on the node's disk before its first life.
    fn preset(&mut self, id: NodeId, record: Record) {
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let sequence = node.disk.preset(record.clone());
        self.watch.see(self.now, &Observation::Durable { node: id, sequence, record: &record });
    }

    fn plan_events(&mut self) {
        let plan = self.plan.clone();
        self.schedule.at(1, Event::CheckLinks);
        let random = &mut self.random;
        for (every, event) in [
            (plan.crash_every, Event::Crash),
            (plan.partition_every, Event::Partition),
            (plan.pause_every, Event::Pause),
            (plan.propose_every, Event::Propose),
            (plan.read_every, Event::Read),
            (plan.hand_over_every, Event::HandOver),
            (plan.change_every, Event::Change),
        ] {
            if every > 0 {
                self.schedule.at(random.waiting_time(every), event);
            }
        }
        self.schedule.at(plan.fault_phase, Event::FaultsEnd);
    }

    /// Plans the next event of a kind that happens again and again while faults last.
    pub(crate) fn again(&mut self, every: u64, event: Event) {
        if self.recovery.is_none() && every > 0 {
            let wait = self.random.waiting_time(every);
            self.schedule.at(self.now + wait, event);
        }
    }

    /// Lets the world run to its end: faults, then recovery.
    pub fn run(mut self) -> Result<Report, Violation> {
        while let Some((moment, event)) = self.schedule.next() {
            assert!(moment >= self.now, "time goes forward");
            self.now = moment;
            self.report.events += 1;
            self.happen(event);
            self.poll_dirty();
            if let Some(violation) = self.watch.violation.take() {
                self.tell(format_args!("VIOLATION {violation}"));
                return Err(violation);
            }
            if self.is_recovered() {
                break;
            }
            if self.report.events > EVENTS_MAX {
                self.watch.violate("progress", format!("{EVENTS_MAX} events and no end"));
            }
        }
        let Workload { chosen, failed, unknown, barriers, refused, .. } = self.workload;
        Ok(Report { chosen, failed, unknown, barriers, refused, ..self.report })
    }

    pub(crate) fn tell(&self, what: std::fmt::Arguments<'_>) {
        self.watch.trace.tell(self.now, what);
    }

    pub(crate) fn life(&self, node: NodeId) -> u64 {
        self.lives.get(&node).copied().unwrap_or(0)
    }

    fn is_alive(&self, node: NodeId, life: u64) -> bool {
        self.life(node) == life && self.nodes[&node].is_running()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, message } => self.arrive(from, to, message),
            Event::Poll { node, life } if self.is_alive(node, life) => {
                let it = self.nodes.get_mut(&node).expect("a node of this cluster");
                it.poll_planned = false;
                if it.paused_until <= self.now {
                    self.dirty.insert(node);
                }
            }
            Event::Wake { node, life, at } if self.is_alive(node, life) => {
                if self.nodes[&node].wake_at == Some(at) {
                    self.nodes.get_mut(&node).expect("a node of this cluster").wake_at = None;
                    self.tell(format_args!("{node} wakes"));
                    self.give(node, Input::Tick);
                }
            }
            Event::FlushLazy { node, life } if self.is_alive(node, life) => {
                if self.nodes[&node].disk.could_sync() {
                    self.begin_sync(node);
                }
            }
            Event::Synced { node, life } if self.is_alive(node, life) => self.synced(node),
            Event::EntriesRead { node, life, token, place, from, up_to, bytes_max } if self.is_alive(node, life) => {
                let entries = self.nodes[&node].disk.read(place, from, up_to, bytes_max);
                self.give(node, Input::EntriesRead { token, entries });
            }
            Event::CopyState { node, life, place, donor } if self.is_alive(node, life) => {
                self.copy_state(node, place, donor);
            }
            Event::Checkpoint { node, life } if self.is_alive(node, life) => self.checkpoint(node),
            Event::CheckLinks => self.check_links(),
            Event::Restart { node } => self.start(node),
            Event::Resume { node } => self.resume(node),
            // Faults and new work end together; these were planned before.
            Event::Crash
            | Event::Partition
            | Event::Pause
            | Event::Propose
            | Event::Read
            | Event::HandOver
            | Event::Change
                if self.recovery.is_some() => {}
            Event::Crash => self.fault_crash(),
            Event::Partition => self.fault_partition(),
            Event::Heal { number } if number == self.partition_number => {
                self.tell(format_args!("HEALED"));
                self.network.heal();
            }
            Event::Pause => self.fault_pause(),
            Event::Propose => self.user_proposes(),
            Event::ProposeAgain { entry } => self.user_proposes_again(entry),
            Event::Close { id } => self.user_closes(id),
            Event::Withdraw { node, id } => self.user_withdraws(node, id),
            Event::Read => self.user_reads(),
            Event::HandOver => self.user_hands_over(),
            Event::Change => self.change_members(),
            Event::Retire { node } => self.retire_removed(node),
            Event::FaultsEnd => self.end_faults(),
            Event::Probe => self.probe(),
            // Of an earlier life of its node.
            _ => {}
        }
    }

    /// Gives an input to a core, now or when its node is no longer frozen.
    pub(crate) fn give(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let Some(core) = &mut node.core else { return };
        if node.paused_until > now {
            node.inbox.push(input);
            return;
        }
        node.told = node.clock.at(now);
        core.handle(node.told, input);
        if self.plan.poll_delay_max == 0 || self.random.chance(0.3) {
            self.dirty.insert(id);
        } else if !node.poll_planned {
            node.poll_planned = true;
            let wait = self.random.between(1, self.plan.poll_delay_max);
            let life = self.life(id);
            self.schedule.at(now + wait, Event::Poll { node: id, life });
        }
    }

    fn resume(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        if node.paused_until > self.now || !node.is_running() {
            return;
        }
        let inbox = std::mem::take(&mut node.inbox);
        self.tell(format_args!("RESUMED {id} with {} inputs", inbox.len()));
        for input in inbox {
            self.give(id, input);
        }
        self.dirty.insert(id);
    }

    fn poll_dirty(&mut self) {
        while let Some(id) = self.dirty.pop_first() {
            self.poll(id);
        }
    }

    /// Carries out what a core wants done, unless the node dies in the middle of it.
    fn poll(&mut self, id: NodeId) {
        let crashes = if self.recovery.is_none() { self.plan.crash_at_effect } else { 0.0 };
        let mut effects = 0;
        loop {
            let node = self.nodes.get_mut(&id).expect("a node of this cluster");
            let Some(core) = &mut node.core else { return };
            if node.paused_until > self.now {
                return;
            }
            let Some(effect) = core.poll_effect() else { break };
            if self.random.chance(crashes) {
                self.tell(format_args!("CRASH of {id} before {effect:?}"));
                self.crash(id);
                return;
            }
            self.perform(id, effect);
            effects += 1;
            if self.watch.violation.is_some() {
                return;
            }
        }
        self.check_rest(id, effects);
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        if node.disk.wants_sync() {
            self.begin_sync(id);
        } else if node.disk.could_sync() {
            let life = self.life(id);
            self.schedule.at(self.now + 100_000, Event::FlushLazy { node: id, life });
        }
        self.plan_wake(id);
    }

    /// A core that has nothing to do now must not ask to be woken now: its engine would spin.
    fn check_rest(&mut self, id: NodeId, effects: u64) {
        let node = &self.nodes[&id];
        // As far as it knows: what it polls may have happened a little earlier.
        let now = node.told;
        let deadline = node.core.as_ref().and_then(Core::next_deadline);
        if effects == 0 && deadline.is_some_and(|deadline| deadline < now) {
            let detail = format!("{id} did nothing at {now:?} and its next deadline is {deadline:?}");
            self.watch.violate("no busy waiting", detail);
        }
    }

    fn plan_wake(&mut self, id: NodeId) {
        let life = self.life(id);
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let Some(deadline) = node.core.as_ref().and_then(Core::next_deadline) else { return };
        let at = node.clock.moment_of(deadline, self.now);
        if node.wake_at.is_none_or(|planned| planned > at || planned <= self.now) {
            node.wake_at = Some(at);
            self.schedule.at(at, Event::Wake { node: id, life, at });
        }
    }

    fn perform(&mut self, id: NodeId, effect: Effect) {
        let now = self.now;
        match effect {
            Effect::Persist { sequence, record } => {
                self.watch.see(now, &Observation::Queued { node: id, sequence, record: &record });
                self.nodes.get_mut(&id).expect("a node of this cluster").disk.queue(sequence, record);
            }
            Effect::Send { to, message } => self.send(id, &to, &message),
            Effect::Deliver { group, log, slot, entry } => self.deliver(id, (group, log), slot, &entry),
            Effect::Proposed { id: operation, outcome, .. } => self.proposed(id, operation, &outcome),
            Effect::Barrier { token, result } => {
                self.watch.see(now, &Observation::Barrier { node: id, token, result: &result });
                self.workload.reads.remove(&(id, token));
                match result {
                    Ok(_) => self.workload.barriers += 1,
                    Err(_) => self.workload.refused += 1,
                }
                self.probe_read(id, token, result.is_ok());
            }
            Effect::ReadEntries { token, group, log, from, up_to, bytes_max } => {
                let life = self.life(id);
                let wait = self.disk_time();
                let event = Event::EntriesRead { node: id, life, token, place: (group, log), from, up_to, bytes_max };
                self.schedule.at(now + wait, event);
            }
            Effect::NeedState { group, log, from, donors } => {
                self.tell(format_args!("{id} needs a state of {log} from slot {from}, donors {donors:?}"));
                let node = self.nodes.get_mut(&id).expect("a node of this cluster");
                let donor = self.random.pick(&donors);
                if let Some(donor) = donor.filter(|_| node.copying.insert((group, log))) {
                    let wait = self.random.between(1_000, 200_000);
                    let life = self.life(id);
                    self.schedule.at(now + wait, Event::CopyState { node: id, life, place: (group, log), donor });
                }
            }
            Effect::Configured { configuration } => {
                self.watch.see(now, &Observation::Configured { node: id, configuration: &configuration });
                self.member_configured(&configuration);
            }
            Effect::Changed { token, result } => self.member_changed(id, token, result),
            Effect::Stop { reason } => {
                // Disks keep their word here and nothing runs twice, so there is no reason to stop.
                self.watch.violate("no node stops", format!("{id} stops: {reason}"));
            }
        }
    }

    fn send(&mut self, from: NodeId, to: &[NodeId], message: &Arc<Message>) {
        self.watch.see(self.now, &Observation::Sent { from, to, message });
        let mut message = message.clone();
        if self.plan.encode {
            let decoded = Message::decode(&message.encode());
            match decoded {
                Ok(decoded) if decoded == *message => message = Arc::new(decoded),
                other => self.watch.violate("messages survive their encoding", format!("{message:?} became {other:?}")),
            }
        }
        for &to in to {
            assert_ne!(from, to, "a core sends nothing to itself");
            if !self.nodes[&from].connected.contains(&to) {
                continue;
            }
            for arrival in self.network.arrivals(&self.plan, &mut self.random, self.now, from, to) {
                self.schedule.at(arrival, Event::Arrive { from, to, message: message.clone() });
            }
        }
    }

    fn arrive(&mut self, from: NodeId, to: NodeId, message: Arc<Message>) {
        // What was under way when a path was cut is lost with it.
        if self.network.is_open(from, to) && self.nodes.contains_key(&to) {
            self.give(to, Input::Message { from, message: Message::clone(&message) });
        }
    }

    fn deliver(&mut self, id: NodeId, place: (GroupId, LogId), slot: Slot, entry: &Entry) {
        let (group, log) = place;
        self.watch.see(self.now, &Observation::Delivered { node: id, group, log, slot, entry });
        if self.watch.violation.is_some() {
            return;
        }
        let id_window = self.plan.id_window;
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let face = node.faces.entry(place).or_insert_with(|| Face::new(id_window));
        let passed = face.pass(slot, entry);
        if log == LogId::MAIN {
            self.report.slots = self.report.slots.max(slot.0);
        }
        let (effect, closed) = (passed.effect, passed.closed);
        self.watch.see(self.now, &Observation::Applied { node: id, group, log, slot, effect, closed });
    }

    fn proposed(&mut self, node: NodeId, id: OperationId, outcome: &ProposalOutcome) {
        self.watch.see(self.now, &Observation::Proposed { node, id, outcome });
        let Some(entry) = self.workload.proposals.remove(&(node, id)) else { return };
        match outcome {
            ProposalOutcome::Chosen(_) => self.workload.chosen += 1,
            ProposalOutcome::Failed(_) => self.workload.failed += 1,
            ProposalOutcome::Unknown => {
                self.workload.unknown += 1;
                self.became_unknown(entry);
            }
        }
        self.probe_proposed(node, id, outcome);
    }

    pub(crate) fn disk_time(&mut self) -> u64 {
        let mut time = self.plan.sync_min + self.random.waiting_time(self.plan.sync_mean);
        if self.random.chance(self.plan.sync_stall) {
            time += self.random.below(2_000_000);
        }
        time
    }

    fn begin_sync(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("a node of this cluster").disk.begin_sync();
        let wait = self.disk_time();
        let life = self.life(id);
        self.schedule.at(self.now + wait, Event::Synced { node: id, life });
    }

    fn synced(&mut self, id: NodeId) {
        let batch = self.nodes.get_mut(&id).expect("a node of this cluster").disk.finish_sync();
        for (sequence, record) in &batch {
            self.watch.see(self.now, &Observation::Durable { node: id, sequence: *sequence, record });
        }
        let (sequence, _) = batch.last().expect("a batch is not empty");
        self.give(id, Input::Persisted { sequence: *sequence });
        // The disk does not wait for a frozen process.
        if self.nodes[&id].disk.wants_sync() {
            self.begin_sync(id);
        }
    }

    fn checkpoint(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        if node.paused_until <= self.now {
            node.disk.checkpoints = node.faces.clone();
            let held: Vec<_> = node.faces.iter().map(|(place, face)| (*place, face.applied)).collect();
            for ((group, log), slot) in held {
                self.give(id, Input::Held { group, log, slot });
            }
        }
        let wait = self.random.waiting_time(self.plan.checkpoint_every);
        let life = self.life(id);
        self.schedule.at(self.now + wait, Event::Checkpoint { node: id, life });
    }

    /// The state as it is at the donor now, if both can be reached; otherwise the core asks again.
    fn copy_state(&mut self, id: NodeId, place: (GroupId, LogId), donor: NodeId) {
        self.nodes.get_mut(&id).expect("a node of this cluster").copying.remove(&place);
        // What the core decided before and nobody carried out yet comes first, or slots would be delivered behind the copy.
        self.poll(id);
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        if !node.is_running() || node.paused_until > self.now {
            return;
        }
        let own = node.faces.get(&place).map_or(Slot::ZERO, |face| face.applied);
        let reachable = self.network.is_open(donor, id) && self.network.is_open(id, donor);
        let Some(face) = self.nodes.get(&donor).filter(|donor| donor.is_running() && reachable) else { return };
        let Some(face) = face.faces.get(&place).filter(|face| face.applied > own).cloned() else { return };
        let slot = face.applied;
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        node.faces.insert(place, face.clone());
        node.disk.checkpoints.insert(place, face);
        self.report.copies += 1;
        let (group, log) = place;
        self.tell(format_args!("{id} copies the state of {donor}"));
        self.watch.see(self.now, &Observation::Installed { node: id, group, log, slot });
        self.give(id, Input::Installed { group, log, slot });
    }

    /// Starts a node that does not run, on what its disk holds.
    pub(crate) fn start(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        if node.is_running() || node.retired {
            return;
        }
        node.start.0 += 1;
        node.operations = 0;
        let drift = self.plan.clock_drift * (2.0 * self.random.fraction() - 1.0);
        node.clock = Clock { origin: self.random.below(1 << 40), begun: now, rate: 1.0 + drift };
        let spoilt = id.0 == 1 + u128::from(self.plan.seed % self.plan.nodes as u64);
        if spoilt && node.start.0 > 1 && self.recovery.is_none() && self.random.chance(self.plan.damage) {
            node.disk.damage(&mut self.random);
            self.watch.trace.tell(now, format_args!("DAMAGE on the disk of {id}"));
        }
        node.faces = node.disk.checkpoints.clone();
        let recovered = node.disk.recover();
        let start = node.start;
        node.has_group = recovered.groups.get(&GROUP).is_some_and(|group| group.configuration.is_some());
        self.watch.see(now, &Observation::Started { node: id, start, recovered: &recovered });
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        for ((group, log), face) in &node.faces {
            let restored = Observation::Restored { node: id, group: *group, log: *log, slot: face.applied };
            self.watch.see(now, &restored);
        }
        let options = CoreOptions {
            failure_timeout: Duration::from_micros(self.plan.failure_timeout),
            log_keep_entries: self.plan.log_keep_entries,
            log_ahead_bytes: self.plan.log_ahead_bytes,
            ..CoreOptions::default()
        };
        let seed = self.random.number();
        node.told = node.clock.at(now);
        node.core = Some(Core::new(options, id, start, recovered, seed, node.told));
        *self.lives.entry(id).or_default() += 1;
        self.dirty.insert(id);
        if self.plan.checkpoint_every > 0 {
            let wait = self.random.waiting_time(self.plan.checkpoint_every);
            let life = self.life(id);
            self.schedule.at(now + wait, Event::Checkpoint { node: id, life });
        }
    }

    /// Ends a node's life: memory gone, the disk's batch under way decided by chance.
    pub(crate) fn crash(&mut self, id: NodeId) {
        let now = self.now;
        let torn = self.plan.torn_batches;
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        if !node.is_running() {
            return;
        }
        self.report.crashes += 1;
        for (sequence, record) in node.disk.crash(torn, &mut self.random) {
            self.watch.see(now, &Observation::Durable { node: id, sequence, record: &record });
        }
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        node.core = None;
        node.faces.clear();
        node.inbox.clear();
        node.connected.clear();
        node.copying.clear();
        node.paused_until = 0;
        node.wake_at = None;
        node.poll_planned = false;
        self.dirty.remove(&id);
        *self.lives.entry(id).or_default() += 1;
        self.watch.see(now, &Observation::Crashed { node: id });
        for entry in self.workload.crashed(id) {
            self.became_unknown(entry);
        }
        self.member_crashed(id);
        let wait = self.random.waiting_time(self.plan.down_for);
        self.schedule.at(now + wait, Event::Restart { node: id });
    }

    /// Links come up and go down as the paths under them do, some time later.
    fn check_links(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for &from in &ids {
            for &to in &ids {
                if from == to || !self.nodes[&from].is_running() {
                    continue;
                }
                let open = self.network.is_open(from, to) && self.nodes[&to].is_running();
                let connected = self.nodes[&from].connected.contains(&to);
                let set = &mut self.nodes.get_mut(&from).expect("a node of this cluster").connected;
                if open && !connected && self.random.chance(0.7) {
                    set.insert(to);
                    self.give(from, Input::Connected { node: to });
                } else if !open && connected && self.random.chance(self.plan.break_links) {
                    set.remove(&to);
                    self.give(from, Input::Disconnected { node: to });
                }
            }
        }
        self.introduce_members();
        let wait = self.random.between(5_000, 50_000);
        self.schedule.at(self.now + wait, Event::CheckLinks);
    }
}

/// A node as a member of the group.
pub(crate) fn member(node: NodeId, role: Role) -> Member {
    Member { node, address: format!("{node}:1"), public_key: node.0.to_be_bytes().to_vec(), role, label: String::new() }
}
