//! Model 3: a change of the members through a joint epoch (rule 6) under a log with owners (rules 1 to 4), after
//! `crates/consensus/src/{membership,group,control}.rs`.
//!
//! Epoch 1 has the old voters, epoch 2 is joint, epoch 3 has the new voters, or the old ones again (going back).
//!
//! | in the model | in the code |
//! |---|---|
//! | a node is told a configuration at any time once it may be chosen; its votes in older epochs end at once, the fence is said when durable | `configured`, `on_fenced` |
//! | votes are of one epoch: ballot, acceptor and who counts agree in it; the floor is part of the promise | `is_fenced`, `on_prepare`, `on_accept` |
//! | a told owner owns no more; phase 1 again with the new epoch's quorums | `carry_over` |
//! | a fenced member says what it has closed and accepted, once that is durable | `on_sync_ask` |
//! | the new epoch needs a joint quorum of fences, a goal from a quorum of the old voters, and a quorum of the new ones that holds it | `drive_joint`, `pass_is_complete` |
//! | who drives is not in the state: every voter of the joint epoch may go on at any time, from what was answered to anybody | `resume_if_due`, `Changes` is volatile |
//! | a member behind copies what another has closed, in any epoch | learning is never fenced |
//!
//! The promises are those of model 1 across epochs, and that of model 2 for a read while they change.
//!
//! **Bounds**: four nodes, one slot, attempts, crashes, which nodes propose. **Left out**: the ballots of the control log.
//! Its slot 2 has one candidate, open to all from the beginning; its slot 3 is decided in one step, once a joint quorum is
//! fenced. That two phases with both quorums decide it once only is a search of its own: [`crate::log::Log::joint`]. Notices
//! are as if fetched. A learner accepts nothing ahead of what it learns. One round of reads, and only where a search asks for it.

mod reading;

use crate::checker::Model;
use crate::words::{Ballot, Entry, Node, Nodes, Value};
use reading::Read;

/// Nodes.
pub const NODES: usize = 4;

/// A rule broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// In the joint epoch phase 1 and 2 ask a quorum of the new voters only.
    JointAsksNewOnly,
    /// The new voters follow the old ones without a joint epoch.
    NoJointStep,
    /// The new epoch comes without a sync pass.
    NoSyncPass,
    /// The sync pass copies what one old voter has.
    SyncFromOne,
    /// What a member says for the sync pass may be from before its fence.
    AnswersBeforeFence,
    /// A fence is said and never written down: a crash returns to the epoch before.
    FenceNotWritten,
    /// Ballots do not name their epoch, and acceptors do not look at it.
    BallotsWithoutEpoch,
    /// An owner goes on under its ballot in the next epoch, without phase 1.
    OwnsAfterEpochChange,
    /// Answers to a read count whatever the epoch of who answers.
    ReadsNotFenced,
    /// In a joint epoch the barrier of a read is what a quorum of the new voters may have.
    JointReadsAskNew,
}

/// The model with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Epochs {
    /// Voters before the change.
    pub old: Nodes,
    /// Voters after it.
    pub new: Nodes,
    /// Who proposes, while it may.
    pub proposers: Nodes,
    /// How often phase 1 is begun, over all nodes and epochs.
    pub attempts: u8,
    /// The highest round in an epoch.
    pub rounds: u8,
    /// Crashes, over all nodes.
    pub crashes: u8,
    /// Who may begin the one read that there is.
    pub readers: Nodes,
    /// The rule that is broken.
    pub bug: Option<Bug>,
}

/// The configurations there can be, by epoch; the third epoch has two candidates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[allow(missing_docs)]
pub enum Configuration {
    #[default]
    Old,
    Joint,
    New,
    OldAgain,
}

