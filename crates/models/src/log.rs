//! Model 1: the log with owner fast path (rules 1 to 4), after `crates/consensus/src/log`.
//!
//! | in the model | in the code |
//! |---|---|
//! | a proposer takes the next round above what it promised, its start in the ballot | `start_phase_one` |
//! | promises cover every open slot and carry closed-up-to and all accepted entries above it | `on_prepare` |
//! | a quorum of promises, nothing closed that the proposer does not know: highest ballot wins, gaps become no-ops | `findings`, `become_owner` |
//! | an owner goes on without phase 1 until it hears of a higher ballot or restarts | `propose_queued`, `step_down_below` |
//! | acceptances and promises go out with the sync | `send_when_durable` |
//! | whoever counts a quorum of acceptances under the ballot of its own entry closes the slot and says so | `on_accepted`, `on_finish_accepted` |
//! | notices name a ballot and count for entries under that very ballot | `take_chosen` |
//! | a member behind copies what another has closed, with its ballot | `learn` |
//!
//! *Finishing* needs no step of its own: the accept to send again is in the network already, and acceptances are counted by
//! anybody. A true notice does what counting does; only those stay messages whose range reaches beyond what was chosen under
//! their ballot. A proposer's own acceptor takes its messages at once, as in the code.
//!
//! **Bounds**: nodes, of which the first few propose; slots; rounds; attempts (phase 1 begun) and crashes over all nodes. When
//! no crash is left, a sync follows every step, as nothing can tell the difference any more. **Left out**: damage (rule 9),
//! trimming and copies of state, batches (each slot is a message), the same operation in two slots (rule 10), promises
//! answered twice under one ballot, fetches under way (a copy between two members is one step), epochs (model 3). Contents do
//! not matter: every proposal is a new value.

use crate::checker::Model;
use crate::words::{Ballot, Entry, Node, Nodes, Slot, Value};

/// Room for slots; a bound of the arrays, not of the searches.
pub const SLOTS: usize = 3;

/// A rule broken on purpose. Those of `consensus::SeededBug` that concern the log have their names here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Rule 1: equal values under different ballots count as a quorum.
    EqualValuesAreChosen,
    /// Rule 1: a notice counts for an own entry under any ballot.
    ChosenUnderAnyBallot,
    /// Rule 2: the values found in phase 1 are forgotten.
    PhaseOneForgets,
    /// Rule 2: of the values found in phase 1 the one of the lowest ballot is taken.
    PhaseOneTakesLowest,
    /// Rule 2: what an answer says is closed is not learnt before phase 2.
    PhaseOneIgnoresClosed,
    /// Rule 2: the value found is taken as chosen without phase 2 under the new ballot.
    FoundMeansChosen,
    /// Rule 3: replies leave before their records are durable.
    ReplyBeforeDurable,
    /// Rule 3: a promise is answered and never written down.
    PromiseNotWritten,
    /// Rule 4: a restarted node uses the ballots of its earlier start.
    BallotsWithoutStart,
    /// Rule 4: an owner wrote down that it was one, and goes on under its ballot after a restart.
    OwnsAfterRestart,
    /// Rule 4: an acceptor takes what is below its promise.
    AcceptsBelowPromise,
}

/// The model with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Log<const N: usize> {
    /// A quorum holds a majority of each of these: twice all nodes, or the old and the new voters of a joint epoch.
    pub majorities_of: [Nodes; 2],
    /// The first so many nodes propose.
    pub proposers: u8,
    /// Slots that are proposed.
    pub slots: u8,
    /// The highest round.
    pub rounds: u8,
    /// How often phase 1 is begun, over all nodes.
    pub attempts: u8,
    /// Crashes, over all nodes.
    pub crashes: u8,
    /// The rule that is broken.
    pub bug: Option<Bug>,
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Message {
    Prepare { ballot: Ballot },
    Promise { ballot: Ballot, from: Node, closed: Slot, held: [Entry; SLOTS] },
    Accept { ballot: Ballot, slot: Slot, value: Value },
    Accepted { ballot: Ballot, slot: Slot, from: Node, value: Value },
    Chosen { ballot: Ballot, first: Slot, last: Slot },
}

