//! Which logs of a group are in memory. Those of sequences always are; logs of values are loaded from the disk when
//! something concerns them, and the least recently used idle ones are unloaded above a bound (design, sections 1 and 3).
//!
//! A log that is not in memory is not an empty log: whatever concerns it, a peer's question first of all, waits until the
//! disk has said what was promised and accepted in it (rule 3). What waits is bounded (rule 11): peers send again what was
//! dropped, new work is refused. A log leaves memory only when the disk has all of it and nobody here waits for it.

use crate::attention::Attention;
use crate::ballot::Ballot;
use crate::bounds;
use crate::context::Context;
use crate::effect::{Effect, ProposalOutcome, Refusal};
use crate::entry::Entry;
use crate::group::{Group, Scope};
use crate::ids::{Epoch, LogId, NodeId, OperationId, Slot, Token};
use crate::log::Log;
use crate::message::{GroupMessage, LogPosition};
use crate::recovered::RecoveredLog;
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Something that concerns one log.
#[derive(Debug)]
pub(crate) enum Work {
    /// A peer's message.
    Message { from: NodeId, epoch: Epoch, body: GroupMessage },
    /// Where the log stands at a peer.
    Position { from: NodeId, position: LogPosition },
    /// Must reach this slot.
    SeeTo(Slot),
    /// Its content there was found damaged.
    Damaged(Slot),
    /// It was not settled when it left memory, or before: this node finds out where it stands.
    Look,
    /// A caller's proposal.
    Propose { entry: Entry, deadline: Time },
    /// A caller's read.
    Read { token: Token, deadline: Time },
    /// Another owner is wanted.
    HandOver { to: NodeId },
}

impl Work {
    /// When its caller must have an answer.
    fn deadline(&self) -> Option<Time> {
        match self {
            Work::Propose { deadline, .. } | Work::Read { deadline, .. } => Some(*deadline),
            _ => None,
        }
    }

    /// What somebody wants done, as opposed to what somebody asks: it may keep a log in memory for as long as it takes.
    fn is_new(&self) -> bool {
        let brings = |body: &GroupMessage| matches!(body, GroupMessage::Forward { entries, .. } if !entries.is_empty());
        self.deadline().is_some() || matches!(self, Work::Message { body, .. } if brings(body))
    }

    /// What nobody waits for: done when there is room for it, or when the log has its turn (`attention.rs`).
    fn is_in_background(&self) -> bool {
        matches!(self, Work::Look | Work::SeeTo(_) | Work::Position { .. })
    }

    /// An answer concerns the question, and who let go of a log has no question left: if need be it asks anew.
    fn is_answer(&self) -> bool {
        let Work::Message { body, .. } = self else { return false };
        matches!(
            body,
            GroupMessage::Promise { .. }
                | GroupMessage::Refused { .. }
                | GroupMessage::Accepted { .. }
                | GroupMessage::NotProposed { .. }
                | GroupMessage::ReadAnswer { .. }
                | GroupMessage::HasAccepted { .. }
        )
    }

    fn bytes(&self) -> usize {
        let entries = |entries: &[Entry]| entries.iter().map(Entry::len).sum();
        match self {
            Work::Propose { entry, .. } => entry.len(),
            Work::Message { body: GroupMessage::Accept { entries: all, .. }, .. } => entries(all),
            Work::Message { body: GroupMessage::Forward { entries: all, .. }, .. } => entries(all),
            Work::Message { body: GroupMessage::Fetched { entries, .. }, .. } => {
                entries.iter().map(|(_, entry)| entry.len()).sum()
            }
            Work::Message { body: GroupMessage::Promise { accepted, .. }, .. }
            | Work::Message { body: GroupMessage::HasAccepted { accepted, .. }, .. } => {
                accepted.iter().filter_map(|found| found.entry.as_ref()).map(Entry::len).sum()
            }
            _ => 0,
        }
    }

    /// Answers its caller, if it has one.
    fn refuse(&self, context: &mut Context, scope: &Scope, log: LogId, why: Refusal) {
        match self {
            Work::Propose { entry, .. } => {
                let outcome = ProposalOutcome::Failed(why);
                context.effect(Effect::Proposed { group: scope.group, log, id: entry.id(), outcome });
            }
            Work::Read { token, .. } => context.effect(Effect::Barrier { token: *token, result: Err(why) }),
            _ => {}
        }
    }
}

