//! The whole of a node's consensus: inputs in, effects out, nothing else.

use crate::bounds;
use crate::configuration::{Configuration, Discipline, Member};
use crate::context::Context;
use crate::effect::{Effect, ProposalOutcome, Refusal, StopReason};
use crate::entry::Entry;
use crate::group::Group;
use crate::ids::{GroupId, LogId, NodeId, Sequence, Slot, Start, Token};
use crate::input::Input;
use crate::message::{Heartbeat, Impostor, LogPosition, Message};
use crate::options::CoreOptions;
use crate::peers::Heard;
use crate::record::Record;
use crate::recovered::{Recovered, RecoveredGroup};
use crate::residence::Work;
use crate::status::{LogQueues, NodeStatus, PeerStatus};
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The protocol state of one node, over all its groups. Same inputs, same effects, byte for byte.
///
/// ```text
/// core.handle(now, input)            as many as are at hand: what arrives together travels together
/// while let Some(effect) = core.poll_effect() { carry it out }
/// wait for the next input, or until core.next_deadline()
/// ```
#[derive(Debug)]
pub struct Core {
    context: Context,
    groups: BTreeMap<GroupId, Group>,
    heartbeat_at: Time,
    /// The log's length when positions of others were last written down.
    noted_peers_at: Sequence,
    /// Nodes that were live at the last look.
    live: BTreeSet<NodeId>,
    /// Groups found in the log without a configuration: damage took it. Kept until somebody tells it again.
    orphans: BTreeMap<GroupId, RecoveredGroup>,
    /// Whether this start forgot a group, in which it may have voted.
    forgot: bool,
}

impl Core {
    /// A core for `node`, whose `start` was made durable just now, with what its log says.
    ///
    /// `seed` feeds every jitter, and tells this process from another that runs as the same node and start.
    #[must_use]
    pub fn new(options: CoreOptions, node: NodeId, start: Start, recovered: Recovered, seed: u64, now: Time) -> Core {
        assert!(options.windows.are_within_bounds(), "peers would refuse larger messages: {:?}", options.windows);
        assert!(options.resident_logs_max > 0, "a log that may not be in memory can neither be used nor answer");
        let mut context = Context::new(options, node, start, recovered.position, seed, now);
        for (peer, seen) in &recovered.peers {
            context.peers.remember(*peer, *seen);
        }
        let mut groups = BTreeMap::new();
        let mut orphans = BTreeMap::new();
        for (id, recovered) in &recovered.groups {
            let Some(configuration) = recovered.configuration.clone() else {
                orphans.insert(*id, recovered.clone());
                continue;
            };
            let mut group = Group::new(&context, configuration, recovered);
            group.bar_if_needed(&mut context, recovered, start);
            for log in group.logs.keys() {
                context.dirty.insert((*id, *log));
            }
            context.dirty_groups.insert(*id);
            groups.insert(*id, group);
        }
        let (noted_peers_at, live) = (Sequence(0), BTreeSet::new());
        Core { context, groups, heartbeat_at: now, noted_peers_at, live, orphans, forgot: false }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.context.stopped {
            return;
        }
        self.note_standstill(now);
        self.context.now = self.context.now.max(now);
        self.take(input);
        self.settle();
        self.tick();
    }

