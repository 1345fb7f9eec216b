//! A few cores with a network and disks that tests hold in their hands. Everything stands still until a test moves it.

use crate::{
    Ballot, Change, Configuration, Core, CoreOptions, Discipline, Effect, Entry, GroupId, GroupMessage, Input, LogId,
    Member, Message, NodeId, OperationId, ProposalOutcome, Record, Recovered, RecoveredEntry, RecoveredLog, Refusal,
    Role, Sequence, Slot, Start, StopReason, Time, Token,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const GROUP: GroupId = GroupId(0xa);

pub(crate) struct TestNode {
    pub(crate) core: Core,
    pub(crate) start: u64,
    pub(crate) disk: Vec<(Sequence, Record)>,
    /// Written, not yet synced; only used while the disk is held.
    pub(crate) writing: VecDeque<(Sequence, Record)>,
    pub(crate) hold_disk: bool,
    pub(crate) delivered: Vec<(Slot, Entry)>,
    /// What the face holds durably: delivery begins after it at a restart.
    pub(crate) applied: Slot,
    pub(crate) outcomes: BTreeMap<OperationId, ProposalOutcome>,
    pub(crate) barriers: BTreeMap<Token, Result<Slot, Refusal>>,
    pub(crate) changes: BTreeMap<Token, Result<Arc<Configuration>, Refusal>>,
    /// Slots whose acceptance can no longer be read from the disk.
    pub(crate) damaged: BTreeSet<Slot>,
    pub(crate) needs_state: Option<Slot>,
    /// A witness wanted its state to be durable.
    pub(crate) asked_to_hold: bool,
    pub(crate) stopped: Option<StopReason>,
    pub(crate) up: bool,
    /// Newest value of each log of values in memory.
    pub(crate) values: BTreeMap<LogId, (Slot, Entry)>,
    /// Logs that the core wants loaded, while loads are held.
    pub(crate) loads: VecDeque<LogId>,
    pub(crate) hold_loads: bool,
    pub(crate) unloaded: usize,
}

pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<NodeId, TestNode>,
    pub(crate) now: Time,
    pub(crate) in_flight: VecDeque<(NodeId, NodeId, Arc<Message>)>,
    /// Pairs (from, to) whose messages are lost.
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    /// Which messages to whom are lost besides.
    pub(crate) loses: fn(NodeId, &Message) -> bool,
    pub(crate) transcript: String,
    pub(crate) show_heartbeats: bool,
    /// Keeps no transcript.
    pub(crate) quiet: bool,
    options: CoreOptions,
    next: u64,
}

pub(crate) fn node(number: u128) -> NodeId {
    NodeId(number)
}

pub(crate) fn member(number: u128, role: Role) -> Member {
    Member { node: node(number), address: format!("host{number}:1"), public_key: vec![1], role, label: String::new() }
}

pub(crate) fn configuration(epoch: u64, voters: &[u128]) -> Configuration {
    let mut configuration = Configuration::first(GROUP, "test", "tables", "", member(voters[0], Role::Voter));
    configuration.members = voters.iter().map(|number| member(*number, Role::Voter)).collect();
    configuration.epoch = crate::Epoch(epoch);
    configuration
}

impl Cluster {
    /// Nodes 1 to `count`, all voters of one group, in contact with one another.
    pub(crate) fn of(count: u128) -> Cluster {
        let voters: Vec<u128> = (1..=count).collect();
        Cluster::with(&Arc::new(configuration(1, &voters)), count)
    }

    /// A group of logs of values, of which each node has so many in memory.
    pub(crate) fn of_values(count: u128, in_memory: usize) -> Cluster {
        let mut cluster = Cluster::empty();
        cluster.options.resident_logs_max = in_memory;
        let voters: Vec<u128> = (1..=count).collect();
        let configuration = configuration(1, &voters).with_discipline(Discipline::Values);
        cluster.fill(&Arc::new(configuration), count);
        cluster
    }

    /// The same, with other options.
    pub(crate) fn with_options(count: u128, set: impl Fn(&mut CoreOptions)) -> Cluster {
        let voters: Vec<u128> = (1..=count).collect();
        Cluster::with_configuration(&Arc::new(configuration(1, &voters)), set)
    }

    /// The members of this configuration, with other options.
    pub(crate) fn with_configuration(configuration: &Arc<Configuration>, set: impl Fn(&mut CoreOptions)) -> Cluster {
        let mut cluster = Cluster::empty();
        set(&mut cluster.options);
        cluster.fill(configuration, configuration.members.len() as u128);
        cluster
    }

