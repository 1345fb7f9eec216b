//! Catch-up: chosen entries by slot range, from any member that has them; learning is never fenced (rule 6).
//!
//! A member that finds no log reaching back far enough needs a copy of the state.

use super::healing::Healing;
use super::Log;
use crate::ballot::Ballot;
use crate::bounds;
use crate::context::Context;
use crate::effect::Effect;
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::{NodeId, Slot, Token};
use crate::message::GroupMessage;
use crate::record::Record;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The longest pause between two requests is 2^4 times the first: with a failure time-out of a second four seconds, in which
/// a full answer crosses a link of 2 Mbit/s.
const PATIENCE_DOUBLINGS_MAX: u32 = 4;

#[derive(Debug)]
pub(super) struct CatchUp {
    /// The highest slot known to be chosen somewhere.
    target: Slot,
    /// Chosen slots whose content is missing here.
    pub(super) healing: Healing,
    /// The fetch under way: from whom, its first slot, since when.
    asked: Option<(NodeId, Slot, Time)>,
    pub(super) not_before: Time,
    attempts: usize,
    /// Requests since entries last came: each waits longer than the one before, as the link may be slow.
    unanswered: u32,
    /// Members whose log does not reach back.
    trimmed_at: BTreeSet<NodeId>,
    /// Members that could not give the slots: they have lost or cannot read them, or know since a crash no more that they are chosen.
    empty_at: BTreeSet<NodeId>,
    said_need_state: Option<Time>,
    /// Reads from the disk for members that fetch.
    peer_reads: BTreeMap<Token, (NodeId, Slot)>,
    wanting: bool,
}

impl Default for CatchUp {
    fn default() -> Self {
        CatchUp {
            target: Slot::ZERO,
            healing: Healing::default(),
            asked: None,
            not_before: Time(0),
            attempts: 0,
            unanswered: 0,
            trimmed_at: BTreeSet::new(),
            empty_at: BTreeSet::new(),
            said_need_state: None,
            peer_reads: BTreeMap::new(),
            wanting: false,
        }
    }
}

impl CatchUp {
    /// Somebody knows every slot up to this one chosen.
    pub(super) fn aim(&mut self, target: Slot) {
        self.target = self.target.max(target);
    }

    pub(super) fn needs_state(&self) -> bool {
        self.said_need_state.is_some()
    }

    pub(super) fn state_installed(&mut self) {
        self.healing.state_installed();
        self.asked = None;
        self.trimmed_at.clear();
        self.empty_at.clear();
        self.said_need_state = None;
    }

    pub(super) fn target(&self) -> Slot {
        self.target
    }

    /// In a log of values: whether the newest value is to be fetched.
    pub(super) fn wants_newest(&mut self, is_lost: bool, closed: Slot) -> bool {
        self.wanting = is_lost || self.target > closed;
        if !self.wanting {
            self.asked = None;
            self.unanswered = 0;
        }
        self.wanting
    }

    /// In a log of values the newest is here: nothing before it is missed.
    pub(super) fn healed_value(&mut self) {
        self.healing = Healing::default();
    }

    /// Whom to ask next for the newest value: those that know of it, in turn, or else anybody; each request waits longer for
    /// its answer than the one before.
    pub(super) fn next_source(
        &mut self,
        now: Time,
        pause: std::time::Duration,
        knowing: Vec<NodeId>,
        heard: Vec<NodeId>,
    ) -> Option<NodeId> {
        self.not_before = now + pause * (1 << self.unanswered.min(PATIENCE_DOUBLINGS_MAX));
        // Who knows of it may be unable to give it.
        let among = if knowing.is_empty() || self.unanswered as usize > knowing.len() { heard } else { knowing };
        let source = *among.get(self.attempts % among.len().max(1))?;
        self.attempts += 1;
        self.unanswered += 1;
        Some(source)
    }

    /// The answer of a member that was asked for the newest value.
    pub(super) fn answered(&mut self, now: Time, with_it: bool) {
        if with_it {
            self.unanswered = 0;
            self.not_before = now;
        }
    }

    pub(super) fn next_deadline(&self) -> Time {
        if self.wanting {
            self.not_before
        } else {
            Time::NEVER
        }
    }
}

