//! One log of one group, as one member sees it. A file for each concern of the protocol; what is different in a log of
//! values stands in `values.rs`.

mod acceptor;
mod admission;
mod catch_up;
mod copies;
mod healing;
mod learner;
mod origins;
mod ownership;
mod phase_one;
mod proposer;
mod reader;
mod sync_goal;
mod telling;
mod trimming;
mod values;

use crate::ballot::Ballot;
use crate::context::Context;
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::{GroupId, LogId, NodeId, Slot, Token};
use crate::message::{ChosenRange, GroupMessage, LogPosition};
use crate::record::Record;
use crate::recovered::RecoveredLog;
use crate::status::{LogQueues, LogStatus};
use crate::time::Time;
use crate::turns::Queued;
use std::collections::BTreeMap;

use acceptor::Acceptor;
use admission::Admission;
use catch_up::CatchUp;
use healing::Healing;
use learner::Learner;
use origins::Origins;
use ownership::Ownership;
use proposer::Proposer;
use reader::Reader;
use sync_goal::SyncGoal;
use trimming::Trimming;

/// A log's state, divided by concern; each part's rules stand in its own file.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) id: LogId,
    acceptor: Acceptor,
    learner: Learner,
    catch_up: CatchUp,
    proposer: Proposer,
    ownership: Ownership,
    origins: Origins,
    admission: Admission,
    reader: Reader,
    sync_goal: SyncGoal,
    trimming: Trimming,
    /// This node is a witness: nothing is delivered.
    witness: bool,
    /// Closed-up-to of the other members, as last heard.
    member_closed: BTreeMap<NodeId, Slot>,
    /// When something last happened here: busy logs travel with heartbeats, idle ones cost nothing.
    busy_at: Option<Time>,
    /// The last record of it that must be synced.
    last_record: Option<Queued>,
    /// In a log of values: what stood open here, under which ballot, when this node last asked a quorum, and was not chosen.
    void: Option<(Slot, Ballot)>,
    telling: telling::Telling,
    /// In a log of values: the highest slot that each member said it has, accepted or chosen, since the log is in memory.
    said_to_have: BTreeMap<NodeId, Slot>,
}

impl Log {
    pub(crate) fn new(id: LogId, recovered: &RecoveredLog, witness: bool) -> Log {
        // What the face holds beyond the log's own closed-up-to is chosen, but what the log holds there may be something else:
        // it is fetched first, and until then the acceptor answers as it always would.
        let closed = recovered.closed;
        // A witness looks through what it still keeps, to know how much that is.
        let applied = if witness { recovered.trimmed } else { recovered.applied };
        let mut catch_up = CatchUp::default();
        catch_up.aim(applied);
        catch_up.healing = Healing::new(recovered.lost.clone());
        Log {
            id,
            acceptor: Acceptor::new(recovered, closed),
            learner: Learner::new(closed, applied, recovered.trimmed),
            catch_up,
            proposer: Proposer::default(),
            ownership: Ownership::new(recovered.promised),
            origins: Origins::default(),
            admission: Admission::default(),
            reader: Reader::default(),
            sync_goal: SyncGoal::default(),
            trimming: Trimming::default(),
            witness,
            member_closed: BTreeMap::new(),
            busy_at: None,
            last_record: None,
            void: None,
            telling: telling::Telling::default(),
            said_to_have: BTreeMap::new(),
        }
    }