    pub(crate) fn with(configuration: &Arc<Configuration>, count: u128) -> Cluster {
        let mut cluster = Cluster::empty();
        cluster.fill(configuration, count);
        cluster
    }

    fn fill(&mut self, configuration: &Arc<Configuration>, count: u128) {
        let cluster = self;
        for number in 1..=count {
            let record = Record::Configured { configuration: configuration.clone() };
            let has_it = configuration.index(node(number)).is_some();
            let disk = if has_it { vec![(Sequence(1), record)] } else { Vec::new() };
            cluster.add(number, disk);
        }
        cluster.settle();
        cluster.transcript.clear();
    }

    /// Without nodes so far; these are for those to come.
    pub(crate) fn empty_with(set: impl Fn(&mut CoreOptions)) -> Cluster {
        let mut cluster = Cluster::empty();
        set(&mut cluster.options);
        cluster
    }

    pub(crate) fn empty() -> Cluster {
        Cluster {
            nodes: BTreeMap::new(),
            now: Time(1_000_000),
            in_flight: VecDeque::new(),
            cut: BTreeSet::new(),
            loses: |_, _| false,
            transcript: String::new(),
            show_heartbeats: false,
            quiet: false,
            options: CoreOptions::default(),
            next: 0,
        }
    }

    pub(crate) fn add(&mut self, number: u128, disk: Vec<(Sequence, Record)>) {
        let id = node(number);
        self.nodes.insert(id, TestNode::new(self.options.clone(), id, 1, disk, (Slot::ZERO, |_| {}), self.now));
        self.connect(id);
    }