impl Configuration {
    fn epoch(self) -> u8 {
        match self {
            Configuration::Old => 1,
            Configuration::Joint => 2,
            Configuration::New | Configuration::OldAgain => 3,
        }
    }
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Message {
    Prepare { ballot: Ballot },
    Promise { ballot: Ballot, from: Node, closed: bool, held: Entry },
    Accept { ballot: Ballot, value: Value },
    Accepted { ballot: Ballot, from: Node, value: Value },
    Fenced { from: Node },
    Holds { from: Node, closed: bool, accepted: bool },
}

/// What a member keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Member {
    /// The configuration in force here.
    pub configuration: Configuration,
    /// Highest promise of the log.
    pub promised: Ballot,
    /// The entry of the slot.
    pub held: Entry,
    /// Whether it is known chosen.
    pub closed: bool,
}

/// What a proposer does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[allow(missing_docs)]
pub enum Stage {
    #[default]
    Idle,
    Preparing(Ballot),
    Owning(Ballot, bool),
}

/// One node.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct NodeState {
    /// As it answers.
    pub now: Member,
    /// As it would be after a crash.
    pub disk: Member,
    /// Replies that wait for the disk.
    pub waiting: Vec<Message>,
    /// Counts its starts.
    pub start: u8,
    /// Its proposer.
    pub stage: Stage,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The nodes.
    pub nodes: [NodeState; NODES],
    /// Everything ever sent, in order of content.
    pub sent: Vec<Message>,
    /// What the third epoch is, once that is chosen.
    pub third: Option<Configuration>,
    /// What was first taken as chosen, anywhere.
    pub taken: Value,
    /// The epoch in which that was.
    pub taken_in: u8,
    /// Phase 1 begun so often.
    pub attempts: u8,
    /// Crashes so far.
    pub crashes: u8,
    /// The read.
    pub read: Read,
    /// A promise that the last step broke.
    pub broken: Option<&'static str>,
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Step {
    BeginsPhaseOne { node: Node, ballot: Ballot },
    Receives { node: Node, message: Message },
    BecomesOwner { node: Node, promised: Nodes },
    Proposes { node: Node },
    CountsAQuorum { node: Node, ballot: Ballot },
    Fetches { node: Node, from: Node },
    IsTold { node: Node, configuration: Configuration },
    AnswersSyncPass { node: Node },
    ThirdEpochIsChosen { by: Node, configuration: Configuration },
    Syncs { node: Node },
    Crashes { node: Node, keeps_closed: bool },
    ReadBegins { reader: Node },
    AnswersRead { node: Node },
    ReadReturns { counted: Nodes, found: bool },
}

impl State {
    fn send(&mut self, message: Message) {
        if let Err(at) = self.sent.binary_search(&message) {
            self.sent.insert(at, message);
        }
    }

    fn has(&self, message: Message) -> bool {
        self.sent.binary_search(&message).is_ok()
    }

    fn node(&mut self, node: Node) -> &mut NodeState {
        &mut self.nodes[usize::from(node)]
    }

    fn accepted_by(&self, ballot: Ballot) -> Nodes {
        self.sent.iter().fold(Nodes::NONE, |set, message| match message {
            Message::Accepted { ballot: under, from, .. } if *under == ballot => set.with(*from),
            _ => set,
        })
    }

    fn fenced(&self) -> Nodes {
        self.sent.iter().fold(Nodes::NONE, |set, message| match message {
            Message::Fenced { from } => set.with(*from),
            _ => set,
        })
    }
}

impl Epochs {
    /// Three voters, one of which is replaced.
    #[must_use]
    pub fn replacing(proposers: &[Node], attempts: u8, crashes: u8) -> Epochs {
        Epochs {
            old: Nodes::of(&[0, 1, 2]),
            new: Nodes::of(&[0, 1, 3]),
            proposers: Nodes::of(proposers),
            attempts,
            rounds: 1,
            crashes,
            readers: Nodes::NONE,
            bug: None,
        }
    }

    /// Three voters and one more, as `Change::Promote` does.
    #[must_use]
    pub fn promoting(proposers: &[Node], attempts: u8, crashes: u8) -> Epochs {
        Epochs { new: Nodes::of(&[0, 1, 2, 3]), ..Epochs::replacing(proposers, attempts, crashes) }
    }

    /// Four voters and one fewer, as `Change::Remove` does.
    #[must_use]
    pub fn removing(proposers: &[Node], attempts: u8, crashes: u8) -> Epochs {
        Epochs {
            old: Nodes::of(&[0, 1, 2, 3]),
            new: Nodes::of(&[0, 1, 2]),
            ..Epochs::replacing(proposers, attempts, crashes)
        }
    }

