//! A group of logs of values: users who put new values in place of those that they have seen, in many more logs than a
//! node may have in memory; and the disk's side of loading them.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{
    Entry, EntryKind, Input, LogId, NodeId, OperationId, Recovered, RecoveredEntry, RecoveredLog, Slot, Token,
};

use crate::cluster::{Cluster, Event, GROUP};
use crate::disk::Disk;
use crate::observation::Observation;

/// The first log of values.
const FIRST: u128 = 100;

/// What users of values have seen and want.
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// The newest value of each log that is in memory somewhere: its slot and who put it.
    seen: BTreeMap<(NodeId, LogId), (Slot, OperationId)>,
    /// Reads by users who want to put a value next; without a slot the answer is yet to come.
    wanted: BTreeMap<(NodeId, Token), (LogId, Option<Slot>)>,
    /// The highest slot delivered of each log.
    highest: BTreeMap<LogId, Slot>,
}

impl Values {
    pub(crate) fn crashed(&mut self, node: NodeId) {
        self.seen.retain(|(of, _), _| *of != node);
        self.wanted.retain(|(of, _), _| *of != node);
    }

    pub(crate) fn unloaded(&mut self, node: NodeId, log: LogId) {
        self.seen.remove(&(node, log));
    }

    /// What the next value at this node is made from.
    fn base(&self, node: NodeId, log: LogId) -> (Slot, OperationId) {
        self.seen.get(&(node, log)).copied().unwrap_or((Slot::ZERO, OperationId::NONE))
    }
}

/// A value as users write it: its log, and who put the one that it was made from.
fn value(id: OperationId, log: LogId, (follows, base): (Slot, OperationId), padding: usize) -> Entry {
    let mut body = log.0.to_be_bytes().to_vec();
    body.extend(Entry::operation(base, b"").bytes());
    body.resize(body.len() + padding, b'v');
    Entry::value(id, follows, &body)
}

/// Who put the value that this one was made from.
pub(crate) fn base_of(value: &Entry) -> Option<OperationId> {
    let body = value.to_value()?;
    let base = body.get(16..16 + Entry::operation(OperationId::NONE, b"").len())?;
    Some(Entry::from_bytes(bytes::Bytes::copy_from_slice(base)).ok()?.id())
}

/// The log that an entry is meant for.
pub(crate) fn log_of(entry: &Entry) -> LogId {
    let body = entry.to_value().filter(|_| entry.kind() == EntryKind::Value);
    let number = body.and_then(|body| Some(u128::from_be_bytes(body.get(..16)?.try_into().ok()?)));
    number.map_or(LogId::MAIN, LogId)
}

impl Cluster {
    /// Any log of the group; some are used more than others.
    pub(crate) fn any_log(&mut self) -> LogId {
        match self.plan.values {
            0 => LogId::MAIN,
            count => {
                let range = if self.random.chance(0.3) { count.min(2) } else { count };
                LogId(FIRST + u128::from(self.random.below(range)))
            }
        }
    }

    /// Some new values, at one node: put at once, over what was seen there last, or after a read.
    pub(crate) fn user_puts(&mut self, nodes: &[NodeId]) {
        let Some(id) = self.random.pick(nodes) else { return };
        for _ in 0..self.random.between(1, self.plan.burst_max) {
            let log = self.any_log();
            if self.random.chance(0.6) {
                let token = self.read(id, log);
                self.values.wanted.insert((id, token), (log, None));
            } else {
                self.put(id, log);
            }
        }
    }

    /// One value, made from what the node has seen last.
    pub(crate) fn put(&mut self, id: NodeId, log: LogId) {
        let padding = if self.random.chance(0.02) { self.random.below(20_000) as usize } else { 0 };
        let operation = self.nodes.get_mut(&id).expect("a node of this cluster").next_id();
        let entry = value(operation, log, self.values.base(id, log), padding);
        self.propose(id, entry);
        if self.recovery.is_none() && self.random.chance(self.plan.withdraw) {
            let wait = self.random.waiting_time(20_000);
            self.schedule.at(self.now + wait, Event::Withdraw { node: id, id: operation });
        }
    }

    /// A write at a node where none has worked since the faults stopped.
    pub(crate) fn probe_value(&mut self, id: NodeId) {
        if self.values.wanted.keys().any(|(node, _)| *node == id)
            || self.workload.proposals.keys().any(|(node, _)| *node == id)
        {
            return;
        }
        let log = self.any_log();
        let token = self.read(id, log);
        self.values.wanted.insert((id, token), (log, None));
    }

    /// A barrier was answered: the write that waits for it comes once the node has delivered as much.
    pub(crate) fn value_read(&mut self, id: NodeId, token: Token, barrier: Option<Slot>) {
        let Some(wanted) = self.values.wanted.get_mut(&(id, token)) else { return };
        match barrier {
            Some(slot) => wanted.1 = Some(slot),
            None => drop(self.values.wanted.remove(&(id, token))),
        }
        self.put_what_was_wanted(id);
    }

    pub(crate) fn value_delivered(&mut self, id: NodeId, log: LogId, slot: Slot, entry: &Entry) {
        self.values.seen.insert((id, log), (slot, entry.id()));
        let highest = self.values.highest.entry(log).or_default();
        *highest = (*highest).max(slot);
        self.report.slots = self.report.slots.max(slot.0);
        self.put_what_was_wanted(id);
    }

