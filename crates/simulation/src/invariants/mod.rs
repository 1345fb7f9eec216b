//! The promises, each in a file of its own, checked at every observation.

mod a_quorum_knows;
mod acceptances;
mod agreement;
mod answered_once;
mod ballots_of_the_epoch;
mod bounded;
mod chosen_by_quorum;
mod closed_is_chosen;
mod contiguous_delivery;
mod definite_failure;
mod durable_before_reply;
mod epochs_fenced;
mod exactly_once;
mod linearizable_reads;
mod lost_promises_bar;
mod newest_value_kept;
mod no_acknowledged_loss;
mod one_configuration_per_epoch;
mod one_value_per_ballot;
mod promises_monotone;
mod states_alike;
mod sync_answers;
mod sync_covers;
mod values_follow;
mod witnesses_keep;

use std::fmt;

use crate::observation::Observation;
use crate::plan::Plan;

/// A promise that is being watched.
pub trait Invariant: fmt::Debug {
    /// What a report calls it.
    fn name(&self) -> &'static str;

    /// Takes an observation; says what is wrong with it.
    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String>;
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// How.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// All of them.
#[derive(Debug)]
pub struct Invariants(Vec<Box<dyn Invariant>>);

impl Invariants {
    /// As they hold in a world of this plan.
    pub fn new(plan: &Plan) -> Invariants {
        Invariants(vec![
            Box::new(promises_monotone::PromisesMonotone::default()),
            Box::new(durable_before_reply::DurableBeforeReply::default()),
            Box::new(epochs_fenced::EpochsFenced::default()),
            Box::new(lost_promises_bar::LostPromisesBar::default()),
            Box::new(ballots_of_the_epoch::BallotsOfTheEpoch),
            Box::new(closed_is_chosen::ClosedIsChosen::default()),
            Box::new(one_value_per_ballot::OneValuePerBallot::default()),
            Box::new(one_configuration_per_epoch::OneConfigurationPerEpoch::default()),
            Box::new(a_quorum_knows::AQuorumKnows::default()),
            Box::new(chosen_by_quorum::ChosenByQuorum::default()),
            Box::new(agreement::Agreement::default()),
            Box::new(contiguous_delivery::ContiguousDelivery::default()),
            Box::new(no_acknowledged_loss::NoAcknowledgedLoss::default()),
            Box::new(exactly_once::ExactlyOnce::default()),
            Box::new(definite_failure::DefiniteFailure::default()),
            Box::new(linearizable_reads::LinearizableReads::default()),
            Box::new(answered_once::AnsweredOnce::default()),
            Box::new(states_alike::StatesAlike::default()),
            Box::new(witnesses_keep::WitnessesKeep::default()),
            Box::new(bounded::Bounded::new(plan)),
            Box::new(newest_value_kept::NewestValueKept::default()),
            Box::new(values_follow::ValuesFollow::default()),
            Box::new(sync_answers::SyncAnswers::default()),
            Box::new(sync_covers::SyncCovers::default()),
        ])
    }

    /// Shows the observation to each; the first that objects.
    pub fn observe(&mut self, observation: &Observation<'_>) -> Option<Violation> {
        self.0.iter_mut().find_map(|invariant| {
            let detail = invariant.observe(observation).err()?;
            Some(Violation { invariant: invariant.name(), detail })
        })
    }
}

/// Fails the enclosing check unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;