    fn connect(&mut self, id: NodeId) {
        let others: Vec<NodeId> =
            self.nodes.iter().filter(|(other, state)| **other != id && state.up).map(|(other, _)| *other).collect();
        for other in others {
            self.input(id, Input::Connected { node: other });
            self.input(other, Input::Connected { node: id });
        }
    }

    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        let state = self.nodes.get_mut(&id).expect("the node exists");
        if state.up && state.stopped.is_none() {
            state.core.handle(now, input);
        }
    }

    /// Takes the effects of one node; true if there were any.
    pub(crate) fn poll(&mut self, id: NodeId) -> bool {
        let now = self.now;
        let mut any = false;
        while let Some(effect) =
            self.nodes.get_mut(&id).filter(|state| state.up).and_then(|state| state.core.poll_effect())
        {
            any = true;
            let state = self.nodes.get_mut(&id).expect("it exists");
            match effect {
                Effect::Persist { sequence, record } => {
                    if state.hold_disk {
                        state.writing.push_back((sequence, record));
                    } else {
                        state.disk.push((sequence, record));
                        state.core.handle(now, Input::Persisted { sequence });
                    }
                }
                Effect::Send { to, message } => {
                    for to in to {
                        self.in_flight.push_back((id, to, message.clone()));
                    }
                    assert!(self.in_flight.len() < 100_000, "{id} goes on and on: {}", show(&message));
                }
                Effect::Deliver { log, slot, entry, .. } if log != LogId::MAIN => {
                    let known = state.values.insert(log, (slot, entry));
                    assert!(known.is_none_or(|(before, _)| before < slot), "{id} delivers in order");
                }
                Effect::Deliver { slot, entry, .. } => {
                    let expected =
                        state.delivered.last().map_or(state.applied, |(slot, _)| (*slot).max(state.applied)).next();
                    assert_eq!(slot, expected, "{id} delivers in order");
                    state.delivered.push((slot, entry));
                }
                Effect::Proposed { id, outcome, .. } => {
                    assert!(state.outcomes.insert(id, outcome).is_none(), "one answer per proposal");
                }
                Effect::Barrier { token, result } => {
                    assert!(state.barriers.insert(token, result).is_none(), "one answer per read");
                }
                Effect::ReadEntries { token, from, up_to, .. } => {
                    let entries = state.read(from, up_to);
                    state.core.handle(now, Input::EntriesRead { token, entries, damaged: None });
                }
                Effect::LoadLog { log, .. } => {
                    state.loads.push_back(log);
                    if !state.hold_loads {
                        self.load(id.0);
                    }
                }
                Effect::ListLogs { token, after, count_max, .. } => {
                    let (logs, last) = state.list(after, count_max);
                    state.core.handle(now, Input::LogsListed { token, logs, last });
                }
                Effect::Unloaded { log, .. } => {
                    assert!(state.values.remove(&log).is_some() || !state.disk.is_empty());
                    state.unloaded += 1;
                }
                Effect::NeedState { from, .. } => state.needs_state = Some(from),
                Effect::Configured { .. } => {}
                Effect::HoldMore { .. } => state.asked_to_hold = true,
                Effect::Changed { token, result } => {
                    assert!(state.changes.insert(token, result).is_none(), "one answer per change");
                }
                Effect::Stop { reason } => state.stopped = Some(reason),
            }
        }
        any
    }

    /// The disk of a node loads the log that was asked for first.
    pub(crate) fn load(&mut self, number: u128) {
        let now = self.now;
        let state = self.nodes.get_mut(&node(number)).expect("it exists");
        let Some(log) = state.loads.pop_front() else { return };
        let loaded = state.stored(log);
        state.core.handle(now, Input::LogLoaded { group: GROUP, log, loaded, held: Slot::ZERO });
    }

    /// The disk of a node syncs what was written to it.
    pub(crate) fn sync(&mut self, number: u128) {
        let now = self.now;
        let state = self.nodes.get_mut(&node(number)).expect("it exists");
        let Some((sequence, _)) = state.writing.back().cloned() else { return };
        state.disk.extend(state.writing.drain(..));
        state.core.handle(now, Input::Persisted { sequence });
    }

    /// Delivers the oldest message on its way; false if there is none.
    pub(crate) fn deliver_one(&mut self) -> bool {
        let Some((from, to, message)) = self.in_flight.pop_front() else { return false };
        let lost = self.cut.contains(&(from, to))
            || (self.loses)(to, &message)
            || !self.nodes.get(&to).is_some_and(|state| state.up)
            || !self.nodes[&from].up;
        if !self.quiet && (!matches!(&*message, Message::Heartbeat(_)) || self.show_heartbeats) {
            let mark = if lost { "-x" } else { "->" };
            writeln!(self.transcript, "{from} {mark} {to}: {}", show(&message)).expect("a string takes it");
        }
        if !lost {
            let decoded = Message::decode(&message.encode()).expect("what is sent can be read");
            assert!(self.quiet || decoded == *message);
            self.input(to, Input::Message { from, message: decoded });
        }
        true
    }

    /// Until nothing moves any more, at this moment of time.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            let mut polled = false;
            for id in ids {
                polled |= self.poll(id);
            }
            if !self.deliver_one() && !polled {
                return;
            }
        }
        panic!("it never settles:\n{}", &self.transcript[self.transcript.len().saturating_sub(4000)..]);
    }

    /// Lets time pass, with every deadline kept.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        for step in 0.. {
            self.settle();
            if step > 20_000 {
                let status: Vec<_> = self
                    .nodes
                    .values()
                    .map(|state| (state.core.next_deadline(), format!("{:?}", state.core)))
                    .collect();
                panic!("time does not pass: {status:#?}");
            }
            let next = self
                .nodes
                .values()
                .filter(|state| state.up && state.stopped.is_none())
                .filter_map(|state| state.core.next_deadline())
                .min();
            let next = next.unwrap_or(Time::NEVER).max(Time(self.now.0 + 1));
            if next > end {
                break;
            }
            self.now = next;
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            ids.into_iter().for_each(|id| self.input(id, Input::Tick));
        }
        self.now = end;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.input(id, Input::Tick));
        self.settle();
    }

    /// Proposes at a node; the id that names the operation.
    pub(crate) fn propose(&mut self, number: u128, body: &str) -> OperationId {
        self.next += 1;
        let id = OperationId { node: node(number), start: Start(self.nodes[&node(number)].start), sequence: self.next };
        let entry = Entry::operation(id, body.as_bytes());
        let deadline = self.now + Duration::from_secs(5);
        self.input(node(number), Input::Propose { group: GROUP, log: LogId::MAIN, entry, deadline });
        id
    }

    /// A value for a log, made from the newest that the node has seen.
    pub(crate) fn put(&mut self, number: u128, log: u128, value: &str) -> OperationId {
        let follows = self.state(number).values.get(&LogId(log)).map_or(Slot::ZERO, |(slot, _)| *slot);
        self.put_after(number, log, follows.0, value)
    }

    /// A value made from that of this slot.
    pub(crate) fn put_after(&mut self, number: u128, log: u128, follows: u64, value: &str) -> OperationId {
        self.next += 1;
        let id = OperationId { node: node(number), start: Start(self.nodes[&node(number)].start), sequence: self.next };
        let entry = Entry::value(id, Slot(follows), value.as_bytes());
        let deadline = self.now + Duration::from_secs(5);
        self.input(node(number), Input::Propose { group: GROUP, log: LogId(log), entry, deadline });
        id
    }

    /// Asks for a barrier of a log of values.
    pub(crate) fn read_log(&mut self, number: u128, log: u128) -> Token {
        self.next += 1;
        let token = Token(self.next);
        let deadline = self.now + Duration::from_secs(5);
        self.input(node(number), Input::Read { group: GROUP, log: LogId(log), token, deadline });
        token
    }

    /// The newest value of a log that a node has in memory.
    pub(crate) fn value(&self, number: u128, log: u128) -> Option<(u64, String)> {
        let (slot, entry) = self.state(number).values.get(&LogId(log))?;
        let value = entry.to_value().expect("only values stand there");
        Some((slot.0, String::from_utf8_lossy(&value).into_owned()))
    }

    /// The logs that a node has in memory.
    pub(crate) fn loaded(&self, number: u128) -> Vec<u128> {
        self.state(number).core.status(self.now).groups[0].logs.iter().map(|log| log.log.0).collect()
    }

    pub(crate) fn read(&mut self, number: u128) -> Token {
        self.next += 1;
        let token = Token(self.next);
        let deadline = self.now + Duration::from_secs(5);
        self.input(node(number), Input::Read { group: GROUP, log: LogId::MAIN, token, deadline });
        token
    }

    pub(crate) fn change(&mut self, number: u128, change: Change) -> Token {
        self.next += 1;
        let token = Token(self.next);
        let deadline = self.now + Duration::from_secs(20);
        self.input(node(number), Input::Change { token, group: GROUP, change, deadline });
        token
    }

    pub(crate) fn kill(&mut self, number: u128) {
        self.nodes.get_mut(&node(number)).expect("it exists").up = false;
        self.in_flight.retain(|(from, to, _)| *from != node(number) && *to != node(number));
    }

    /// The same, but what it sent before still arrives.
    pub(crate) fn kill_after_sending(&mut self, number: u128) {
        self.deliver_from(node(number));
        self.kill(number);
    }

    fn deliver_from(&mut self, id: NodeId) {
        let (mine, others): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.in_flight).into_iter().partition(|(from, _, _)| *from == id);
        self.in_flight = mine;
        while self.deliver_one() {}
        self.in_flight.extend(others);
    }

    /// Starts a killed node again from what its disk holds.
    pub(crate) fn restart(&mut self, number: u128) {
        self.restart_with(number, |_| {});
    }

    /// The same, after something happened to what its disk holds.
    pub(crate) fn restart_with(&mut self, number: u128, happen: impl Fn(&mut Recovered)) {
        let id = node(number);
        let old = self.nodes.remove(&id).expect("it exists");
        let start = old.start + 1;
        let mut fresh = TestNode::new(self.options.clone(), id, start, old.disk, (old.applied, happen), self.now);
        fresh.delivered = old.delivered.into_iter().filter(|(slot, _)| *slot <= old.applied).collect();
        fresh.outcomes = old.outcomes;
        fresh.damaged = old.damaged;
        fresh.barriers = old.barriers;
        self.nodes.insert(id, fresh);
        self.connect(id);
    }

    /// Loses every message between the two, both ways.
    pub(crate) fn cut(&mut self, one: u128, other: u128) {
        self.cut.insert((node(one), node(other)));
        self.cut.insert((node(other), node(one)));
    }

    pub(crate) fn isolate(&mut self, number: u128) {
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|other| *other != node(number)).collect();
        others.into_iter().for_each(|other| self.cut(number, other.0));
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn state(&self, number: u128) -> &TestNode {
        &self.nodes[&node(number)]
    }

    /// What a node has delivered, operations only.
    pub(crate) fn bodies(&self, number: u128) -> Vec<String> {
        let operations =
            self.state(number).delivered.iter().filter(|(_, entry)| entry.kind() == crate::EntryKind::Operation);
        operations.map(|(_, entry)| String::from_utf8_lossy(entry.body()).into_owned()).collect()
    }

    pub(crate) fn main_status(&self, number: u128) -> crate::LogStatus {
        let status = self.state(number).core.status(self.now);
        status.groups[0].logs[0].clone()
    }

    pub(crate) fn owners(&self) -> Vec<NodeId> {
        self.nodes
            .iter()
            .filter(|(id, state)| {
                state.up && !state.core.status(self.now).groups.is_empty() && self.main_status(id.0).is_owner
            })
            .map(|(id, _)| *id)
            .collect()
    }

    pub(crate) fn take_transcript(&mut self) -> String {
        std::mem::take(&mut self.transcript)
    }

    pub(crate) fn note(&mut self, text: &str) {
        writeln!(self.transcript, "\n# {text}").expect("a string takes it");
    }
}