    /// The same with a read by one of these, at any time.
    #[must_use]
    pub fn with_a_read_by(self, readers: &[Node]) -> Epochs {
        Epochs { readers: Nodes::of(readers), ..self }
    }

    /// The same with a rule broken.
    #[must_use]
    pub fn with(self, bug: Bug) -> Epochs {
        Epochs { bug: Some(bug), ..self }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn is_quorum(&self, configuration: Configuration, set: Nodes) -> bool {
        let (old, new) = (set.is_majority_of(self.old), set.is_majority_of(self.new));
        match configuration {
            Configuration::Old | Configuration::OldAgain => old,
            Configuration::Joint => new && (old || self.has(Bug::JointAsksNewOnly)),
            Configuration::New => new,
        }
    }

    fn voters(&self, configuration: Configuration) -> Nodes {
        match configuration {
            Configuration::Old | Configuration::OldAgain => self.old,
            Configuration::Joint => Nodes(self.old.0 | self.new.0),
            Configuration::New => self.new,
        }
    }

    /// Who may own the log: voters that stay.
    fn eligible(&self, configuration: Configuration) -> Nodes {
        match configuration {
            Configuration::Joint => self.new,
            other => self.voters(other),
        }
    }

    /// The configuration that decides under a ballot, for judging.
    fn deciding(&self, state: &State, ballot: Ballot) -> Configuration {
        match ballot.epoch {
            0 | 1 => Configuration::Old,
            2 => Configuration::Joint,
            _ => state.third.expect("nobody is in an epoch that was not chosen"),
        }
    }

    fn settle(&self, mut state: State) -> State {
        if state.crashes == self.crashes {
            for node in 0..NODES as Node {
                self.sync(&mut state, node);
            }
        }
        self.drop_dead_messages(&mut state);
        state
    }

    /// What can change nothing any more, whenever it arrives.
    fn drop_dead_messages(&self, state: &mut State) {
        let State { nodes, sent, third, .. } = state;
        let waits = |ballot: Ballot| nodes[usize::from(ballot.node)].stage == Stage::Preparing(ballot);
        let refused = |ballot: Ballot, node: &NodeState| {
            node.disk.promised > ballot
                || (!self.has(Bug::BallotsWithoutEpoch) && node.disk.configuration.epoch() > ballot.epoch)
        };
        let by = |node: usize, sent: &[Message], is: &dyn Fn(&Message) -> Option<Node>| {
            sent.iter().any(|message| is(message).is_some_and(|from| usize::from(from) == node))
        };
        let is_dead = |message: &Message| match *message {
            Message::Promise { ballot, .. } => !waits(ballot),
            Message::Prepare { ballot } => {
                nodes.iter().all(|node| refused(ballot, node) || (node.disk.promised == ballot && !waits(ballot)))
            }
            Message::Accept { ballot, .. } => nodes.iter().enumerate().all(|(number, node)| {
                let from = |message: &Message| match message {
                    Message::Accepted { ballot: under, from, .. } if *under == ballot => Some(*from),
                    _ => None,
                };
                refused(ballot, node) || by(number, sent, &from)
            }),
            // Once the third epoch is chosen, nobody asks any more.
            Message::Holds { .. } | Message::Fenced { .. } => third.is_some(),
            Message::Accepted { .. } => false,
        };
        let kept: Vec<Message> = sent.iter().copied().filter(|message| !is_dead(message)).collect();
        for number in 0..NODES {
            let mut waiting = std::mem::take(&mut state.nodes[number].waiting);
            waiting.retain(|message| match *message {
                Message::Promise { ballot, .. } => {
                    state.nodes[usize::from(ballot.node)].stage == Stage::Preparing(ballot)
                }
                Message::Holds { .. } | Message::Fenced { .. } => state.third.is_none(),
                _ => true,
            });
            state.nodes[number].waiting = waiting;
        }
        state.sent = kept;
    }

    fn sync(&self, state: &mut State, node: Node) {
        let forgets_fences = self.has(Bug::FenceNotWritten);
        let it = state.node(node);
        let held = it.disk.held.max(it.now.held);
        let configuration = if forgets_fences { it.disk.configuration } else { it.now.configuration };
        it.disk = Member { held, configuration, ..it.now };
        for message in std::mem::take(&mut it.waiting) {
            state.send(message);
        }
    }

    fn reply(&self, state: &mut State, node: Node, message: Message) {
        let waiting = &mut state.node(node).waiting;
        if let Err(at) = waiting.binary_search(&message) {
            waiting.insert(at, message);
        }
    }

    fn take(&self, state: &mut State, node: Node, entry: Entry) {
        let is_chosen = state.sent.iter().any(|message| match message {
            Message::Accepted { ballot, value, .. } if *value == entry.value => {
                self.is_quorum(self.deciding(state, *ballot), state.accepted_by(*ballot))
            }
            _ => false,
        });
        // Without epochs in ballots it cannot be said afterwards which quorum decided.
        if !is_chosen && !self.has(Bug::BallotsWithoutEpoch) {
            state.broken = Some("a member takes as chosen only what is chosen");
        }
        if state.taken.is_none() {
            state.taken = entry.value;
            state.taken_in = state.nodes[usize::from(node)].now.configuration.epoch();
        } else if state.taken != entry.value {
            state.broken = Some("agreement: one value per slot, across epochs");
        }
        state.node(node).now.closed = true;
    }

    fn step_down_below(&self, state: &mut State, node: Node, ballot: Ballot) {
        let it = state.node(node);
        let mine = match it.stage {
            Stage::Idle => return,
            Stage::Preparing(ballot) | Stage::Owning(ballot, _) => ballot,
        };
        if mine < ballot {
            it.stage = Stage::Idle;
        }
    }

    /// Whether an acceptor may vote under this ballot.
    fn votes_under(&self, state: &State, node: Node, ballot: Ballot) -> bool {
        let now = &state.nodes[usize::from(node)].now;
        if !self.voters(now.configuration).has(node) {
            return false;
        }
        let (floor, same_epoch) = if self.has(Bug::BallotsWithoutEpoch) {
            (Ballot::ZERO, true)
        } else {
            (Ballot::floor(now.configuration.epoch()), ballot.epoch == now.configuration.epoch())
        };
        same_epoch && ballot >= now.promised.max(floor)
    }

    fn begin_phase_one(&self, state: &State, next: &mut Vec<(Step, State)>) {
        if state.attempts == self.attempts {
            return;
        }
        for node in self.proposers.iter() {
            let it = &state.nodes[usize::from(node)];
            if it.stage != Stage::Idle || it.now.closed || !self.eligible(it.now.configuration).has(node) {
                continue;
            }
            let epoch = if self.has(Bug::BallotsWithoutEpoch) { 0 } else { it.now.configuration.epoch() };
            let known = if it.now.promised.epoch == epoch { it.now.promised.round } else { 0 };
            for round in known + 1..=self.rounds {
                let ballot = Ballot { epoch, round, node, start: it.start };
                let mut state = state.clone();
                state.attempts += 1;
                state.node(node).stage = Stage::Preparing(ballot);
                state.send(Message::Prepare { ballot });
                self.promise(&mut state, node, ballot);
                next.push((Step::BeginsPhaseOne { node, ballot }, self.settle(state)));
            }
        }
    }

    fn promise(&self, state: &mut State, node: Node, ballot: Ballot) -> bool {
        let answered = |message: &Message| matches!(message, Message::Promise { ballot: under, from, .. } if (*under, *from) == (ballot, node));
        if !self.votes_under(state, node, ballot)
            || state.sent.iter().any(answered)
            || state.node(node).waiting.iter().any(answered)
        {
            return false;
        }
        let it = state.node(node);
        it.now.promised = ballot;
        let (closed, held) = (it.now.closed, it.now.held);
        self.step_down_below(state, node, ballot);
        self.reply(state, node, Message::Promise { ballot, from: node, closed, held });
        true
    }

    fn accept(&self, state: &mut State, node: Node, ballot: Ballot, value: Value) -> bool {
        if !self.votes_under(state, node, ballot) {
            return false;
        }
        let message = Message::Accepted { ballot, from: node, value };
        let it = &state.nodes[usize::from(node)];
        let again = it.now.held.ballot == ballot;
        if again && (it.now.held.value != value || it.waiting.contains(&message) || state.has(message)) {
            return false;
        }
        if !again && it.now.closed {
            return false;
        }
        let it = state.node(node);
        it.now.promised = ballot;
        it.now.held = Entry { ballot, value };
        self.step_down_below(state, node, ballot);
        self.reply(state, node, message);
        true
    }

    fn receive(&self, state: &State, next: &mut Vec<(Step, State)>) {
        for node in 0..NODES as Node {
            for message in &state.sent {
                let (Message::Prepare { ballot } | Message::Accept { ballot, .. }) = *message else { continue };
                if !self.votes_under(state, node, ballot) {
                    continue;
                }
                let mut reached = state.clone();
                let counts = match *message {
                    Message::Accept { ballot, value } => self.accept(&mut reached, node, ballot, value),
                    _ => self.promise(&mut reached, node, ballot),
                };
                if counts {
                    next.push((Step::Receives { node, message: *message }, self.settle(reached)));
                }
            }
        }
    }

    fn become_owner(&self, state: &State, next: &mut Vec<(Step, State)>) {
        for node in self.proposers.iter() {
            let it = &state.nodes[usize::from(node)];
            let Stage::Preparing(ballot) = it.stage else { continue };
            let promises: Vec<(Node, bool, Entry)> = state
                .sent
                .iter()
                .filter_map(|message| match message {
                    Message::Promise { ballot: under, from, closed, held } if *under == ballot => {
                        Some((*from, *closed, *held))
                    }
                    _ => None,
                })
                .collect();
            let all = promises.iter().fold(Nodes::NONE, |set, (from, ..)| set.with(*from));
            for set in (1..=all.0).map(Nodes).filter(|set| set.and(all) == *set) {
                if !self.is_quorum(it.now.configuration, set) {
                    continue;
                }
                let counted = || promises.iter().filter(|(from, ..)| set.has(*from));
                if counted().any(|(_, closed, _)| *closed) && !it.now.closed {
                    continue;
                }
                let found = counted().map(|(_, _, held)| *held).max().unwrap_or_default().value;
                let mut state = state.clone();
                state.node(node).stage = Stage::Owning(ballot, !found.is_none());
                if !found.is_none() {
                    state.send(Message::Accept { ballot, value: found });
                    self.accept(&mut state, node, ballot, found);
                }
                next.push((Step::BecomesOwner { node, promised: set }, self.settle(state)));
            }
        }
    }

    fn propose(&self, state: &State, next: &mut Vec<(Step, State)>) {
        for node in self.proposers.iter() {
            let it = &state.nodes[usize::from(node)];
            let Stage::Owning(ballot, false) = it.stage else { continue };
            if it.now.closed {
                continue;
            }
            let value = Value(Ballot { epoch: it.now.configuration.epoch(), start: it.start, ..ballot });
            let mut state = state.clone();
            state.node(node).stage = Stage::Owning(ballot, true);
            state.send(Message::Accept { ballot, value });
            self.accept(&mut state, node, ballot, value);
            next.push((Step::Proposes { node }, self.settle(state)));
        }
    }

    fn count_or_fetch(&self, state: &State, next: &mut Vec<(Step, State)>) {
        for node in 0..NODES as Node {
            let now = state.nodes[usize::from(node)].now;
            if now.closed {
                continue;
            }
            let ballot = now.held.ballot;
            let same_epoch = ballot.epoch == now.configuration.epoch() || self.has(Bug::BallotsWithoutEpoch);
            if ballot.round > 0 && same_epoch && self.is_quorum(now.configuration, state.accepted_by(ballot)) {
                let mut state = state.clone();
                self.take(&mut state, node, now.held);
                next.push((Step::CountsAQuorum { node, ballot }, self.settle(state)));
            }
            for from in 0..NODES as Node {
                let theirs = state.nodes[usize::from(from)].now;
                if theirs.closed {
                    let mut state = state.clone();
                    self.step_down_below(&mut state, node, theirs.held.ballot);
                    state.node(node).now.held = theirs.held;
                    self.take(&mut state, node, theirs.held);
                    next.push((Step::Fetches { node, from }, self.settle(state)));
                }
            }
        }
    }

    fn tell(&self, state: &State, next: &mut Vec<(Step, State)>) {
        let joint = (!self.has(Bug::NoJointStep)).then_some(Configuration::Joint);
        for configuration in joint.into_iter().chain(state.third) {
            for node in 0..NODES as Node {
                if state.nodes[usize::from(node)].now.configuration.epoch() >= configuration.epoch() {
                    continue;
                }
                let mut state = state.clone();
                let it = state.node(node);
                it.now.configuration = configuration;
                it.stage = match it.stage {
                    Stage::Owning(ballot, proposed) if self.has(Bug::OwnsAfterEpochChange) => {
                        Stage::Owning(Ballot { epoch: configuration.epoch(), ..ballot }, proposed)
                    }
                    _ => Stage::Idle,
                };
                if configuration == Configuration::Joint {
                    self.reply(&mut state, node, Message::Fenced { from: node });
                }
                self.forget_round(&mut state, node);
                next.push((Step::IsTold { node, configuration }, self.settle(state)));
            }
        }
    }

    fn answer_sync_pass(&self, state: &State, next: &mut Vec<(Step, State)>) {
        if state.third.is_some() {
            return;
        }
        for node in self.voters(Configuration::Joint).iter() {
            let now = state.nodes[usize::from(node)].now;
            let may = now.configuration == Configuration::Joint || self.has(Bug::AnswersBeforeFence);
            let message =
                Message::Holds { from: node, closed: now.closed, accepted: now.closed || now.held.ballot.round > 0 };
            if !may || state.has(message) || state.nodes[usize::from(node)].waiting.contains(&message) {
                continue;
            }
            let mut state = state.clone();
            self.reply(&mut state, node, message);
            next.push((Step::AnswersSyncPass { node }, self.settle(state)));
        }
    }

    /// Whether somebody may find the sync pass complete.
    fn pass_is_complete(&self, state: &State) -> bool {
        if self.has(Bug::NoSyncPass) {
            return true;
        }
        let who = |closed_wanted: bool, accepted_wanted: Option<bool>| {
            state.sent.iter().fold(Nodes::NONE, |set, message| match *message {
                Message::Holds { from, closed, accepted }
                    if (closed || !closed_wanted) && accepted_wanted.is_none_or(|wanted| wanted == accepted) =>
                {
                    set.with(from)
                }
                _ => set,
            })
        };
        let (empty, answered, holders) = (who(false, Some(false)), who(false, None), who(true, None));
        let enough = |set: Nodes| {
            if self.has(Bug::SyncFromOne) {
                return set.and(self.old).count() > 0;
            }
            set.is_majority_of(self.old)
        };
        // Either a quorum of the old voters had nothing, or what it had is held by a quorum of the new ones.
        enough(empty) || (enough(answered) && holders.is_majority_of(self.new))
    }

    fn choose_third_epoch(&self, state: &State, next: &mut Vec<(Step, State)>) {
        if state.third.is_some() || !self.is_quorum(Configuration::Joint, state.fenced()) {
            return;
        }
        let drivers = self.voters(Configuration::Joint);
        let by = drivers.iter().find(|node| state.nodes[usize::from(*node)].now.configuration == Configuration::Joint);
        let Some(by) = by else { return };
        let complete = self.pass_is_complete(state);
        let candidates = complete.then_some(Configuration::New).into_iter().chain([Configuration::OldAgain]);
        for configuration in candidates {
            let mut state = state.clone();
            state.third = Some(configuration);
            next.push((Step::ThirdEpochIsChosen { by, configuration }, self.settle(state)));
        }
    }

    fn sync_or_crash(&self, before: &State, next: &mut Vec<(Step, State)>) {
        if before.crashes == self.crashes {
            return;
        }
        for node in 0..NODES as Node {
            let mut state = before.clone();
            self.sync(&mut state, node);
            if state != *before {
                next.push((Step::Syncs { node }, self.settle(state)));
            }
            for keeps_closed in [true, false] {
                let mut state = before.clone();
                let it = state.node(node);
                if !keeps_closed && !it.disk.closed {
                    continue;
                }
                it.disk.closed &= keeps_closed;
                it.now = it.disk;
                it.waiting.clear();
                it.start += 1;
                it.stage = Stage::Idle;
                state.crashes += 1;
                self.forget_round(&mut state, node);
                next.push((Step::Crashes { node, keeps_closed }, self.settle(state)));
            }
        }
    }

    /// Whether what was taken as chosen would be found by every phase 1 that can still succeed, in any epoch.
    fn is_safe_on_disk(&self, state: &State) -> bool {
        let joint = (!self.has(Bug::NoJointStep)).then_some(Configuration::Joint);
        let possible = [Configuration::Old].into_iter().chain(joint).chain(state.third);
        possible.into_iter().all(|configuration| {
            let may_vote = self
                .voters(configuration)
                .iter()
                .filter(|node| state.nodes[usize::from(*node)].disk.configuration.epoch() <= configuration.epoch());
            let may_vote = may_vote.fold(Nodes::NONE, Nodes::with);
            (1..=may_vote.0)
                .map(Nodes)
                .filter(|set| set.and(may_vote) == *set && self.is_quorum(configuration, *set))
                .all(|set| {
                    let disks = || set.iter().map(|node| &state.nodes[usize::from(node)].disk);
                    disks().any(|disk| disk.closed)
                        || disks().map(|disk| disk.held).max().is_some_and(|entry| entry.value == state.taken)
                })
        })
    }
}

impl Model for Epochs {
    type State = State;
    type Step = Step;

