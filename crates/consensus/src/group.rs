//! One group on this node: its configuration in force, its logs, and who may do what in it.

use crate::ballot::Ballot;
use crate::comparison::Comparisons;
use crate::configuration::{Configuration, Discipline, Role};
use crate::confirmation::Confirmation;
use crate::context::Context;
use crate::effect::{Effect, Refusal};
use crate::ids::{Epoch, GroupId, LogId, NodeId};
use crate::log::Log;
use crate::message::{GroupMessage, LogPosition};
use crate::news::News;
use crate::pages::{Lists, Page};
use crate::record::Record;
use crate::recovered::{RecoveredGroup, RecoveredLog};
use crate::residence::{Residence, Work};
use crate::seeded_bug::{is_planted, SeededBug};
use crate::status::{GroupStatus, LogQueues};
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the logs of a group need to know of it.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) group: GroupId,
    pub(crate) configuration: Arc<Configuration>,
    node: NodeId,
    /// This node lost its promises and does not vote (rule 9).
    pub(crate) barred: bool,
    /// It had lost them once, and votes again since this joint epoch was final: no record of a ballot of this epoch or a later
    /// one is missing.
    pub(crate) renewed_in: Option<Epoch>,
}

impl Scope {
    pub(crate) fn epoch(&self) -> Epoch {
        self.configuration.epoch
    }

    /// Whether the data logs are logs of values.
    pub(crate) fn is_of_values(&self) -> bool {
        self.configuration.discipline == Discipline::Values
    }

    pub(crate) fn is_member(&self) -> bool {
        self.configuration.index(self.node).is_some()
    }

    /// Whether this node may promise, and be counted.
    pub(crate) fn may_vote(&self) -> bool {
        !self.barred && self.configuration.votes(self.node)
    }

    /// Whether this node takes accepted entries; a learner's count for nothing, but spare it a fetch.
    pub(crate) fn may_accept(&self) -> bool {
        !self.barred && self.is_member()
    }

    /// Whether the disk lacks no record that came behind one of this ballot: what stands there under it was replaced by
    /// nothing that is gone. A record of a joint epoch begun after the loss came after the loss.
    pub(crate) fn knows_all_since(&self, ballot: Ballot) -> bool {
        !self.barred && self.renewed_in.is_none_or(|joint| ballot.epoch >= joint)
    }

    pub(crate) fn may_propose(&self) -> bool {
        self.may_vote() && self.is_eligible(self.node)
    }

    /// Whether the node may own logs: a voter that stays and has users, so no witness.
    pub(crate) fn is_eligible(&self, node: NodeId) -> bool {
        self.configuration.member(node).is_some_and(|member| member.role == Role::Voter)
    }

    /// Whether this node keeps entries and holds no state.
    pub(crate) fn is_witness(&self) -> bool {
        self.configuration.is_witness(self.node)
    }

    /// The first voter in contact that may own logs.
    pub(crate) fn first_live_candidate(&self, context: &Context) -> Option<NodeId> {
        let fit =
            |node: &NodeId| self.is_eligible(*node) && context.peers.is_live(*node, context.now) && *node != self.node;
        self.configuration.voters().find(fit)
    }

    /// Why a deadline could not be kept.
    pub(crate) fn why_late(&self, context: &Context) -> Refusal {
        if self.configuration.is_quorum(context.peers.live_members(&self.configuration, context.now)) {
            return Refusal::DeadlinePassed;
        }
        let (answering, silent) =
            self.configuration.all_voters().into_iter().partition(|node| context.peers.is_live(*node, context.now));
        Refusal::NoQuorum { answering, silent }
    }
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) scope: Scope,
    pub(crate) logs: BTreeMap<LogId, Log>,
    pub(crate) control: crate::control::Control,
    pub(crate) changes: crate::membership::Changes,
    pub(crate) confirmation: Confirmation,
    /// When a member was last asked for the configuration.
    asked_at: Option<Time>,
    /// Nodes that said something about this group since this node's start: they know that they belong to it.
    pub(crate) heard_from: BTreeSet<NodeId>,
    pub(crate) residence: Residence,
    pub(crate) lists: Lists,
    pub(crate) comparisons: Comparisons,
    pub(crate) news: News,
}

