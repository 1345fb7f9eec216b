//! Inputs go into the cores here, and what the cores want done is carried out, each effect shown to the invariants first.

use std::sync::Arc;

use consensus::{
    is_planted, Core, Effect, Entry, GroupId, Input, LogId, LogQueues, Message, NodeId, OperationId, ProposalOutcome,
    SeededBug, Sequence, Slot,
};

use crate::cluster::{Cluster, Event};
use crate::face::{Face, FaceOptions};
use crate::node::Node;
use crate::observation::Observation;
use crate::real_log::End;
use crate::tally::Fault;

impl Cluster {
    /// Gives an input to a core, now or when its node is no longer frozen.
    pub(crate) fn give(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let frozen = node.is_frozen(now);
        let Some(core) = &mut node.core else { return };
        if frozen {
            node.inbox.push(input);
            return;
        }
        node.told = node.told.max(node.clock.at(now));
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

    pub(crate) fn poll_dirty(&mut self) {
        while let Some(id) = self.dirty.pop_first() {
            self.poll(id);
        }
    }

    /// Carries out what a core wants done, unless the node dies in the middle of it.
    pub(crate) fn poll(&mut self, id: NodeId) {
        let faults = self.recovery.is_none() && self.suspect.is_none();
        let crashes = if faults { self.plan.crash_at_effect } else { 0.0 };
        let crashes_after = if faults && self.has_users(id) { self.plan.crash_after_send } else { 0.0 };
        let mut effects = 0;
        loop {
            let node = self.nodes.get_mut(&id).expect("a node of this cluster");
            let frozen = node.is_frozen(self.now);
            let Some(core) = node.core.as_mut().filter(|_| !frozen) else { return };
            let Some(effect) = core.poll_effect() else { break };
            if self.random.chance(crashes) {
                self.tell(format_args!("CRASH of {id} before {effect:?}"));
                self.report.faults.count(Fault::CrashBeforeEffect);
                self.crash(id);
                return;
            }
            let speaks = matches!(effect, Effect::Send { .. });
            self.perform(id, effect);
            if speaks && self.random.chance(crashes_after) {
                self.tell(format_args!("CRASH of {id} after it spoke"));
                self.report.faults.count(Fault::CrashAfterSend);
                self.crash(id);
                return;
            }
            effects += 1;
            if self.watch.violation.is_some() {
                return;
            }
        }
        self.check_rest(id, effects);
        self.look_at_bounds(id);
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        if node.disk.wants_sync() {
            self.begin_sync(id);
            if !self.nodes[&id].is_running() {
                return;
            }
        } else if node.disk.could_sync() {
            let life = self.life(id);
            self.schedule.at(self.now + 100_000, Event::FlushLazy { node: id, life });
        }
        self.plan_wake(id);
    }

    /// A core that has nothing to do now must not ask to be woken now: its engine would spin.
    pub(crate) fn check_rest(&mut self, id: NodeId, effects: u64) {
        let node = &self.nodes[&id];
        // As far as it knows: what it polls may have happened a little earlier.
        let now = node.told;
        let deadline = node.core.as_ref().and_then(Core::next_deadline);
        if effects == 0 && deadline.is_some_and(|deadline| deadline < now) {
            let detail = format!("{id} did nothing at {now:?} and its next deadline is {deadline:?}");
            self.watch.violate("no busy waiting", detail);
        }
    }

    /// Shows what a core holds in its queues.
    fn look_at_bounds(&mut self, id: NodeId) {
        let Node { core: Some(core), faces, .. } = &self.nodes[&id] else { return };
        let remembered = faces.values().map(Face::remembered_ids).max().unwrap_or(0);
        let queues: Vec<LogQueues> = core.queues().collect();
        self.watch.see(self.now, &Observation::Rested { node: id, queues: &queues, remembered });
    }

    pub(crate) fn plan_wake(&mut self, id: NodeId) {
        let life = self.life(id);
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let Some(deadline) = node.core.as_ref().and_then(Core::next_deadline) else { return };
        let at = node.clock.moment_of(deadline, self.now);
        if node.wake_at.is_none_or(|planned| planned > at || planned <= self.now) {
            node.wake_at = Some(at);
            self.schedule.at(at, Event::Wake { node: id, life, at });
        }
    }

    pub(crate) fn perform(&mut self, id: NodeId, effect: Effect) {
        let now = self.now;
        match effect {
            Effect::Persist { sequence, record } => {
                self.watch.see(now, &Observation::Queued { node: id, sequence, record: &record });
                self.nodes.get_mut(&id).expect("a node of this cluster").disk.queue(sequence, record);
            }
            Effect::Send { to, message } => self.send(id, &to, &message),
            Effect::Deliver { group, log, slot, entry } => self.deliver(id, (group, log), slot, &entry),
            Effect::Proposed { log, id: operation, outcome, .. } => self.proposed(id, log, operation, &outcome),
            Effect::Barrier { token, result } => {
                self.watch.see(now, &Observation::Barrier { node: id, token, result: &result });
                self.workload.reads.remove(&(id, token));
                match result {
                    Ok(_) => self.workload.barriers += 1,
                    Err(_) => self.workload.refused += 1,
                }
                self.probe_read(id, token, result.is_ok());
                self.value_read(id, token, result.ok());
            }
            Effect::ReadEntries { token, group, log, from, up_to, bytes_max } => {
                let life = self.life(id);
                let wait = self.disk_time(id);
                let event = Event::EntriesRead { node: id, life, token, place: (group, log), from, up_to, bytes_max };
                self.schedule.at(now + wait, event);
            }
            Effect::NeedState { .. } if self.is_witness(id) => {
                self.watch.violate("a witness has no state", format!("{id} asks for one"));
            }
            Effect::LoadLog { log, .. } => {
                let (life, wait) = (self.life(id), self.disk_time(id));
                self.schedule.at(now + wait, Event::LogLoaded { node: id, life, log });
            }
            Effect::ListLogs { token, after, count_max, .. } => {
                let (life, wait) = (self.life(id), self.disk_time(id));
                // As the disk is now: until the answer comes, logs change and leave memory.
                let (logs, last) = self.list_logs(id, after, count_max);
                self.schedule.at(now + wait, Event::LogsListed { node: id, life, token, logs, last });
            }
            Effect::Unloaded { group, log } => {
                self.watch.see(now, &Observation::Unloaded { node: id, group, log });
                self.values.unloaded(id, log);
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
            Effect::HoldMore { .. } => self.checkpoint_now(id),
            Effect::Configured { configuration } => {
                self.watch.see(now, &Observation::Configured { node: id, configuration: &configuration });
                self.member_configured(&configuration);
                if configuration.index(id).is_none() {
                    self.retire_later(id);
                }
            }
            Effect::Changed { token, result } => self.member_changed(id, token, result),
            Effect::Stop { reason } => self.stopped(id, &reason),
        }
    }

    pub(crate) fn send(&mut self, from: NodeId, to: &[NodeId], message: &Arc<Message>) {
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
            let tally = &mut self.report.faults;
            for arrival in self.network.arrivals(&self.plan, &mut self.random, tally, self.now, (from, to)) {
                self.schedule.at(arrival, Event::Arrive { from, to, message: message.clone() });
            }
        }
    }

    pub(crate) fn deliver(&mut self, id: NodeId, place: (GroupId, LogId), slot: Slot, entry: &Entry) {
        let (group, log) = place;
        self.watch.see(self.now, &Observation::Delivered { node: id, group, log, slot, entry });
        if self.is_witness(id) {
            self.watch.violate("a witness has no state", format!("{id} is given slot {slot}"));
        }
        if self.watch.violation.is_some() {
            return;
        }
        if self.plan.values > 0 {
            return self.value_delivered(id, log, slot, entry);
        }
        let options = self.face_options();
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let face = node.faces.entry(place).or_insert_with(|| Face::new(options));
        let passed = face.pass(slot, entry);
        if log == LogId::MAIN {
            self.report.slots = self.report.slots.max(slot.0);
        }
        self.watch.see(self.now, &Observation::Applied { node: id, group, log, slot, passed });
    }

    pub(crate) fn proposed(&mut self, node: NodeId, log: LogId, id: OperationId, outcome: &ProposalOutcome) {
        self.watch.see(self.now, &Observation::Proposed { node, log, id, outcome });
        let Some(entry) = self.workload.proposals.remove(&(node, id)) else { return };
        match outcome {
            ProposalOutcome::Chosen(_) => {
                self.workload.chosen += 1;
                self.value_was_chosen(node);
            }
            ProposalOutcome::Failed(_) => self.workload.failed += 1,
            ProposalOutcome::Unknown => {
                self.workload.unknown += 1;
                self.became_unknown(entry);
            }
        }
        self.part_answered(node, id, outcome);
        self.probe_proposed(node, id, outcome);
    }

    pub(crate) fn face_options(&self) -> FaceOptions {
        FaceOptions { id_window: self.plan.id_window, certification_bytes: self.plan.certification_bytes }
    }

    /// What the node's disk takes for a sync or a read.
    pub(crate) fn disk_time(&mut self, id: NodeId) -> u64 {
        let mut time = self.plan.sync_min + self.random.waiting_time(self.plan.sync_mean);
        if let Some((slow, factor)) = self.plan.slow_disk.filter(|_| self.recovery.is_none()) {
            time *= if id == NodeId(slow as u128 + 1) { factor } else { 1 };
        }
        if self.random.chance(self.plan.sync_stall) {
            self.report.faults.count(Fault::SlowSync);
            time += self.random.below(2_000_000);
        }
        time
    }

    pub(crate) fn begin_sync(&mut self, id: NodeId) {
        if self.disk_is_full(id) {
            return;
        }
        self.nodes.get_mut(&id).expect("a node of this cluster").disk.begin_sync();
        let wait = self.disk_time(id);
        let life = self.life(id);
        self.schedule.at(self.now + wait, Event::Synced { node: id, life });
    }

    pub(crate) fn synced(&mut self, id: NodeId) {
        let Some(sequence) = self.sync_ends(id) else { return };
        self.give(id, Input::Persisted { sequence });
        // The disk does not wait for a frozen process.
        if self.nodes[&id].disk.wants_sync() {
            self.begin_sync(id);
        }
    }

    /// The batch is durable, or the sync failed: then the node stops, and what it never said nobody believes.
    fn sync_ends(&mut self, id: NodeId) -> Option<Sequence> {
        if self.recovery.is_none() && self.random.chance(self.plan.sync_error) {
            self.tell(format_args!("SYNC ERROR at {id}"));
            self.report.faults.count(Fault::SyncError);
            if is_planted(SeededBug::FsyncRetried) {
                return Some(self.nodes.get_mut(&id).expect("a node of this cluster").disk.pretend_sync());
            }
            self.end_life(id, End::WriteFailed);
            return None;
        }
        if self.recovery.is_none() && self.random.chance(self.plan.crash_in_write) {
            self.tell(format_args!("CRASH of {id} while it writes"));
            self.report.faults.count(Fault::CrashInWrite);
            self.crash(id);
            return None;
        }
        if let Some(real) = &self.nodes[&id].disk.real {
            if self.random.chance(0.1) {
                real.prepare_segment();
            }
        }
        let batch = self.nodes.get_mut(&id).expect("a node of this cluster").disk.finish_sync();
        for (sequence, record) in &batch {
            self.watch.see(self.now, &Observation::Durable { node: id, sequence: *sequence, record });
        }
        batch.last().map(|(sequence, _)| *sequence)
    }
}