impl TestNode {
    fn new(
        options: CoreOptions,
        id: NodeId,
        start: u64,
        disk: Vec<(Sequence, Record)>,
        (applied, happen): (Slot, impl Fn(&mut Recovered)),
        now: Time,
    ) -> TestNode {
        let mut recovered = Recovered::default();
        disk.iter().for_each(|(sequence, record)| recovered.apply(*sequence, record));
        for group in recovered.groups.values_mut() {
            group.log(LogId::MAIN).applied = applied;
        }
        happen(&mut recovered);
        let seed = u64::try_from(id.0).expect("small in tests") * 1000 + start;
        TestNode {
            core: Core::new(options, id, Start(start), recovered, seed, now),
            start,
            disk,
            writing: VecDeque::new(),
            hold_disk: false,
            delivered: Vec::new(),
            applied,
            outcomes: BTreeMap::new(),
            barriers: BTreeMap::new(),
            changes: BTreeMap::new(),
            damaged: BTreeSet::new(),
            needs_state: None,
            asked_to_hold: false,
            stopped: None,
            up: true,
            values: BTreeMap::new(),
            loads: VecDeque::new(),
            hold_loads: false,
            unloaded: 0,
        }
    }

    /// A log of values as storage would load it.
    pub(crate) fn stored(&self, log: LogId) -> RecoveredLog {
        let mut recovered = Recovered::default();
        let mut kept: BTreeMap<Slot, RecoveredEntry> = BTreeMap::new();
        for (sequence, record) in &self.disk {
            recovered.apply(*sequence, record);
            let Some(group) = recovered.groups.get_mut(&GROUP) else { continue };
            kept.extend(group.log(log).accepted.clone());
        }
        let mut found = recovered.groups.remove(&GROUP).unwrap_or_default().logs.remove(&log).unwrap_or_default();
        kept.retain(|slot, _| *slot > found.trimmed);
        kept.extend(std::mem::take(&mut found.accepted));
        found.accepted = kept;
        found
    }

