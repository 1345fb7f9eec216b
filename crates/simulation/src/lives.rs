//! Nodes start, crash, freeze and go on; what their faces make durable, and copy from each other.

use std::time::Duration;

use consensus::{Core, CoreOptions, GroupId, Input, LogId, NodeId, Slot};

use crate::cluster::{Cluster, Event, GROUP};
use crate::disk::Crashed;
use crate::node::Clock;
use crate::observation::Observation;
use crate::real_log::{Cut, End};
use crate::tally::Fault;

impl Cluster {
    pub(crate) fn resume(&mut self, id: NodeId) {
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

    /// Starts a node that does not run, on what its disk holds.
    pub(crate) fn start(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        if node.is_running() || node.retired {
            return;
        }
        if node.full_until > now {
            self.schedule.at(node.full_until, Event::Restart { node: id });
            return;
        }
        node.start.0 += 1;
        node.operations = 0;
        let drift = self.plan.clock_drift * (2.0 * self.random.fraction() - 1.0);
        node.clock = Clock { origin: self.random.below(1 << 40), begun: now, rate: 1.0 + drift };
        if !self.comes_back_stale(id) {
            self.spoil_disk(id);
        }
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let recovered = node.disk.open(node.start);
        let recovered = node.disk.recover(recovered);
        node.faces = node.disk.restored_faces(&recovered);
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
            witness_keep_entries: self.plan.witness_keep_entries,
            log_ahead_bytes: self.plan.log_ahead_bytes,
            windows: self.plan.windows,
            resident_logs_max: self.plan.resident_logs_max,
            ..CoreOptions::default()
        };
        let seed = self.random.number();
        node.told = node.clock.at(now);
        node.core = Some(Core::new(options, id, start, recovered, seed, node.told));
        *self.lives.entry(id).or_default() += 1;
        self.dirty.insert(id);
        if self.plan.stale_disk > 0.0 {
            let wait = self.random.waiting_time(self.plan.crash_every);
            self.schedule.at(now + wait, Event::BackUp { node: id });
        }
        if self.plan.checkpoint_every > 0 {
            let wait = self.random.waiting_time(self.plan.checkpoint_every);
            let life = self.life(id);
            self.schedule.at(now + wait, Event::Checkpoint { node: id, life });
        }
    }

    /// Ends a node's life by chance or by force: of the process, or of the machine under it.
    pub(crate) fn crash(&mut self, id: NodeId) {
        let has_files = self.nodes[&id].disk.real.is_some();
        let end = if has_files && self.random.chance(0.5) { End::PowerLost } else { End::Killed };
        self.end_life(id, end);
    }

    /// Ends a node's life: memory gone, the disk's batch under way decided by chance.
    pub(crate) fn end_life(&mut self, id: NodeId, end: End) {
        let now = self.now;
        let has_files = self.nodes[&id].disk.real.is_some();
        // An entry that is torn on a majority stops its group: nobody knows whether it was acknowledged.
        let cut = if !self.plan.torn_batches {
            Cut::BetweenBatches
        } else if has_files && !self.may_spoil(id) {
            Cut::BetweenWrites
        } else {
            Cut::Anywhere
        };
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        if !node.is_running() {
            return;
        }
        self.report.crashes += 1;
        let Crashed { kept, lost, torn_entry, starts_cut_short } = node.disk.crash(end, cut, &mut self.random);
        if end == End::PowerLost {
            self.report.faults.count(Fault::PowerLoss);
        }
        if torn_entry {
            self.report.faults.count(Fault::TornEntry);
        }
        (0..starts_cut_short).for_each(|_| self.report.faults.count(Fault::CrashInStart));
        if lost > 0 {
            self.report.faults.count(Fault::UnsyncedLost);
            if !kept.is_empty() {
                self.report.faults.count(Fault::TornBatch);
            }
        }
        for (sequence, record) in kept {
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
        self.values.crashed(id);
        let wait = self.random.waiting_time(self.plan.down_for);
        self.schedule.at(now + wait, Event::Restart { node: id });
    }

    pub(crate) fn checkpoint(&mut self, id: NodeId) {
        self.checkpoint_now(id);
        let wait = self.random.waiting_time(self.plan.checkpoint_every);
        let life = self.life(id);
        self.schedule.at(self.now + wait, Event::Checkpoint { node: id, life });
    }

    /// What the node's faces hold now is durable.
    pub(crate) fn checkpoint_now(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        if !node.is_frozen(self.now) {
            node.disk.checkpoints = node.faces.clone();
            for ((group, log), face) in &node.faces {
                let (group, log, slot, digest) = (*group, *log, face.applied, face.digest());
                let observation = Observation::Checkpointed { node: id, group, log, slot, digest };
                self.watch.see(self.now, &observation);
            }
            let held: Vec<_> = node.faces.iter().map(|(place, face)| (*place, face.applied)).collect();
            for ((group, log), slot) in held {
                self.give(id, Input::Held { group, log, slot });
            }
        }
    }

    /// The state as it is at the donor now, if both can be reached; otherwise the core asks again.
    pub(crate) fn copy_state(&mut self, id: NodeId, place: (GroupId, LogId), donor: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        node.copying.remove(&place);
        if node.is_frozen(self.now) {
            return;
        }
        // What the core wants delivered already comes before the state that it is given now.
        self.poll(id);
        let node = &self.nodes[&id];
        if !node.is_running() {
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
        let digest = node.faces[&place].digest();
        self.watch.see(self.now, &Observation::Checkpointed { node: id, group, log, slot, digest });
        self.tell(format_args!("{id} copies the state of {donor}"));
        self.watch.see(self.now, &Observation::Installed { node: id, group, log, slot });
        self.give(id, Input::Installed { group, log, slot });
    }
}
