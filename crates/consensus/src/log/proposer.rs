//! The proposer: after phase 1 (`phase_one.rs`) phase 2, pipelined, for as long as its ballot is the highest (rules 2 and 4).

use super::origins::Origins;
use super::phase_one::{is_quorum, Preparing};
use super::Log;
use crate::ballot::Ballot;
use crate::bounds;
use crate::configuration::MemberSet;
use crate::context::Context;
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::{NodeId, OperationId, Slot};
use crate::message::GroupMessage;
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Proposer {
    pub(super) stage: Stage,
    /// Entries admitted for proposing here, in the order of their arrival.
    pub(super) queue: VecDeque<Entry>,
    pub(super) queue_bytes: usize,
    /// Ids that are in the queue or in flight, so that a repeated forward does not take a second slot.
    pub(super) known_ids: BTreeSet<OperationId>,
    /// A chosen notice is owed to the members.
    notice_due: bool,
    /// The queue waits for the disk until then.
    gathering_until: Option<Time>,
}

#[derive(Debug, Default)]
pub(super) enum Stage {
    #[default]
    Idle,
    /// Phase 1 under way.
    Preparing(Preparing),
    /// Owner.
    Owning(Owning),
}

#[derive(Debug)]
pub(super) struct Owning {
    pub(super) ballot: Ballot,
    /// The first slot proposed under the ballot.
    pub(super) base: Slot,
    next: Slot,
    batches: VecDeque<Batch>,
    slots: usize,
    bytes: usize,
    /// When what is unanswered goes out again.
    pub(super) again_at: Time,
    /// In a log of values: the newest value, for members that have not accepted it yet. Nobody else would tell them of it.
    untold: Option<Batch>,
    /// Handing over: nothing new is proposed until then.
    pub(super) yielding_until: Option<Time>,
    /// What stood in the slot after these is damaged and found nowhere: nothing new is proposed, and phase 1 is next.
    pub(super) only_finishes: bool,
}

#[derive(Debug)]
struct Batch {
    first: Slot,
    last: Slot,
    entries: Arc<[Entry]>,
    bytes: usize,
    acks: MemberSet,
    chosen: bool,
    sent_at: Time,
}

impl Batch {
    /// Takes the entries up to this slot off its front; some are left.
    fn take_up_to(&mut self, slot: Slot) -> Arc<[Entry]> {
        assert!(self.first <= slot && slot < self.last, "the batch is divided");
        let count = usize::try_from(slot.0 - self.first.0 + 1).expect("a batch fits memory");
        let done: Arc<[Entry]> = self.entries[..count].into();
        self.entries = self.entries[count..].into();
        self.bytes -= done.iter().map(Entry::len).sum::<usize>();
        self.first = slot.next();
        done
    }
}

impl Owning {
    /// Where the next entry goes.
    pub(super) fn next_slot(&self) -> Slot {
        self.next
    }

    /// Whether every member that is heard has what is chosen.
    pub(super) fn has_told_all(&self) -> bool {
        self.untold.is_none()
    }

    pub(super) fn has_told(&self, scope: &Scope, node: NodeId) -> bool {
        let index = scope.configuration.index(node);
        self.untold.as_ref().is_none_or(|batch| index.is_none_or(|index| batch.acks.contains(index)))
    }

    pub(super) fn has_nothing_in_flight(&self) -> bool {
        self.batches.is_empty()
    }

    /// What arrives while this node's disk writes the batch before travels together, unless the others chose that already: it
    /// could not be written here sooner, and fewer, larger batches cost every member less. A slow disk holds up nothing for long.
    fn gathers_until(&self, scope: &Scope, context: &Context) -> Option<Time> {
        let last = self.batches.back()?;
        let me = scope.configuration.index(context.node)?;
        (!last.acks.contains(me)).then(|| last.sent_at + context.options.failure_timeout / bounds::GATHERING_PART)
    }
}

impl Proposer {
    pub(super) fn owned_ballot(&self) -> Option<Ballot> {
        match &self.stage {
            Stage::Owning(owning) => Some(owning.ballot),
            _ => None,
        }
    }

    pub(super) fn in_flight_slots(&self) -> usize {
        match &self.stage {
            Stage::Owning(owning) => owning.slots,
            _ => 0,
        }
    }

