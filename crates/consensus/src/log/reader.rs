//! Quorum reads (rule 5): where the log may have got to, without writing anything.
//!
//! Many readers share a round. A barrier that is not known chosen in time is finished: its accepted entries are sent again
//! under the ballots that they have; only if a silent node's higher ballot refuses that, the log is taken over.

use super::ownership::Hint;
use super::Log;
use crate::ballot::Ballot;
use crate::bounds;
use crate::configuration::MemberSet;
use crate::context::Context;
use crate::effect::{Effect, Refusal};
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::{NodeId, Slot, Token};
use crate::message::{Accepted, ChosenRange, GroupMessage};
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Readers that join the next round. Without a token: this node itself, to have open slots finished.
    waiting: VecDeque<Waiting>,
    rounds: BTreeMap<u64, Round>,
    finish: Finish,
    /// No reader's deadline is before this.
    earliest: Option<Time>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    token: Option<Token>,
    deadline: Time,
}

#[derive(Debug)]
struct Round {
    readers: Vec<Waiting>,
    answers: BTreeMap<NodeId, Answer>,
    /// What was open here when it began: what is accepted later its answers say nothing of.
    open: Option<(Slot, Ballot)>,
    again_at: Time,
    /// Since when a quorum has answered.
    quorum_at: Option<Time>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) closed: Slot,
    pub(super) highest: Slot,
    pub(super) promised: Ballot,
}

/// Open slots being finished by this node.
#[derive(Debug, Default)]
struct Finish {
    up_to: Slot,
    found: BTreeMap<Slot, (Ballot, Entry)>,
    acks: BTreeMap<Slot, (Ballot, MemberSet)>,
    asked: bool,
    sent: bool,
    refused: Option<Ballot>,
    again_at: Option<Time>,
    attempts: u32,
}

impl Reader {
    pub(super) fn next_deadline(&self) -> Time {
        let rounds = self.rounds.values().map(|round| round.again_at);
        let finish = self.finish.again_at.filter(|_| !self.rounds.is_empty());
        rounds.chain(finish).chain(self.earliest).min().unwrap_or(Time::NEVER)
    }

    /// Whether anybody on this node waits for a barrier.
    pub(super) fn has_readers(&self) -> bool {
        self.readers().any(|reader| reader.token.is_some())
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.rounds.is_empty()
    }

    fn add(&mut self, reader: Waiting) {
        self.earliest = Some(self.earliest.map_or(reader.deadline, |known| known.min(reader.deadline)));
        self.waiting.push_back(reader);
    }

    fn readers(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().chain(self.rounds.values().flat_map(|round| &round.readers))
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.rounds.values().map(|round| round.readers.len()).sum::<usize>()
    }
}

impl Log {
    pub(crate) fn read(&mut self, context: &mut Context, scope: &Scope, token: Token, deadline: Time) {
        if self.reader.len() >= bounds::READERS_MAX {
            context.effect(Effect::Barrier { token, result: Err(Refusal::Full("readers")) });
            return;
        }
        self.reader.add(Waiting { token: Some(token), deadline });
        if is_planted(SeededBug::ReadJoinsSentRound) {
            if let Some(round) = self.reader.rounds.values_mut().last() {
                round.readers.extend(self.reader.waiting.drain(..));
            }
        }
        self.wake(context, scope);
    }

    /// Accepted slots that stay open without anybody asking: a read of this node's own has them finished.
    pub(super) fn settle_open_slots(&mut self, context: &mut Context, scope: &Scope) {
        let timeout = context.options.failure_timeout;
        if self.acceptor.highest() <= self.learner.closed
            || self.proposer.owned_ballot().is_some()
            || !scope.is_member()
        {
            self.acceptor.settle_at = Time::NEVER;
            return;
        }
        let since = *self.acceptor.open_since.get_or_insert(context.now);
        let due = since + timeout * 2;
        if context.now < due {
            self.acceptor.settle_at = due;
            return;
        }
        self.acceptor.open_since = Some(context.now);
        self.acceptor.settle_at = context.now + timeout * 2;
        if self.read_for_itself(context) {
            self.wake(context, scope);
        }
    }

    /// A read of this node's own, if none waits: it learns where the log stands, and has open slots finished.
    pub(super) fn read_for_itself(&mut self, context: &Context) -> bool {
        let is_first = self.reader.waiting.iter().all(|reader| reader.token.is_some());
        if is_first {
            let deadline = context.now + context.options.failure_timeout * 2;
            self.reader.add(Waiting { token: None, deadline });
        }
        is_first
    }

    pub(super) fn flush_reads(&mut self, context: &mut Context, scope: &Scope) {
        self.begin_round(context);
        self.ask_again(context, scope);
        self.complete_rounds(context, scope);
        self.finish_late_barriers(context, scope);
    }