/// What an acceptor keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Acceptor {
    /// Highest promise.
    pub promised: Ballot,
    /// Accepted entries by slot.
    pub held: [Entry; SLOTS],
    /// Closed-up-to.
    pub closed: Slot,
}

impl Acceptor {
    /// The entry of a slot.
    #[must_use]
    pub fn entry(&self, slot: Slot) -> Entry {
        self.held[usize::from(slot) - 1]
    }

    /// The highest slot that holds an entry.
    #[must_use]
    pub fn highest(&self) -> Slot {
        (1..=SLOTS as Slot).rev().find(|slot| self.entry(*slot).ballot != Ballot::ZERO).unwrap_or(0)
    }
}

/// What a proposer does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[allow(missing_docs)]
pub enum Stage {
    #[default]
    Idle,
    Preparing {
        ballot: Ballot,
    },
    Owning {
        ballot: Ballot,
        base: Slot,
        next: Slot,
    },
}

impl Stage {
    fn ballot(self) -> Ballot {
        match self {
            Stage::Idle => Ballot::ZERO,
            Stage::Preparing { ballot } | Stage::Owning { ballot, .. } => ballot,
        }
    }
}

/// One node.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct NodeState {
    /// As it answers.
    pub now: Acceptor,
    /// As it would be after a crash.
    pub disk: Acceptor,
    /// Replies that wait for the disk.
    pub waiting: Vec<Message>,
    /// Counts its starts, from 1.
    pub start: u8,
    /// Its proposer.
    pub stage: Stage,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State<const N: usize> {
    /// The nodes.
    pub nodes: [NodeState; N],
    /// Everything ever sent, in order of content.
    pub sent: Vec<Message>,
    /// What was first taken as chosen in each slot, anywhere: it may have been acknowledged.
    pub taken: [Value; SLOTS],
    /// Phase 1 begun so often.
    pub attempts: u8,
    /// Crashes so far.
    pub crashes: u8,
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
    Proposes { node: Node, slot: Slot },
    CountsAQuorum { node: Node, slot: Slot, ballot: Ballot },
    Fetches { node: Node, from: Node },
    Syncs { node: Node },
    Crashes { node: Node, keeps_closed: bool },
}

impl<const N: usize> State<N> {
    pub(crate) fn send(&mut self, message: Message) -> bool {
        match self.sent.binary_search(&message) {
            Ok(_) => false,
            Err(at) => {
                self.sent.insert(at, message);
                true
            }
        }
    }

    fn node(&mut self, node: Node) -> &mut NodeState {
        &mut self.nodes[usize::from(node)]
    }

    /// The highest slot that somebody may have been told of.
    #[must_use]
    pub fn acknowledged(&self) -> Slot {
        (1..=SLOTS as Slot).rev().find(|slot| !self.taken[usize::from(*slot) - 1].is_none()).unwrap_or(0)
    }

    /// Who accepted this in this slot under this ballot, durably.
    fn accepted_by(&self, ballot: Ballot, slot: Slot) -> Nodes {
        self.sent.iter().fold(Nodes::NONE, |set, message| match message {
            Message::Accepted { ballot: under, slot: at, from, .. } if (*under, *at) == (ballot, slot) => {
                set.with(*from)
            }
            _ => set,
        })
    }
}

impl<const N: usize> Log<N> {
    /// The model with these bounds and no bug.
    #[must_use]
    pub fn new(proposers: u8, slots: u8, rounds: u8, attempts: u8, crashes: u8) -> Log<N> {
        assert!(usize::from(slots) <= SLOTS && usize::from(proposers) <= N);
        Log { majorities_of: [Nodes::below(N as u8); 2], proposers, slots, rounds, attempts, crashes, bug: None }
    }

    /// The same with the quorums of a joint epoch. With one slot that is the control log deciding the epoch after it: two
    /// members may want different ones, and only one may be chosen (rule 6).
    #[must_use]
    pub fn joint(self, old: &[Node], new: &[Node]) -> Log<N> {
        Log { majorities_of: [Nodes::of(old), Nodes::of(new)], ..self }
    }

