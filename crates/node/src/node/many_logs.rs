//! Logs of values: carrying out what the core wants with them, and clients who put and read values.
//!
//! What is in memory of them follows the core: the newest value of each log that it has loaded, shared with it, and nothing
//! of the others.

use super::Node;
use crate::clients::ReplyTo;
use crate::refusals;
use crate::waiting::{Proposal, ProposalWaiter, Reader};
use crate::EngineFailure;
use bytes::Bytes;
use client::{GroupId, OperationId, Outcome, Refusal, RefusalReason, Response, Slot, Verdict};
use consensus::{bounds, Discipline, Entry, Input, LogId, Time, Token};
use std::collections::BTreeMap;

/// The newest values, and who waits for them.
#[derive(Default)]
pub(super) struct ManyLogs {
    newest: BTreeMap<(GroupId, LogId), (Slot, Entry)>,
    /// Readers whose barrier is not known yet.
    asking: BTreeMap<Token, (Reader, LogId, Time)>,
    /// Readers whose barrier is known, and not reached here.
    waiting: BTreeMap<(GroupId, LogId), Vec<Waiting>>,
}

/// A reader, its barrier and its deadline.
type Waiting = (Slot, Reader, Time);

impl ManyLogs {
    pub(super) fn in_memory(&self) -> usize {
        self.newest.len()
    }

    pub(super) fn forget_group(&mut self, group: GroupId) {
        self.newest.retain(|(of, _), _| *of != group);
        self.waiting.retain(|(of, _), _| *of != group);
        self.asking.retain(|_, (reader, ..)| reader.group != group);
    }
}

impl Node {
    /// Whether the group has logs of values.
    pub(super) fn is_of_values(&self, group: GroupId) -> bool {
        self.replicas.get(&group).is_some_and(|replica| replica.configuration.discipline == Discipline::Values)
    }

    /// Reads a log for the core, on another thread. What the disk does not give it cannot do without (rule 3).
    pub(super) fn load_log(&mut self, group: GroupId, log: LogId) {
        let reader = self.reader.clone();
        self.in_background(
            move || reader.load_log(group, log),
            move |node, loaded| match loaded {
                Ok(loaded) => node.input(Input::LogLoaded { group, log, loaded, held: Slot::ZERO }),
                Err(error) => node.fail(EngineFailure::Storage(format!("cannot load log {log}: {error}"))),
            },
        );
    }

    /// Lists logs for the core, on another thread.
    pub(super) fn list_logs(&mut self, token: Token, group: GroupId, after: Option<LogId>, count_max: usize) {
        let reader = self.reader.clone();
        self.in_background(
            move || reader.list_logs(group, after, count_max),
            move |node, listed| match listed {
                Ok((logs, last)) => node.input(Input::LogsListed { token, logs, last }),
                Err(error) => node.fail(EngineFailure::Storage(format!("cannot list logs: {error}"))),
            },
        );
    }

    /// The core has let go of a log. Who waits for its value asks again.
    pub(super) fn log_unloaded(&mut self, group: GroupId, log: LogId) {
        self.metrics.values_unloaded += 1;
        self.many_logs.newest.remove(&(group, log));
        for (_, reader, deadline) in self.many_logs.waiting.remove(&(group, log)).unwrap_or_default() {
            self.read_value(reader, log, deadline);
        }
    }

    /// The newest value of a log.
    pub(super) fn deliver_value(&mut self, group: GroupId, log: LogId, slot: Slot, entry: Entry) {
        self.metrics.slots_delivered += 1;
        self.many_logs.newest.insert((group, log), (slot, entry));
        for (barrier, reader, deadline) in self.many_logs.waiting.remove(&(group, log)).unwrap_or_default() {
            self.answer_value(reader, log, barrier, deadline);
        }
    }