    fn begin_round(&mut self, context: &mut Context) {
        if self.reader.waiting.is_empty() || self.reader.rounds.len() >= bounds::READ_ROUNDS_MAX {
            return;
        }
        let number = context.next_read_round();
        let open = self.open_acceptance();
        let round = Round {
            readers: self.reader.waiting.drain(..).collect(),
            answers: BTreeMap::new(),
            open,
            again_at: context.now,
            quorum_at: None,
        };
        self.reader.rounds.insert(number, round);
    }

    fn ask_again(&mut self, context: &mut Context, scope: &Scope) {
        let voters = scope.configuration.all_voters();
        let mut asks = Vec::new();
        for (number, round) in &mut self.reader.rounds {
            if context.now < round.again_at {
                continue;
            }
            round.again_at = context.now + context.options.retry_interval();
            let to: Vec<NodeId> = voters.iter().copied().filter(|node| !round.answers.contains_key(node)).collect();
            if !to.is_empty() {
                asks.push((to, *number));
            }
        }
        for (to, round) in asks {
            context.send(scope, to, GroupMessage::ReadAsk { log: self.id, round });
        }
    }

    /// Durable state only, at once; nothing is written.
    pub(super) fn on_read_ask(&mut self, context: &mut Context, scope: &Scope, from: NodeId, round: u64) {
        if !scope.may_vote() {
            return;
        }
        self.note_durable(context, scope);
        let (highest, ballot) = match self.acceptor.held(self.acceptor.highest()) {
            Some(held) if is_planted(SeededBug::ReadShowsUnsynced) => (self.acceptor.highest(), held.ballot),
            _ => self.acceptor.durable_highest(),
        };
        let promised = self.acceptor.promise(scope);
        let body =
            GroupMessage::ReadAnswer { log: self.id, round, closed: self.learner.closed, highest, ballot, promised };
        context.send(scope, [from], body);
    }

    pub(super) fn on_read_answer(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        from: NodeId,
        round: u64,
        answer: Answer,
    ) {
        if answer.closed > self.learner.closed {
            self.catch_up.aim(answer.closed);
        }
        self.saw_ballot(context, scope, answer.promised);
        if let Some(round) = self.reader.rounds.get_mut(&round) {
            if scope.configuration.votes(from) {
                round.answers.entry(from).or_insert(answer);
            }
        }
        self.wake(context, scope);
    }

    /// Answers the readers of every round whose barrier is known chosen.
    fn complete_rounds(&mut self, context: &mut Context, scope: &Scope) {
        let mut done = Vec::new();
        for (number, round) in &mut self.reader.rounds {
            let Some(barrier) = barrier(scope, &round.answers) else { continue };
            round.quorum_at.get_or_insert(context.now);
            let known =
                round.answers.values().map(|answer| answer.closed).max().unwrap_or_default().max(self.learner.closed);
            if barrier <= known {
                done.push((*number, barrier));
            }
        }
        for (number, barrier) in done {
            let round = self.reader.rounds.remove(&number).expect("it was there");
            self.catch_up.aim(barrier);
            if barrier <= self.learner.closed {
                self.void = round.open;
            }
            for token in round.readers.into_iter().filter_map(|reader| reader.token) {
                context.effect(Effect::Barrier { token, result: Ok(barrier) });
            }
        }
        if self.reader.rounds.is_empty() {
            self.reader.finish = Finish::default();
        }
        if !self.reader.waiting.is_empty() {
            self.begin_round(context);
            self.ask_again(context, scope);
        }
    }

    pub(super) fn expire_reads(&mut self, context: &mut Context, scope: &Scope) {
        let now = context.now;
        if self.reader.earliest.is_none_or(|at| now < at) {
            return;
        }
        let mut late = Vec::new();
        let mut keep = |reader: &Waiting| {
            let on_time = reader.deadline > now;
            if !on_time {
                late.extend(reader.token);
            }
            on_time
        };
        self.reader.waiting.retain(&mut keep);
        self.reader.rounds.retain(|_, round| {
            round.readers.retain(&mut keep);
            !round.readers.is_empty()
        });
        self.reader.earliest = self.reader.readers().map(|reader| reader.deadline).min();
        for token in late {
            let why = scope.why_late(context);
            context.effect(Effect::Barrier { token, result: Err(why) });
        }
    }

    /// This node is no member any more: nobody answers its readers.
    pub(super) fn refuse_reads(&mut self, context: &mut Context, why: &Refusal) {
        for token in self.reader.readers().filter_map(|reader| reader.token).collect::<Vec<_>>() {
            context.effect(Effect::Barrier { token, result: Err(why.clone()) });
        }
        self.reader = Reader::default();
    }