impl Group {
    pub(crate) fn new(context: &Context, configuration: Arc<Configuration>, recovered: &RecoveredGroup) -> Group {
        let scope =
            Scope { group: configuration.group, configuration, node: context.node, barred: false, renewed_in: None };
        // Logs of values are loaded when they are used.
        let mut logs: BTreeMap<LogId, Log> = recovered
            .logs
            .iter()
            .filter(|(id, _)| **id != LogId::CONTROL && !scope.is_of_values())
            .map(|(id, log)| (*id, Log::new(*id, log, scope.is_witness())))
            .collect();
        if !scope.is_of_values() {
            logs.entry(LogId::MAIN)
                .or_insert_with(|| Log::new(LogId::MAIN, &RecoveredLog::default(), scope.is_witness()));
        }
        let control = crate::control::Control::new(scope.epoch(), recovered.logs.get(&LogId::CONTROL));
        Group {
            scope,
            logs,
            control,
            changes: crate::membership::Changes::default(),
            confirmation: Confirmation::default(),
            asked_at: None,
            heard_from: BTreeSet::new(),
            residence: Residence::default(),
            lists: Lists::default(),
            comparisons: Comparisons::default(),
            news: News::default(),
        }
    }

    /// A log that is in memory, and the scope it works in.
    pub(crate) fn log_in_memory(&mut self, id: LogId) -> Option<(&mut Log, &Scope)> {
        self.logs.get_mut(&id).map(|log| (log, &self.scope))
    }

    /// A log of a face that holds its state beside it, copies it and says what it needs no more: not a log of values.
    pub(crate) fn log_of_sequence(&mut self, id: LogId) -> Option<(&mut Log, &Scope)> {
        if self.scope.is_of_values() || id == LogId::CONTROL {
            return None;
        }
        let witness = self.scope.is_witness();
        let log = self.logs.entry(id).or_insert_with(|| Log::new(id, &RecoveredLog::default(), witness));
        Some((log, &self.scope))
    }

    pub(crate) fn receive(&mut self, context: &mut Context, from: NodeId, epoch: Epoch, body: GroupMessage) {
        if epoch > self.scope.epoch() {
            self.ask_configuration(context, from);
        } else if epoch < self.scope.epoch() && !matches!(body, GroupMessage::AskConfiguration) {
            self.tell_configuration(context, from);
        }
        if self.scope.configuration.index(from).is_none() && !is_open_to_all(&body) {
            // A removed node, or one that is not known here yet, is told the configuration and nothing else.
            self.tell_configuration(context, from);
            return;
        }
        if is_fenced(&body) && epoch != self.scope.epoch() && !is_planted(SeededBug::BallotsWithoutEpoch) {
            return;
        }
        // Of an older epoch it may be a word from before it left.
        if epoch >= self.scope.epoch() && self.scope.configuration.index(from).is_some() {
            self.heard_from.insert(from);
        }
        match body {
            GroupMessage::AskConfiguration => self.tell_configuration(context, from),
            GroupMessage::Configured { configuration } => {
                self.configured(context, &configuration);
                if configuration.epoch == self.scope.epoch() && self.scope.is_member() {
                    context.send_when_durable(&self.scope, from, GroupMessage::Fenced);
                }
            }
            GroupMessage::Positions { logs } => {
                for position in &logs {
                    self.saw_position(context, from, position);
                    self.show_if_behind(context, position);
                }
            }
            GroupMessage::Fenced => self.on_fenced(context, from, epoch),
            GroupMessage::SyncAsk { after } => self.on_sync_ask(context, from, after),
            GroupMessage::SyncAnswer { after, logs, last, votes } => {
                self.on_sync_answer(context, from, after, Page::new(logs, last), votes);
            }
            GroupMessage::CompareAsk { number, after } => self.on_compare_ask(context, from, number, after),
            GroupMessage::Compare { number, logs, last, .. } => {
                self.on_compare(context, from, number, Page::new(logs, last));
            }
            GroupMessage::Newer { number, logs } => self.on_newer(context, from, number, logs),
            GroupMessage::UpToDate { number } => self.on_up_to_date(context, from, number),
            body => match log_of(&body) {
                LogId::CONTROL => self.receive_control(context, from, body),
                id => self.work(context, id, Work::Message { from, epoch, body }),
            },
        }
    }

