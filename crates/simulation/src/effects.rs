//! Inputs go into the cores here, and what the cores want done is carried out, each effect shown to the invariants first.

use std::sync::Arc;

use consensus::{Core, Effect, Entry, GroupId, Input, LogId, Message, NodeId, OperationId, ProposalOutcome, Slot};

use crate::cluster::{Cluster, Event};
use crate::face::Face;
use crate::observation::Observation;

impl Cluster {
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

    pub(crate) fn poll_dirty(&mut self) {
        while let Some(id) = self.dirty.pop_first() {
            self.poll(id);
        }
    }

    /// Carries out what a core wants done, unless the node dies in the middle of it.
    pub(crate) fn poll(&mut self, id: NodeId) {
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
            for arrival in self.network.arrivals(&self.plan, &mut self.random, self.now, from, to) {
                self.schedule.at(arrival, Event::Arrive { from, to, message: message.clone() });
            }
        }
    }

    pub(crate) fn deliver(&mut self, id: NodeId, place: (GroupId, LogId), slot: Slot, entry: &Entry) {
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

    pub(crate) fn proposed(&mut self, node: NodeId, id: OperationId, outcome: &ProposalOutcome) {
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

    pub(crate) fn begin_sync(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("a node of this cluster").disk.begin_sync();
        let wait = self.disk_time();
        let life = self.life(id);
        self.schedule.at(self.now + wait, Event::Synced { node: id, life });
    }

    pub(crate) fn synced(&mut self, id: NodeId) {
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
}