    /// The next thing to be done. Poll until there is none before waiting: batches are formed here.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if !self.context.has_effects() && !self.context.stopped {
            self.flush();
        }
        self.context.next_effect()
    }

    /// When to give [`Input::Tick`] at the latest, if nothing else comes before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let groups =
            self.groups.values().map(|group| group.next_deadline(self.context.now)).min().unwrap_or(Time::NEVER);
        let heartbeat = if self.groups.is_empty() { Time::NEVER } else { self.heartbeat_at };
        let loss = self.context.peers.next_loss(self.context.now);
        let deadline = groups.min(heartbeat).min(loss);
        (deadline != Time::NEVER).then_some(deadline)
    }

    /// A snapshot for views.
    #[must_use]
    pub fn status(&self, now: Time) -> NodeStatus {
        let peers = self.context.peers.all().map(|(node, peer)| PeerStatus {
            node,
            live: self.context.peers.is_live(node, now),
            silent_for: peer.heard_at.map(|at| now - at),
            position: peer.seen.1,
        });
        NodeStatus {
            node: self.context.node,
            start: self.context.start,
            position: self.context.durable(),
            peers: peers.collect(),
            groups: self.groups.values().map(|group| group.status(&self.context)).collect(),
        }
    }

    /// What each log holds in its queues.
    pub fn queues(&self) -> impl Iterator<Item = LogQueues> + '_ {
        self.groups.values().flat_map(Group::queues)
    }

    fn take(&mut self, input: Input) {
        let context = &mut self.context;
        match input {
            Input::Tick => {}
            Input::Message { from, message } => self.receive(from, message),
            Input::Persisted { sequence } => {
                context.persisted(sequence);
                self.groups.values_mut().for_each(|group| group.note_durable(context));
            }
            Input::Connected { node } => self.send_heartbeat(vec![node]),
            Input::Disconnected { node } => {
                context.peers.link_lost(node);
                for group in self.groups.values_mut() {
                    group.contact_changed(context, node, false, false);
                }
                self.notice_lost_contact();
            }
            Input::Propose { group, log, entry, deadline } => self.propose(group, log, entry, deadline),
            Input::Withdraw { group, log, id } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.withdraw(context, log, id);
                }
            }
            Input::Read { group, log, token, deadline } => self.read(group, log, token, deadline),
            Input::EntriesRead { token, entries, damaged } => {
                let Some((group, log)) = context.read_was_for(token) else { return };
                if let Some((log, scope)) = self.groups.get_mut(&group).and_then(|group| group.log_in_memory(log)) {
                    log.entries_read(context, scope, token, entries, damaged);
                }
            }
            Input::LogLoaded { group, log, loaded, held } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.log_loaded(context, log, loaded, held);
                }
            }
            Input::LogsListed { token, logs, last } => {
                let Some((group, _)) = context.read_was_for(token) else { return };
                if let Some(group) = self.groups.get_mut(&group) {
                    group.logs_listed(context, token, logs, last);
                }
            }
            Input::Damaged { group, log, slot } => self.damaged(group, log, slot),
            Input::CreateGroup { token, group, name, kind, detail, discipline, member } => {
                self.create(token, group, [&name, &kind, &detail], discipline, member)
            }
            Input::LearnGroup { token, configuration } => self.learn_group(token, &configuration),
            Input::Change { token, group, change, deadline } => match self.groups.get_mut(&group) {
                Some(group) => group.change(context, token, change, deadline),
                None => context.effect(Effect::Changed { token, result: Err(Refusal::UnknownGroup) }),
            },
            Input::Installed { group, log, slot } => {
                if let Some((log, scope)) = self.groups.get_mut(&group).and_then(|group| group.log_of_sequence(log)) {
                    log.installed(context, scope, slot);
                }
            }
            Input::Held { group, log, slot } => {
                if let Some((log, scope)) = self.groups.get_mut(&group).and_then(|group| group.log_of_sequence(log)) {
                    log.face_holds(context, scope, slot);
                }
            }
            Input::HandOver { group, log, to } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.work(context, log, Work::HandOver { to });
                }
            }
            Input::Forget { group } => {
                if self.groups.remove(&group).is_some() || self.orphans.remove(&group).is_some() {
                    self.forgot = true;
                    context.persist(Record::Forgotten { group });
                }
            }
        }
    }

    fn damaged(&mut self, group: GroupId, log: LogId, slot: Slot) {
        match self.groups.get_mut(&group) {
            Some(group) if log == LogId::CONTROL => group.control_damaged(&mut self.context, slot),
            Some(group) => group.work(&mut self.context, log, Work::Damaged(slot)),
            None => {}
        }
    }

    fn receive(&mut self, from: NodeId, message: Message) {
        let context = &mut self.context;
        match message {
            Message::Heartbeat(heartbeat) => self.on_heartbeat(from, &heartbeat),
            Message::Impostor(impostor) => {
                let mine = match impostor {
                    // Its log may have grown since. What an earlier start was seen to have, this one began with, or went back.
                    Impostor::LogWentBack { seen, under, .. } => {
                        let began_with = context.peers.position_at_start();
                        seen > context.durable() || (under < context.start && seen > began_with)
                    }
                    Impostor::RunsTwice { incarnation } => incarnation == context.peers.incarnation(),
                };
                if mine {
                    context.effect(Effect::Stop { reason: StopReason::Impostor(impostor) });
                    context.stopped = true;
                }
            }
            Message::Group { start, .. } if !context.peers.is_welcome(from, start) => {}
            Message::Group { group, epoch, start, body } => {
                if let Some(position) = body.position() {
                    context.peers.saw_position(from, start, position);
                }
                if let Some(group) = self.groups.get_mut(&group) {
                    group.receive(context, from, epoch, body);
                }
            }
        }
    }

    /// Messages of this node to itself, until there are none.
    fn settle(&mut self) {
        while let Some(message) = self.context.next_to_self() {
            let from = self.context.node;
            if let Some(group) = self.groups.get_mut(&message.group) {
                group.receive(&mut self.context, from, message.epoch, message.body);
            }
        }
    }

    /// Everything that waits for the poll: batches, notices, deliveries.
    fn flush(&mut self) {
        while let Some(id) = self.context.dirty_groups.pop_first() {
            if let Some(group) = self.groups.get_mut(&id) {
                group.go_on(&mut self.context);
            }
            self.settle();
        }
        while let Some((group, log)) = self.context.dirty.pop_first() {
            let Some(group) = self.groups.get_mut(&group) else { continue };
            let Group { logs, scope, .. } = group;
            if let Some(one) = logs.get_mut(&log) {
                one.flush(&mut self.context, scope);
                group.flushed(&mut self.context, log);
            }
            self.settle();
            if self.context.stopped {
                return;
            }
        }
    }

    /// Timers: heartbeats, contact lost, logs and changes whose time has come.
    fn tick(&mut self) {
        let now = self.context.now;
        self.notice_lost_contact();
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + self.context.options.heartbeat_interval();
            let peers = self.known_peers();
            self.send_heartbeat(peers);
            // Only beside records of substance: noting that others noted something would never end.
            if self.context.required() > self.noted_peers_at {
                self.noted_peers_at = self.context.required();
                for (node, start, position) in self.context.peers.unrecorded() {
                    self.context.persist(Record::PeerSeen { node, start, position });
                }
            }
        }
        for (id, group) in &self.groups {
            if group.due_at() <= now {
                self.context.dirty_groups.insert(*id);
            }
            self.context.dirty.extend(group.logs_due(now).into_iter().map(|log| (*id, log)));
        }
    }

    fn notice_lost_contact(&mut self) {
        let now = self.context.now;
        let peers = &self.context.peers;
        let lost: Vec<NodeId> = self.live.iter().copied().filter(|node| !peers.is_live(*node, now)).collect();
        if lost.is_empty() {
            return;
        }
        for node in lost {
            self.live.remove(&node);
            for group in self.groups.values_mut() {
                group.contact_changed(&mut self.context, node, false, false);
            }
        }
        // The others may wait for this one's word that the owner is out of contact here, too.
        let peers = self.known_peers();
        self.send_heartbeat(peers);
    }

    /// A core is asked at every heartbeat at the latest. If it was not, its own thread stood still, and that the others seem
    /// silent says nothing about them: what they sent is still to be read.
    fn note_standstill(&mut self, now: Time) {
        let before = self.context.now;
        let usual = self.context.options.heartbeat_interval();
        if now > before + usual * 2 {
            self.context.peers.excuse(now - before, before);
        }
    }

    fn known_peers(&self) -> Vec<NodeId> {
        let members = self
            .groups
            .values()
            .filter(|group| group.scope.is_member())
            .flat_map(|group| &group.scope.configuration.members);
        let peers: BTreeSet<NodeId> =
            members.map(|member| member.node).filter(|node| *node != self.context.node).collect();
        peers.into_iter().collect()
    }

    fn send_heartbeat(&mut self, to: Vec<NodeId>) {
        if to.is_empty() || self.context.disk_is_silent() {
            return;
        }
        let now = self.context.now;
        let within = self.context.options.failure_timeout * 3;
        // Thousands of logs of values must not push a sequence out, whose members rely on it.
        let (of_values, of_sequences): (Vec<&Group>, Vec<&Group>) =
            self.groups.values().partition(|group| group.scope.is_of_values());
        let logs: Vec<LogPosition> = of_sequences
            .into_iter()
            .chain(of_values)
            .flat_map(|group| {
                group
                    .logs
                    .values()
                    .filter(|log| log.is_busy(now, within) || log.waits_for_states(&self.context, &group.scope))
                    .map(|log| log.position(&self.context, &group.scope))
            })
            .take(bounds::HEARTBEAT_LOGS_MAX)
            .collect();
        let heartbeat = self.context.peers.heartbeat(now, logs);
        self.context.send_to_node(to, Message::Heartbeat(heartbeat));
    }

    fn on_heartbeat(&mut self, from: NodeId, heartbeat: &Heartbeat) {
        let now = self.context.now;
        match self.context.peers.heard(from, heartbeat, now) {
            Heard::Refused(impostor) => self.context.send_to_node(vec![from], Message::Impostor(impostor)),
            Heard::Welcome { newly_heard, newly_live, restarted, contacts_changed } => {
                if newly_heard {
                    self.send_heartbeat(vec![from]);
                }
                if newly_live {
                    self.live.insert(from);
                }
                if newly_live || restarted {
                    for group in self.groups.values_mut() {
                        group.contact_changed(&mut self.context, from, newly_live, restarted);
                    }
                }
                if contacts_changed {
                    for group in self.groups.values_mut() {
                        group.reachable_changed(&mut self.context);
                    }
                }
                for position in &heartbeat.logs {
                    if let Some(group) = self.groups.get_mut(&position.group) {
                        group.saw_position(&mut self.context, from, position);
                    }
                }
            }
        }
    }

    fn propose(&mut self, group: GroupId, log: LogId, entry: Entry, deadline: Time) {
        let context = &mut self.context;
        let refusal = match self.groups.get_mut(&group) {
            None => Refusal::UnknownGroup,
            Some(group) if !group.scope.is_member() => Refusal::Removed(group.scope.epoch()),
            Some(group) if group.scope.is_witness() => Refusal::Witness,
            Some(group) => return group.work(context, log, Work::Propose { entry, deadline }),
        };
        context.effect(Effect::Proposed { group, log, id: entry.id(), outcome: ProposalOutcome::Failed(refusal) });
    }

    fn read(&mut self, group: GroupId, log: LogId, token: Token, deadline: Time) {
        let context = &mut self.context;
        let refusal = match self.groups.get_mut(&group) {
            None => Refusal::UnknownGroup,
            Some(group) if !group.scope.is_member() => Refusal::Removed(group.scope.epoch()),
            Some(group) if group.scope.is_witness() => Refusal::Witness,
            Some(group) => return group.work(context, log, Work::Read { token, deadline }),
        };
        context.effect(Effect::Barrier { token, result: Err(refusal) });
    }

    fn create(
        &mut self,
        token: Token,
        id: GroupId,
        [name, kind, detail]: [&str; 3],
        discipline: Discipline,
        member: Member,
    ) {
        let first = Configuration::first(id, name, kind, detail, member).with_discipline(discipline);
        let configuration = Arc::new(first);
        self.begin(token, &configuration, RecoveredGroup::default(), "a new group's first member is this node");
    }

    fn learn_group(&mut self, token: Token, configuration: &Arc<Configuration>) {
        if let Some(group) = self.groups.get_mut(&configuration.group) {
            group.configured(&mut self.context, configuration);
            let result = Ok(group.scope.configuration.clone());
            self.context.effect_when_durable(configuration.group, Effect::Changed { token, result });
            return;
        }
        let mut recovered = self.orphans.remove(&configuration.group).unwrap_or_default();
        // Who joins is a learner first. A voter that knows nothing of its group has lost what it promised there (rule 9).
        recovered.promises_lost |= configuration.votes(self.context.node);
        self.begin(token, configuration, recovered, "this node is not in it");
    }

    fn begin(
        &mut self,
        token: Token,
        configuration: &Arc<Configuration>,
        recovered: RecoveredGroup,
        unfit: &'static str,
    ) {
        let context = &mut self.context;
        let refusal = if self.groups.contains_key(&configuration.group) {
            Some(Refusal::Exists)
        } else if self.groups.len() >= bounds::GROUPS_MAX {
            Some(Refusal::Full("groups"))
        } else if configuration.check().is_err() || configuration.index(context.node).is_none() {
            Some(Refusal::Unfit(unfit))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            context.effect(Effect::Changed { token, result: Err(refusal) });
            return;
        }
        context.persist(Record::Configured { configuration: configuration.clone() });
        let mut group = Group::new(context, configuration.clone(), &recovered);
        // What it forgot it may have promised in this very start: then only the next one is certain to come after it.
        let start = if self.forgot { Start(context.start.0 + 1) } else { context.start };
        group.bar_if_needed(context, &recovered, start);
        for log in group.logs.keys() {
            context.dirty.insert((configuration.group, *log));
        }
        // Whom this node is in contact with already will not say again where it stands, unless it is told.
        let me = context.node;
        let others = configuration.members.iter().map(|member| member.node).filter(|node| *node != me);
        for node in others {
            if context.peers.is_live(node, context.now) {
                group.contact_changed(context, node, true, false);
            }
        }
        self.groups.insert(configuration.group, group);
        context.effect(Effect::Configured { configuration: configuration.clone() });
        let created = Effect::Changed { token, result: Ok(configuration.clone()) };
        context.effect_when_durable(configuration.group, created);
        let peers = self.known_peers();
        self.send_heartbeat(peers);
    }
}