impl Log {
    /// Asks the next member for what is missing, one request at a time; the answer asks for the next.
    pub(super) fn fetch_missing(&mut self, context: &mut Context, scope: &Scope) {
        let closed = self.learner.closed;
        let range = self.missing_range();
        self.catch_up.wanting = range.is_some();
        let Some((first, up_to)) = range else {
            self.catch_up.asked = None;
            return;
        };
        if context.now < self.catch_up.not_before {
            return;
        }
        let heard: Vec<NodeId> = scope
            .configuration
            .members
            .iter()
            .map(|member| member.node)
            .filter(|node| *node != context.node && context.peers.hears(*node, context.now))
            .collect();
        let useful: Vec<NodeId> = heard
            .iter()
            .copied()
            .filter(|node| !self.catch_up.trimmed_at.contains(node) && !self.catch_up.empty_at.contains(node))
            .filter(|node| self.known_closed(*node) >= first)
            .collect();
        let patience = 1 << self.catch_up.unanswered.min(PATIENCE_DOUBLINGS_MAX);
        self.catch_up.not_before = context.now + context.options.retry_interval() * patience;
        if self.catch_up.healing.heals_from(scope, first).is_some() {
            // Perhaps nobody else knows it chosen.
            let ask = GroupMessage::AskAccepted { log: self.id, from: first, up_to: first };
            context.send(scope, heard.iter().copied(), ask);
        }
        let heals = first <= self.learner.delivered.min(closed);
        self.catch_up.healing.asks_for(heals);
        if heals && !self.catch_up.healing.may_ask_again(first, up_to, useful.len()) {
            return;
        }
        if useful.is_empty() {
            // Whoever could not read it may be able to next time.
            self.catch_up.empty_at.clear();
            // And so may this node: a read that failed is no damage.
            self.read_again_to_deliver(context, scope, first);
            if self.witness {
                // Whoever said that it is gone has answered.
                self.catch_up.unanswered = 0;
                self.catch_up.not_before = context.now + context.options.retry_interval();
                self.catch_up.trimmed_at.clear();
                self.skip_as_witness(context, scope, first);
                return;
            }
            let is_gone = |node: &&NodeId| self.catch_up.trimmed_at.contains(*node);
            let is_donor = |node: &NodeId| scope.configuration.holds_state(*node);
            if self.learner.delivered > closed && heard.iter().any(|node| is_gone(&node)) {
                // The face holds it already: only the log was behind. Whoever trimmed it, a witness too, knew it chosen.
                let slot = self.learner.delivered;
                self.skip_to(context, scope, slot);
            } else if heard.iter().filter(is_gone).any(is_donor) {
                self.say_need_state(context, scope, first);
            }
            return;
        }
        let source = useful[self.catch_up.attempts % useful.len()];
        self.catch_up.attempts += 1;
        self.catch_up.unanswered += 1;
        self.catch_up.asked = Some((source, first, context.now));
        context.send(scope, [source], GroupMessage::Fetch { log: self.id, from: first, up_to });
    }

    /// The slots to ask for next: those that delivery waits for, those that are new, and in turn with these the ones that the
    /// face has and only the log lost.
    fn missing_range(&mut self) -> Option<(Slot, Slot)> {
        let closed = self.learner.closed;
        let delivered = self.learner.delivered;
        // Below what is trimmed nothing is needed any more, unless delivery still waits for it.
        let gone = self.learner.trimmed.min(delivered);
        self.catch_up.healing.forget_up_to(gone);
        if let Some(slot) = self.catch_up.healing.first_above(delivered) {
            return Some((slot, closed.max(slot)));
        }
        let new = (self.catch_up.target > closed).then_some((closed.next(), self.catch_up.target));
        let lost = self.catch_up.healing.first_run().filter(|(first, _)| *first <= closed);
        match (new, lost) {
            (Some(new), Some(_)) if self.catch_up.healing.had_its_turn() => Some(new),
            (_, Some(run)) => Some(run),
            (new, None) => new,
        }
    }

    fn say_need_state(&mut self, context: &mut Context, scope: &Scope, from: Slot) {
        let pause = context.options.failure_timeout;
        let due = self.catch_up.said_need_state.is_none_or(|at| context.now - at >= pause);
        if due {
            self.catch_up.said_need_state = Some(context.now);
            // Asked again next time: a member that was away may still have it.
            let trimmed_at = std::mem::take(&mut self.catch_up.trimmed_at).into_iter();
            let donors = trimmed_at.filter(|node| scope.configuration.holds_state(*node)).collect();
            context.effect(Effect::NeedState { group: scope.group, log: self.id, from, donors });
        }
        self.catch_up.not_before = context.now + pause;
    }