    fn list(&self, after: Option<LogId>, count_max: usize) -> (Vec<(LogId, Slot, Slot)>, bool) {
        let mut recovered = Recovered::default();
        self.disk.iter().for_each(|(sequence, record)| recovered.apply(*sequence, record));
        let logs = recovered.groups.remove(&GROUP).unwrap_or_default().logs;
        let mut logs: Vec<LogId> = logs.into_keys().filter(|id| *id != LogId::CONTROL && Some(*id) > after).collect();
        let last = logs.len() <= count_max;
        logs.truncate(count_max);
        let one = |id: LogId| {
            let log = self.stored(id);
            let highest = log.accepted.last_key_value().map_or(Slot::ZERO, |(slot, _)| *slot);
            (id, log.closed, highest.max(log.closed))
        };
        (logs.into_iter().map(one).collect(), last)
    }

    /// Chosen entries as storage would find them: the newest record of each slot.
    fn read(&self, from: Slot, up_to: Slot) -> Vec<(Ballot, Entry)> {
        let mut slots: BTreeMap<Slot, (Ballot, Entry)> = BTreeMap::new();
        for (_, record) in &self.disk {
            match record {
                Record::Accepted { log: LogId::MAIN, ballot, first, entries, .. } => {
                    let numbered = (first.0..).map(Slot).zip(entries.iter());
                    let numbered = numbered.filter(|(slot, _)| !self.damaged.contains(slot));
                    slots.extend(numbered.map(|(slot, entry)| (slot, (*ballot, entry.clone()))));
                }
                Record::Learnt { log: LogId::MAIN, first, entries, .. } => {
                    slots.extend((first.0..).map(Slot).zip(entries.iter().cloned()));
                }
                Record::Installed { log: LogId::MAIN, slot, .. }
                | Record::Trimmed { log: LogId::MAIN, up_to: slot, .. } => {
                    slots = slots.split_off(&slot.next());
                }
                _ => {}
            }
        }
        (from.0..=up_to.0).map(Slot).map_while(|slot| slots.remove(&slot)).collect()
    }
}

