//! Breadth-first search over everything that a small model can do, to its end or to the shortest way into a broken state.
//!
//! The same search as TLC's and stateright's. `docs/decisions/0004-models.md` says why it is our own: what it needs is below,
//! and nothing of a web server. A state is known again by 128 bits of its hash, so that two of a billion states are taken for
//! one with a probability below 10^-20.

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_128;

/// A protocol, small enough to try everything.
pub trait Model {
    /// All of it: nodes, disks, what is on the network, and what must not be forgotten to judge it.
    type State: Clone + Hash;
    /// What happens between two states, for people.
    type Step: Debug;

    /// What must be seen at least once in a complete search: otherwise the model is too poor to prove anything.
    const SIGHTS: &'static [&'static str];

    /// Where it begins.
    fn initial(&self) -> Self::State;

    /// Everything that can happen next.
    fn steps(&self, state: &Self::State, next: &mut Vec<(Self::Step, Self::State)>);

    /// Which promise is broken in this state.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;

    /// Which of [`Model::SIGHTS`] this state shows, one bit each; [`bits`] makes them.
    fn sights(&self, state: &Self::State) -> u32;

    /// The state that stands for this one and for all that differ from it only in the names of interchangeable nodes.
    fn representative(&self, state: Self::State) -> Self::State {
        state
    }
}

/// One bit each, the first one lowest.
#[must_use]
pub fn bits(shown: &[bool]) -> u32 {
    (0..).zip(shown).fold(0, |bits, (at, shown)| bits | u32::from(*shown) << at)
}

/// How a search ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every state was reached, and no promise is broken in any.
    Complete,
    /// The shortest way into a state that breaks a promise.
    Broken {
        /// Which promise.
        promise: &'static str,
        /// What happened, step by step.
        steps: Vec<String>,
    },
    /// It ran into its limit of states; nothing was found as far as it got.
    Stopped,
}

/// What a search saw.
#[derive(Debug, Clone)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps from the beginning to the farthest of them.
    pub depth: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// Of [`Model::SIGHTS`], those that no state showed.
    pub unseen: Vec<&'static str>,
}

impl Report {
    /// Panics unless every state was reached, none was broken, and everything that should be seen was seen.
    pub fn assert_holds(&self) {
        assert!(self.outcome == Outcome::Complete, "{self}");
        assert!(self.unseen.is_empty(), "the model is too poor: never seen: {:?}", self.unseen);
    }

    /// Panics unless a way into a broken state was found.
    pub fn assert_broken(&self) {
        assert!(matches!(self.outcome, Outcome::Broken { .. }), "the model does not see the broken rule: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} states, depth {}, {:.1} s: ", self.states, self.depth, self.elapsed.as_secs_f64())?;
        match &self.outcome {
            Outcome::Complete => write!(out, "complete"),
            Outcome::Stopped => write!(out, "stopped at its limit"),
            Outcome::Broken { promise, steps } => {
                write!(out, "broken: {promise}")?;
                for (number, step) in (1..).zip(steps) {
                    write!(out, "\n  {number:>3}. {step}")?;
                }
                Ok(())
            }
        }
    }
}

/// The bytes of a state, as its `Hash` gives them.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("only the bytes are wanted")
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only fingerprints are hashed")
    }

    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// How a state was first reached: from which, by which of its steps.
#[derive(Clone, Copy)]
struct Origin {
    parent: u32,
    step: u16,
}

/// A search under way.
pub struct Checker<'model, M: Model> {
    model: &'model M,
    seen: HashSet<u128, BuildHasherDefault<AsItIs>>,
    origins: Vec<Origin>,
    bytes: Bytes,
    sights: u32,
    begun: Instant,
}

/// Searches a model to its end, to a broken state, or to this many states.
pub fn search<M: Model>(model: &M, states_max: usize) -> Report {
    search_telling(model, states_max, |_, _| {})
}

/// The same, saying after every depth how many states there are.
pub fn search_telling<M: Model>(model: &M, states_max: usize, mut tell: impl FnMut(usize, usize)) -> Report {
    let mut checker = Checker {
        model,
        seen: HashSet::default(),
        origins: Vec::new(),
        bytes: Bytes::default(),
        sights: 0,
        begun: Instant::now(),
    };
    let initial = model.representative(model.initial());
    let mut frontier = Vec::new();
    let mut depth = 0;
    let mut outcome = checker.add(initial, Origin { parent: 0, step: 0 }, &mut frontier);
    while outcome.is_none() && !frontier.is_empty() {
        tell(depth, checker.origins.len());
        let (next, ended) = checker.expand(frontier, states_max);
        depth += usize::from(!next.is_empty());
        (frontier, outcome) = (next, ended);
    }
    checker.report(depth, outcome.unwrap_or(Outcome::Complete))
}

