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

mod acceptor;
mod disk;
mod learner;
mod proposer;
mod settling;
mod state;

pub use state::{Acceptor, Cluster, Message, Progress, State, Step};

use crate::checker::{bits, Model};
use crate::stage::Stage;
use crate::words::{Node, Nodes, Value};

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
        self.all().subsets().filter(|set| self.is_quorum(*set))
    }
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
        State { cluster: Cluster::default(), taken: [Value::NONE; SLOTS], broken: None }
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
        let nodes = || state.cluster.nodes.iter();
        let entries = |slot: usize| nodes().map(move |node| node.now.held[slot].value).filter(|value| !value.is_none());
        let two = (0..SLOTS).any(|slot| entries(slot).any(|one| entries(slot).any(|other| one != other)));
        let owners = nodes().filter(|node| matches!(node.stage, Stage::Owning { .. })).count();
        let carried = state.cluster.sent.iter().any(|message| {
            matches!(message, Message::Accepted { ballot, value, slot, .. }
                if value.0.node != ballot.node && self.is_quorum(state.accepted_by(*ballot, *slot)))
        });
        let know = nodes().filter(|node| node.now.closed > 0).count();
        bits(&[state.acknowledged() > 0, carried, two, owners > 1, know == 1])
    }
}
