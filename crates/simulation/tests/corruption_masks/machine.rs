//! One node: a core over the real log, on a disk in memory. Its face keeps nothing on a disk, so that everything it has ever
//! applied must come from the log again.

use std::collections::BTreeMap;
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::Duration;

use consensus::{
    Core, CoreOptions, Effect, Entry, GroupId, Input, LogId, Message, NodeId, OperationId, ProposalOutcome, Record,
    Recovered, Refusal, Sequence, Slot, Start, StopReason, Time, Token,
};
use storage::simulation::MemoryDisk;
use storage::{Completion, Log, LogOptions, ReadError};

/// A running node.
pub struct Machine {
    pub core: Core,
    log: Log,
    completions: Receiver<Completion>,
    pub disk: MemoryDisk,
    pub delivered: Vec<(Slot, Entry)>,
    pub outcomes: BTreeMap<OperationId, ProposalOutcome>,
    pub barriers: BTreeMap<Token, Result<Slot, Refusal>>,
    pub stopped: Option<StopReason>,
}

/// Opens the log of a disk. What nobody waits for goes out with the next batch or when the log is closed, never by the clock.
pub fn open_log(disk: &MemoryDisk, node: NodeId, start: u64) -> (Log, Recovered, Receiver<Completion>) {
    let (done, completions) = channel();
    let options = LogOptions { segment_bytes: 64 << 10, lazy_wait: Duration::from_secs(3600), ..LogOptions::default() };
    let told = Box::new(move |completion| drop(done.send(completion)));
    let (log, recovered) =
        Log::open_on(Arc::new(disk.clone()), node, Start(start), options, told).expect("damage never stops a start");
    (log, recovered, completions)
}

impl Machine {
    pub fn start(node: NodeId, start: u64, disk: MemoryDisk, now: Time) -> Machine {
        let (log, recovered, completions) = open_log(&disk, node, start);
        let seed = u64::try_from(node.0).expect("small in this test") * 1000 + start;
        Machine {
            core: Core::new(CoreOptions::default(), node, Start(start), recovered, seed, now),
            log,
            completions,
            disk,
            delivered: Vec::new(),
            outcomes: BTreeMap::new(),
            barriers: BTreeMap::new(),
            stopped: None,
        }
    }

    pub fn input(&mut self, now: Time, input: Input) {
        if self.stopped.is_none() {
            self.core.handle(now, input);
        }
    }

    /// Carries out all that the core wants; what it sends is handed back.
    pub fn poll(&mut self, now: Time) -> Vec<(NodeId, Arc<Message>)> {
        let mut sent = Vec::new();
        loop {
            let mut records = Vec::new();
            while let Some(effect) = self.core.poll_effect() {
                self.carry_out(now, effect, &mut records, &mut sent);
            }
            if records.is_empty() {
                return sent;
            }
            self.write(now, records);
        }
    }

    fn carry_out(
        &mut self,
        now: Time,
        effect: Effect,
        records: &mut Vec<(Sequence, Record)>,
        sent: &mut Vec<(NodeId, Arc<Message>)>,
    ) {
        match effect {
            Effect::Persist { sequence, record } => records.push((sequence, record)),
            Effect::Send { to, message } => sent.extend(to.into_iter().map(|to| (to, message.clone()))),
            Effect::Deliver { slot, entry, .. } => {
                let before = self.delivered.last().map_or(Slot::ZERO, |(slot, _)| *slot);
                assert_eq!(slot, before.next(), "slots are delivered in order");
                self.delivered.push((slot, entry));
            }
            Effect::Proposed { id, outcome, .. } => drop(self.outcomes.insert(id, outcome)),
            Effect::Barrier { token, result } => drop(self.barriers.insert(token, result)),
            Effect::ReadEntries { token, group, log, from, up_to, bytes_max } => {
                let (entries, damaged) = self.read(group, log, (from, up_to), bytes_max);
                self.core.handle(now, Input::EntriesRead { token, entries, damaged });
            }
            Effect::Stop { reason } => self.stopped = Some(reason),
            Effect::LoadLog { .. } | Effect::ListLogs { .. } | Effect::Unloaded { .. } => {
                unreachable!("no log of values")
            }
            Effect::NeedState { .. } | Effect::HoldMore { .. } | Effect::Configured { .. } | Effect::Changed { .. } => {
            }
        }
    }

    fn read(
        &self,
        group: GroupId,
        log: LogId,
        (from, up_to): (Slot, Slot),
        bytes_max: usize,
    ) -> (Vec<(consensus::Ballot, Entry)>, Option<consensus::Ballot>) {
        match self.log.reader().read_entries(group, log, from, up_to, bytes_max) {
            Ok(found) => (found.into_iter().map(|stored| (stored.ballot, stored.entry)).collect(), None),
            Err(ReadError::Damaged { ballot, .. }) => (Vec::new(), Some(ballot)),
            Err(_) => (Vec::new(), None),
        }
    }

    /// Writes the records, and waits until those that somebody waits for are durable.
    fn write(&mut self, now: Time, records: Vec<(Sequence, Record)>) {
        let awaited = records.iter().filter(|(_, record)| !record.is_lazy()).map(|(sequence, _)| *sequence).max();
        self.log.submit(records).expect("the log takes them");
        let Some(awaited) = awaited else { return };
        loop {
            match self.completions.recv().expect("the writer lives") {
                Completion::Durable(sequence) => {
                    self.core.handle(now, Input::Persisted { sequence });
                    if sequence >= awaited {
                        return;
                    }
                }
                other => panic!("a disk without faults: {other:?}"),
            }
        }
    }

    /// Content of slots of the main log, as the disk gives it.
    pub fn stored(&self, group: GroupId, up_to: Slot) -> Vec<Entry> {
        let (entries, _) = self.read(group, LogId::MAIN, (Slot(1), up_to), usize::MAX);
        entries.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Stops cleanly: what waited is written.
    pub fn close(self) -> MemoryDisk {
        self.log.close();
        self.disk
    }
}