    /// A message about this log. `entries` and their like were checked when it was decoded.
    pub(crate) fn receive(&mut self, context: &mut Context, scope: &Scope, from: NodeId, body: GroupMessage) {
        self.touch(context, scope);
        match body {
            GroupMessage::Prepare { ballot, closed, .. } => self.on_prepare(context, scope, from, ballot, closed),
            GroupMessage::Promise { ballot, closed, above, part, last, accepted, .. } => {
                self.on_promise(context, scope, from, ballot, closed, (above, part, last), accepted);
            }
            GroupMessage::Refused { ballot, promised, closed, .. } => {
                self.on_refused(context, scope, from, ballot, promised, closed)
            }
            GroupMessage::Accept { ballot, first, entries, chosen, answer_to, .. } => {
                // A log of values takes nothing above a slot that it does not know chosen.
                let (before, after) = if scope.is_of_values() { (chosen, None) } else { (None, chosen) };
                before.into_iter().for_each(|range| self.on_chosen(context, scope, from, range));
                self.on_accept(context, scope, ballot, first, &entries, answer_to);
                after.into_iter().for_each(|range| self.on_chosen(context, scope, from, range));
            }
            GroupMessage::Accepted { ballot, first, last, closed, .. } => {
                self.saw_closed(from, closed);
                self.says_to_have(scope, from, last);
                self.on_accepted(context, scope, from, ballot, first, last);
                self.on_finish_accepted(context, scope, from, ballot, first, last);
            }
            GroupMessage::Chosen { range, .. } => self.on_chosen(context, scope, from, range),
            GroupMessage::Forward { entries, origin, hops, .. } => {
                self.on_forward(context, scope, entries, origin, hops)
            }
            GroupMessage::NotProposed { ids, reason, ballot, .. } => {
                self.on_not_proposed(context, scope, from, &ids, reason, ballot)
            }
            GroupMessage::ReadAsk { round, .. } => self.on_read_ask(context, scope, from, round),
            GroupMessage::ReadAnswer { round, closed, highest, promised, .. } => {
                self.says_to_have(scope, from, closed.max(highest));
                self.saw_closed(from, closed);
                self.on_read_answer(context, scope, from, round, reader::Answer { closed, highest, promised });
            }
            GroupMessage::Fetch { from: first, .. } if scope.is_of_values() => {
                self.on_fetch_newest(context, scope, from, first);
            }
            GroupMessage::Fetch { from: first, up_to, .. } => self.on_fetch(context, scope, from, first, up_to),
            GroupMessage::Fetched { first, entries, closed, trimmed, .. } => {
                self.saw_closed(from, closed);
                if scope.is_of_values() {
                    return self.on_fetched_newest(context, scope, first, &entries, closed);
                }
                self.on_fetched(context, scope, from, first, &entries, closed, trimmed);
            }
            GroupMessage::AskAccepted { from: first, up_to, .. } => {
                self.on_ask_accepted(context, scope, from, first, up_to)
            }
            GroupMessage::HasAccepted { closed, accepted, .. } => {
                self.saw_closed(from, closed);
                self.on_has_accepted(context, scope, from, closed, accepted);
            }
            GroupMessage::Invite { ballot, .. } => self.on_invite(context, scope, ballot),
            GroupMessage::AskConfiguration
            | GroupMessage::Configured { .. }
            | GroupMessage::Fenced
            | GroupMessage::SyncAsk { .. }
            | GroupMessage::SyncAnswer { .. }
            | GroupMessage::CompareAsk { .. }
            | GroupMessage::Compare { .. }
            | GroupMessage::Newer { .. }
            | GroupMessage::UpToDate { .. }
            | GroupMessage::Positions { .. } => unreachable!("handled by the group"),
        }
    }

    /// Queues a record that must be synced.
    fn persist(&mut self, context: &mut Context, record: Record) -> Queued {
        let queued = context.persist(record);
        self.last_record = Some(queued);
        queued
    }

    /// Marks the log for the next flush, and as busy.
    pub(crate) fn touch(&mut self, context: &mut Context, scope: &Scope) {
        self.busy_at = Some(context.now);
        self.wake(context, scope);
    }

    pub(crate) fn wake(&self, context: &mut Context, scope: &Scope) {
        context.dirty.insert((scope.group, self.id));
    }

    fn saw_closed(&mut self, node: NodeId, closed: Slot) {
        let known = self.member_closed.entry(node).or_default();
        *known = (*known).max(closed);
    }

    /// Where another member's log stands: learn of its ballot, and fetch what it knows chosen.
    pub(crate) fn saw_position(&mut self, context: &mut Context, scope: &Scope, from: NodeId, position: &LogPosition) {
        self.saw_closed(from, position.closed);
        self.trimming.saw_position(from, position);
        self.hold_more_if_asked(context, scope, from, position);
        if self.witness {
            self.wake(context, scope);
        }
        self.saw_ballot(context, scope, position.ballot);
        if position.closed > self.learner.closed {
            self.catch_up.aim(position.closed);
            self.wake(context, scope);
        }
    }

    /// The group's epoch moved: ballots of older epochs are refused now, by this member too.
    pub(crate) fn epoch_changed(&mut self, context: &mut Context, scope: &Scope) {
        self.member_closed.retain(|node, _| scope.configuration.index(*node).is_some());
        self.trimming.epoch_changed(scope);
        self.carry_over(context, scope);
        if scope.is_member() {
            self.restart_reads();
        } else {
            let why = crate::effect::Refusal::Removed(scope.epoch());
            self.refuse_reads(context, &why);
            self.give_all_up(context, scope, &why);
        }
        self.wake(context, scope);
    }

