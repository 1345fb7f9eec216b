//! What goes wrong, and when it stops.

use consensus::{Impostor, NodeId, StopReason};

use crate::cluster::{Cluster, Event};
use crate::recovery::Recovery;
use crate::tally::Fault;

impl Cluster {
    /// Nodes that are up, frozen or not.
    pub(crate) fn running(&self) -> Vec<NodeId> {
        self.nodes.values().filter(|node| node.is_running()).map(|node| node.id).collect()
    }

    /// A node, or now and then every node, crashes.
    pub(crate) fn fault_crash(&mut self) {
        let running = self.running();
        let victims = if self.suspect.is_some() {
            Vec::new()
        } else if self.plan.crash_all && self.random.chance(0.15) {
            self.report.faults.count(Fault::CrashOfAll);
            running
        } else {
            self.report.faults.count(Fault::Crash);
            self.random.pick(&running).into_iter().collect()
        };
        for victim in victims {
            self.tell(format_args!("CRASH of {victim}"));
            self.crash(victim);
        }
        self.again(self.plan.crash_every, Event::Crash);
    }

    /// Some paths are cut for a while.
    pub(crate) fn fault_partition(&mut self) {
        self.again(self.plan.partition_every, Event::Partition);
        if self.suspect.is_some() {
            return;
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let shape = self.network.partition(&ids, &mut self.random);
        self.report.faults.count(shape);
        self.report.partitions += 1;
        self.tell(format_args!("PARTITION {:?}", self.network));
        self.partition_number += 1;
        let wait = self.random.waiting_time(self.plan.partition_for);
        self.schedule.at(self.now + wait, Event::Heal { number: self.partition_number });
        if self.random.chance(0.15) {
            self.report.faults.count(Fault::Flapping);
            self.schedule.at(self.now + wait / 10 + 1, Event::Flap { number: self.partition_number });
        }
    }

    /// A partition that comes and goes does so again.
    pub(crate) fn fault_flap(&mut self, number: u64) {
        if number == self.partition_number && self.network.is_partitioned() && self.recovery.is_none() {
            self.network.flap();
            self.tell(format_args!("FLAP {:?}", self.network));
            let wait = self.random.waiting_time(self.plan.failure_timeout / 2);
            self.schedule.at(self.now + wait, Event::Flap { number });
        }
    }

    /// The clock of a node shows another time all at once. Within a life the core is never told an earlier one.
    pub(crate) fn fault_clock_jump(&mut self) {
        let running = self.running();
        if let Some(id) = self.random.pick(&running) {
            let jump = self.random.below(2_000_000);
            let node = self.nodes.get_mut(&id).expect("a node of this cluster");
            let back = self.random.chance(0.3);
            node.clock.origin =
                if back { node.clock.origin.saturating_sub(jump / 4) } else { node.clock.origin + jump };
            self.tell(format_args!("CLOCK of {id} jumps by {jump}us, back: {back}"));
            self.report.faults.count(Fault::ClockJump);
            self.dirty.insert(id);
        }
        self.again(self.plan.clock_jump_every, Event::ClockJump);
    }

    /// An entry on the disk of a running node rots; whoever reads it finds out.
    pub(crate) fn fault_rot(&mut self) {
        if let Some(id) = self.random.pick(&self.running()).filter(|id| self.may_spoil(*id)) {
            let node = self.nodes.get_mut(&id).expect("a node of this cluster");
            if node.disk.rot_content(&mut self.random) {
                self.tell(format_args!("ROT on the disk of {id}"));
                self.report.faults.count(Fault::ContentRot);
            }
        }
        self.again(self.plan.rot_every, Event::Rot);
    }

    /// Whether the fault budget allows damage to this node's disk: with the others a good copy of everything exists.
    pub(crate) fn may_spoil(&mut self, id: NodeId) -> bool {
        if self.spoilt.len() < self.plan.spoilt_max {
            self.spoilt.insert(id);
        }
        self.spoilt.contains(&id)
    }

    /// What a node that starts again finds damaged.
    pub(crate) fn spoil_disk(&mut self, id: NodeId) {
        let again = self.nodes[&id].start.0 > 1 && self.recovery.is_none();
        if !again || !self.random.chance(self.plan.damage) || !self.may_spoil(id) {
            return;
        }
        for _ in 0..self.random.between(1, 4) {
            let node = self.nodes.get_mut(&id).expect("a node of this cluster");
            if let Some(fault) = node.disk.damage(&mut self.random) {
                self.tell(format_args!("DAMAGE on the disk of {id}: {}", fault.name()));
                self.report.faults.count(fault);
            }
        }
    }

    /// A batch finds no room: the node stops, and does not start before there is some.
    pub(crate) fn disk_is_full(&mut self, id: NodeId) -> bool {
        let full = self.recovery.is_none() && self.random.chance(self.plan.disk_full);
        if full {
            self.tell(format_args!("DISK FULL at {id}"));
            self.report.faults.count(Fault::DiskFull);
            let wait = self.random.waiting_time(self.plan.down_for * 2);
            self.nodes.get_mut(&id).expect("a node of this cluster").full_until = self.now + wait;
            self.crash(id);
        }
        full
    }

    /// Somebody keeps a copy of a node's disk.
    pub(crate) fn back_up(&mut self, id: NodeId) {
        if self.suspect != Some(id) {
            let node = self.nodes.get_mut(&id).expect("a node of this cluster");
            node.backup = Some(Box::new(node.disk.as_after_a_crash()));
        }
    }

    /// A node that starts now may find that copy in place of its disk, if everybody who can be reached, and that is
    /// everybody, has seen more of it: then it must be refused. While it is not, nothing else goes wrong, so that what
    /// is said of a reachable peer stays true.
    pub(crate) fn comes_back_stale(&mut self, id: NodeId) -> bool {
        let node = &self.nodes[&id];
        let Some(backup) = &node.backup else { return false };
        if self.recovery.is_some() || self.suspect.is_some() || self.network.is_partitioned() {
            return false;
        }
        let position = backup.position();
        let knows = |other: NodeId| {
            let other = &self.nodes[&other];
            let seen = |core: &consensus::Core| {
                let peers = core.status(other.told).peers;
                peers.iter().any(|peer| peer.node == id && peer.position > position)
            };
            other.paused_until <= self.now && other.core.as_ref().is_some_and(seen)
        };
        if !self.nodes.keys().filter(|other| **other != id).all(|other| knows(*other)) {
            return false;
        }
        if !self.random.chance(self.plan.stale_disk) {
            return false;
        }
        self.tell(format_args!("STALE disk of {id}"));
        self.report.faults.count(Fault::StaleDisk);
        self.suspect = Some(id);
        self.watch.hidden = Some(id);
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let backup = node.backup.take().expect("there is one");
        node.set_aside = Some(Box::new(std::mem::replace(&mut node.disk, *backup)));
        let bound = self.now + 10 * self.plan.failure_timeout + 5_000_000;
        self.schedule.at(bound, Event::SuspectBound { node: id, start: node.start });
        true
    }

    /// A node that came back with less must have been refused by now.
    pub(crate) fn check_suspect(&mut self, id: NodeId, start: consensus::Start) {
        if self.suspect == Some(id) && self.nodes[&id].start == start {
            self.watch
                .violate("a node that went back is refused", format!("{id} came back with an old disk and stays"));
        }
    }

    /// A core says that its node must stop. Only an old disk is a reason; it gives way to the right one then.
    pub(crate) fn stopped(&mut self, id: NodeId, reason: &StopReason) {
        let refused = matches!(reason, StopReason::Impostor(Impostor::LogWentBack { .. }));
        if self.suspect != Some(id) || !refused {
            self.watch.violate("no node stops", format!("{id} stops: {reason}"));
            return;
        }
        self.tell(format_args!("{id} is refused and stops: {reason}"));
        self.crash(id);
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        node.disk = *node.set_aside.take().expect("the right disk was set aside");
        self.refused.insert((id, node.start), self.now);
        self.suspect = None;
        self.watch.hidden = None;
    }

    /// A node is frozen for a while, as a process is by SIGSTOP: its disk and its links go on.
    pub(crate) fn fault_pause(&mut self) {
        let running = self.running();
        if let Some(victim) = self.random.pick(&running).filter(|_| self.suspect.is_none()) {
            self.report.faults.count(Fault::Pause);
            let wait = self.random.waiting_time(self.plan.pause_for);
            self.tell(format_args!("PAUSE of {victim} for {wait}us"));
            let node = self.nodes.get_mut(&victim).expect("a node of this cluster");
            node.paused_until = node.paused_until.max(self.now + wait);
            self.schedule.at(node.paused_until, Event::Resume { node: victim });
        }
        self.again(self.plan.pause_every, Event::Pause);
    }

    /// From here on everything works, and everything that was down comes back.
    pub(crate) fn end_faults(&mut self) {
        self.tell(format_args!("FAULTS END"));
        self.recovery = Some(Recovery::new(self.now + self.plan.recovery_bound));
        self.network.heal();
        let quick = (self.plan.failure_timeout / 50).max(1);
        let plan = &mut self.plan;
        (plan.loss, plan.duplication, plan.long_delay, plan.sync_stall) = (0.0, 0.0, 0.0, 0.0);
        plan.read_error = 0.0;
        for time in [&mut plan.delay_min, &mut plan.delay_mean, &mut plan.sync_min, &mut plan.sync_mean] {
            *time = (*time).min(quick);
        }
        plan.poll_delay_max = plan.poll_delay_max.min(quick);
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.nodes.get_mut(&id).expect("a node of this cluster");
            node.full_until = 0;
            if node.paused_until > self.now {
                node.paused_until = self.now;
                self.schedule.at(self.now, Event::Resume { node: id });
            }
            self.schedule.at(self.now + self.random.below(100_000), Event::Restart { node: id });
        }
        let wait = 5 * self.plan.failure_timeout;
        self.schedule.at(self.now + wait, Event::Probe);
    }
}