    /// The epoch moved: answers of the old one count no more; the readers ask again.
    pub(super) fn restart_reads(&mut self) {
        let rounds = std::mem::take(&mut self.reader.rounds);
        for reader in rounds.into_values().flat_map(|round| round.readers).rev() {
            self.reader.waiting.push_front(reader);
        }
        // Each of its rounds may have had a read of this node's own: one in the next round does for all of them.
        let own = self.reader.waiting.iter().rev().find(|reader| reader.token.is_none()).copied();
        self.reader.waiting.retain(|reader| reader.token.is_some());
        self.reader.waiting.extend(own);
        self.reader.finish = Finish::default();
    }

    /// A barrier that a quorum's answers left open for a while: finish it, whoever began it.
    fn finish_late_barriers(&mut self, context: &mut Context, scope: &Scope) {
        let patience = context.options.retry_interval();
        let late = |round: &Round| round.quorum_at.is_some_and(|at| context.now - at >= patience);
        let up_to = self
            .reader
            .rounds
            .values()
            .filter(|round| late(round))
            .filter_map(|round| barrier(scope, &round.answers))
            .max();
        let waiting = self.reader.rounds.values().any(|round| round.quorum_at.is_some());
        if waiting && self.reader.finish.again_at.is_none() {
            self.reader.finish.again_at = Some(context.now + patience);
        }
        let Some(up_to) = up_to.filter(|slot| *slot > self.learner.closed) else {
            if self.reader.finish.again_at.is_some_and(|at| context.now >= at) {
                self.reader.finish.again_at = waiting.then_some(context.now + patience);
            }
            return;
        };
        if self.proposer.ballot().is_some() {
            // In flight here, or in phase 1: it is being finished already.
            self.reader.finish.again_at = Some(context.now + patience);
            return;
        }
        if self.reader.finish.up_to < up_to {
            self.reader.finish = Finish { up_to, attempts: self.reader.finish.attempts, ..Finish::default() };
        }
        if self.reader.finish.again_at.is_some_and(|at| context.now < at) {
            return;
        }
        self.reader.finish.again_at = Some(context.now + patience);
        self.reader.finish.attempts += 1;
        if self.reader.finish.refused.is_some() || self.reader.finish.attempts > 3 {
            self.ask_owner_or_take_over(context, scope);
            return;
        }
        let voters = scope.configuration.all_voters();
        self.reader.finish.asked = true;
        self.reader.finish.sent = false;
        context.send(
            scope,
            voters,
            GroupMessage::AskAccepted { log: self.id, from: self.learner.closed.next(), up_to },
        );
        self.send_finish(context, scope);
    }

    /// A higher ballot stands in the way: its node is asked; only if it is silent, the log is taken over.
    fn ask_owner_or_take_over(&mut self, context: &mut Context, scope: &Scope) {
        match self.hint(context, scope) {
            Hint::To(owner) | Hint::Through(owner) => self.nudge(context, scope, owner),
            Hint::Here | Hint::Nobody => self.ownership.must_try = true,
        }
        self.reader.finish.refused = None;
        self.wake(context, scope);
    }

    pub(super) fn on_has_accepted(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        _from: NodeId,
        closed: Slot,
        accepted: Vec<Accepted>,
    ) {
        if closed > self.learner.closed {
            self.catch_up.aim(closed);
        }
        self.heal_from_accepted(context, scope, &accepted);
        self.take_copies(context, scope, &accepted);
        if !self.reader.finish.asked {
            return;
        }
        for found in accepted {
            let Some(entry) = found.entry else { continue };
            if found.slot <= self.learner.closed || found.slot > self.reader.finish.up_to {
                continue;
            }
            let known = self.reader.finish.found.entry(found.slot).or_insert_with(|| (found.ballot, entry.clone()));
            if known.0 < found.ballot {
                *known = (found.ballot, entry);
                self.reader.finish.acks.remove(&found.slot);
            }
        }
        self.send_finish(context, scope);
    }

    /// Sends accepted entries again, each under the ballot that it has.
    fn send_finish(&mut self, context: &mut Context, scope: &Scope) {
        let finish = &mut self.reader.finish;
        let voters = scope.configuration.all_voters();
        let mut bytes = 0;
        for (slot, (ballot, entry)) in finish.found.range(self.learner.closed.next()..) {
            let known = finish.acks.get(slot).is_some_and(|(acked, _)| acked == ballot);
            if known && finish.sent {
                continue;
            }
            if ballot.epoch != scope.epoch() {
                finish.refused = Some(*ballot);
                break;
            }
            bytes += entry.len();
            if bytes > context.options.windows.batch_bytes * 4 {
                break;
            }
            finish.acks.insert(*slot, (*ballot, MemberSet::EMPTY));
            let entries = vec![entry.clone()].into();
            let body = GroupMessage::Accept {
                log: self.id,
                ballot: *ballot,
                first: *slot,
                entries,
                chosen: None,
                answer_to: context.node,
            };
            context.send(scope, voters.iter().copied(), body);
        }
        finish.sent = true;
    }