    fn put_what_was_wanted(&mut self, id: NodeId) {
        let values = &mut self.values;
        let ready: Vec<(NodeId, Token)> = values
            .wanted
            .iter()
            .filter(|((node, _), (log, barrier))| {
                let seen = values.seen.get(&(*node, *log)).map_or(Slot::ZERO, |(slot, _)| *slot);
                *node == id && barrier.is_some_and(|barrier| seen >= barrier)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in ready {
            let (log, _) = self.values.wanted.remove(&key).expect("it was there");
            self.put_later(id, log);
        }
    }

    /// From within an effect no input can be given, so it is given with the next event.
    fn put_later(&mut self, id: NodeId, log: LogId) {
        self.schedule.at(self.now, Event::Put { node: id, life: self.life(id), log });
    }

    pub(crate) fn log_loaded(&mut self, id: NodeId, log: LogId) {
        let loaded = self.nodes[&id].disk.load_log(log);
        self.watch.see(self.now, &Observation::Loaded { node: id, group: GROUP, log, loaded: &loaded });
        self.give(id, Input::LogLoaded { group: GROUP, log, loaded, held: Slot::ZERO });
    }

    /// Logs after one, where they stand, and whether no more follow.
    pub(crate) fn list_logs(
        &mut self,
        id: NodeId,
        after: Option<LogId>,
        count_max: usize,
    ) -> (Vec<(LogId, Slot, Slot)>, bool) {
        let mut ids: BTreeSet<LogId> = self.nodes[&id].disk.logs();
        ids.retain(|id| Some(*id) > after);
        // Pages of any size: the disk may give fewer than were asked for.
        let count = (self.random.between(1, 30) as usize).min(count_max);
        let last = ids.len() <= count;
        let one = |log: LogId| {
            let found = self.nodes[&id].disk.load_log(log);
            let highest = found.accepted.last_key_value().map_or(Slot::ZERO, |(slot, _)| *slot);
            (log, found.closed, highest.max(found.closed))
        };
        (ids.into_iter().take(count).map(one).collect(), last)
    }

    /// Whether every member has the newest value of every log.
    pub(crate) fn look_at_values(&mut self) {
        let alike = self.values_that_differ().is_none();
        if let Some(recovery) = &mut self.recovery {
            recovery.alike = alike;
        }
    }

    /// The members that lack the newest value of a log, and where they stand.
    pub(crate) fn values_that_differ(&self) -> Option<String> {
        let alone = self.members().len() == 1;
        let closed = |id: NodeId, log: LogId| {
            let node = &self.nodes[&id];
            let status = node.core.as_ref().map(|core| core.status(node.told));
            let groups = status.into_iter().flat_map(|status| status.groups);
            let in_memory = groups.flat_map(|group| group.logs).find(|known| known.log == log).map(|log| log.closed);
            let stored = node.disk.load_log(log);
            // What a member accepted alone is chosen. Started again before it wrote that down, it finds out when the log is used:
            // there is nobody to compare with.
            let accepted = stored.accepted.last_key_value().map(|(slot, _)| *slot).filter(|_| alone);
            in_memory.max(Some(stored.closed)).max(accepted).unwrap_or_default()
        };
        let mut differ = String::new();
        for (log, highest) in &self.values.highest {
            for id in self.members().into_iter().filter(|id| closed(*id, *log) != *highest) {
                differ += &format!("{id} has {log} up to {} of {highest}; ", closed(id, *log));
            }
        }
        (!differ.is_empty()).then_some(differ)
    }

    /// A write worked at this node.
    pub(crate) fn value_was_chosen(&mut self, node: NodeId) {
        if let Some(recovery) = self.recovery.as_mut().filter(|_| self.plan.values > 0) {
            recovery.writing.insert(node);
        }
    }
}

impl Disk {
    /// A log of values as storage loads it: its own records, folded, with what is kept of it.
    pub(crate) fn load_log(&self, log: LogId) -> RecoveredLog {
        let mut recovered = Recovered::default();
        for (sequence, record) in self.durable.iter().filter(|(_, record)| concerns(record) == Some(log)) {
            recovered.apply(*sequence, record);
        }
        let mut found = recovered.groups.remove(&GROUP).unwrap_or_default().logs.remove(&log).unwrap_or_default();
        let kept = self.entries.get(&(GROUP, log)).into_iter().flatten().filter(|(slot, _)| **slot > found.trimmed);
        for (slot, stored) in kept {
            let entry = RecoveredEntry { ballot: stored.ballot, entry: Some(stored.entry.clone()) };
            found.accepted.entry(*slot).or_insert(entry);
        }
        found
    }

    /// The data logs that have any record.
    pub(crate) fn logs(&self) -> BTreeSet<LogId> {
        let logs = self.durable.iter().filter_map(|(_, record)| concerns(record));
        logs.filter(|log| *log != LogId::CONTROL).collect()
    }
}

fn concerns(record: &consensus::Record) -> Option<LogId> {
    use consensus::Record;
    match record {
        Record::Promised { log, .. }
        | Record::Accepted { log, .. }
        | Record::Learnt { log, .. }
        | Record::Chosen { log, .. }
        | Record::Installed { log, .. }
        | Record::Trimmed { log, .. } => Some(*log),
        _ => None,
    }
}