    /// Where a log of another member stands.
    pub(crate) fn saw_position(&mut self, context: &mut Context, from: NodeId, position: &LogPosition) {
        if position.epoch > self.scope.epoch() {
            self.ask_configuration(context, from);
        } else if position.epoch < self.scope.epoch() {
            self.tell_configuration(context, from);
        }
        if self.scope.configuration.index(from).is_none()
            || position.log == LogId::CONTROL
            || position.group != self.scope.group
        {
            return;
        }
        self.work(context, position.log, Work::Position { from, position: *position });
        if self.scope.configuration.has_witnesses() {
            context.dirty_groups.insert(self.scope.group);
        }
    }

    /// A member that just came and is behind learns so from the next heartbeat.
    fn show_if_behind(&mut self, context: &mut Context, position: &LogPosition) {
        if position.log == LogId::CONTROL || position.group != self.scope.group {
            return;
        }
        if let Some((log, scope)) = self.log_in_memory(position.log).filter(|(log, _)| position.closed < log.closed()) {
            log.touch(context, scope);
        }
    }

    /// A chosen configuration, from whoever told it. Newer than the own one, it is in force from here on: no vote of an older epoch.
    pub(crate) fn configured(&mut self, context: &mut Context, configuration: &Arc<Configuration>) {
        if configuration.epoch <= self.scope.epoch() || configuration.group != self.scope.group {
            return;
        }
        context.persist(Record::Configured { configuration: configuration.clone() });
        let before: Vec<NodeId> = self.scope.configuration.members.iter().map(|member| member.node).collect();
        self.confirmation.epoch_changed(context.node, &self.scope.configuration, configuration);
        self.scope.configuration = configuration.clone();
        // One that left and comes again must say again that it knows.
        self.heard_from.retain(|node| configuration.index(*node).is_some());
        context.effect(Effect::Configured { configuration: configuration.clone() });
        self.control.epoch_changed();
        self.asked_at = None;
        for log in self.logs.values_mut() {
            log.epoch_changed(context, &self.scope);
        }
        if !self.scope.is_member() {
            self.refuse_all_waiting(context);
        }
        self.compare_with_new_members(context, &before);
        self.changes_epoch_changed(context);
    }

    fn ask_configuration(&mut self, context: &mut Context, from: NodeId) {
        let pause = context.options.failure_timeout / 20;
        if self.asked_at.is_none_or(|at| context.now - at >= pause) {
            self.asked_at = Some(context.now);
            context.send(&self.scope, [from], GroupMessage::AskConfiguration);
        }
    }

    /// A peer came into or went out of contact; coming in, both tell each other where they stand.
    pub(crate) fn contact_changed(&mut self, context: &mut Context, node: NodeId, live: bool, restarted: bool) {
        if self.scope.configuration.index(node).is_none() || !self.scope.is_member() {
            return;
        }
        if live || restarted {
            self.compare_with(context, node);
        }
        if !live {
            // Out of contact, or back after a crash before anybody noticed: what it was about to tell it may have forgotten.
            self.compare_without(context, node);
        }
        if live && !self.scope.is_of_values() {
            let logs = self.logs.values().map(|log| log.position(context, &self.scope)).collect();
            context.send(&self.scope, [node], GroupMessage::Positions { logs });
        }
        for log in self.logs.values_mut() {
            log.contact_changed(context, &self.scope, node, restarted);
        }
        context.dirty_groups.insert(self.scope.group);
    }

    /// Some member came into or went out of contact with another one.
    pub(crate) fn reachable_changed(&mut self, context: &mut Context) {
        for log in self.logs.values_mut() {
            log.reachable_changed(context, &self.scope);
        }
    }