/// The bookkeeping of a group's logs of values; empty in a group of sequences.
#[derive(Debug, Default)]
pub(crate) struct Residence {
    /// Logs in memory, and by their last use.
    used: BTreeMap<LogId, Use>,
    by_use: BTreeMap<u64, LogId>,
    /// Those that have something to do without being asked, by when: nobody looks at the others, however many there are.
    due: BTreeSet<(Time, LogId)>,
    uses: u64,
    bytes: usize,
    /// Logs asked from the disk, with what waits for them.
    loading: BTreeMap<LogId, VecDeque<Work>>,
    waiting: usize,
    waiting_bytes: usize,
    /// No caller's deadline among what waits is before this.
    earliest: Option<Time>,
    /// Closed-up-to of logs unloaded lately: what a peer says of them need not load them again.
    unloaded: BTreeMap<LogId, Slot>,
    /// What stood open in logs when they left memory, and was found not to be chosen: looked at once, not each time that a peer's
    /// question loads them.
    voids: BTreeMap<LogId, (Slot, Ballot)>,
    pub(crate) attention: Attention,
}

/// A log in memory.
#[derive(Debug)]
struct Use {
    /// Counts uses.
    at: u64,
    bytes: usize,
    due: Time,
}

impl Residence {
    fn touch(&mut self, log: LogId) {
        self.uses += 1;
        let known = self.used.entry(log).or_insert(Use { at: 0, bytes: 0, due: Time::NEVER });
        self.by_use.remove(&known.at);
        known.at = self.uses;
        self.by_use.insert(self.uses, log);
    }

    fn note(&mut self, log: LogId, bytes: usize, due: Time) {
        let Some(known) = self.used.get_mut(&log) else { return };
        self.bytes = self.bytes - known.bytes + bytes;
        known.bytes = bytes;
        if known.due != due {
            self.due.remove(&(known.due, log));
            self.due.extend((due != Time::NEVER).then_some((due, log)));
            known.due = due;
        }
    }

    /// Logs whose time has come.
    pub(crate) fn due_by(&self, now: Time) -> impl Iterator<Item = LogId> + '_ {
        self.due.iter().take_while(move |(at, _)| *at <= now).map(|(_, log)| *log)
    }

    pub(crate) fn first_due(&self) -> Time {
        self.due.first().map_or(Time::NEVER, |(at, _)| *at)
    }

    fn remove(&mut self, log: LogId, closed: Slot) {
        if let Some(known) = self.used.remove(&log) {
            self.by_use.remove(&known.at);
            self.due.remove(&(known.due, log));
            self.bytes -= known.bytes;
        }
        if self.unloaded.len() >= 4 * bounds::RESIDENT_LOGS_MAX {
            self.unloaded.clear();
        }
        self.unloaded.insert(log, closed);
    }

    /// Logs in memory or on their way there, beside the one that has the turn.
    pub(crate) fn count(&self) -> usize {
        let is_here = |log: &LogId| self.used.contains_key(log) || self.loading.contains_key(log);
        self.used.len() + self.loading.len() - usize::from(self.attention.turn().is_some_and(|log| is_here(&log)))
    }

    fn wait(&mut self, log: LogId, work: Work) {
        self.waiting += 1;
        self.waiting_bytes += work.bytes();
        if let Some(deadline) = work.deadline() {
            self.earliest = Some(self.earliest.map_or(deadline, |known| known.min(deadline)));
        }
        self.loading.entry(log).or_default().push_back(work);
    }

    fn take(&mut self, log: LogId) -> Option<VecDeque<Work>> {
        let waiting = self.loading.remove(&log)?;
        self.waiting -= waiting.len();
        self.waiting_bytes -= waiting.iter().map(Work::bytes).sum::<usize>();
        Some(waiting)
    }

    fn has_room_to_wait(&self, log: LogId, work: &Work) -> bool {
        self.waiting < bounds::LOADING_WORK_MAX
            && self.waiting_bytes + work.bytes() <= bounds::LOADING_BYTES_MAX
            && self.loading.get(&log).is_none_or(|waiting| waiting.len() < bounds::LOADING_WORK_PER_LOG_MAX)
    }

    /// Closed-up-to of a log that was in memory not long ago.
    pub(crate) fn closed_when_unloaded(&self, log: LogId) -> Option<Slot> {
        self.unloaded.get(&log).copied()
    }

    pub(crate) fn next_deadline(&self) -> Time {
        self.earliest.unwrap_or(Time::NEVER).min(self.attention.next_deadline())
    }
}