    /// The same with a rule broken.
    #[must_use]
    pub fn with(self, bug: Bug) -> Log<N> {
        Log { bug: Some(bug), ..self }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(crate) fn all(&self) -> Nodes {
        Nodes::below(N as u8)
    }

    fn is_quorum(&self, set: Nodes) -> bool {
        self.majorities_of.iter().all(|voters| set.is_majority_of(*voters))
    }

    fn quorums(&self) -> impl Iterator<Item = Nodes> + '_ {
        (1..=self.all().0).map(Nodes).filter(|set| self.is_quorum(*set))
    }

    /// The state after a step: what cannot matter any more is made equal.
    fn settle(&self, mut state: State<N>) -> State<N> {
        if state.crashes == self.crashes {
            for node in 0..N as Node {
                self.sync(&mut state, node);
            }
        }
        if !self.has(Bug::BallotsWithoutStart) && !self.has(Bug::AcceptsBelowPromise) {
            self.drop_dead_messages(&mut state);
        }
        state
    }

    /// Messages that can change nothing any more, whenever they arrive: promises that their proposer does not wait for, what
    /// every acceptor has answered or will refuse.
    fn drop_dead_messages(&self, state: &mut State<N>) {
        let State { nodes, sent, .. } = state;
        let waits = |ballot: Ballot| nodes[usize::from(ballot.node)].stage == Stage::Preparing { ballot };
        let answered = |ballot: Ballot, node: usize, sent: &[Message]| {
            sent.iter().any(|message| matches!(message, Message::Promise { ballot: under, from, .. } if (*under, usize::from(*from)) == (ballot, node)))
        };
        let acked = |ballot: Ballot, slot: Slot, node: usize, sent: &[Message]| {
            sent.iter().any(|message| matches!(message, Message::Accepted { ballot: under, slot: at, from, .. } if (*under, *at, usize::from(*from)) == (ballot, slot, node)))
        };
        let is_dead = |message: &Message, sent: &[Message]| match *message {
            Message::Promise { ballot, .. } => !waits(ballot),
            Message::Prepare { ballot } => nodes.iter().enumerate().all(|(number, node)| {
                node.disk.promised > ballot
                    || (node.disk.promised == ballot && (!waits(ballot) || answered(ballot, number, sent)))
            }),
            Message::Accept { ballot, slot, .. } => nodes
                .iter()
                .enumerate()
                .all(|(number, node)| node.disk.promised > ballot || acked(ballot, slot, number, sent)),
            Message::Accepted { .. } | Message::Chosen { .. } => false,
        };
        let dead: Vec<usize> = (0..sent.len()).filter(|at| is_dead(&sent[*at], sent)).collect();
        for at in dead.into_iter().rev() {
            sent.remove(at);
        }
        for number in 0..N {
            let waiting = std::mem::take(&mut state.nodes[number].waiting);
            let useful = |message: &Message| match *message {
                Message::Promise { ballot, .. } => {
                    state.nodes[usize::from(ballot.node)].stage == Stage::Preparing { ballot }
                }
                _ => true,
            };
            let kept = if waiting.iter().all(useful) { waiting } else { waiting.into_iter().filter(useful).collect() };
            state.nodes[number].waiting = kept;
        }
    }

    fn sync(&self, state: &mut State<N>, node: Node) {
        let forgets_promises = self.has(Bug::PromiseNotWritten);
        let it = state.node(node);
        let accepted = it.now.held.iter().map(|entry| entry.ballot).max().unwrap_or_default();
        let promised = if forgets_promises { accepted } else { it.now.promised };
        it.disk.promised = it.disk.promised.max(promised);
        it.disk.closed = it.now.closed;
        for (disk, now) in it.disk.held.iter_mut().zip(it.now.held) {
            // As `RecoveredLog::accept` does: what was learnt under a lower ballot does not replace what was accepted.
            *disk = (*disk).max(now);
        }
        for message in std::mem::take(&mut it.waiting) {
            state.send(message);
        }
    }

    fn reply(&self, state: &mut State<N>, node: Node, message: Message) {
        if self.has(Bug::ReplyBeforeDurable) {
            state.send(message);
            return;
        }
        let waiting = &mut state.node(node).waiting;
        if let Err(at) = waiting.binary_search(&message) {
            waiting.insert(at, message);
        }
    }

