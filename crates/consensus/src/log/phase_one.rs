//! Phase 1: the promises of a quorum, what they say was accepted, and what follows for each slot (rules 2 and 9).
use super::proposer::Stage;
use super::Log;
use crate::ballot::Ballot;
use crate::configuration::MemberSet;
use crate::context::Context;
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::{NodeId, Slot, Start};
use crate::message::{Accepted, GroupMessage};
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct Preparing {
    pub(super) ballot: Ballot,
    pub(super) answers: BTreeMap<NodeId, Answer>,
    /// Intact copies of what answers call damaged, from any member.
    pub(super) copies: BTreeMap<(Slot, Ballot), Entry>,
    pub(super) asked_at: Time,
    /// Whoever answers at all has been asked twice: what is damaged now is not waiting for an answer on its way.
    asked_again: bool,
}

#[derive(Debug, Default)]
pub(super) struct Answer {
    /// What the answer covers begins after this slot. Parts of answers that differ in it are not put together.
    above: Slot,
    closed: Slot,
    parts: BTreeSet<u32>,
    last_part: Option<u32>,
    pub(super) accepted: BTreeMap<Slot, (Ballot, Option<Entry>)>,
}

impl Preparing {
    pub(super) fn new(ballot: Ballot, now: Time) -> Preparing {
        Preparing { ballot, answers: BTreeMap::new(), copies: BTreeMap::new(), asked_at: now, asked_again: false }
    }
}

impl Answer {
    fn is_complete(&self) -> bool {
        self.last_part.is_some_and(|last| self.parts.len() == last as usize + 1)
    }
}

/// What phase 1 came to.
enum Findings {
    Wait,
    Learn(Slot),
    TwoValues(Slot),
    /// What was accepted in this slot is damaged, and no intact copy is known; the slots before it are free for these.
    Damaged(Slot, Vec<(Slot, Entry)>),
    Free(Vec<(Slot, Entry)>),
}

impl Log {
    /// Phase 1 under a ballot above every other seen.
    pub(super) fn start_phase_one(&mut self, context: &mut Context, scope: &Scope) {
        assert!(scope.may_propose(), "only a voter proposes");
        if is_planted(SeededBug::OwnerResumesAfterRestart) && self.resume_own_ballot(context, scope) {
            return;
        }
        let highest = self.ownership.highest.max(self.acceptor.promise(scope));
        let round = if highest.epoch == scope.epoch() { highest.round + 1 } else { 1 };
        let start = if is_planted(SeededBug::BallotsWithoutStart) { Start(1) } else { context.start };
        let ballot = Ballot { epoch: scope.epoch(), round, node: context.node, start };
        assert!(ballot > highest, "a new ballot is above every ballot seen");
        self.ownership.highest = ballot;
        // The owner until now will not propose what it has queued; what it has in flight phase 1 finds.
        self.reconsider_forwards();
        let now = context.now;
        self.proposer.stage = Stage::Preparing(Preparing::new(ballot, now));
        self.ask_promises(context, scope);
    }

    /// The bug [`SeededBug::OwnerResumesAfterRestart`]: no phase 1 if the highest ballot known is an own one of before.
    fn resume_own_ballot(&mut self, context: &mut Context, scope: &Scope) -> bool {
        let ballot = self.acceptor.promise(scope);
        let own = ballot.node == context.node && ballot.start < context.start && ballot == self.ownership.highest;
        if own {
            let held = self.acceptor.above(self.learner.closed);
            let values = held.filter_map(|(slot, held)| Some((slot, held.entry.clone()?))).collect();
            self.proposer.stage = Stage::Preparing(Preparing::new(ballot, context.now));
            self.become_owner(context, scope, values, false);
        }
        own
    }

