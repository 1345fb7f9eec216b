//! The control log: one configuration per slot, one slot in flight, each slot decided by the configuration that the slot
//! before left in force (rule 6). Single-decree Paxos, both phases every time: changes are rare.

use crate::ballot::Ballot;
use crate::configuration::{Configuration, MemberSet};
use crate::context::Context;
use crate::effect::{Effect, StopReason};
use crate::entry::Entry;
use crate::group::Group;
use crate::ids::{Epoch, LogId, NodeId, Slot};
use crate::message::{Accepted, GroupMessage};
use crate::record::Record;
use crate::recovered::RecoveredLog;
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Control {
    /// Acceptor state of the one open slot, the one after the epoch in force.
    promised: Ballot,
    accepted: Option<(Ballot, Option<Entry>)>,
    /// The highest ballot seen in this epoch.
    highest: Ballot,
    attempt: Option<Attempt>,
    not_before: Time,
    refusals: u32,
}

#[derive(Debug)]
struct Attempt {
    ballot: Ballot,
    wanted: Entry,
    answers: BTreeMap<NodeId, Option<(Ballot, Option<Entry>)>>,
    /// In phase 2: what is proposed, and who accepted it.
    proposing: Option<(Entry, MemberSet)>,
    again_at: Time,
}

impl Control {
    pub(crate) fn new(epoch: Epoch, recovered: Option<&RecoveredLog>) -> Control {
        let found = recovered.and_then(|log| log.accepted.get(&epoch.next().slot()));
        let promised = recovered.map(|log| log.promised).unwrap_or_default();
        Control {
            promised,
            accepted: found.map(|found| (found.ballot, found.entry.clone())),
            highest: promised,
            attempt: None,
            not_before: Time(0),
            refusals: 0,
        }
    }

    /// The slot in flight is decided; the next one begins empty, under the new epoch's floor.
    pub(crate) fn epoch_changed(&mut self) {
        self.accepted = None;
        self.attempt = None;
        self.refusals = 0;
        self.not_before = Time(0);
    }

    pub(crate) fn next_deadline(&self) -> Time {
        self.attempt.as_ref().map_or(Time::NEVER, |attempt| attempt.again_at)
    }

    /// What was accepted here for the open slot, while this node has nothing proposed there.
    pub(crate) fn left_open(&self) -> Option<Configuration> {
        let (_, entry) = self.accepted.as_ref().filter(|_| self.attempt.is_none())?;
        entry.as_ref()?.to_configuration()
    }

    pub(crate) fn not_before(&self) -> Time {
        self.not_before
    }
}

impl Group {
    fn control_slot(&self) -> Slot {
        self.scope.epoch().next().slot()
    }

    fn control_promise(&self) -> Ballot {
        self.control.promised.max(Ballot::floor(self.scope.epoch()))
    }

    /// Begins (again) to have this configuration chosen as the next one.
    pub(crate) fn propose_configuration(&mut self, context: &mut Context, configuration: &Configuration) {
        assert!(configuration.epoch == self.scope.epoch().next(), "one slot in flight");
        assert!(configuration.check().is_ok(), "only valid configurations are proposed");
        if self.control.attempt.is_some() || context.now < self.control.not_before || !self.scope.may_vote() {
            return;
        }
        let highest = self.control.highest.max(self.control_promise());
        let ballot =
            Ballot { epoch: self.scope.epoch(), round: highest.round + 1, node: context.node, start: context.start };
        assert!(ballot > highest, "a new ballot is above every ballot seen");
        self.control.highest = ballot;
        let wanted = Entry::configuration(configuration);
        let again_at = context.now;
        self.control.attempt = Some(Attempt { ballot, wanted, answers: BTreeMap::new(), proposing: None, again_at });
        self.control_ask(context);
    }

