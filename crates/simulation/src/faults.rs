//! What goes wrong, and when it stops.

use consensus::NodeId;

use crate::cluster::{Cluster, Event};
use crate::recovery::Recovery;

impl Cluster {
    /// Nodes that are up, frozen or not.
    pub(crate) fn running(&self) -> Vec<NodeId> {
        self.nodes.values().filter(|node| node.is_running()).map(|node| node.id).collect()
    }

    /// A node, or now and then every node, crashes.
    pub(crate) fn fault_crash(&mut self) {
        let running = self.running();
        let victims = if self.plan.crash_all && self.random.chance(0.15) {
            running
        } else {
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
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        self.network.partition(&ids, &mut self.random);
        self.report.partitions += 1;
        self.tell(format_args!("PARTITION {:?}", self.network));
        self.partition_number += 1;
        let wait = self.random.waiting_time(self.plan.partition_for);
        self.schedule.at(self.now + wait, Event::Heal { number: self.partition_number });
        self.again(self.plan.partition_every, Event::Partition);
    }

    /// A node is frozen for a while, as a process is by SIGSTOP: its disk and its links go on.
    pub(crate) fn fault_pause(&mut self) {
        let running = self.running();
        if let Some(victim) = self.random.pick(&running) {
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
        for time in [&mut plan.delay_min, &mut plan.delay_mean, &mut plan.sync_min, &mut plan.sync_mean] {
            *time = (*time).min(quick);
        }
        plan.poll_delay_max = plan.poll_delay_max.min(quick);
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.nodes.get_mut(&id).expect("a node of this cluster");
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