    /// The ballot under which this node proposes or tries to.
    pub(super) fn ballot(&self) -> Option<Ballot> {
        match &self.stage {
            Stage::Idle => None,
            Stage::Preparing(preparing) => Some(preparing.ballot),
            Stage::Owning(owning) => Some(owning.ballot),
        }
    }

    pub(super) fn next_deadline(&self) -> Time {
        match &self.stage {
            Stage::Idle => Time::NEVER,
            Stage::Preparing(preparing) => preparing.asked_at,
            Stage::Owning(owning) => {
                let nothing = owning.batches.is_empty() && owning.untold.is_none();
                let again = if nothing { Time::NEVER } else { owning.again_at };
                let gathering = self.gathering_until.unwrap_or(Time::NEVER);
                again.min(owning.yielding_until.unwrap_or(Time::NEVER)).min(gathering)
            }
        }
    }

    /// Takes an entry to propose; false if there is no room. One that is here already is taken as it is.
    pub(super) fn enqueue(&mut self, entry: Entry) -> bool {
        let id = entry.id();
        if id != OperationId::NONE && self.known_ids.contains(&id) {
            return true;
        }
        if self.queue.len() >= bounds::PENDING_ENTRIES_MAX || self.queue_bytes + entry.len() > bounds::PENDING_BYTES_MAX
        {
            return false;
        }
        if id != OperationId::NONE {
            self.known_ids.insert(id);
        }
        self.queue_bytes += entry.len();
        self.queue.push_back(entry);
        true
    }

    /// Whether the operation has left the queue and is not known chosen.
    pub(super) fn is_in_flight(&self, id: OperationId) -> bool {
        self.known_ids.contains(&id) && !self.queue.iter().any(|entry| entry.id() == id)
    }

    /// Takes an operation off the queue, if it is still there.
    pub(super) fn take_back(&mut self, id: OperationId) {
        if !self.known_ids.contains(&id) {
            return;
        }
        let before = self.queue.len();
        let mut bytes = 0;
        self.queue.retain(|entry| {
            let other = entry.id() != id;
            bytes += if other { 0 } else { entry.len() };
            other
        });
        self.queue_bytes -= bytes;
        if self.queue.len() < before {
            self.known_ids.remove(&id);
        }
    }

    pub(super) fn clear_queue(&mut self) {
        self.queue.clear();
        self.queue_bytes = 0;
        self.known_ids.clear();
    }
}