impl<M: Model> Checker<'_, M> {
    /// One step from every state of the frontier.
    #[allow(clippy::type_complexity)]
    fn expand(&mut self, frontier: Vec<(u32, M::State)>, states_max: usize) -> (Vec<(u32, M::State)>, Option<Outcome>) {
        let mut next = Vec::new();
        let mut steps = Vec::new();
        for (parent, state) in frontier {
            self.model.steps(&state, &mut steps);
            for (step, (_, reached)) in steps.drain(..).enumerate() {
                let step = u16::try_from(step).expect("a small model has few steps from a state");
                let reached = self.model.representative(reached);
                if let Some(outcome) = self.add(reached, Origin { parent, step }, &mut next) {
                    return (next, Some(outcome));
                }
            }
            if self.origins.len() >= states_max {
                return (next, Some(Outcome::Stopped));
            }
        }
        (next, None)
    }

    /// Takes a state into the frontier if it is new; ends the search if it is broken.
    fn add(&mut self, state: M::State, origin: Origin, frontier: &mut Vec<(u32, M::State)>) -> Option<Outcome> {
        self.bytes.0.clear();
        state.hash(&mut self.bytes);
        if !self.seen.insert(xxh3_128(&self.bytes.0)) {
            return None;
        }
        let number = u32::try_from(self.origins.len()).expect("fewer states than fit memory");
        self.origins.push(origin);
        self.sights |= self.model.sights(&state);
        if let Some(promise) = self.model.broken(&state) {
            return Some(Outcome::Broken { promise, steps: self.way_to(number) });
        }
        frontier.push((number, state));
        None
    }

    /// The steps from the beginning to a state, found by walking them again.
    fn way_to(&self, mut number: u32) -> Vec<String> {
        let mut way = Vec::new();
        while number != 0 {
            let origin = self.origins[number as usize];
            way.push(origin.step);
            number = origin.parent;
        }
        let mut state = self.model.representative(self.model.initial());
        let mut told = Vec::new();
        for step in way.into_iter().rev() {
            let mut steps = Vec::new();
            self.model.steps(&state, &mut steps);
            let (step, reached) = steps.swap_remove(usize::from(step));
            told.push(format!("{step:?}"));
            state = self.model.representative(reached);
        }
        told
    }

    fn report(self, depth: usize, outcome: Outcome) -> Report {
        let unseen = (0..).zip(M::SIGHTS).filter(|(bit, _)| self.sights & (1 << bit) == 0).map(|(_, sight)| *sight);
        Report { states: self.origins.len(), depth, elapsed: self.begun.elapsed(), outcome, unseen: unseen.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two jugs of three and five litres.
    struct Jugs {
        forbidden: u8,
    }

    impl Model for Jugs {
        type State = (u8, u8);
        type Step = &'static str;
        const SIGHTS: &'static [&'static str] = &["both full", "six in the small one"];

        fn initial(&self) -> (u8, u8) {
            (0, 0)
        }

        fn steps(&self, &(small, large): &(u8, u8), next: &mut Vec<(&'static str, (u8, u8))>) {
            let over = small.min(5 - large);
            let back = large.min(3 - small);
            next.push(("fill the small one", (3, large)));
            next.push(("fill the large one", (small, 5)));
            next.push(("empty the small one", (0, large)));
            next.push(("empty the large one", (small, 0)));
            next.push(("pour into the large one", (small - over, large + over)));
            next.push(("pour into the small one", (small + back, large - back)));
        }

        fn broken(&self, &(_, large): &(u8, u8)) -> Option<&'static str> {
            (large == self.forbidden).then_some("forbidden amount")
        }

        fn sights(&self, &(small, large): &(u8, u8)) -> u32 {
            bits(&[(small, large) == (3, 5), small == 6])
        }
    }

    #[test]
    fn the_shortest_way_is_found() {
        let report = search(&Jugs { forbidden: 4 }, 1000);
        let Outcome::Broken { steps, .. } = &report.outcome else { panic!("four litres can be measured: {report}") };
        assert_eq!(steps.len(), 6);
        assert_eq!(steps.last().map(String::as_str), Some("\"pour into the small one\""));
    }

    #[test]
    fn a_search_to_the_end_reaches_every_state_and_says_what_it_missed() {
        let report = search(&Jugs { forbidden: 6 }, 1000);
        assert_eq!((report.states, &report.outcome), (16, &Outcome::Complete));
        assert_eq!(report.unseen, ["six in the small one"]);
    }

    #[test]
    fn a_search_stops_at_its_limit() {
        assert_eq!(search(&Jugs { forbidden: 6 }, 7).outcome, Outcome::Stopped);
    }
}