    pub(super) fn on_fetch(&mut self, context: &mut Context, scope: &Scope, to: NodeId, first: Slot, up_to: Slot) {
        self.saw_closed(to, first.previous());
        let up_to = up_to.min(self.learner.closed);
        if first > up_to || first <= self.learner.trimmed {
            self.answer_fetch(context, scope, to, first, Vec::new());
            return;
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (slot, held) in self.acceptor.between(first, up_to) {
            let Some(entry) = &held.entry else { break };
            bytes += entry.len();
            let full = context.options.windows.is_full(entries.len(), bytes);
            if slot != first.plus(entries.len() as u64) || full {
                break;
            }
            entries.push((held.ballot, entry.clone()));
        }
        if !entries.is_empty() {
            self.answer_fetch(context, scope, to, first, entries);
        } else if self.catch_up.peer_reads.len() < bounds::PEER_READS_MAX {
            let token = context.reading(scope.group, self.id);
            self.catch_up.peer_reads.insert(token, (to, first));
            let bytes_max = context.options.windows.batch_bytes;
            // What is in memory may not be on the disk yet, where an entry that lost can still stand in its slot.
            let in_memory = self.acceptor.between(first, up_to).next().map(|(slot, _)| slot.previous());
            let up_to = in_memory.unwrap_or(up_to);
            context.effect(Effect::ReadEntries {
                token,
                group: scope.group,
                log: self.id,
                from: first,
                up_to,
                bytes_max,
            });
        }
    }

    fn answer_fetch(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        to: NodeId,
        first: Slot,
        entries: Vec<(Ballot, Entry)>,
    ) {
        let trimmed = self.learner.trimmed;
        self.say_fetched(context, scope, to, first, entries, trimmed);
    }

    fn say_fetched(
        &self,
        context: &mut Context,
        scope: &Scope,
        to: NodeId,
        first: Slot,
        entries: Vec<(Ballot, Entry)>,
        trimmed: Slot,
    ) {
        let (log, closed, entries) = (self.id, self.learner.closed, entries.into());
        context.send(scope, [to], GroupMessage::Fetched { log, first, entries, closed, trimmed });
    }

    pub(super) fn answer_fetch_read(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        token: Token,
        mut entries: Vec<(Ballot, Entry)>,
    ) {
        let Some((to, first)) = self.catch_up.peer_reads.remove(&token) else { return };
        entries.truncate(context.options.windows.batch_entries);
        let kept = first > self.learner.trimmed && first <= self.learner.delivered;
        if entries.is_empty() && kept && !self.witness {
            // Damaged here (rule 9). Nobody else may have it as chosen any more, but this node's state has it: to the one
            // that asks it is as if trimmed, and if it finds no better it takes a copy of the state.
            self.say_fetched(context, scope, to, first, entries, first);
            return;
        }
        self.answer_fetch(context, scope, to, first, entries);
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn on_fetched(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        from: NodeId,
        first: Slot,
        entries: &Arc<[(Ballot, Entry)]>,
        closed: Slot,
        trimmed: Slot,
    ) {
        self.catch_up.aim(closed);
        if self.catch_up.asked.is_some_and(|(node, slot, _)| node == from && slot == first) {
            self.catch_up.asked = None;
            if !entries.is_empty() {
                self.catch_up.not_before = context.now;
            }
        }
        if entries.is_empty() {
            if trimmed >= first && !(self.catch_up.healing.contains(first) && first <= self.learner.delivered) {
                self.catch_up.trimmed_at.insert(from);
                if self.witness && scope.configuration.holds_state(from) {
                    self.trimming.is_gone(from, trimmed);
                }
                self.catch_up.not_before = context.now;
            } else {
                self.catch_up.empty_at.insert(from);
            }
            return;
        }
        self.catch_up.unanswered = 0;
        self.catch_up.trimmed_at.clear();
        self.catch_up.empty_at.clear();
        self.catch_up.said_need_state = None;
        let highest = entries.iter().map(|(ballot, _)| *ballot).max().unwrap_or_default();
        self.saw_ballot(context, scope, highest);
        self.heal_from(context, scope, first, entries);
        self.learn(context, scope, first, entries);
    }

    /// Entries known chosen by the member that sent them: kept as such, durably, with the ballot that it named.
    fn learn(&mut self, context: &mut Context, scope: &Scope, first: Slot, entries: &Arc<[(Ballot, Entry)]>) {
        let closed = self.learner.closed;
        let last = first.plus(entries.len() as u64 - 1);
        if first > closed.next() || last <= closed {
            return;
        }
        let skip = usize::try_from(closed.next().0 - first.0).expect("within a batch");
        let fresh = &entries[skip..];
        let mut known = true;
        for (slot, (ballot, entry)) in (closed.next().0..).map(Slot).zip(fresh) {
            match self.acceptor.held(slot) {
                Some(held) if held.ballot == *ballot => match &held.entry {
                    Some(mine) if mine != entry => {
                        self.stop_two_values(context, scope, slot);
                        return;
                    }
                    Some(_) => {}
                    None => known = false,
                },
                _ => known = false,
            }
        }
        if !known {
            let (group, log, first, entries) = (scope.group, self.id, closed.next(), fresh.into());
            self.persist(context, Record::Learnt { group, log, first, entries });
            for (slot, (ballot, entry)) in (closed.next().0..).map(Slot).zip(fresh) {
                self.acceptor.put(slot, *ballot, entry.clone());
            }
        }
        self.close(context, scope, last);
    }
}