/// One line per message, as a protocol lesson would write it.
fn show(message: &Message) -> String {
    let log_name = |log: &LogId| if *log == LogId::CONTROL { "control " } else { "" };
    let Message::Group { body, .. } = message else { return format!("{message:?}") };
    match body {
        GroupMessage::Prepare { log, ballot, closed } => format!("{}prepare {ballot} above {closed}", log_name(log)),
        GroupMessage::Promise { log, ballot, closed, accepted, .. } => {
            let found: Vec<String> = accepted
                .iter()
                .map(|found| match &found.entry {
                    Some(entry) => format!("{}@{}={entry:?}", found.slot, found.ballot),
                    None => format!("{}@{} damaged", found.slot, found.ballot),
                })
                .collect();
            format!("{}promise {ballot} closed {closed} accepted [{}]", log_name(log), found.join(", "))
        }
        GroupMessage::Refused { log, ballot, promised, closed } => {
            format!("{}refused {ballot}: promised {promised}, closed {closed}", log_name(log))
        }
        GroupMessage::Accept { log, ballot, first, entries, chosen, .. } => {
            let chosen = chosen
                .map(|range| format!(", chosen {}..{} under {}", range.first, range.last, range.ballot))
                .unwrap_or_default();
            format!("{}accept {ballot} {first}: {entries:?}{chosen}", log_name(log))
        }
        GroupMessage::Accepted { log, ballot, first, last, .. } => {
            format!("{}accepted {ballot} {first}..{last}", log_name(log))
        }
        GroupMessage::Chosen { log, range } => {
            format!("{}chosen {}..{} under {}", log_name(log), range.first, range.last, range.ballot)
        }
        GroupMessage::Forward { entries, hops, .. } => format!("forward {entries:?} hops {hops}"),
        GroupMessage::NotProposed { ids, reason, ballot, .. } => {
            format!("not proposed {ids:?}: {reason:?}, highest ballot {ballot}")
        }
        GroupMessage::ReadAsk { round, .. } => format!("read {round}?"),
        GroupMessage::ReadAnswer { round, closed, highest, ballot, .. } => {
            format!("read {round}: closed {closed}, highest {highest}@{ballot}")
        }
        GroupMessage::Fetch { from, up_to, .. } => format!("fetch {from}..{up_to}"),
        GroupMessage::Fetched { first, entries, closed, trimmed, .. } => {
            format!("fetched from {first}: {} entries, closed {closed}, trimmed {trimmed}", entries.len())
        }
        GroupMessage::AskAccepted { from, up_to, .. } => format!("what was accepted in {from}..{up_to}?"),
        GroupMessage::HasAccepted { closed, accepted, .. } => {
            format!("accepted {:?}, closed {closed}", accepted.iter().map(|a| (a.slot, a.ballot)).collect::<Vec<_>>())
        }
        GroupMessage::AskConfiguration => "configuration?".to_owned(),
        GroupMessage::Configured { configuration } => format!("configuration {configuration:?}"),
        GroupMessage::Fenced => "fenced".to_owned(),
        GroupMessage::SyncAsk { after: None } => "sync?".to_owned(),
        GroupMessage::SyncAsk { after: Some(log) } => format!("sync after {log}?"),
        GroupMessage::CompareAsk { after, .. } => format!("compare after {after:?}?"),
        GroupMessage::Newer { logs, .. } => format!("newer {logs:?}"),
        GroupMessage::UpToDate { .. } => "up to date".to_owned(),
        GroupMessage::Compare { logs, .. } => format!("has {logs:?}"),
        GroupMessage::SyncAnswer { logs, votes, .. } => format!(
            "sync {:?}{}",
            logs.iter().map(|(_, closed, highest)| (closed, highest)).collect::<Vec<_>>(),
            if *votes { "" } else { " barred" }
        ),
        GroupMessage::Positions { logs } => {
            format!("closed {:?}", logs.iter().map(|log| log.closed).collect::<Vec<_>>())
        }
        GroupMessage::Invite { ballot, .. } => format!("invite to follow {ballot}"),
    }
}