    pub(super) fn put_value(
        &mut self,
        to: ReplyTo,
        (group, log): (GroupId, LogId),
        id: OperationId,
        follows: Slot,
        value: &Bytes,
        wait_ms: u32,
    ) -> Result<(), Refusal> {
        self.check_own_id(id)?;
        self.check_log(group, log)?;
        if value.len() > bounds::PIECE_BYTES || follows > Slot::LARGEST {
            return Err(Refusal::definite(
                RefusalReason::TooLarge,
                format!("a value of {} bytes is larger than the limit of {} bytes", value.len(), bounds::PIECE_BYTES),
            ));
        }
        self.waiting.proposals.insert(id, ProposalWaiter { to, group, proposal: Proposal::Value { log } });
        let deadline = self.deadline(wait_ms);
        self.input(Input::Propose { group, log, entry: Entry::value(id, follows, value), deadline });
        Ok(())
    }

    /// A value of this node's client was chosen.
    pub(super) fn value_chosen(&mut self, id: OperationId, slot: Slot) {
        if let Some(waiter) = self.waiting.proposals.remove(&id) {
            self.metrics.proposals_accepted += 1;
            self.clients.answer(waiter.to, &Response::Outcome(Outcome { id, slot, verdict: Verdict::Accepted }));
        }
    }

    pub(super) fn ask_value(&mut self, to: ReplyTo, group: GroupId, log: LogId, wait_ms: u32) -> Result<(), Refusal> {
        self.metrics.barriers += 1;
        self.check_log(group, log)?;
        let deadline = self.deadline(wait_ms);
        self.read_value(Reader { to, group }, log, deadline);
        Ok(())
    }

    fn read_value(&mut self, reader: Reader, log: LogId, deadline: Time) {
        let (token, group) = (self.waiting.token(), reader.group);
        self.many_logs.asking.insert(token, (reader, log, deadline));
        self.input(Input::Read { group, log, token, deadline });
    }

    /// The core's answer to such a reader; false if it is about something else.
    pub(super) fn value_barrier(&mut self, token: Token, result: &Result<Slot, consensus::Refusal>) -> bool {
        let Some((reader, log, deadline)) = self.many_logs.asking.remove(&token) else { return false };
        match result {
            Ok(barrier) => self.answer_value(reader, log, *barrier, deadline),
            Err(refusal) => {
                self.metrics.barriers_refused += 1;
                let refusal = self.refusal(reader.group, refusal.clone());
                self.clients.refuse(reader.to, refusal);
            }
        }
        true
    }

    fn answer_value(&mut self, reader: Reader, log: LogId, barrier: Slot, deadline: Time) {
        let place = (reader.group, log);
        let newest = self.many_logs.newest.get(&place).filter(|(slot, _)| *slot >= barrier);
        match newest {
            Some((slot, entry)) => {
                let value = entry.to_value().unwrap_or_default();
                self.clients.answer(reader.to, &Response::Value { slot: *slot, value });
            }
            None if barrier == Slot::ZERO => {
                self.clients.answer(reader.to, &Response::Value { slot: Slot::ZERO, value: Bytes::new() });
            }
            None => self.many_logs.waiting.entry(place).or_default().push((barrier, reader, deadline)),
        }
    }

    /// Readers whose value did not come in time.
    pub(super) fn expire_value_readers(&mut self) {
        let now = self.now();
        let mut late = Vec::new();
        self.many_logs.waiting.retain(|_, waiting| {
            late.extend(waiting.extract_if(.., |(_, _, deadline)| *deadline <= now).map(|(_, reader, _)| reader));
            !waiting.is_empty()
        });
        for reader in late {
            self.metrics.barriers_refused += 1;
            self.clients.refuse(reader.to, refusals::from_core(consensus::Refusal::DeadlinePassed, None));
        }
    }

    fn check_log(&mut self, group: GroupId, log: LogId) -> Result<(), Refusal> {
        self.serving_replica(group)?;
        if !self.is_of_values(group) || log == LogId::CONTROL {
            return Err(Refusal::definite(RefusalReason::Invalid, "the group has no such log of values"));
        }
        Ok(())
    }
}