    /// A peer came into or went out of contact.
    pub(crate) fn contact_changed(&mut self, context: &mut Context, scope: &Scope, node: NodeId, restarted: bool) {
        self.forget_forwards(node, restarted);
        self.forget_forwards_astray(context, scope);
        self.wake(context, scope);
    }

    /// Members may be reachable in another way than before, or not at all.
    pub(crate) fn reachable_changed(&mut self, context: &mut Context, scope: &Scope) {
        self.forget_forwards_astray(context, scope);
        self.wake(context, scope);
    }

    /// Does everything that is due: once per poll for logs that something happened to, and whenever a timer runs out.
    pub(crate) fn flush(&mut self, context: &mut Context, scope: &Scope) {
        if scope.is_of_values() {
            return self.flush_values(context, scope);
        }
        self.expire(context, scope);
        self.route_pending(context, scope);
        self.seek_ownership(context, scope);
        self.consider_hand_over(context, scope);
        self.propose_queued(context, scope);
        self.flush_reads(context, scope);
        self.note_durable(context, scope);
        self.note_closed_durable(context, scope);
        self.fetch_missing(context, scope);
        self.deliver(context, scope);
        self.record_closed(context, scope);
        self.trim_as_witness(context, scope);
        self.settle_open_slots(context, scope);
    }

    /// When to flush at the latest.
    pub(crate) fn next_deadline(&self, now: Time) -> Time {
        let _ = now;
        [
            self.proposer.next_deadline(),
            self.ownership.next_deadline(),
            self.admission.next_deadline(),
            self.reader.next_deadline(),
            self.catch_up.next_deadline(),
            self.acceptor.next_deadline(),
            self.telling.next_deadline(),
        ]
        .into_iter()
        .min()
        .unwrap_or(Time::NEVER)
    }

    pub(crate) fn position(&self, context: &Context, scope: &Scope) -> LogPosition {
        LogPosition {
            group: scope.group,
            epoch: scope.epoch(),
            log: self.id,
            ballot: self.ownership.highest,
            closed: self.learner.closed,
            held: self.held_here(),
            room: self.room(context),
        }
    }

    pub(crate) fn is_busy(&self, now: Time, within: std::time::Duration) -> bool {
        self.busy_at.is_some_and(|at| now - at < within)
    }

    pub(crate) fn closed(&self) -> Slot {
        self.learner.closed
    }

    /// Highest slot known accepted here, chosen or not.
    pub(crate) fn highest(&self) -> Slot {
        self.acceptor.highest().max(self.learner.closed)
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.acceptor.has_damage()
    }

    pub(crate) fn known_closed(&self, node: NodeId) -> Slot {
        self.member_closed.get(&node).copied().unwrap_or_default()
    }

    pub(crate) fn entries_read(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        token: Token,
        entries: Vec<(Ballot, Entry)>,
        damaged: Option<Ballot>,
    ) {
        self.on_entries_read(context, scope, token, entries, damaged);
        self.wake(context, scope);
    }

    pub(crate) fn queues(&self, group: GroupId) -> LogQueues {
        LogQueues {
            group,
            log: self.id,
            pending: self.admission.len(),
            in_flight: self.proposer.in_flight_slots(),
            queued: self.proposer.queue.len(),
            readers: self.reader.len(),
            healing: self.catch_up.healing.len(),
            closed: self.learner.closed,
            delivered: self.learner.delivered,
            held: self.learner.held,
        }
    }

    pub(crate) fn status(&self, context: &Context, scope: &Scope) -> LogStatus {
        let ballot = self.ownership.highest;
        LogStatus {
            log: self.id,
            ballot,
            owner: ballot.is_proposed().then_some(ballot.node),
            is_owner: self.proposer.owned_ballot().is_some_and(|owned| owned.epoch == scope.epoch()),
            closed: self.learner.closed,
            delivered: self.learner.delivered,
            held: self.held_here(),
            trimmed: self.learner.trimmed,
            in_flight: self.proposer.in_flight_slots(),
            pending: self.admission.len(),
            members: scope
                .configuration
                .members
                .iter()
                .filter(|member| member.node != context.node)
                .map(|member| (member.node, self.known_closed(member.node)))
                .collect(),
            needs_state: self.catch_up.needs_state(),
            damaged: self.first_damaged(),
        }
    }

    /// A notice about slots that are all known chosen here, if this node accepted them under one ballot from `first` on.
    fn chosen_range(&self, first: Slot, ballot: Ballot) -> Option<ChosenRange> {
        (self.learner.closed >= first).then_some(ChosenRange { first, last: self.learner.closed, ballot })
    }
}