    fn step_down_below(&self, state: &mut State<N>, node: Node, ballot: Ballot) {
        let it = state.node(node);
        if it.stage.ballot() < ballot {
            it.stage = Stage::Idle;
        }
    }

    /// Takes a slot as chosen; the promises of the log are judged here.
    fn take(&self, state: &mut State<N>, slot: Slot, value: Value) {
        let is_chosen = state.sent.iter().any(|message| match message {
            Message::Accepted { ballot, slot: at, value: accepted, .. } if (*at, *accepted) == (slot, value) => {
                self.is_quorum(state.accepted_by(*ballot, slot))
            }
            _ => false,
        });
        if !is_chosen {
            state.broken = Some("a member takes as chosen only what is chosen");
        }
        let taken = &mut state.taken[usize::from(slot) - 1];
        if taken.is_none() {
            *taken = value;
        } else if *taken != value {
            state.broken = Some("agreement: one value per slot");
        }
    }

    /// Closed-up-to moves at a node that holds what is chosen there.
    fn close(&self, state: &mut State<N>, node: Node, slot: Slot) {
        let before = state.node(node).now.closed;
        for closed in before + 1..=slot {
            let value = state.node(node).now.entry(closed).value;
            self.take(state, closed, value);
        }
        let it = state.node(node);
        it.now.closed = slot;
        if let Stage::Owning { ballot, base, next } = &mut it.stage {
            *next = (*next).max(slot + 1);
            let (ballot, first) = (*ballot, *base);
            let is_redundant = |slot| self.is_quorum(state.accepted_by(ballot, slot));
            if slot >= first && (self.has(Bug::ChosenUnderAnyBallot) || !(first..=slot).all(is_redundant)) {
                state.send(Message::Chosen { ballot, first, last: slot });
            }
        }
    }

    fn begin_phase_one(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        if state.attempts == self.attempts {
            return;
        }
        let heard = state.sent.iter().filter_map(|message| match message {
            Message::Prepare { ballot } => Some(*ballot),
            _ => None,
        });
        let promised = state.nodes.iter().map(|node| node.now.promised);
        let highest = heard.chain(promised).max().unwrap_or_default();
        for node in 0..self.proposers {
            let it = &state.nodes[usize::from(node)];
            if it.stage != Stage::Idle && it.stage.ballot() >= highest {
                continue;
            }
            let known = it.now.promised.max(it.stage.ballot());
            for round in known.round + 1..=self.rounds.min(highest.round + 1) {
                let start = if self.has(Bug::BallotsWithoutStart) { 1 } else { it.start };
                let ballot = Ballot { epoch: 1, round, node, start };
                let mut state = state.clone();
                state.attempts += 1;
                state.node(node).stage = Stage::Preparing { ballot };
                state.send(Message::Prepare { ballot });
                self.promise(&mut state, node, ballot);
                next.push((Step::BeginsPhaseOne { node, ballot }, self.settle(state)));
            }
        }
    }

    /// Phase 1 at an acceptor; false if there is nothing to answer.
    fn promise(&self, state: &mut State<N>, node: Node, ballot: Ballot) -> bool {
        let answered = |message: &Message| matches!(message, Message::Promise { ballot: under, from, .. } if (*under, *from) == (ballot, node));
        let once = !self.has(Bug::BallotsWithoutStart);
        if once && (state.sent.iter().any(answered) || state.node(node).waiting.iter().any(answered)) {
            return false;
        }
        let it = state.node(node);
        if ballot < it.now.promised {
            return false;
        }
        it.now.promised = ballot;
        let closed = it.now.closed;
        let mut held = it.now.held;
        held[..usize::from(closed)].fill(Entry::default());
        self.step_down_below(state, node, ballot);
        let message = Message::Promise { ballot, from: node, closed, held };
        if state.sent.binary_search(&message).is_ok() {
            return false;
        }
        self.reply(state, node, message);
        true
    }

