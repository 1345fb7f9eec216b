//! The searches with their bounds: those of every test run, and the larger ones of `make models`.

use crate::checker::{search_telling, Model, Report};
use crate::epochs::Epochs;
use crate::log::Log;
use crate::reads::Reads;

/// More states than this do not fit a machine of 16 GB beside its other work; a search that stops here says so.
pub const STATES_MAX: usize = 60_000_000;

/// A search to be made.
pub struct Run {
    /// Which model.
    pub model: &'static str,
    /// Its bounds, for people.
    pub bounds: &'static str,
    /// Sights that these bounds leave out.
    without: &'static [&'static str],
    search: Search,
}

/// Is told the depth and the number of states after every depth.
pub type Tell<'a> = &'a mut dyn FnMut(usize, usize);

type Search = Box<dyn Fn(Tell<'_>) -> Report>;

impl Run {
    fn new(model: &'static str, bounds: &'static str, what: impl Model + 'static) -> Run {
        let search: Search = Box::new(move |tell: Tell<'_>| search_telling(&what, STATES_MAX, tell));
        Run { model, bounds, without: &[], search }
    }

    fn without(self, without: &'static [&'static str]) -> Run {
        Run { without, ..self }
    }

    /// What should have been seen and was not, or the other way round.
    #[must_use]
    pub fn surprises(&self, report: &Report) -> Vec<&'static str> {
        let missed = report.unseen.iter().filter(|sight| !self.without.contains(sight));
        let extra = self.without.iter().filter(|sight| !report.unseen.contains(sight));
        missed.chain(extra).copied().collect()
    }

    /// Makes it.
    pub fn search(&self, tell: Tell<'_>) -> Report {
        (self.search)(tell)
    }
}

/// Nobody reads.
const NO_READ: &[&str] = &["a read returned the slot"];

/// And who proposes may do so in the old epoch only.
const WHO_LEAVES: &[&str] = &["something is chosen in the joint epoch", "a read returned the slot"];

/// And who proposes is not known to the old epoch.
const WHO_COMES: &[&str] = &["something is chosen in the old epoch", "a read returned the slot"];

/// Who proposes is not known to the old epoch.
const OLD: &[&str] = &["something is chosen in the old epoch"];

/// Who proposes may do so in the old epoch only.
const NO_JOINT: &[&str] = &["something is chosen in the joint epoch"];

/// What every test run searches, in well under a minute.
#[must_use]
pub fn small() -> Vec<Run> {
    let one_owner = Log::<3>::new(1, 1, 1, 1, 0);
    let two_owners = Log::<3>::new(2, 1, 2, 2, 0);
    vec![
        Run::new("log", "3 nodes, 1 slot, 2 attempts, 1 crash", Log::<3>::new(2, 1, 2, 2, 1)),
        Run::new("log", "3 nodes, 2 slots, 2 attempts", Log::<3>::new(2, 2, 2, 2, 0)),
        Run::new("log", "3 nodes, 1 slot, 3 attempts", Log::<3>::new(2, 1, 3, 3, 0)),
        Run::new("log", "control slot of a joint epoch, 2 attempts", joint()),
        Run::new("reads", "3 nodes, 1 slot, 1 attempt, 2 rounds on 1 node", Reads::new(one_owner, 2).with_readers(1)),
        Run::new("reads", "3 nodes, 1 slot, 2 attempts, 1 round on 1 node", Reads::new(two_owners, 1).with_readers(1)),
        Run::new("epochs", "1 of 3 replaced, 1 attempt (who leaves)", Epochs::replacing(&[2], 1, 0))
            .without(WHO_LEAVES),
        Run::new("epochs", "1 of 3 replaced, 1 attempt (who comes)", Epochs::replacing(&[3], 1, 0)).without(WHO_COMES),
        Run::new("epochs", "3 to 4 voters, 1 attempt (who stays)", Epochs::promoting(&[0], 1, 0)).without(NO_READ),
        Run::new("epochs", "4 to 3 voters, 1 attempt (who leaves)", Epochs::removing(&[3], 1, 0)).without(WHO_LEAVES),
        Run::new(
            "epochs",
            "1 of 3 replaced, 1 attempt (who leaves), 1 read (who stays)",
            Epochs::replacing(&[2], 1, 0).with_a_read_by(&[0]),
        )
        .without(NO_JOINT),
    ]
}

/// What `make models` searches: minutes each.
#[must_use]
pub fn large() -> Vec<Run> {
    let one_owner = Log::<3>::new(1, 1, 1, 1, 1);
    let two_slots = Log::<3>::new(1, 2, 1, 1, 0);
    let two_owners = Log::<3>::new(2, 1, 2, 2, 1);
    vec![
        Run::new("log", "5 nodes, 1 slot, 2 attempts", Log::<5>::new(2, 1, 2, 2, 0)),
        Run::new("log", "3 nodes, 1 slot, 3 attempts, 1 crash", Log::<3>::new(2, 1, 2, 3, 1)),
        Run::new("log", "3 nodes, 1 slot, 2 attempts, 2 crashes", Log::<3>::new(2, 1, 2, 2, 2)),
        Run::new("log", "control slot of a joint epoch, 2 attempts, 1 crash", joint_with_crash()),
        Run::new("log", "3 nodes, 2 slots, 2 attempts, 1 crash", Log::<3>::new(2, 2, 2, 2, 1)),
        Run::new("epochs", "1 of 3 replaced, 1 attempt (who leaves), 1 crash", Epochs::replacing(&[2], 1, 1))
            .without(WHO_LEAVES),
        Run::new("epochs", "1 of 3 replaced, 1 attempt (who stays), 1 crash", Epochs::replacing(&[0], 1, 1))
            .without(NO_READ),
        Run::new("epochs", "1 of 3 replaced, 2 attempts (who leaves, who comes)", Epochs::replacing(&[2, 3], 2, 0))
            .without(NO_READ),
        Run::new("epochs", "3 to 4 voters, 2 attempts (who stays, who comes)", Epochs::promoting(&[0, 3], 2, 0))
            .without(NO_READ),
        Run::new("epochs", "4 to 3 voters, 2 attempts (who stays, who leaves)", Epochs::removing(&[0, 3], 2, 0))
            .without(NO_READ),
        Run::new(
            "epochs",
            "1 of 3 replaced, 1 attempt (who comes), 1 read (who leaves)",
            Epochs::replacing(&[3], 1, 0).with_a_read_by(&[2]),
        )
        .without(OLD),
        Run::new(
            "epochs",
            "3 to 4 voters, 1 attempt (who stays), 1 read (anybody)",
            Epochs::promoting(&[0], 1, 0).with_a_read_by(&[0, 1, 2, 3]),
        ),
        Run::new("reads", "3 nodes, 2 slots, 1 attempt, 1 round on any node", Reads::new(two_slots, 1)),
        Run::new(
            "reads",
            "3 nodes, 1 slot, 1 attempt, 1 crash, 2 rounds on 1 node",
            Reads::new(one_owner, 2).with_readers(1),
        ),
        Run::new(
            "reads",
            "3 nodes, 1 slot, 2 attempts, 1 crash, 1 round on 1 node",
            Reads::new(two_owners, 1).with_readers(1),
        ),
    ]
}

fn joint() -> Log<4> {
    Log::new(2, 1, 2, 2, 0).joint(&[0, 1, 2], &[0, 1, 3])
}

fn joint_with_crash() -> Log<4> {
    Log { crashes: 1, ..joint() }
}