    pub(crate) fn next_deadline(&self, now: Time) -> Time {
        if self.scope.is_of_values() {
            return self.residence.first_due().min(self.due_at());
        }
        let logs = self.logs.values().map(|log| log.next_deadline(now)).min().unwrap_or(Time::NEVER);
        logs.min(self.due_at())
    }

    /// Logs whose time has come.
    pub(crate) fn logs_due(&self, now: Time) -> Vec<LogId> {
        if self.scope.is_of_values() {
            return self.residence.due_by(now).collect();
        }
        self.logs.iter().filter(|(_, log)| log.next_deadline(now) <= now).map(|(id, _)| *id).collect()
    }

    /// Records of the group became durable.
    pub(crate) fn note_durable(&mut self, context: &Context) {
        // A log of values looks when it is asked: there may be thousands.
        if !self.scope.is_of_values() {
            self.logs.values_mut().for_each(|log| log.note_durable(context, &self.scope));
        }
    }

    /// When the group itself has something to do.
    pub(crate) fn due_at(&self) -> Time {
        self.change_deadline()
            .min(self.residence.next_deadline())
            .min(self.comparisons.next_deadline())
            .min(self.news.next_deadline())
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = LogQueues> + '_ {
        self.logs.values().map(|log| log.queues(self.scope.group))
    }

    pub(crate) fn status(&self, context: &Context) -> GroupStatus {
        let configuration = self.scope.configuration.clone();
        GroupStatus {
            group: self.scope.group,
            is_member: self.scope.is_member(),
            may_vote: self.scope.may_vote(),
            has_quorum: configuration.is_quorum(context.peers.live_members(&configuration, context.now)),
            untold: self.confirmation.removed().iter().copied().collect(),
            configuration,
            logs: self.logs.values().map(|log| log.status(context, &self.scope)).collect(),
        }
    }
}

/// Votes and reads are fenced by the epoch; learning never is (rule 6).
fn is_fenced(body: &GroupMessage) -> bool {
    matches!(
        body,
        GroupMessage::Prepare { .. }
            | GroupMessage::Promise { .. }
            | GroupMessage::Refused { .. }
            | GroupMessage::Accept { .. }
            | GroupMessage::Accepted { .. }
            | GroupMessage::ReadAsk { .. }
            | GroupMessage::ReadAnswer { .. }
            | GroupMessage::SyncAsk { .. }
            | GroupMessage::SyncAnswer { .. }
            | GroupMessage::Fenced
    )
}

fn is_open_to_all(body: &GroupMessage) -> bool {
    matches!(body, GroupMessage::AskConfiguration | GroupMessage::Configured { .. })
}

fn log_of(body: &GroupMessage) -> LogId {
    match body {
        GroupMessage::Prepare { log, .. }
        | GroupMessage::Promise { log, .. }
        | GroupMessage::Refused { log, .. }
        | GroupMessage::Accept { log, .. }
        | GroupMessage::Accepted { log, .. }
        | GroupMessage::Chosen { log, .. }
        | GroupMessage::Forward { log, .. }
        | GroupMessage::NotProposed { log, .. }
        | GroupMessage::ReadAsk { log, .. }
        | GroupMessage::ReadAnswer { log, .. }
        | GroupMessage::Fetch { log, .. }
        | GroupMessage::Fetched { log, .. }
        | GroupMessage::AskAccepted { log, .. }
        | GroupMessage::HasAccepted { log, .. }
        | GroupMessage::Invite { log, .. } => *log,
        GroupMessage::AskConfiguration
        | GroupMessage::Configured { .. }
        | GroupMessage::Fenced
        | GroupMessage::SyncAsk { .. }
        | GroupMessage::SyncAnswer { .. }
        | GroupMessage::CompareAsk { .. }
        | GroupMessage::Compare { .. }
        | GroupMessage::Newer { .. }
        | GroupMessage::UpToDate { .. }
        | GroupMessage::Positions { .. } => LogId::CONTROL,
    }
}