    /// Phase 2 at an acceptor; false if nothing comes of it.
    fn accept(&self, state: &mut State<N>, node: Node, ballot: Ballot, slot: Slot, value: Value) -> bool {
        let it = state.node(node);
        if ballot < it.now.promised && !self.has(Bug::AcceptsBelowPromise) {
            return false;
        }
        let held = it.now.entry(slot);
        let again = held.ballot == ballot;
        if again && held.value != value {
            // Two values under one ballot: the code stops the node.
            return false;
        }
        if !again && slot <= it.now.closed {
            return false;
        }
        let message = Message::Accepted { ballot, slot, from: node, value };
        if again && (it.waiting.contains(&message) || state.sent.binary_search(&message).is_ok()) {
            return false;
        }
        let it = state.node(node);
        it.now.promised = it.now.promised.max(ballot);
        it.now.held[usize::from(slot) - 1] = Entry { ballot, value };
        self.step_down_below(state, node, ballot);
        self.reply(state, node, message);
        true
    }

    fn propose(&self, state: &mut State<N>, node: Node, ballot: Ballot, slot: Slot, value: Value) {
        state.send(Message::Accept { ballot, slot, value });
        self.accept(state, node, ballot, slot, value);
    }

    fn receive(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for node in 0..N as Node {
            for message in &state.sent {
                let now = &state.nodes[usize::from(node)].now;
                let is_news = match *message {
                    Message::Prepare { ballot } => ballot.node != node && ballot >= now.promised,
                    Message::Accept { ballot, slot, .. } => {
                        let again = now.entry(slot).ballot == ballot;
                        (ballot >= now.promised || self.has(Bug::AcceptsBelowPromise)) && (again || slot > now.closed)
                    }
                    Message::Chosen { first, last, .. } => first <= now.closed + 1 && last > now.closed,
                    Message::Promise { .. } | Message::Accepted { .. } => false,
                };
                if !is_news {
                    continue;
                }
                let mut reached = state.clone();
                let counts = match *message {
                    Message::Prepare { ballot } => ballot.node != node && self.promise(&mut reached, node, ballot),
                    Message::Accept { ballot, slot, value } => self.accept(&mut reached, node, ballot, slot, value),
                    Message::Chosen { ballot, first, last } => self.notice(&mut reached, node, ballot, first, last),
                    Message::Promise { .. } | Message::Accepted { .. } => false,
                };
                if counts {
                    next.push((Step::Receives { node, message: *message }, self.settle(reached)));
                }
            }
        }
    }

    /// A chosen notice; false if it tells nothing new.
    fn notice(&self, state: &mut State<N>, node: Node, ballot: Ballot, first: Slot, last: Slot) -> bool {
        let it = state.node(node);
        let mut closed = it.now.closed;
        if first > closed + 1 {
            return false;
        }
        for slot in closed + 1..=last {
            let held = it.now.entry(slot);
            let other_ballot = held.ballot != ballot && !self.has(Bug::ChosenUnderAnyBallot);
            if held.value.is_none() || other_ballot {
                break;
            }
            closed = slot;
        }
        if closed == it.now.closed {
            return false;
        }
        self.step_down_below(state, node, ballot);
        self.close(state, node, closed);
        true
    }

    fn become_owner(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for node in 0..self.proposers {
            let it = &state.nodes[usize::from(node)];
            let Stage::Preparing { ballot } = it.stage else { continue };
            let promises: Vec<&Message> = state
                .sent
                .iter()
                .filter(|message| matches!(message, Message::Promise { ballot: under, .. } if *under == ballot))
                .collect();
            for set in self.quorums() {
                for counted in one_of_each(set, &promises) {
                    if let Some(state) = self.owner_with(state, node, ballot, &counted) {
                        next.push((Step::BecomesOwner { node, promised: set }, self.settle(state)));
                    }
                }
            }
        }
    }