impl Group {
    /// Gives work to the log that it concerns, now or when the log is in memory.
    pub(crate) fn work(&mut self, context: &mut Context, id: LogId, work: Work) {
        assert!(id != LogId::CONTROL, "the control log is the group's own");
        if !self.scope.is_of_values() || is_planted(SeededBug::UnloadedIsEmpty) {
            let witness = self.scope.is_witness();
            self.logs.entry(id).or_insert_with(|| Log::new(id, &RecoveredLog::default(), witness));
        }
        if self.logs.contains_key(&id) {
            self.work_now(context, id, work);
            return;
        }
        if work.is_answer() {
            return;
        }
        if let Work::Position { position, .. } = &work {
            if self.residence.closed_when_unloaded(id).is_some_and(|closed| closed >= position.closed) {
                return;
            }
        }
        if !self.residence.has_room_to_wait(id, &work) {
            self.do_without(context, id, &work, "what waits for logs to be loaded");
            return;
        }
        if !self.residence.loading.contains_key(&id) {
            if !self.make_room(context, id, &work) {
                self.do_without(context, id, &work, "logs in memory");
                return;
            }
            context.effect(Effect::LoadLog { group: self.scope.group, log: id });
        }
        self.residence.wait(id, work);
    }

    /// There is no room: new work is refused, peers ask again, and what this node has to see to has its turn later.
    fn do_without(&mut self, context: &mut Context, id: LogId, work: &Work, room: &'static str) {
        if work.is_in_background() {
            self.residence.attention.wait(id, context.now);
            context.dirty_groups.insert(self.scope.group);
        }
        work.refuse(context, &self.scope, id, Refusal::Full(room));
    }

    /// The disk's answer: what waited goes on, as if it came now.
    pub(crate) fn log_loaded(&mut self, context: &mut Context, id: LogId, loaded: RecoveredLog, held: Slot) {
        if self.logs.contains_key(&id) {
            return;
        }
        let Some(waiting) = self.residence.take(id) else { return };
        let mut log = Log::of_values(id, loaded, held);
        log.remember_void(self.residence.voids.remove(&id));
        log.touch(context, &self.scope);
        self.logs.insert(id, log);
        self.residence.touch(id);
        self.residence.unloaded.remove(&id);
        for work in waiting {
            match work {
                // The epoch may be another one by now.
                Work::Message { from, epoch, body } => self.receive(context, from, epoch, body),
                work if !self.scope.is_member() => {
                    work.refuse(context, &self.scope, id, Refusal::Removed(self.scope.epoch()));
                }
                work => self.work(context, id, work),
            }
        }
    }

    fn work_now(&mut self, context: &mut Context, id: LogId, work: Work) {
        let log = self.logs.get_mut(&id).expect("it is in memory");
        if self.scope.is_of_values() {
            self.residence.touch(id);
            // When it is due is noted when it is flushed.
            log.wake(context, &self.scope);
        }
        let scope = &self.scope;
        match work {
            Work::Message { from, body, .. } => log.receive(context, scope, from, body),
            Work::Position { from, position } => log.saw_position(context, scope, from, &position),
            Work::SeeTo(slot) => log.see_to(context, scope, slot),
            Work::Damaged(slot) => log.damaged(context, scope, slot),
            Work::Look => log.look(context, scope),
            Work::Propose { entry, deadline } => log.propose(context, scope, entry, deadline),
            Work::Read { token, deadline } => log.read(context, scope, token, deadline),
            Work::HandOver { to } => log.hand_over(context, scope, to),
        }
    }

    /// The caller of a proposal has lost interest.
    pub(crate) fn withdraw(&mut self, context: &mut Context, id: LogId, operation: OperationId) {
        if let Some(log) = self.logs.get_mut(&id) {
            return log.withdraw(context, &self.scope, operation);
        }
        let is_it = |work: &Work| matches!(work, Work::Propose { entry, .. } if entry.id() == operation);
        self.refuse_waiting(context, Some(id), is_it, |_, _| Refusal::Withdrawn);
    }