    const SIGHTS: &'static [&'static str] = &[
        "something is chosen in the old epoch",
        "something is chosen in the joint epoch",
        "something is chosen in the third epoch",
        "the new voters are in force, and something was chosen before",
        "the old voters are in force again",
        "nodes in three epochs at once",
        "a read returned the slot",
    ];

    fn initial(&self) -> State {
        let node = NodeState { start: 1, ..NodeState::default() };
        State {
            nodes: std::array::from_fn(|_| node.clone()),
            sent: Vec::new(),
            third: self.has(Bug::NoJointStep).then_some(Configuration::New),
            taken: Value::NONE,
            taken_in: 0,
            attempts: 0,
            crashes: 0,
            read: Read::NotBegun,
            broken: None,
        }
    }

    fn steps(&self, state: &State, next: &mut Vec<(Step, State)>) {
        self.begin_phase_one(state, next);
        self.receive(state, next);
        self.become_owner(state, next);
        self.propose(state, next);
        self.count_or_fetch(state, next);
        self.tell(state, next);
        self.answer_sync_pass(state, next);
        self.choose_third_epoch(state, next);
        self.sync_or_crash(state, next);
        self.read_steps(state, next);
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let lost = !state.taken.is_none() && !self.is_safe_on_disk(state);
        let stale = matches!(state.read, Read::Over { stale: true });
        let stale = stale.then_some("a read returns no less than what was known to anybody before it began");
        state.broken.or(stale).or(lost.then_some("nothing acknowledged can be lost, across epochs"))
    }

    fn sights(&self, state: &State) -> u32 {
        let epochs: Vec<u8> = state.nodes.iter().map(|node| node.now.configuration.epoch()).collect();
        let early = matches!(state.taken_in, 1 | 2);
        u32::from(state.taken_in == 1)
            | u32::from(state.taken_in == 2) << 1
            | u32::from(state.taken_in == 3) << 2
            | u32::from(state.third == Some(Configuration::New) && early) << 3
            | u32::from(state.third == Some(Configuration::OldAgain)) << 4
            | u32::from((1..=3).all(|epoch| epochs.contains(&epoch))) << 5
            | u32::from(matches!(state.read, Read::Over { stale: false })) << 6
    }
}
