//! Model 2: quorum reads without logging (rule 5) over the log of model 1, after `crates/consensus/src/log/reader.rs`.
//!
//! | in the model | in the code |
//! |---|---|
//! | a reader begins a round of its own, whenever it likes | `begin_round`: it joins the next one, never one already sent |
//! | a member answers with closed-up-to and its highest durable entry, at any time after the round was sent | `on_read_ask` |
//! | the reader stops at any set of answers that holds a quorum; the barrier comes from those and from who has not answered | `barrier` |
//! | it returns once an answer, or the reader itself, knows the barrier chosen | `complete_rounds` |
//! | until then anybody finishes what stands there | `finish_late_barriers`; the steps of model 1 |
//! | a restarted reader has forgotten its rounds | `begin_round`: the start is in the round's number |
//!
//! **The promise**: a read returns a barrier at or above every slot that was taken as chosen anywhere, and every barrier that a
//! read returned, before it began. Some client may know of all those. With unique operations in slots, that is
//! linearizability of the log's length, and with agreement (model 1) of its content.
//!
//! **Bounds**: those of model 1, and rounds of reads. Readers sit on the first nodes, or on all. **Left out**: a member answers a round once
//! (the first answer counts, and it may come at any time); epochs.

use crate::checker::{bits, Model};
use crate::log::{self, Acceptor, Log};
use crate::words::{Ballot, Node, Nodes, Slot};

/// Rounds of reads; a bound of the arrays.
pub const ROUNDS: usize = 3;

/// A rule broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The lowest answer is the barrier.
    BelievesLowest,
    /// The barrier is what a majority of the answers reaches; who has not answered is left out.
    MajorityOfAnswers,
    /// Fewer answers than a quorum do.
    OneAnswer,
    /// A reader joins a round that was sent before it came.
    JoinsRoundSent,
    /// A restarted reader numbers its rounds as in its earlier start.
    RoundsBeginAgain,
    /// A barrier is returned before it is known chosen.
    BarrierNotFinished,
    /// Answers show acceptances that are not on the disk yet.
    AnswersUnsynced,
}

/// The model with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Reads<const N: usize> {
    /// The log below.
    pub log: Log<N>,
    /// Rounds of reads.
    pub rounds: usize,
    /// The first so many nodes read.
    pub readers: u8,
    /// Whether a reader takes its barrier as chosen if a quorum of the answers names it under one ballot. Rule 1 allows that,
    /// and it is what the ballot in an answer is good for; the code does not do it.
    pub answers_prove: bool,
    /// The rule that is broken.
    pub bug: Option<Bug>,
}

/// What a member says to a reader.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Answer {
    /// Closed-up-to.
    pub closed: Slot,
    /// The highest slot accepted durably; under which ballot, if readers make something of that.
    pub highest: (Slot, Ballot),
}

impl Answer {
    fn reach(&self) -> Slot {
        self.closed.max(self.highest.0)
    }
}