    /// Asks those that have not answered, once per retry interval.
    pub(crate) fn control_ask(&mut self, context: &mut Context) {
        let slot = self.control_slot();
        let Some(attempt) = &mut self.control.attempt else { return };
        if context.now < attempt.again_at {
            return;
        }
        attempt.again_at = context.now + context.options.retry_interval();
        let configuration = &self.scope.configuration;
        let unanswered = |node: &NodeId| match &attempt.proposing {
            None => !attempt.answers.contains_key(node),
            Some((_, acks)) => configuration.index(*node).is_some_and(|index| !acks.contains(index)),
        };
        let to: Vec<NodeId> = configuration.all_voters().into_iter().filter(unanswered).collect();
        let (log, ballot) = (LogId::CONTROL, attempt.ballot);
        let body = match &attempt.proposing {
            None => GroupMessage::Prepare { log, ballot, closed: slot.previous() },
            // Chosen, and it removes this node: those that stay are told, and tell this node.
            Some((entry, acks)) if configuration.is_quorum(*acks) => {
                let chosen = entry.to_configuration().expect("only configurations are proposed");
                let stay: Vec<NodeId> = chosen.members.iter().map(|member| member.node).collect();
                context.send(&self.scope, stay, GroupMessage::Configured { configuration: Arc::new(chosen) });
                return;
            }
            Some((entry, _)) => {
                let entries = vec![entry.clone()].into();
                GroupMessage::Accept { log, ballot, first: slot, entries, chosen: None, answer_to: context.node }
            }
        };
        context.send(&self.scope, to, body);
    }

    pub(crate) fn receive_control(&mut self, context: &mut Context, from: NodeId, body: GroupMessage) {
        match body {
            GroupMessage::Prepare { ballot, .. } => self.on_control_prepare(context, from, ballot),
            GroupMessage::Promise { ballot, accepted, .. } => self.on_control_promise(context, from, ballot, accepted),
            GroupMessage::Accept { ballot, first, entries, answer_to, .. } => {
                self.on_control_accept(context, ballot, first, &entries, answer_to)
            }
            GroupMessage::Accepted { ballot, .. } => self.on_control_accepted(context, from, ballot),
            GroupMessage::Refused { ballot, promised, .. } => self.on_control_refused(context, ballot, promised),
            // Nothing else concerns the control log; a peer that sends it is wrong, or newer.
            _ => {}
        }
    }

    fn control_refuse(&mut self, context: &mut Context, to: NodeId, ballot: Ballot) {
        let body = GroupMessage::Refused {
            log: LogId::CONTROL,
            ballot,
            promised: self.control_promise(),
            closed: self.scope.epoch().slot(),
        };
        context.send(&self.scope, [to], body);
    }

    fn on_control_prepare(&mut self, context: &mut Context, from: NodeId, ballot: Ballot) {
        if !self.scope.may_vote() {
            return;
        }
        if ballot < self.control_promise() || ballot.epoch != self.scope.epoch() {
            self.control_refuse(context, from, ballot);
            return;
        }
        if ballot > self.control.promised {
            self.control.promised = ballot;
            self.control.highest = self.control.highest.max(ballot);
            context.persist(Record::Promised { group: self.scope.group, log: LogId::CONTROL, ballot });
        }
        let slot = self.control_slot();
        let accepted = self
            .control
            .accepted
            .iter()
            .map(|(ballot, entry)| Accepted { slot, ballot: *ballot, entry: entry.clone() })
            .collect();
        let body = GroupMessage::Promise {
            log: LogId::CONTROL,
            ballot,
            closed: slot.previous(),
            above: slot.previous(),
            part: 0,
            last: true,
            accepted,
            position: context.required(),
        };
        context.send_when_durable(&self.scope, from, body);
    }

    fn on_control_promise(&mut self, context: &mut Context, from: NodeId, ballot: Ballot, accepted: Vec<Accepted>) {
        let slot = self.control_slot();
        let group = self.scope.group;
        let Some(attempt) = &mut self.control.attempt else { return };
        if attempt.ballot != ballot || attempt.proposing.is_some() {
            return;
        }
        let found = accepted.into_iter().find(|found| found.slot == slot).map(|found| (found.ballot, found.entry));
        attempt.answers.insert(from, found);
        let configuration = &self.scope.configuration;
        let mut counted: BTreeMap<NodeId, (Ballot, Option<Entry>)> =
            attempt.answers.iter().map(|(node, found)| (*node, found.clone().unwrap_or_default())).collect();
        let value = loop {
            if !configuration.is_quorum(configuration.set_of(counted.keys().copied())) {
                return;
            }
            let highest = counted.values().map(|(ballot, _)| *ballot).max().unwrap_or_default();
            if highest == Ballot::ZERO {
                break attempt.wanted.clone();
            }
            let values: Vec<&Entry> = attempt
                .answers
                .values()
                .flatten()
                .filter(|(ballot, _)| *ballot == highest)
                .filter_map(|(_, entry)| entry.as_ref())
                .collect();
            if values.windows(2).any(|pair| pair[0] != pair[1]) {
                context.effect(Effect::Stop { reason: StopReason::TwoValues { group, log: LogId::CONTROL, slot } });
                context.stopped = true;
                return;
            }
            if let Some(value) = values.first() {
                break (*value).clone();
            }
            // Damaged, and no intact copy found: such answers do not count (rule 9).
            counted.retain(|_, (ballot, _)| *ballot != highest);
        };
        attempt.proposing = Some((value, MemberSet::EMPTY));
        attempt.again_at = context.now;
        self.control_ask(context);
    }