    pub(super) fn finish_refused(&mut self, ballot: Ballot, promised: Ballot) {
        if promised > ballot && self.reader.finish.acks.values().any(|(sent, _)| *sent == ballot) {
            self.reader.finish.refused = Some(promised);
            self.reader.finish.again_at = Some(Time(0));
        }
    }

    /// Acceptances count per slot and ballot (rule 1); the lowest open slots are told to all as they are chosen.
    pub(super) fn on_finish_accepted(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        from: NodeId,
        ballot: Ballot,
        first: Slot,
        last: Slot,
    ) {
        let Some(index) = scope.configuration.index(from) else { return };
        for (_, (sent, acks)) in self.reader.finish.acks.range_mut(first..=last.max(first)) {
            if *sent == ballot || is_planted(SeededBug::EqualValuesAreChosen) {
                acks.insert(index);
            }
        }
        loop {
            let slot = self.learner.closed.next();
            let Some((ballot, acks)) = self.reader.finish.acks.get(&slot).copied() else { break };
            if !scope.configuration.is_quorum(acks) {
                break;
            }
            self.counted(context, scope, slot);
            let range = ChosenRange { first: slot, last: slot, ballot };
            self.take_chosen(context, scope, range);
            let others = scope
                .configuration
                .members
                .iter()
                .map(|member| member.node)
                .filter(|node| *node != context.node)
                .collect::<Vec<_>>();
            context.send(scope, others, GroupMessage::Chosen { log: self.id, range });
            if self.learner.closed < slot {
                self.catch_up.aim(slot);
                break;
            }
        }
        self.wake(context, scope);
    }
}

/// The highest slot for which the members that answered with it or a higher one, plus those that have not answered, contain
/// a quorum (in a joint epoch: of the old configuration), but no less than what one of them knows chosen: of what the voters'
/// states hold, a witness may have skipped all, and a sync pass counts it as having it. None until a quorum has answered.
fn barrier(scope: &Scope, answers: &BTreeMap<NodeId, Answer>) -> Option<Slot> {
    let configuration = &scope.configuration;
    let answered = configuration.set_of(answers.keys().copied());
    if !configuration.is_quorum(answered) {
        return None;
    }
    let reach = |answer: &Answer| answer.closed.max(answer.highest);
    let mut candidates: Vec<Slot> = answers.values().map(reach).collect();
    if is_planted(SeededBug::ReadBelievesLowest) {
        return candidates.into_iter().min();
    }
    candidates.sort_unstable();
    candidates.reverse();
    let contains_quorum = |slot: Slot| {
        if is_planted(SeededBug::ReadCountsAnswers) {
            return answers.values().filter(|answer| reach(answer) >= slot).count() * 2 > answers.len();
        }
        let mut set = configuration
            .set_of(configuration.members.iter().map(|member| member.node).filter(|node| !answers.contains_key(node)));
        for (node, _) in answers.iter().filter(|(_, answer)| reach(answer) >= slot) {
            set.insert(configuration.index(*node).expect("only members answer"));
        }
        configuration.is_old_quorum(set)
    };
    let possible = candidates.into_iter().find(|slot| contains_quorum(*slot)).unwrap_or(Slot::ZERO);
    let chosen = answers.values().map(|answer| answer.closed).max().unwrap_or_default();
    Some(possible.max(chosen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LogId;
    use crate::recovered::RecoveredLog;

    #[test]
    fn reads_of_this_nodes_own_do_not_pile_up_over_epochs() {
        let mut log = Log::new(LogId(7), &RecoveredLog::default(), false);
        for epoch in 1..=20 {
            let own = Waiting { token: None, deadline: Time(epoch) };
            log.reader.add(own);
            log.reader.add(Waiting { token: Some(Token(epoch)), deadline: Time(epoch) });
            let (readers, answers) = (log.reader.waiting.drain(..).collect(), BTreeMap::new());
            let round = Round { readers, answers, open: None, again_at: Time(0), quorum_at: None };
            log.reader.rounds.insert(epoch, round);
            log.restart_reads();
            let (callers, own): (Vec<&Waiting>, Vec<&Waiting>) =
                log.reader.readers().partition(|reader| reader.token.is_some());
            assert_eq!(callers.len() as u64, epoch, "each has a caller who waits");
            assert_eq!(own.iter().map(|own| own.deadline).collect::<Vec<_>>(), [Time(epoch)]);
        }
    }
}