/// A round of reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[allow(missing_docs)]
pub enum Round<const N: usize> {
    #[default]
    NotBegun,
    Sent {
        reader: Node,
        floor: Slot,
        answers: [Option<Answer>; N],
    },
    /// Its reader crashed, and another round has its number (a bug): its answers are still on their way.
    Astray {
        reader: Node,
        answers: [Option<Answer>; N],
    },
    Over,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State<const N: usize> {
    /// The log.
    pub log: log::State<N>,
    /// The reads.
    pub rounds: [Round<N>; ROUNDS],
    /// The highest barrier returned.
    pub returned: Slot,
    /// A read returned less than it had to.
    pub stale: bool,
    /// A barrier was returned that was open when a quorum had answered.
    pub waited: bool,
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Step {
    Log(log::Step),
    ReadBegins { round: usize, reader: Node, floor: Slot },
    ReaderJoins { round: usize, floor: Slot },
    Answers { round: usize, node: Node, answer: Answer },
    ReadReturns { round: usize, counted: Nodes, barrier: Slot },
}

impl<const N: usize> Reads<N> {
    /// The model with these bounds and no bug.
    #[must_use]
    pub fn new(log: Log<N>, rounds: usize) -> Reads<N> {
        assert!(rounds <= ROUNDS);
        Reads { log, rounds, readers: N as u8, answers_prove: false, bug: None }
    }

    /// The same with readers on the first so many nodes only.
    #[must_use]
    pub fn with_readers(self, readers: u8) -> Reads<N> {
        assert!(usize::from(readers) <= N);
        Reads { readers, ..self }
    }

    /// The same with a rule broken.
    #[must_use]
    pub fn with(self, bug: Bug) -> Reads<N> {
        Reads { bug: Some(bug), ..self }
    }

    /// The same with readers that conclude from answers what is chosen.
    #[must_use]
    pub fn with_answers_that_prove(self) -> Reads<N> {
        Reads { answers_prove: true, ..self }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// The rule's barrier: the highest slot for which those that answered with it or a higher one, and those that have not
    /// answered, contain a quorum.
    fn barrier(&self, answers: &[(Node, Answer)]) -> Slot {
        let all = self.log.all();
        let lowest = answers.iter().map(|(_, answer)| answer.reach()).min().unwrap_or(0);
        if self.has(Bug::BelievesLowest) {
            return lowest;
        }
        let answered: Nodes = answers.iter().map(|(node, _)| *node).collect();
        let silent = all.without(answered);
        let reach = |slot: Slot| -> Nodes {
            answers.iter().filter(|(_, answer)| answer.reach() >= slot).map(|(node, _)| *node).collect()
        };
        let may_be_chosen = |slot: &Slot| {
            if self.has(Bug::MajorityOfAnswers) {
                return reach(*slot).is_majority_of(answered);
            }
            reach(*slot).or(silent).is_majority_of(all)
        };
        let highest = answers.iter().map(|(_, answer)| answer.reach()).max().unwrap_or(0);
        (1..=highest).rev().find(may_be_chosen).unwrap_or(0)
    }

    /// Whether a quorum of these answers names the barrier under one ballot.
    fn is_proven(&self, barrier: Slot, answers: &[(Node, Answer)]) -> bool {
        self.answers_prove
            && answers.iter().any(|(_, one)| {
                let same = answers.iter().filter(|(_, other)| other.highest == one.highest);
                let same: Nodes = same.map(|(node, _)| *node).collect();
                one.highest.0 == barrier && same.is_majority_of(self.log.all())
            })
    }

    fn answer(&self, state: &State<N>, node: Node) -> Answer {
        let it = state.log.cluster.node(node);
        let shown: &Acceptor = if self.has(Bug::AnswersUnsynced) { &it.now } else { &it.disk };
        let highest = shown.highest();
        let told = highest > 0 && self.answers_prove;
        let ballot = if told { shown.entry(highest).ballot } else { Ballot::ZERO };
        Answer { closed: it.now.closed, highest: (highest, ballot) }
    }

    fn log_steps(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        let mut steps = Vec::new();
        self.log.steps(&state.log, &mut steps);
        for (step, log) in steps {
            let mut state = State { log, ..state.clone() };
            if let log::Step::Crashes { node, .. } = step {
                for round in &mut state.rounds {
                    match *round {
                        Round::Sent { reader, answers, .. } if reader == node => {
                            let again = self.has(Bug::RoundsBeginAgain);
                            *round = if again { Round::Astray { reader, answers } } else { Round::Over };
                        }
                        _ => {}
                    }
                }
            }
            next.push((Step::Log(step), state));
        }
    }

    fn begin(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        let floor = state.log.acknowledged().max(state.returned);
        let begun = |number: usize, reader: Node, answers| {
            let mut state = state.clone();
            state.rounds[number] = Round::Sent { reader, floor, answers };
            (Step::ReadBegins { round: number, reader, floor }, state)
        };
        for (number, round) in state.rounds[..self.rounds].iter().enumerate() {
            match *round {
                Round::NotBegun => {
                    next.extend((0..self.readers).map(|reader| begun(number, reader, [None; N])));
                    return;
                }
                Round::Astray { reader, answers } => next.push(begun(number, reader, answers)),
                Round::Sent { reader, answers, floor: before } if self.has(Bug::JoinsRoundSent) && floor > before => {
                    let mut state = state.clone();
                    state.rounds[number] = Round::Sent { reader, floor, answers };
                    next.push((Step::ReaderJoins { round: number, floor }, state));
                }
                _ => {}
            }
        }
    }

    fn answer_rounds(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for (number, round) in state.rounds.iter().enumerate() {
            let Round::Sent { answers, .. } = round else { continue };
            for node in (0..N as Node).filter(|node| answers[usize::from(*node)].is_none()) {
                let answer = self.answer(state, node);
                let mut state = state.clone();
                let Round::Sent { answers, .. } = &mut state.rounds[number] else { unreachable!("it was sent") };
                answers[usize::from(node)] = Some(answer);
                next.push((Step::Answers { round: number, node, answer }, state));
            }
        }
    }

    fn return_barriers(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        for (number, round) in state.rounds.iter().enumerate() {
            let Round::Sent { reader, floor, answers } = *round else { continue };
            let known_here = state.log.cluster.node(reader).now.closed;
            for counted in self.log.all().subsets() {
                if !counted.is_majority_of(self.log.all()) && !self.has(Bug::OneAnswer) {
                    continue;
                }
                let answers: Option<Vec<(Node, Answer)>> =
                    counted.iter().map(|node| answers[usize::from(node)].map(|answer| (node, answer))).collect();
                let Some(answers) = answers else { continue };
                let barrier = self.barrier(&answers);
                let told = answers.iter().map(|(_, answer)| answer.closed).max().unwrap_or(0);
                let is_known = barrier <= told.max(known_here) || self.is_proven(barrier, &answers);
                if !is_known && !self.has(Bug::BarrierNotFinished) {
                    continue;
                }
                let mut state = state.clone();
                state.rounds[number] = Round::Over;
                state.stale = barrier < floor;
                state.waited |= barrier > told;
                state.returned = state.returned.max(barrier);
                next.push((Step::ReadReturns { round: number, counted, barrier }, state));
            }
        }
    }
}

impl<const N: usize> Model for Reads<N> {
    type State = State<N>;
    type Step = Step;

    const SIGHTS: &'static [&'static str] = &[
        "a read returned a barrier above zero",
        "a read returned a barrier that no answer knew chosen",
        "a read is under way while something was chosen after it began",
        "members answered one round differently",
    ];

    fn initial(&self) -> State<N> {
        State { log: self.log.initial(), rounds: [Round::NotBegun; ROUNDS], returned: 0, stale: false, waited: false }
    }

    fn steps(&self, state: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        self.log_steps(state, next);
        self.begin(state, next);
        self.answer_rounds(state, next);
        self.return_barriers(state, next);
    }

    fn broken(&self, state: &State<N>) -> Option<&'static str> {
        if state.stale {
            return Some("a read returns no less than what was known to anybody before it began");
        }
        self.log.broken(&state.log)
    }

    fn sights(&self, state: &State<N>) -> u32 {
        let late = state
            .rounds
            .iter()
            .any(|round| matches!(round, Round::Sent { floor, .. } if state.log.acknowledged() > *floor));
        let differ = state.rounds.iter().any(|round| match round {
            Round::Sent { answers, .. } => {
                let reaches = || answers.iter().flatten().map(Answer::reach);
                reaches().min() != reaches().max()
            }
            _ => false,
        });
        bits(&[state.returned > 0, state.waited, late, differ])
    }
}
