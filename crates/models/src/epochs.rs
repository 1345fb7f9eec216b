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

mod acceptor;
mod change;
mod configuration;
mod disk;
mod learner;
mod proposer;
mod reading;
mod settling;
mod state;

pub use configuration::Configuration;
pub use reading::Read;
pub use state::{Cluster, Member, Message, Progress, State, Step};

use crate::checker::{bits, Model};
use crate::words::{Node, Nodes, Value};

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
        State {
            cluster: Cluster::default(),
            third: self.has(Bug::NoJointStep).then_some(Configuration::New),
            taken: Value::NONE,
            taken_in: 0,
            read: Read::NotBegun,
            broken: None,
        }
    }

    fn steps(&self, state: &State, next: &mut Vec<(Step, State)>) {
        self.begin_phase_one(state, next);
        self.receive(state, next);
        self.become_owner(state, next);
        self.propose_new(state, next);
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
        let is_somebody_in = |epoch: u8| state.cluster.nodes.iter().any(|node| node.now.epoch() == epoch);
        let early = matches!(state.taken_in, 1 | 2);
        bits(&[
            state.taken_in == 1,
            state.taken_in == 2,
            state.taken_in == 3,
            state.third == Some(Configuration::New) && early,
            state.third == Some(Configuration::OldAgain),
            (1..=3).all(is_somebody_in),
            matches!(state.read, Read::Over { stale: false }),
        ])
    }
}