    /// Answers callers whose proposals and reads wait for a log to be loaded.
    fn refuse_waiting(
        &mut self,
        context: &mut Context,
        only: Option<LogId>,
        which: impl Fn(&Work) -> bool,
        why: impl Fn(&Scope, &Context) -> Refusal,
    ) {
        let residence = &mut self.residence;
        for (id, waiting) in &mut residence.loading {
            if only.is_some_and(|only| only != *id) {
                continue;
            }
            let (refused, kept): (VecDeque<Work>, VecDeque<Work>) =
                std::mem::take(waiting).into_iter().partition(&which);
            *waiting = kept;
            for work in refused {
                residence.waiting -= 1;
                residence.waiting_bytes -= work.bytes();
                let why = why(&self.scope, context);
                work.refuse(context, &self.scope, *id, why);
            }
        }
        residence.earliest = residence.loading.values().flatten().filter_map(Work::deadline).min();
    }

    /// Callers whose deadline has passed while their log was being loaded.
    pub(crate) fn expire_waiting(&mut self, context: &mut Context) {
        let now = context.now;
        if self.residence.earliest.is_some_and(|at| at <= now) {
            let late = |work: &Work| work.deadline().is_some_and(|deadline| deadline <= now);
            self.refuse_waiting(context, None, late, |scope, context| scope.why_late(context));
        }
    }

    /// This node is no member any more.
    pub(crate) fn refuse_all_waiting(&mut self, context: &mut Context) {
        let has_caller = |work: &Work| work.deadline().is_some();
        self.refuse_waiting(context, None, has_caller, |scope, _| Refusal::Removed(scope.epoch()));
    }

    /// Whether one more log may be loaded; unloads others for it. New work has as much room as the bound says, what peers ask as
    /// much again: two full nodes that wait for each other's answers still get them. In the background only what is idle gives
    /// way; the log that has the turn has its own place.
    fn make_room(&mut self, context: &mut Context, id: LogId, work: &Work) -> bool {
        if self.residence.attention.turn() == Some(id) {
            return true;
        }
        let most = context.options.resident_logs_max;
        self.unload_down_to(context, most.saturating_sub(1), work.is_in_background());
        let limit = if work.is_new() || work.is_in_background() { most } else { 2 * most };
        self.residence.count() < limit
    }

    /// A log has done what was due: it may have grown, or be one too many that is idle now.
    pub(crate) fn flushed(&mut self, context: &mut Context, id: LogId) {
        if !self.scope.is_of_values() {
            return;
        }
        if let Some(log) = self.logs.get_mut(&id) {
            for node in log.due_to_tell(context, &self.scope) {
                self.news.owe(node, id, log.known_chosen(), context.now);
            }
            self.residence.note(id, log.bytes(), log.next_deadline(context.now));
            if log.is_done() {
                self.is_done(context, id);
            }
        }
        if self.residence.bytes > bounds::RESIDENT_BYTES_MAX
            || self.residence.count() > context.options.resident_logs_max
        {
            self.unload_down_to(context, context.options.resident_logs_max, false);
        }
    }

    pub(crate) fn unload_down_to(&mut self, context: &mut Context, count: usize, only_idle: bool) {
        while self.residence.count() > count || self.residence.bytes > bounds::RESIDENT_BYTES_MAX {
            let Some(id) = self.least_needed(context, only_idle) else { return };
            let log = self.logs.remove(&id).expect("it was in memory");
            self.residence.remove(id, log.closed());
            for node in log.untold(context, &self.scope) {
                self.news.owe(node, id, log.known_chosen(), context.now);
            }
            if !log.is_done() {
                self.residence.attention.wait(id, context.now + context.options.retry_interval());
            }
            if let Some(settled) = log.settled_at(&self.scope) {
                self.settled(context, id, settled);
            }
            if let Some(void) = log.void().filter(|_| self.residence.voids.len() < bounds::UNFINISHED_LOGS_MAX) {
                self.residence.voids.insert(id, void);
            }
            context.effect(Effect::Unloaded { group: self.scope.group, log: id });
        }
    }

    /// Of those that were used least recently: the first that is idle, or else the first that may go at all.
    fn least_needed(&mut self, context: &Context, only_idle: bool) -> Option<LogId> {
        let looked: Vec<LogId> = self.residence.by_use.values().copied().take(bounds::UNLOAD_LOOKS_MAX).collect();
        let turn = self.residence.attention.turn();
        let may_go = |id: &LogId| Some(*id) != turn && self.logs[id].may_unload(context, &self.scope);
        let may_go: Vec<LogId> = looked.iter().copied().filter(may_go).collect();
        let idle = may_go.iter().find(|id| self.logs[id].is_idle()).copied();
        let found = if only_idle { idle } else { idle.or(may_go.first().copied()) };
        if found.is_none() {
            looked.into_iter().for_each(|id| self.residence.touch(id));
        }
        found
    }
}
