//! Catch-up: chosen entries by slot range, from any member that has them; learning is never fenced (rule 6).
//!
//! A member that finds no log reaching back far enough needs a copy of the state.

use super::Log;
use crate::ballot::Ballot;
use crate::bounds;
use crate::context::Context;
use crate::effect::Effect;
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::{NodeId, Slot, Token};
use crate::message::{Accepted, GroupMessage};
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
    /// A chosen slot whose content is missing here: fetched again.
    healing: Option<Slot>,
    /// Chosen slots whose content the disk lost, with the ballots under which it stood there.
    pub(super) lost: BTreeMap<Slot, Ballot>,
    /// Whole records were missing from the disk once: those ballots may be of entries that lost.
    distrusts: bool,
    /// The fetch under way: from whom, its first slot, since when.
    asked: Option<(NodeId, Slot, Time)>,
    not_before: Time,
    attempts: usize,
    /// Requests since entries last came: each waits longer than the one before, as the link may be slow.
    unanswered: u32,
    /// Members whose log does not reach back.
    trimmed_at: BTreeSet<NodeId>,
    /// Members that know the slots chosen and could not give them: they have lost or cannot read them.
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
            healing: None,
            lost: BTreeMap::new(),
            distrusts: false,
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

    pub(super) fn heal(&mut self, slot: Slot) {
        self.healing = Some(slot);
    }

    /// The disk found a chosen slot damaged, and still knows under which ballot it stood there.
    pub(super) fn lose(&mut self, slot: Slot, ballot: Option<Ballot>) {
        if let Some(ballot) = ballot.filter(|_| !self.distrusts) {
            self.lost.insert(slot, ballot);
        }
    }

    pub(super) fn distrust_damage(&mut self) {
        self.lost.clear();
        self.distrusts = true;
    }

    pub(super) fn is_healing(&self, slot: Slot) -> bool {
        self.healing == Some(slot)
    }

    pub(super) fn needs_state(&self) -> bool {
        self.said_need_state.is_some()
    }

    pub(super) fn state_installed(&mut self) {
        self.healing = None;
        self.asked = None;
        self.trimmed_at.clear();
        self.empty_at.clear();
        self.said_need_state = None;
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
        let range = match self.catch_up.healing {
            Some(slot) if slot > self.learner.delivered => Some((slot, closed.max(slot))),
            _ => (self.catch_up.target > closed).then_some((closed.next(), self.catch_up.target)),
        };
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
        if self.catch_up.healing == Some(first) && self.catch_up.lost.contains_key(&first) {
            // Perhaps nobody else knows it chosen.
            let ask = GroupMessage::AskAccepted { log: self.id, from: first, up_to: first };
            context.send(scope, heard.iter().copied(), ask);
        }
        if useful.is_empty() {
            // Whoever could not read it may be able to next time.
            self.catch_up.empty_at.clear();
            if heard.iter().any(|node| self.catch_up.trimmed_at.contains(node)) {
                if self.learner.delivered > closed {
                    // The face holds it already: only the log was behind.
                    let slot = self.learner.delivered;
                    self.skip_to(context, scope, slot);
                } else {
                    self.say_need_state(context, scope, first);
                }
            }
            return;
        }
        let source = useful[self.catch_up.attempts % useful.len()];
        self.catch_up.attempts += 1;
        self.catch_up.unanswered += 1;
        self.catch_up.asked = Some((source, first, context.now));
        context.send(scope, [source], GroupMessage::Fetch { log: self.id, from: first, up_to });
    }

    fn say_need_state(&mut self, context: &mut Context, scope: &Scope, from: Slot) {
        let pause = context.options.failure_timeout;
        let due = self.catch_up.said_need_state.is_none_or(|at| context.now - at >= pause);
        if due {
            self.catch_up.said_need_state = Some(context.now);
            // Asked again next time: a member that was away may still have it.
            let donors = std::mem::take(&mut self.catch_up.trimmed_at).into_iter().collect();
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
            let full = entries.len() >= bounds::BATCH_ENTRIES_MAX || bytes > bounds::BATCH_BYTES_MAX;
            if slot != first.plus(entries.len() as u64) || (full && !entries.is_empty()) {
                break;
            }
            entries.push((held.ballot, entry.clone()));
        }
        if !entries.is_empty() {
            self.answer_fetch(context, scope, to, first, entries);
        } else if self.catch_up.peer_reads.len() < bounds::PEER_READS_MAX {
            let token = context.reading(scope.group, self.id);
            self.catch_up.peer_reads.insert(token, (to, first));
            let bytes_max = bounds::BATCH_BYTES_MAX;
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
        entries.truncate(bounds::BATCH_ENTRIES_MAX);
        if entries.is_empty() && first > self.learner.trimmed && first <= self.learner.delivered {
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
            if trimmed >= first {
                self.catch_up.trimmed_at.insert(from);
                self.catch_up.not_before = context.now;
            } else if closed >= first {
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

    /// A slot that is known chosen here, and whose content this disk lost, is healed from any intact acceptance under the
    /// ballot under which it stood here, or a higher one: that value was chosen under that ballot or a lower one, and from
    /// there on every ballot has it (*Paxos Made Simple*, P2b). `docs/decisions/0007-healing-what-is-known-chosen.md`.
    pub(super) fn heal_from_accepted(&mut self, context: &mut Context, scope: &Scope, accepted: &[Accepted]) {
        let Some(slot) = self.catch_up.healing else { return };
        let Some(lost) = self.catch_up.lost.get(&slot).copied() else { return };
        let copy = accepted.iter().find(|found| found.slot == slot && found.ballot >= lost);
        let Some((ballot, entry)) = copy.and_then(|found| Some((found.ballot, found.entry.clone()?))) else { return };
        self.heal_from(context, scope, slot, &vec![(ballot, entry)].into());
        self.wake(context, scope);
    }

    /// Content that the disk had lost below closed-up-to.
    fn heal_from(&mut self, context: &mut Context, scope: &Scope, first: Slot, entries: &Arc<[(Ballot, Entry)]>) {
        if self.catch_up.healing != Some(first) || first > self.learner.closed {
            return;
        }
        self.catch_up.healing = None;
        self.catch_up.lost.remove(&first);
        context.persist(Record::Learnt { group: scope.group, log: self.id, first, entries: entries.clone() });
        for (slot, (ballot, entry)) in (first.0..).map(Slot).zip(entries.iter()) {
            if slot <= self.learner.closed && self.acceptor.held(slot).is_none_or(|held| held.entry.is_none()) {
                self.acceptor.put(slot, *ballot, entry.clone());
            }
        }
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
            context.persist(Record::Learnt {
                group: scope.group,
                log: self.id,
                first: closed.next(),
                entries: fresh.into(),
            });
            for (slot, (ballot, entry)) in (closed.next().0..).map(Slot).zip(fresh) {
                self.acceptor.put(slot, *ballot, entry.clone());
            }
        }
        self.close(context, scope, last);
    }
}
