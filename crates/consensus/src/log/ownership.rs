//! Who tries to own the log, and when. Only speed depends on it (rules 4 and 8).
//!
//! A log is taken over only when there is something to do and its owner is not in two-way contact with a quorum;
//! members then try in a fixed order, each a little later than the one before.

use super::proposer::Stage;
use super::Log;
use crate::ballot::Ballot;
use crate::context::Context;
use crate::group::Scope;
use crate::ids::{NodeId, Slot};
use crate::message::GroupMessage;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct Ownership {
    /// The highest ballot seen anywhere; its node is the presumed owner.
    pub(super) highest: Ballot,
    /// There is something to finish even if nothing is queued.
    pub(super) must_try: bool,
    /// When it is this node's turn to take over.
    turn_at: Option<Time>,
    /// After a refusal: not again before.
    not_before: Time,
    attempts: u32,
    /// This ballot's node said that it is not the owner.
    disowned: Option<Ballot>,
    waiting: bool,
}

/// Where proposals should go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hint {
    /// To this node's own proposer, owner or not yet.
    Here,
    /// To the presumed owner.
    To(NodeId),
    /// To the presumed owner through a member that reaches it.
    Through(NodeId),
    /// The presumed owner is out of contact: somebody must take over.
    Nobody,
}

impl Ownership {
    pub(super) fn new(highest: Ballot) -> Ownership {
        Ownership {
            highest,
            must_try: false,
            turn_at: None,
            not_before: Time(0),
            attempts: 0,
            disowned: None,
            waiting: false,
        }
    }

    pub(super) fn won(&mut self) {
        self.must_try = false;
        self.turn_at = None;
        self.attempts = 0;
    }

    pub(super) fn disown(&mut self, ballot: Ballot) {
        self.disowned = Some(ballot);
    }

    pub(super) fn next_deadline(&self) -> Time {
        if !self.waiting {
            return Time::NEVER;
        }
        self.turn_at.unwrap_or(Time(0)).max(self.not_before)
    }
}

impl Log {
    /// A ballot was seen. Above the own one, it ends the own ownership.
    pub(super) fn saw_ballot(&mut self, context: &mut Context, scope: &Scope, ballot: Ballot) {
        if ballot <= self.ownership.highest || !ballot.is_proposed() {
            return;
        }
        self.ownership.highest = ballot;
        self.ownership.turn_at = None;
        self.step_down_below(context, scope, ballot);
        self.reconsider_forwards();
        self.wake(context, scope);
    }

    pub(super) fn hint(&self, context: &Context, scope: &Scope) -> Hint {
        if !matches!(self.proposer.stage, Stage::Idle) {
            return Hint::Here;
        }
        let ballot = self.ownership.highest;
        let owner = ballot.node;
        let eligible = ballot.is_proposed() && scope.is_eligible(owner);
        if !eligible || self.ownership.disowned == Some(ballot) {
            return Hint::Nobody;
        }
        if owner == context.node {
            return if scope.may_propose() { Hint::Here } else { Hint::Nobody };
        }
        if context.peers.is_live(owner, context.now) {
            return Hint::To(owner);
        }
        if context.peers.reaches_quorum(owner, &scope.configuration, context.now) {
            if let Some(relay) = context.peers.relay_to(owner, &scope.configuration, context.now) {
                return Hint::Through(relay);
            }
        }
        Hint::Nobody
    }

    /// Goes on with phase 1, or begins it if there is work and nobody else is to do it.
    pub(super) fn seek_ownership(&mut self, context: &mut Context, scope: &Scope) {
        self.ownership.waiting = false;
        match &mut self.proposer.stage {
            Stage::Owning(owning) => {
                if owning.yielding_until.is_some_and(|until| context.now >= until) {
                    owning.yielding_until = None;
                }
                return;
            }
            Stage::Preparing(_) => {
                self.ask_promises(context, scope);
                return;
            }
            Stage::Idle => {}
        }
        let has_work = self.ownership.must_try || !self.proposer.queue.is_empty() || self.has_unrouted();
        let quorum = scope.configuration.is_quorum(context.peers.live_members(&scope.configuration, context.now));
        // Under a ballot of this epoch nobody would answer who knows of a later one: this node learns of it first.
        let outdated = self.ownership.highest.epoch > scope.epoch();
        if !has_work || !quorum || outdated || !scope.may_propose() {
            self.ownership.turn_at = None;
            if quorum && !scope.may_propose() && std::mem::take(&mut self.ownership.must_try) {
                self.nudge_somebody(context, scope);
            }
            return;
        }
        match self.hint(context, scope) {
            Hint::To(owner) | Hint::Through(owner) => {
                self.ownership.turn_at = None;
                if std::mem::take(&mut self.ownership.must_try) {
                    self.nudge(context, scope, owner);
                }
            }
            Hint::Here => self.try_at(context, scope, context.now),
            Hint::Nobody => {
                let turn = self.turn(context, scope);
                self.try_at(context, scope, turn);
            }
        }
    }