impl Log {
    pub(super) fn become_owner(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        values: Vec<(Slot, Entry)>,
        only_finishes: bool,
    ) {
        let Stage::Preparing(preparing) = &self.proposer.stage else { unreachable!("only phase 1 leads to ownership") };
        let ballot = preparing.ballot;
        assert!(!scope.is_of_values() || values.len() <= 1, "a log of values has one open slot");
        let base = self.learner.closed.next();
        self.proposer.stage = Stage::Owning(Owning {
            ballot,
            base,
            next: base,
            batches: VecDeque::new(),
            slots: 0,
            bytes: 0,
            untold: None,
            again_at: Time::NEVER,
            yielding_until: None,
            only_finishes,
        });
        self.ownership.won();
        self.origins = Origins::default();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (_, entry) in values {
            if context.options.windows.is_full(batch.len(), bytes + entry.len()) {
                self.send_batch(context, scope, std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += entry.len();
            if entry.id() != OperationId::NONE {
                self.proposer.known_ids.insert(entry.id());
            }
            batch.push(entry);
        }
        if !batch.is_empty() {
            self.send_batch(context, scope, batch);
        }
        let Proposer { stage: Stage::Owning(owning), queue, queue_bytes, .. } = &mut self.proposer else { return };
        // What phase 1 found needs no second slot.
        let carried: BTreeSet<OperationId> =
            owning.batches.iter().flat_map(|batch| batch.entries.iter().map(Entry::id)).collect();
        queue.retain(|entry| !carried.contains(&entry.id()) || entry.id() == OperationId::NONE);
        *queue_bytes = queue.iter().map(Entry::len).sum();
        self.wake(context, scope);
    }

    /// Sends queued entries, as many together as there are, as far as the bounds on what is in flight allow.
    pub(super) fn propose_queued(&mut self, context: &mut Context, scope: &Scope) {
        let has_quorum = scope.configuration.is_quorum(context.peers.live_members(&scope.configuration, context.now));
        self.proposer.gathering_until = None;
        loop {
            let Stage::Owning(owning) = &self.proposer.stage else { return };
            let current = owning.ballot.epoch == scope.epoch() || is_planted(SeededBug::OwnerResumesAfterEpoch);
            assert!(current, "an owner's ballot is of the current epoch");
            if owning.yielding_until.is_some_and(|until| context.now < until) || !has_quorum || owning.only_finishes {
                break;
            }
            let windows = context.options.windows;
            let full = owning.batches.len() >= windows.in_flight_batches || owning.slots >= windows.in_flight_slots;
            let Some(next) = self.proposer.queue.front() else { break };
            let small =
                self.proposer.queue.len() < windows.batch_entries && self.proposer.queue_bytes < windows.batch_bytes;
            let gathering = owning.gathers_until(scope, context).filter(|until| small && context.now < *until);
            if gathering.is_some() {
                self.proposer.gathering_until = gathering;
                break;
            }
            if full || (owning.bytes > 0 && owning.bytes + next.len() > windows.in_flight_bytes()) {
                break;
            }
            let slots_left = windows.in_flight_slots - owning.slots;
            let mut batch = Vec::new();
            let mut bytes = 0;
            while let Some(entry) = self.proposer.queue.front() {
                if windows.is_full(batch.len(), bytes + entry.len()) || batch.len() == slots_left {
                    break;
                }
                bytes += entry.len();
                batch.extend(self.proposer.queue.pop_front());
            }
            self.proposer.queue_bytes -= bytes;
            self.send_batch(context, scope, batch);
        }
        self.send_again(context, scope);
        self.send_notice(context, scope);
        let done =
            matches!(&self.proposer.stage, Stage::Owning(owning) if owning.only_finishes && owning.batches.is_empty());
        if done {
            self.leave_stage();
            self.ownership.must_try = true;
            self.wake(context, scope);
        }
    }

    pub(super) fn send_batch(&mut self, context: &mut Context, scope: &Scope, entries: Vec<Entry>) {
        self.mark_proposed(&entries);
        let chosen_base = {
            let Stage::Owning(owning) = &self.proposer.stage else { unreachable!("only an owner proposes") };
            (owning.base, owning.ballot)
        };
        let chosen = self.chosen_range(chosen_base.0, chosen_base.1);
        let Stage::Owning(owning) = &mut self.proposer.stage else { unreachable!("only an owner proposes") };
        assert!(owning.next > self.learner.closed, "nothing is proposed at or below closed-up-to");
        let entries: Arc<[Entry]> = entries.into();
        let bytes = entries.iter().map(Entry::len).sum();
        let first = owning.next;
        let last = first.plus(entries.len() as u64 - 1);
        owning.next = last.next();
        owning.slots += entries.len();
        owning.bytes += bytes;
        if owning.batches.is_empty() {
            owning.again_at = context.now + context.options.retry_interval();
        }
        let acks = MemberSet::EMPTY;
        owning.batches.push_back(Batch {
            first,
            last,
            entries: entries.clone(),
            bytes,
            acks,
            chosen: false,
            sent_at: context.now,
        });
        let ballot = owning.ballot;
        let to = self.audience(context, scope);
        self.proposer.notice_due = false;
        let body = GroupMessage::Accept { log: self.id, ballot, first, entries, chosen, answer_to: context.node };
        context.send(scope, to, body);
    }

    /// Members worth sending to: this node and all that are heard. Others fetch when they come back.
    pub(super) fn audience(&self, context: &Context, scope: &Scope) -> Vec<NodeId> {
        let heard = |node: &NodeId| context.peers.hears(*node, context.now);
        scope.configuration.members.iter().map(|member| member.node).filter(heard).collect()
    }

    pub(super) fn on_accepted(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        from: NodeId,
        ballot: Ballot,
        first: Slot,
        last: Slot,
    ) {
        let Some(index) = scope.configuration.index(from) else { return };
        let Stage::Owning(owning) = &mut self.proposer.stage else { return };
        if owning.ballot != ballot && !is_planted(SeededBug::EqualValuesAreChosen) {
            return;
        }
        let start = owning.batches.partition_point(|batch| batch.first < first);
        for batch in owning.batches.iter_mut().skip(start).take_while(|batch| batch.last <= last) {
            batch.acks.insert(index);
            batch.chosen = batch.chosen || is_quorum(scope, batch.acks);
        }
        if let Some(untold) = owning.untold.as_mut().filter(|untold| untold.first == first) {
            untold.acks.insert(index);
        }
        self.close_counted(context, scope);
    }

    /// Closes what a quorum was counted for, from closed-up-to on without a gap.
    fn close_counted(&mut self, context: &mut Context, scope: &Scope) {
        let Stage::Owning(owning) = &self.proposer.stage else { return };
        let chosen = owning.batches.iter().take_while(|batch| batch.chosen);
        let Some(closed) = chosen.last().map(|batch| batch.last).filter(|last| *last > self.learner.closed) else {
            return;
        };
        self.counted(context, scope, closed);
        self.close(context, scope, closed);
    }

    /// Closed-up-to moved: what is in flight below it is done.
    pub(super) fn closed_moved(&mut self, context: &mut Context, scope: &Scope) {
        let closed = self.learner.closed;
        let Proposer { stage, known_ids, notice_due, .. } = &mut self.proposer;
        match stage {
            Stage::Owning(owning) => {
                while owning.batches.front().is_some_and(|batch| batch.last <= closed) {
                    let batch = owning.batches.pop_front().expect("it has a front");
                    owning.slots -= batch.entries.len();
                    owning.bytes -= batch.bytes;
                    for entry in batch.entries.iter() {
                        known_ids.remove(&entry.id());
                        self.origins.count(context.now, entry.id());
                    }
                    *notice_due = true;
                    owning.untold = Some(batch).filter(|_| scope.is_of_values());
                }
                // Others may have finished a part of a batch. Who restarted since would refuse that part, and with it the rest.
                if let Some(batch) = owning.batches.front_mut().filter(|batch| batch.first <= closed) {
                    let done = batch.take_up_to(closed);
                    owning.slots -= done.len();
                    owning.bytes -= done.iter().map(Entry::len).sum::<usize>();
                    for entry in done.iter() {
                        known_ids.remove(&entry.id());
                    }
                    *notice_due = true;
                }
                if owning.next <= closed {
                    // Somebody else got further: this ballot is no longer the highest, or the notice came from elsewhere.
                    owning.next = closed.next();
                }
                // Nobody answers again for what was counted behind a gap that others have closed.
                self.close_counted(context, scope);
            }
            Stage::Preparing(_) => self.try_finish_phase_one(context, scope),
            Stage::Idle => {}
        }
    }

    pub(super) fn send_notice(&mut self, context: &mut Context, scope: &Scope) {
        if !std::mem::take(&mut self.proposer.notice_due) {
            return;
        }
        let Stage::Owning(owning) = &self.proposer.stage else { return };
        let Some(range) = self.chosen_range(owning.base, owning.ballot) else { return };
        let to: Vec<NodeId> = self.audience(context, scope).into_iter().filter(|node| *node != context.node).collect();
        context.send(scope, to, GroupMessage::Chosen { log: self.id, range });
    }

    /// What is in flight and unanswered by this member goes to it again now: it can accept it only since this moment.
    pub(super) fn send_in_flight_to(&mut self, context: &mut Context, scope: &Scope, to: NodeId) {
        let Stage::Owning(owning) = &self.proposer.stage else { return };
        let Some(index) = scope.configuration.index(to) else { return };
        // With nothing in flight its acceptance of the newest value says that it has it.
        for batch in owning
            .untold
            .iter()
            .filter(|_| owning.batches.is_empty())
            .chain(&owning.batches)
            .filter(|batch| !batch.acks.contains(index))
        {
            let body = GroupMessage::Accept {
                log: self.id,
                ballot: owning.ballot,
                first: batch.first,
                entries: batch.entries.clone(),
                chosen: None,
                answer_to: context.node,
            };
            context.send(scope, [to], body);
        }
    }

    /// What a live member has not answered for a while goes to it again, oldest first, within one message's bytes.
    pub(super) fn send_again(&mut self, context: &mut Context, scope: &Scope) {
        let audience = self.audience(context, scope);
        let id = self.id;
        let Stage::Owning(owning) = &mut self.proposer.stage else { return };
        let untold = |batch: &Batch| {
            let has_it =
                |node: &NodeId| scope.configuration.index(*node).is_none_or(|index| batch.acks.contains(index));
            batch.last == self.learner.closed && !audience.iter().all(has_it)
        };
        owning.untold = owning.untold.take().filter(untold);
        if (owning.batches.is_empty() && owning.untold.is_none()) || context.now < owning.again_at {
            return;
        }
        let pause = context.options.retry_interval();
        owning.again_at = context.now + pause;
        let mut budget = context.options.windows.batch_bytes * 4;
        let mut ahead = 0;
        for batch in owning.untold.iter_mut().chain(&mut owning.batches) {
            ahead += batch.bytes;
            if (batch.chosen && batch.last > self.learner.closed)
                || context.now - batch.sent_at < pause + context.options.transfer_time(ahead)
            {
                continue;
            }
            let missing =
                |node: &NodeId| scope.configuration.index(*node).is_some_and(|index| !batch.acks.contains(index));
            let to: Vec<NodeId> = audience.iter().copied().filter(missing).collect();
            batch.sent_at = context.now;
            let body = GroupMessage::Accept {
                log: id,
                ballot: owning.ballot,
                first: batch.first,
                entries: batch.entries.clone(),
                chosen: None,
                answer_to: context.node,
            };
            context.send(scope, to, body);
            budget = budget.saturating_sub(batch.bytes);
            if budget == 0 {
                break;
            }
        }
    }

    /// A higher ballot is out: stops proposing under a lower one. What was in flight is the new owner's to finish;
    /// what was queued goes to it by the nodes where it began.
    pub(super) fn step_down_below(&mut self, context: &mut Context, scope: &Scope, ballot: Ballot) {
        let lower = self.proposer.ballot().is_some_and(|mine| mine < ballot);
        let goes_on = self.proposer.owned_ballot().is_some() && is_planted(SeededBug::OwnerResumesAfterAnother);
        if lower && !goes_on {
            self.leave_stage();
            self.give_up_proposing();
            self.wake(context, scope);
        }
    }

    /// A new epoch: phase 1 again with its quorums; in-flight entries are carried over (rule 4).
    pub(super) fn carry_over(&mut self, context: &mut Context, scope: &Scope) {
        if self.proposer.owned_ballot().is_some() && is_planted(SeededBug::OwnerResumesAfterEpoch) {
            return;
        }
        let was_busy = match &mut self.proposer.stage {
            Stage::Idle => false,
            Stage::Preparing(_) => true,
            Stage::Owning(owning) => {
                let entries: Vec<Entry> =
                    owning.batches.iter().flat_map(|batch| batch.entries.iter().cloned()).collect();
                let busy = !entries.is_empty();
                for entry in entries.into_iter().rev().filter(|entry| entry.id() != OperationId::NONE) {
                    self.proposer.queue_bytes += entry.len();
                    self.proposer.queue.push_front(entry);
                }
                busy
            }
        };
        self.leave_stage();
        if scope.may_propose() {
            self.reconsider_forwards();
        } else {
            self.give_up_proposing();
        }
        if was_busy {
            self.ownership.must_try = true;
        }
        self.wake(context, scope);
    }

    /// Slots become known chosen here that this owner did not choose: it cannot say under which ballot they were, so its notices
    /// must not cover them (rule 1). It stops owning; the next write runs phase 1.
    pub(super) fn stop_vouching(&mut self, context: &mut Context, scope: &Scope) {
        if self.proposer.owned_ballot().is_some() && !is_planted(SeededBug::OwnerResumesAfterAnother) {
            self.leave_stage();
            self.give_up_proposing();
            self.wake(context, scope);
        }
    }

    fn leave_stage(&mut self) {
        self.proposer.stage = Stage::Idle;
        self.proposer.notice_due = false;
    }
}