    /// Asks (again) every voter that has not answered.
    pub(super) fn ask_promises(&mut self, context: &mut Context, scope: &Scope) {
        let Stage::Preparing(preparing) = &mut self.proposer.stage else { return };
        if context.now < preparing.asked_at {
            return;
        }
        preparing.asked_at = context.now + context.options.retry_interval();
        let again = !preparing.answers.is_empty();
        preparing.asked_again = again;
        let unanswered = |node: &NodeId| !preparing.answers.get(node).is_some_and(Answer::is_complete);
        let to: Vec<NodeId> = scope.configuration.all_voters().into_iter().filter(unanswered).collect();
        let body = GroupMessage::Prepare { log: self.id, ballot: preparing.ballot, closed: self.learner.closed };
        context.send(scope, to, body);
        if again {
            self.try_finish_phase_one(context, scope);
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn on_promise(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        from: NodeId,
        ballot: Ballot,
        closed: Slot,
        (above, part, last): (Slot, u32, bool),
        accepted: Vec<Accepted>,
    ) {
        self.saw_closed(from, closed);
        let Stage::Preparing(preparing) = &mut self.proposer.stage else { return };
        if preparing.ballot != ballot || !scope.configuration.votes(from) {
            return;
        }
        let answer = preparing.answers.entry(from).or_default();
        if answer.above != above {
            // Between two answers closed-up-to may have moved, and with it where the parts divide. The later one stands alone.
            *answer = Answer { above, ..Answer::default() };
        }
        answer.closed = answer.closed.max(closed);
        answer.parts.insert(part);
        if last {
            answer.last_part = Some(part);
        }
        answer.accepted.extend(accepted.into_iter().map(|found| (found.slot, (found.ballot, found.entry))));
        self.try_finish_phase_one(context, scope);
    }

    /// Once a quorum has answered, and every slot that it knows chosen is known here too: phase 2.
    pub(super) fn try_finish_phase_one(&mut self, context: &mut Context, scope: &Scope) {
        let Stage::Preparing(preparing) = &self.proposer.stage else { return };
        let findings = match self.findings(scope, preparing) {
            Findings::Free(_) if is_planted(SeededBug::PhaseOneForgets) => Findings::Free(Vec::new()),
            findings => findings,
        };
        match findings {
            Findings::Wait => {}
            Findings::Learn(slot) => {
                self.catch_up.aim(slot);
                self.wake(context, scope);
            }
            Findings::TwoValues(slot) => self.stop_two_values(context, scope, slot),
            Findings::Damaged(..) if !preparing.asked_again => {}
            Findings::Damaged(slot, before) if before.is_empty() => self.ask_for_copies(context, scope, slot),
            Findings::Damaged(_, before) => self.become_owner(context, scope, before, true),
            Findings::Free(values) => self.become_owner(context, scope, values, false),
        }
    }

    fn findings(&self, scope: &Scope, preparing: &Preparing) -> Findings {
        let complete: BTreeMap<NodeId, &Answer> = preparing
            .answers
            .iter()
            .filter(|(_, answer)| answer.is_complete())
            .map(|(node, answer)| (*node, answer))
            .collect();
        let quorum =
            |counted: &BTreeMap<NodeId, &Answer>| is_quorum(scope, scope.configuration.set_of(counted.keys().copied()));
        if !quorum(&complete) {
            return Findings::Wait;
        }
        let known = complete.values().map(|answer| answer.closed).max().unwrap_or_default();
        if known > self.learner.closed && !is_planted(SeededBug::PhaseOneIgnoresClosed) {
            return Findings::Learn(known);
        }
        let closed = self.learner.closed;
        // The value of each ballot found, on any node: an intact copy makes a damaged one whole (rule 9).
        let mut found = preparing.copies.clone();
        for answer in preparing.answers.values() {
            for (slot, (ballot, entry)) in answer.accepted.range(closed.next()..) {
                let Some(entry) = entry else { continue };
                match found.get(&(*slot, *ballot)) {
                    Some(other) if other != entry => return Findings::TwoValues(*slot),
                    _ => {
                        found.insert((*slot, *ballot), entry.clone());
                    }
                }
            }
        }
        let mut counted = complete;
        loop {
            let mut highest: BTreeMap<Slot, Ballot> = BTreeMap::new();
            for answer in counted.values() {
                for (slot, (ballot, entry)) in answer.accepted.range(closed.next()..) {
                    if entry.is_none() && is_planted(SeededBug::NoOpOverDamage) {
                        continue;
                    }
                    let known = highest.entry(*slot).or_default();
                    let lower = is_planted(SeededBug::PhaseOneTakesLowest) && *known > Ballot::ZERO;
                    *known = if lower { (*known).min(*ballot) } else { (*known).max(*ballot) };
                }
            }
            let last = highest.last_key_value().map_or(closed, |(slot, _)| *slot);
            let Some((slot, ballot)) = highest.iter().find(|(slot, ballot)| !found.contains_key(&(**slot, **ballot)))
            else {
                return Findings::Free(fill_gaps((closed.next(), last), &highest, &found));
            };
            // Damaged, and no intact copy: such answers do not count until a higher ballot is found or the copy is.
            counted.retain(|_, answer| {
                !answer.accepted.get(slot).is_some_and(|(theirs, entry)| theirs == ballot && entry.is_none())
            });
            if !quorum(&counted) {
                // Up to here a quorum counts.
                return Findings::Damaged(*slot, fill_gaps((closed.next(), slot.previous()), &highest, &found));
            }
        }
    }
}

/// Whether these members decide, in phase 1 as in phase 2.
pub(super) fn is_quorum(scope: &Scope, set: MemberSet) -> bool {
    if is_planted(SeededBug::JointAsksNewOnly) {
        return scope.configuration.is_new_quorum(set);
    }
    scope.configuration.is_quorum(set)
}

/// Every one of these slots: the highest ballot's value, no-ops between (rule 2).
fn fill_gaps(
    (first, last): (Slot, Slot),
    highest: &BTreeMap<Slot, Ballot>,
    found: &BTreeMap<(Slot, Ballot), Entry>,
) -> Vec<(Slot, Entry)> {
    (first.0..=last.0)
        .map(Slot)
        .map(|slot| {
            let value = highest.get(&slot).map(|ballot| found[&(slot, *ballot)].clone());
            (slot, value.unwrap_or_else(Entry::no_op))
        })
        .collect()
}