    /// Asks a node to see to it that open slots are finished.
    pub(super) fn nudge(&mut self, context: &mut Context, scope: &Scope, owner: NodeId) {
        let body = GroupMessage::Forward { log: self.id, entries: Vec::new(), origin: context.node, hops: 0 };
        context.send(scope, [owner], body);
    }

    /// For a member that cannot propose: the presumed owner, or else the first live voter, is asked.
    fn nudge_somebody(&mut self, context: &mut Context, scope: &Scope) {
        let to = match self.hint(context, scope) {
            Hint::To(owner) | Hint::Through(owner) => Some(owner),
            Hint::Here | Hint::Nobody => scope.first_live_candidate(context),
        };
        if let Some(to) = to {
            self.nudge(context, scope, to);
        }
    }

    fn try_at(&mut self, context: &mut Context, scope: &Scope, turn: Time) {
        if context.now >= turn && context.now >= self.ownership.not_before {
            self.ownership.turn_at = None;
            self.start_phase_one(context, scope);
        } else {
            self.ownership.waiting = true;
        }
    }

    /// This node's turn: at once for the first live voter after the lost owner, a little later for each further one.
    fn turn(&mut self, context: &mut Context, scope: &Scope) -> Time {
        if let Some(at) = self.ownership.turn_at {
            return at;
        }
        let lost = self.ownership.highest.node;
        let eligible: Vec<NodeId> =
            scope.configuration.all_voters().into_iter().filter(|node| scope.is_eligible(*node)).collect();
        let split = eligible.partition_point(|node| *node <= lost);
        let order = eligible[split..].iter().chain(&eligible[..split]);
        let ahead = order
            .take_while(|node| **node != context.node)
            .filter(|node| context.peers.is_live(**node, context.now))
            .count();
        let step = context.options.turn_step();
        let jitter = context.random.delay(step / 4);
        let rank = u32::try_from(ahead).expect("members are bounded");
        let at = if rank == 0 { context.now } else { context.now + step * rank + jitter };
        self.ownership.turn_at = Some(at);
        at
    }

    pub(super) fn on_refused(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        from: NodeId,
        ballot: Ballot,
        promised: Ballot,
        closed: Slot,
    ) {
        self.saw_closed(from, closed);
        if closed > self.learner.closed {
            self.catch_up.aim(closed);
        }
        self.finish_refused(ballot, promised);
        if promised > ballot && self.proposer.ballot() == Some(ballot) {
            self.ownership.attempts = self.ownership.attempts.saturating_add(1);
            let base = context.options.failure_timeout / 20;
            let pause = base * self.ownership.attempts.min(8);
            self.ownership.not_before = context.now + pause + context.random.delay(pause);
        }
        self.saw_ballot(context, scope, promised);
    }

    /// Invites another member to take over; proposes nothing until it does, or the failure time-out has passed.
    pub(crate) fn hand_over(&mut self, context: &mut Context, scope: &Scope, to: NodeId) {
        if !scope.is_eligible(to) || to == context.node || !context.peers.is_live(to, context.now) {
            return;
        }
        let Stage::Owning(owning) = &mut self.proposer.stage else { return };
        owning.yielding_until = Some(context.now + context.options.failure_timeout);
        let body = GroupMessage::Invite { log: self.id, ballot: owning.ballot };
        context.send(scope, [to], body);
    }

    pub(super) fn on_invite(&mut self, context: &mut Context, scope: &Scope, ballot: Ballot) {
        // Whoever is a step behind in epochs learns of the present one first.
        let current = self.ownership.highest <= ballot && ballot.epoch == scope.epoch();
        if current && scope.may_propose() && matches!(self.proposer.stage, Stage::Idle) {
            self.ownership.highest = ballot;
            self.start_phase_one(context, scope);
        }
    }
}
