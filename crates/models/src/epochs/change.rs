//! The change itself: members are told, fence, and say what they hold; whoever drives it finds the sync pass complete, or goes
//! back (rule 6), after `membership.rs` of the code.

use super::state::Progress;
use super::{Bug, Configuration, Epochs, Message, State, Step, NODES};
use crate::stage::Stage;
use crate::words::{Ballot, Node, Nodes};

impl Epochs {
    /// The joint configuration, unless it is skipped.
    pub(super) fn joint(&self) -> Option<Configuration> {
        (!self.has(Bug::NoJointStep)).then_some(Configuration::Joint)
    }

    pub(super) fn tell(&self, state: &State, next: &mut Vec<(Step, State)>) {
        for configuration in self.joint().into_iter().chain(state.third) {
            for node in 0..NODES as Node {
                if state.cluster.node(node).now.epoch() >= configuration.epoch() {
                    continue;
                }
                let mut state = state.clone();
                let it = state.cluster.node_mut(node);
                it.now.configuration = configuration;
                it.stage = self.carried_over(it.stage, configuration);
                if configuration == Configuration::Joint {
                    state.cluster.reply(node, Message::Fenced { from: node });
                }
                self.forget_round(&mut state, node);
                next.push((Step::IsTold { node, configuration }, self.settle(state)));
            }
        }
    }

    /// What becomes of a proposer that is told of an epoch.
    fn carried_over(&self, stage: Stage<Progress>, configuration: Configuration) -> Stage<Progress> {
        match stage {
            Stage::Owning { ballot, progress } if self.has(Bug::OwnsAfterEpochChange) => {
                Stage::Owning { ballot: Ballot { epoch: configuration.epoch(), ..ballot }, progress }
            }
            _ => Stage::Idle,
        }
    }

    pub(super) fn answer_sync_pass(&self, state: &State, next: &mut Vec<(Step, State)>) {
        if state.third.is_some() {
            return;
        }
        for node in self.voters(Configuration::Joint).iter() {
            let now = state.cluster.node(node).now;
            let may = now.configuration == Configuration::Joint || self.has(Bug::AnswersBeforeFence);
            let message =
                Message::Holds { from: node, closed: now.closed, accepted: now.closed || now.held.ballot.round > 0 };
            if !may || state.cluster.has_said(node, &message) {
                continue;
            }
            let mut state = state.clone();
            state.cluster.reply(node, message);
            next.push((Step::AnswersSyncPass { node }, self.settle(state)));
        }
    }

    /// Whether somebody may find the sync pass complete.
    fn pass_is_complete(&self, state: &State) -> bool {
        if self.has(Bug::NoSyncPass) {
            return true;
        }
        let who = |counts: fn(bool, bool) -> bool| {
            state.cluster.sent.senders(|message| match *message {
                Message::Holds { from, closed, accepted } if counts(closed, accepted) => Some(from),
                _ => None,
            })
        };
        let empty = who(|_, accepted| !accepted);
        let answered = who(|_, _| true);
        let holders = who(|closed, _| closed);
        let enough = |set: Nodes| {
            if self.has(Bug::SyncFromOne) {
                return set.and(self.old) != Nodes::NONE;
            }
            set.is_majority_of(self.old)
        };
        // Either a quorum of the old voters had nothing, or what it had is held by a quorum of the new ones.
        enough(empty) || (enough(answered) && holders.is_majority_of(self.new))
    }

    pub(super) fn choose_third_epoch(&self, state: &State, next: &mut Vec<(Step, State)>) {
        if state.third.is_some() || !self.is_quorum(Configuration::Joint, state.fenced()) {
            return;
        }
        let drivers = self.voters(Configuration::Joint);
        let by = drivers.iter().find(|node| state.cluster.node(*node).now.configuration == Configuration::Joint);
        let Some(by) = by else { return };
        let new = self.pass_is_complete(state).then_some(Configuration::New);
        for configuration in new.into_iter().chain([Configuration::OldAgain]) {
            let mut state = state.clone();
            state.third = Some(configuration);
            next.push((Step::ThirdEpochIsChosen { by, configuration }, self.settle(state)));
        }
    }
}