    fn on_control_accept(
        &mut self,
        context: &mut Context,
        ballot: Ballot,
        first: Slot,
        entries: &Arc<[Entry]>,
        answer_to: NodeId,
    ) {
        let slot = self.control_slot();
        if !self.scope.may_vote() || first != slot || entries.len() != 1 {
            return;
        }
        let next = self.scope.epoch().next();
        if !entries[0]
            .to_configuration()
            .is_some_and(|configuration| configuration.epoch == next && configuration.group == self.scope.group)
        {
            return;
        }
        if ballot < self.control_promise() || ballot.epoch != self.scope.epoch() {
            self.control_refuse(context, answer_to, ballot);
            return;
        }
        let known = self
            .control
            .accepted
            .as_ref()
            .is_some_and(|(accepted, entry)| *accepted == ballot && entry.as_ref() == Some(&entries[0]));
        if !known {
            self.control.promised = ballot;
            self.control.highest = self.control.highest.max(ballot);
            self.control.accepted = Some((ballot, Some(entries[0].clone())));
            context.persist(Record::Accepted {
                group: self.scope.group,
                log: LogId::CONTROL,
                ballot,
                first: slot,
                entries: entries.clone(),
            });
            context.dirty_groups.insert(self.scope.group);
        }
        let body = GroupMessage::Accepted {
            log: LogId::CONTROL,
            ballot,
            first: slot,
            last: slot,
            closed: slot.previous(),
            position: context.required(),
        };
        context.send_when_durable(&self.scope, answer_to, body);
    }

    /// The disk lost what was accepted for the open slot: it is written again. What is decided needs no entry.
    pub(crate) fn control_damaged(&mut self, context: &mut Context, slot: Slot) {
        if let Some((ballot, Some(entry))) = self.control.accepted.clone().filter(|_| slot == self.control_slot()) {
            context.persist(Record::Accepted {
                group: self.scope.group,
                log: LogId::CONTROL,
                ballot,
                first: slot,
                entries: [entry].into(),
            });
        }
    }

    fn on_control_accepted(&mut self, context: &mut Context, from: NodeId, ballot: Ballot) {
        let Some(attempt) = &mut self.control.attempt else { return };
        let Some(index) = self.scope.configuration.index(from) else { return };
        let Some((entry, acks)) = &mut attempt.proposing else { return };
        if attempt.ballot != ballot || self.scope.configuration.is_quorum(*acks) {
            return;
        }
        acks.insert(index);
        if !self.scope.configuration.is_quorum(*acks) {
            return;
        }
        let chosen = Arc::new(entry.to_configuration().expect("acceptors take valid configurations only"));
        if chosen.index(context.node).is_none() && !is_planted(SeededBug::RemovedToldAtOnce) {
            attempt.again_at = context.now;
            return self.control_ask(context);
        }
        self.configured(context, &chosen);
        self.ask_to_confirm(context);
    }

    fn on_control_refused(&mut self, context: &mut Context, ballot: Ballot, promised: Ballot) {
        self.control.highest = self.control.highest.max(promised);
        if promised > ballot && self.control.attempt.as_ref().is_some_and(|attempt| attempt.ballot == ballot) {
            self.control.attempt = None;
            self.control.refusals = (self.control.refusals + 1).min(16);
            let pause = context.options.failure_timeout / 20 * self.control.refusals;
            self.control.not_before = context.now + pause + context.random.delay(pause);
            context.dirty_groups.insert(self.scope.group);
        }
    }
}
