//! What views show.

use super::Node;
use crate::description::{group_description, member_description};
use client::{GroupId, GroupStatus, LogStatus, MemberStatus, Metrics, Slot, Status};
use consensus::LogId;

impl Node {
    pub(super) fn status(&mut self) -> Status {
        let core = self.core.status(self.now());
        let mut groups = Vec::new();
        let node = self.node;
        let disowned: Vec<GroupId> = self.disowned.keys().copied().filter(|group| self.is_disowned(*group)).collect();
        for replica in self.replicas.values_mut() {
            let configuration = std::sync::Arc::clone(&replica.configuration);
            let is_witness = configuration.is_witness(node);
            let description = group_description(&configuration);
            let of_core = core.groups.iter().find(|group| group.group == configuration.group);
            let log = of_core.and_then(|group| group.logs.iter().find(|log| log.log == LogId::MAIN));
            // A witness delivers nothing; what it still keeps begins after what every voter holds.
            let (delivered, held) = match log.filter(|_| is_witness) {
                Some(log) => (log.delivered, log.held),
                None => (replica.delivered(), replica.held()),
            };
            let member = |member: &consensus::Member| {
                let own = member.node == node;
                let shown = member_description(member);
                let chosen = log.and_then(|log| log.members.iter().find(|(of, _)| *of == member.node));
                MemberStatus {
                    node: member.node,
                    role: shown.role,
                    address: shown.address,
                    label: shown.label,
                    database: shown.database,
                    live: own || core.peers.iter().any(|peer| peer.node == member.node && peer.live),
                    chosen: if own {
                        log.map_or(Slot::ZERO, |log| log.closed)
                    } else {
                        chosen.map_or(Slot::ZERO, |(_, slot)| *slot)
                    },
                    held: own.then_some(held),
                }
            };
            let own = description.members.iter().find(|member| member.node == node);
            groups.push(GroupStatus {
                group: configuration.group,
                name: configuration.name.clone(),
                kind: configuration.kind.clone(),
                database: own.map_or_else(|| configuration.detail.clone(), |own| own.database.clone()),
                epoch: configuration.epoch.0,
                changing: configuration.is_joint(),
                role: own.filter(|_| !disowned.contains(&configuration.group)).map(|own| own.role),
                needs_state: if replica.awaits_state { Some(Slot(1)) } else { replica.needs_state },
                stopped: replica.stopped().or_else(|| log.and_then(|log| log.damaged).map(waits_for)),
                log: LogStatus {
                    // This node's own ballot of before a restart makes no owner of it.
                    owner: log.and_then(|log| log.owner.filter(|owner| *owner != node || log.is_owner)),
                    round: log.map_or(0, |log| log.ballot.round),
                    chosen: log.map_or(Slot::ZERO, |log| log.closed),
                    delivered,
                    held,
                    trimmed: log.map_or(Slot::ZERO, |log| log.trimmed),
                },
                members: configuration.members.iter().map(member).collect(),
            });
        }
        groups.sort_by(|one, other| one.name.cmp(&other.name));
        Status { engine: self.describe(), metrics: self.gauges(), groups }
    }

    /// The counters, with what the log and the waiting lists say now.
    fn gauges(&self) -> Metrics {
        let usage = self.log.usage();
        Metrics {
            proposals_pending: self.waiting.proposals.len() as u64,
            log_batches: usage.batches,
            log_records: usage.records,
            log_bytes: usage.bytes_written,
            log_sync_us: usage.writing.as_micros() as u64,
            log_sync_us_max: usage.slowest.as_micros() as u64,
            log_bytes_on_disk: usage.bytes_on_disk,
            scrub_bytes: usage.scrubbed_bytes,
            scrub_damage_found: usage.damage_found,
            scrub_damage_healed: usage.damage_healed,
            values_in_memory: self.many_logs.in_memory() as u64,
            clients: self.clients.len() as u64,
            ..self.metrics
        }
    }
}

/// Why nothing comes after this slot.
fn waits_for(damaged: Slot) -> String {
    format!(
        "slot {damaged} of the log is damaged on this node's disk, and no member has given it yet: \
         what comes after it waits for a member with an intact copy"
    )
}