    /// Phase 1 is done with these promises; none if there is something to learn first, or two values under one ballot.
    fn owner_with(&self, state: &State<N>, node: Node, ballot: Ballot, counted: &[&Message]) -> Option<State<N>> {
        let closed = state.nodes[usize::from(node)].now.closed;
        let mut found = [Entry::default(); SLOTS];
        for message in counted {
            let Message::Promise { closed: theirs, held, .. } = message else {
                unreachable!("only promises are counted")
            };
            if *theirs > closed && !self.has(Bug::PhaseOneIgnoresClosed) {
                return None;
            }
            for (known, entry) in found.iter_mut().zip(held) {
                if known.ballot == entry.ballot && known.value != entry.value {
                    return None;
                }
                let lower = self.has(Bug::PhaseOneTakesLowest)
                    && known.ballot != Ballot::ZERO
                    && entry.ballot != Ballot::ZERO
                    && entry.ballot < known.ballot;
                if lower
                    || (entry.ballot > known.ballot && !self.has(Bug::PhaseOneTakesLowest))
                    || known.value.is_none()
                {
                    *known = *entry;
                }
            }
        }
        if self.has(Bug::PhaseOneForgets) {
            found = [Entry::default(); SLOTS];
        }
        let mut state = state.clone();
        let base = closed + 1;
        let highest = (base..=SLOTS as Slot).rev().find(|slot| !found[usize::from(*slot) - 1].value.is_none());
        let last = highest.unwrap_or(closed);
        state.node(node).stage = Stage::Owning { ballot, base, next: last + 1 };
        for slot in base..=last {
            let value = found[usize::from(slot) - 1].value;
            let value = if value.is_none() { Value::NO_OP } else { value };
            self.propose(&mut state, node, ballot, slot, value);
            if self.has(Bug::FoundMeansChosen) {
                self.close(&mut state, node, slot);
            }
        }
        Some(state)
    }

    fn propose_new(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for node in 0..self.proposers {
            let it = &state.nodes[usize::from(node)];
            let Stage::Owning { ballot, base, next: slot } = it.stage else { continue };
            if slot > self.slots {
                continue;
            }
            let value = Value(Ballot { start: it.start, ..ballot });
            let mut state = state.clone();
            state.node(node).stage = Stage::Owning { ballot, base, next: slot + 1 };
            self.propose(&mut state, node, ballot, slot, value);
            next.push((Step::Proposes { node, slot }, self.settle(state)));
        }
    }

    /// An owner, or whoever finishes, sees that the entry it holds was accepted by a quorum.
    fn count(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for node in 0..N as Node {
            let it = &state.nodes[usize::from(node)];
            let slot = it.now.closed + 1;
            if slot > self.slots {
                continue;
            }
            let held = it.now.entry(slot);
            if held.value.is_none() || !self.is_quorum(self.supporters(state, slot, held)) {
                continue;
            }
            let mut state = state.clone();
            self.close(&mut state, node, slot);
            next.push((Step::CountsAQuorum { node, slot, ballot: held.ballot }, self.settle(state)));
        }
    }

    fn supporters(&self, state: &State<N>, slot: Slot, held: Entry) -> Nodes {
        if !self.has(Bug::EqualValuesAreChosen) {
            return state.accepted_by(held.ballot, slot);
        }
        state.sent.iter().fold(Nodes::NONE, |set, message| match message {
            Message::Accepted { slot: at, from, value, .. } if (*at, *value) == (slot, held.value) => set.with(*from),
            _ => set,
        })
    }

    fn fetch(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for node in 0..N as Node {
            for from in 0..N as Node {
                let (mine, theirs) = (state.nodes[usize::from(node)].now.closed, state.nodes[usize::from(from)].now);
                if theirs.closed <= mine {
                    continue;
                }
                let mut state = state.clone();
                let range = usize::from(mine)..usize::from(theirs.closed);
                let highest = theirs.held[range.clone()].iter().map(|entry| entry.ballot).max().unwrap_or_default();
                self.step_down_below(&mut state, node, highest);
                state.node(node).now.held[range.clone()].copy_from_slice(&theirs.held[range]);
                self.close(&mut state, node, theirs.closed);
                next.push((Step::Fetches { node, from }, self.settle(state)));
            }
        }
    }

    fn sync_or_crash(&self, before: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        let state = before;
        if state.crashes == self.crashes {
            return;
        }
        for node in 0..N as Node {
            let it = &state.nodes[usize::from(node)];
            if !it.waiting.is_empty() || it.now != it.disk {
                let mut state = state.clone();
                self.sync(&mut state, node);
                if state != *before {
                    next.push((Step::Syncs { node }, state));
                }
            }
            for keeps_closed in [true, false] {
                if !keeps_closed && it.disk.closed == 0 {
                    continue;
                }
                let state = self.crashed(state, node, keeps_closed);
                next.push((Step::Crashes { node, keeps_closed }, self.settle(state)));
            }
        }
    }

    fn crashed(&self, state: &State<N>, node: Node, keeps_closed: bool) -> State<N> {
        let mut state = state.clone();
        state.crashes += 1;
        let it = state.node(node);
        let owned = self.has(Bug::OwnsAfterRestart) && matches!(it.stage, Stage::Owning { .. });
        let ballot = it.stage.ballot();
        if !keeps_closed {
            it.disk.closed = 0;
        }
        it.now = it.disk;
        it.waiting.clear();
        it.start += 1;
        let base = it.disk.closed + 1;
        it.stage = if owned { Stage::Owning { ballot, base, next: base } } else { Stage::Idle };
        state
    }

    /// Whether everything that was taken as chosen would be found by every phase 1, whoever crashes now.
    fn is_safe_on_disk(&self, state: &State<N>) -> bool {
        (1..=self.slots).zip(state.taken).filter(|(_, taken)| !taken.is_none()).all(|(slot, taken)| {
            self.quorums().all(|set| {
                let disks = || set.iter().map(|node| &state.nodes[usize::from(node)].disk);
                let is_closed = disks().any(|disk| disk.closed >= slot);
                is_closed || disks().map(|disk| disk.entry(slot)).max().is_some_and(|entry| entry.value == taken)
            })
        })
    }
}

/// Every way to count one of these promises from each of these nodes.
fn one_of_each<'a>(set: Nodes, promises: &[&'a Message]) -> Vec<Vec<&'a Message>> {
    set.iter().fold(vec![Vec::new()], |ways, node| {
        let from = |message: &&Message| matches!(message, Message::Promise { from, .. } if *from == node);
        ways.iter()
            .flat_map(|way| promises.iter().copied().filter(from).map(|message| [&way[..], &[message]].concat()))
            .collect()
    })
}

impl<const N: usize> Model for Log<N> {
    type State = State<N>;
    type Step = Step;

    const SIGHTS: &'static [&'static str] = &[
        "something is chosen",
        "something is chosen under another ballot than it was first proposed under",
        "two entries accepted in one slot",
        "an owner that has heard nothing of the next one",
        "a member that knows chosen what the others do not",
    ];

    fn initial(&self) -> State<N> {
        let node = NodeState { start: 1, ..NodeState::default() };
        State {
            nodes: std::array::from_fn(|_| node.clone()),
            sent: Vec::new(),
            taken: [Value::NONE; SLOTS],
            attempts: 0,
            crashes: 0,
            broken: None,
        }
    }

    fn steps(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        self.begin_phase_one(state, next);
        self.receive(state, next);
        self.become_owner(state, next);
        self.propose_new(state, next);
        self.count(state, next);
        self.fetch(state, next);
        self.sync_or_crash(state, next);
    }

    fn broken(&self, state: &State<N>) -> Option<&'static str> {
        state.broken.or_else(|| (!self.is_safe_on_disk(state)).then_some("nothing acknowledged can be lost"))
    }

    fn sights(&self, state: &State<N>) -> u32 {
        let entries = |slot: usize| {
            let held = state.nodes.iter().map(move |node| node.now.held[slot].value);
            held.filter(|value| !value.is_none())
        };
        let two = (0..SLOTS).any(|slot| entries(slot).any(|one| entries(slot).any(|other| one != other)));
        let owners = state.nodes.iter().filter(|node| matches!(node.stage, Stage::Owning { .. })).count();
        let carried = state.sent.iter().any(|message| {
            matches!(message, Message::Accepted { ballot, value, slot, .. }
                if value.0.node != ballot.node && self.is_quorum(state.accepted_by(*ballot, *slot)))
        });
        let closed = || state.nodes.iter().map(|node| node.now.closed);
        u32::from(state.acknowledged() > 0)
            | u32::from(carried) << 1
            | u32::from(two) << 2
            | u32::from(owners > 1) << 3
            | u32::from(closed().filter(|closed| *closed > 0).count() == 1) << 4
    }
}
