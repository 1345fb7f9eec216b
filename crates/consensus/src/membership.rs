//! Changes of a group's members (rule 6): learner first, then a joint epoch with its fences and sync pass, then the new epoch.
//!
//! Nothing here is durable but the configurations themselves: any member can take a change up where another left it.

use crate::absence::Absence;
use crate::bounds;
use crate::configuration::{Configuration, InvalidConfiguration, Member, MemberSet, Role};
use crate::context::Context;
use crate::effect::{Effect, Refusal};
use crate::group::Group;
use crate::ids::{Epoch, LogId, NodeId, Slot, Start, Token};
use crate::input::Change;
use crate::message::{GroupMessage, LogPosition};
use crate::pages::{nearer, Page};
use crate::residence::Work;
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Requests of this node's callers, served one after the other.
    requests: VecDeque<Request>,
    /// The joint epoch that this node sees through to its end.
    pass: Option<Pass>,
    /// When this node takes up a joint epoch that another began.
    resume_at: Option<Time>,
    /// When this node finishes a configuration that another proposed.
    finish_at: Option<Time>,
    again_at: Option<Time>,
    /// What concerns members that are away, see `absence.rs`.
    pub(crate) absence: Absence,
    /// The start in which it was found that promises are lost, while that keeps this node from voting, see `renewal.rs`.
    pub(crate) barred: Option<Start>,
}

#[derive(Debug)]
struct Request {
    token: Token,
    change: Change,
    deadline: Time,
    /// The epoch when it was taken up.
    since: Epoch,
}

/// What this node knows of the joint epoch in force.
#[derive(Debug, Default)]
struct Pass {
    /// The logs up to here are done; the page after it is under way.
    after: Option<LogId>,
    /// Where each member's logs of this page stand, answered after its fence: closed-up-to and highest accepted.
    answers: BTreeMap<NodeId, Page>,
    /// Per log of the page the highest slot found in a quorum of the old configuration: what a quorum of the new one must hold.
    goal: Option<BTreeMap<LogId, Slot>>,
    /// The last log of the page; none if it is the last page.
    end: Option<LogId>,
    /// When members were last asked.
    asked: Option<Time>,
}

impl Pass {
    /// What a quorum of the old configuration had in this page. Set once, or else it would run ahead of who is to reach it.
    fn set_goal(&mut self, configuration: &Configuration) -> bool {
        let end = self.answers.values().fold(None, |end, page| nearer(end, page.end));
        if let Some(goal) = &mut self.goal {
            // New logs may push others out of a member's page: those belong to the next one then.
            self.end = nearer(self.end, end);
            let end = self.end;
            goal.retain(|log, _| end.is_none_or(|end| *log <= end));
            return true;
        }
        let answered = configuration.set_of(self.answers.keys().copied());
        let one = is_planted(SeededBug::SyncPassFromOne) && answered != MemberSet::EMPTY;
        if !configuration.is_old_quorum(answered) && !one {
            return false;
        }
        let mut goal: BTreeMap<LogId, Slot> = BTreeMap::new();
        let within = |log: &LogId| end.is_none_or(|end| *log <= end);
        let found = self.answers.values().flat_map(|page| &page.logs).filter(|(log, _)| within(log));
        for (log, (closed, highest)) in found {
            let known = goal.entry(*log).or_default();
            *known = (*known).max(*closed).max(*highest);
        }
        (self.goal, self.end) = (Some(goal), end);
        true
    }

    /// Who has answered to know this log closed up to there.
    fn holders(&self, log: LogId, slot: Slot) -> impl Iterator<Item = NodeId> + '_ {
        let closed = move |page: &Page| page.logs.get(&log).map(|(closed, _)| *closed).unwrap_or_default();
        self.answers.iter().filter(move |(_, page)| closed(page) >= slot).map(|(node, _)| *node)
    }

    /// Logs of the page that no quorum of the new configuration holds.
    fn missing(&self, configuration: &Configuration) -> Vec<(LogId, Slot)> {
        let goal = self.goal.iter().flatten().map(|(log, slot)| (*log, *slot));
        let is_held = |log: LogId, slot: Slot| {
            slot == Slot::ZERO || configuration.is_new_quorum(configuration.set_of(self.holders(log, slot)))
        };
        goal.filter(|(log, slot)| !is_held(*log, *slot)).collect()
    }

    /// Whether to ask now; once per pause.
    fn ask(&mut self, now: Time, pause: Duration) -> bool {
        let due = self.asked.is_none_or(|at| now - at >= pause);
        if due {
            self.asked = Some(now);
        }
        due
    }
}

impl Group {
    pub(crate) fn change(&mut self, context: &mut Context, token: Token, change: Change, deadline: Time) {
        if self.changes.requests.len() >= bounds::CHANGES_MAX {
            context.effect(Effect::Changed { token, result: Err(Refusal::Full("changes")) });
            return;
        }
        let since = self.scope.epoch();
        self.changes.requests.push_back(Request { token, change, deadline, since });
        context.dirty_groups.insert(self.scope.group);
    }

    pub(crate) fn change_deadline(&self) -> Time {
        let requests = self.changes.requests.iter().map(|request| request.deadline).min().unwrap_or(Time::NEVER);
        let again = self.changes.again_at.unwrap_or(Time::NEVER);
        let resume = self.changes.resume_at.unwrap_or(Time::NEVER);
        let finish = self.changes.finish_at.unwrap_or(Time::NEVER);
        let absence = self.changes.absence.next_deadline();
        requests.min(again).min(resume).min(finish).min(absence).min(self.control.next_deadline())
    }

    /// Does what is due for requests, the joint epoch, and the control log's attempt.
    pub(crate) fn go_on(&mut self, context: &mut Context) {
        self.expire_changes(context);
        self.expire_waiting(context);
        self.go_on_comparing(context);
        self.take_turns(context);
        self.go_on_with_news(context);
        self.control_ask(context);
        self.resume_if_due(context);
        self.finish_if_due(context);
        self.consider_absence(context);
        self.serve_request(context);
        self.drive_joint(context);
        self.tell_the_removed(context);
        let busy = self.has_requests() || self.changes.pass.is_some() || !self.confirmation.removed().is_empty();
        self.changes.again_at = busy.then(|| {
            let usual = context.now + context.options.failure_timeout / 20;
            if self.control.not_before() > context.now {
                usual.min(self.control.not_before())
            } else {
                usual
            }
        });
    }

    fn expire_changes(&mut self, context: &mut Context) {
        let now = context.now;
        let requests = std::mem::take(&mut self.changes.requests);
        let (late, rest): (VecDeque<_>, VecDeque<_>) =
            requests.into_iter().partition(|request| request.deadline <= now);
        self.changes.requests = rest;
        for request in late {
            let joint = self.scope.configuration.is_joint() && request.since == self.scope.epoch();
            let why = if joint { Refusal::ChangeUnderWay(self.scope.epoch()) } else { self.scope.why_late(context) };
            context.effect(Effect::Changed { token: request.token, result: Err(why) });
        }
    }

    /// The first request: answered if it is in force and confirmed, or makes no sense; else proposed.
    fn serve_request(&mut self, context: &mut Context) {
        while let Some(request) = self.changes.requests.front_mut() {
            let configuration = self.scope.configuration.clone();
            let answer = if is_fulfilled(&request.change, request.since, &configuration) {
                self.is_confirmed(context).then_some(Ok(configuration))
            } else if configuration.is_joint() && request.change != Change::GoBack {
                if self.changes.pass.is_none() {
                    // Somebody's change is under way: it is helped to its end first.
                    self.changes.pass = Some(Pass::default());
                }
                None
            } else {
                let change = request.change.clone();
                match self.next_configuration(context, &change) {
                    Ok(next) => {
                        self.propose_configuration(context, &next);
                        None
                    }
                    Err(refusal) => {
                        self.ask_the_unheard(context, &refusal);
                        Some(Err(refusal))
                    }
                }
            };
            let Some(result) = answer else { return };
            let request = self.changes.requests.pop_front().expect("it has a front");
            context.effect_when_durable(self.scope.group, Effect::Changed { token: request.token, result });
            if let Some(next) = self.changes.requests.front_mut() {
                next.since = self.scope.epoch();
            }
        }
    }

    /// A new member's first word may have been lost, and where nothing is written it has nothing else to say.
    fn ask_the_unheard(&self, context: &mut Context, refusal: &Refusal) {
        if let Refusal::NotInContact(node) = refusal {
            context.send(&self.scope, [*node], GroupMessage::AskConfiguration);
        }
    }

    /// Whether callers of this node wait for a change.
    pub(crate) fn has_requests(&self) -> bool {
        !self.changes.requests.is_empty()
    }

    /// The change as the next configuration; or why it cannot be.
    pub(crate) fn next_configuration(&self, context: &Context, change: &Change) -> Result<Configuration, Refusal> {
        let mut next = (*self.scope.configuration).clone();
        if !self.scope.is_member() {
            return Err(Refusal::Removed(self.scope.epoch()));
        }
        if self.scope.barred {
            return Err(Refusal::Barred);
        }
        if !self.scope.may_vote() {
            return Err(Refusal::Unfit("only a voter can change the group: ask one"));
        }
        next.epoch = next.epoch.next();
        let old_voters: Vec<NodeId> = next.voters().collect();
        let find = |next: &Configuration, node: NodeId| next.index(node).ok_or(Refusal::Unfit("no such member"));
        match change {
            Change::AddLearner(member) => add_member(&mut next, member, Role::Learner)?,
            Change::AddWitness(member) => add_member(&mut next, member, Role::NewWitness)?,
            Change::Promote(node) => {
                let index = find(&next, *node)?;
                self.check_caught_up(context, *node)?;
                let role = &mut next.members[index].role;
                *role = if role.holds_state() { Role::Voter } else { Role::Witness };
                next.old_voters = Some(old_voters);
            }
            Change::SetAway(node) => {
                let index = find(&next, *node)?;
                if next.members[index].role != Role::Voter {
                    return Err(Refusal::Unfit("only a voter that holds the state can be away"));
                }
                next.members[index].role = Role::Away;
                next.old_voters = Some(old_voters);
            }
            Change::Remove(node) => {
                let index = find(&next, *node)?;
                let role = next.members[index].role;
                if role.votes() {
                    if old_voters.len() == 1 {
                        return Err(Refusal::Unfit("the last voter cannot be removed"));
                    }
                    next.members[index].role = if role.holds_state() { Role::Leaving } else { Role::LeavingWitness };
                    next.old_voters = Some(old_voters);
                } else {
                    next.members.remove(index);
                }
            }
            Change::GoBack => {
                // Without a sync pass nobody's lost promises are made up for.
                let abandoned = self.scope.epoch();
                next.renewed.retain(|_, renewal| renewal.joint != abandoned);
                go_back(&mut next)?;
            }
            Change::Renew(nodes) => {
                self.renew(context, &mut next, nodes)?;
                next.old_voters = Some(old_voters);
            }
        }
        if is_planted(SeededBug::JointStepSkipped) {
            next.old_voters = None;
            next.members.retain(|member| !member.role.is_leaving());
        }
        let members: Vec<NodeId> = next.members.iter().map(|member| member.node).collect();
        next.renewed.retain(|node, _| members.contains(node));
        next.check().map_err(|InvalidConfiguration(why)| Refusal::Unfit(why))?;
        Ok(next)
    }

    /// A voter that is far behind would hold up the group: promoted only when it has caught up with what this node knows chosen.
    pub(crate) fn check_caught_up(&self, context: &Context, node: NodeId) -> Result<(), Refusal> {
        // One that was never told of the group holds nothing of it, however empty the group's logs are.
        if !context.peers.is_live(node, context.now) || !self.heard_from.contains(&node) {
            return Err(Refusal::NotInContact(node));
        }
        // One log of many that is behind catches up when it is written; a member as a whole is never all up to date.
        for log in self.logs.values().filter(|_| !self.scope.is_of_values()) {
            let (held, closed) = (log.known_closed(node), log.closed());
            if held.plus(context.options.windows.promotion_lag()) < closed {
                return Err(Refusal::Behind { held, closed });
            }
        }
        if self.scope.configuration.is_witness(node) {
            self.check_witness_has_enough(context, node)?;
        }
        Ok(())
    }

    /// How long this node gives another one to see through what it began: the members in order, one after the other.
    pub(crate) fn patience(&self, context: &Context) -> Duration {
        let rank =
            u32::try_from(self.scope.configuration.index(context.node).unwrap_or(0)).expect("members are bounded");
        context.options.failure_timeout * 2 + context.options.failure_timeout / 2 * rank
    }

    /// A configuration accepted here whose proposer went silent may be chosen and in force for whoever knows: it is finished.
    fn finish_if_due(&mut self, context: &mut Context) {
        let Some(configuration) = self.control.left_open().filter(|_| self.scope.may_vote()) else {
            self.changes.finish_at = None;
            return;
        };
        let next = context.now + self.patience(context);
        let at = *self.changes.finish_at.get_or_insert(next);
        if context.now >= at {
            self.changes.finish_at = Some(next);
            self.propose_configuration(context, &configuration);
        }
    }

    /// A joint epoch whose driver went silent is taken up by the next member in order.
    fn resume_if_due(&mut self, context: &mut Context) {
        if !self.scope.configuration.is_joint() || !self.scope.may_vote() {
            self.changes.resume_at = None;
            self.changes.pass = None;
            return;
        }
        if self.changes.pass.is_some() {
            self.changes.resume_at = None;
            return;
        }
        let next = context.now + self.patience(context);
        let at = *self.changes.resume_at.get_or_insert(next);
        if context.now >= at {
            self.changes.pass = Some(Pass::default());
            self.changes.resume_at = None;
        }
    }

    /// Fences, then the sync pass, then the new epoch.
    fn drive_joint(&mut self, context: &mut Context) {
        if !self.scope.configuration.is_joint() || !self.scope.may_vote() {
            return;
        }
        let going_back = self.changes.requests.front().is_some_and(|request| request.change == Change::GoBack);
        let pause = context.options.failure_timeout / 20;
        if self.changes.pass.is_none() || going_back || !self.is_confirmed(context) {
            return;
        }
        let configuration = self.scope.configuration.clone();
        let ask = self.changes.pass.as_mut().is_some_and(|pass| pass.ask(context.now, pause));
        if !self.pass_is_complete(context, ask) {
            if let Some(pass) = self.changes.pass.as_ref().filter(|_| ask) {
                let after = pass.after;
                context.send(&self.scope, configuration.all_voters(), GroupMessage::SyncAsk { after });
            }
            return;
        }
        let mut next = (*configuration).clone();
        next.epoch = next.epoch.next();
        next.old_voters = None;
        next.members.retain(|member| !member.role.is_leaving());
        self.propose_configuration(context, &next);
    }

    /// Whether a quorum of the new configuration holds all that a quorum of the old one had, page by page of the logs; sees to
    /// what is missing, now and then.
    fn pass_is_complete(&mut self, context: &mut Context, is_due: bool) -> bool {
        let configuration = self.scope.configuration.clone();
        let Some(pass) = &mut self.changes.pass else { return false };
        if is_planted(SeededBug::NoSyncPass) {
            return true;
        }
        if !pass.set_goal(&configuration) {
            return false;
        }
        let missing = pass.missing(&configuration);
        if missing.is_empty() {
            let Some(end) = pass.end else { return true };
            *pass = Pass { after: Some(end), ..Pass::default() };
            context.dirty_groups.insert(self.scope.group);
            return false;
        }
        if !self.scope.is_of_values() {
            missing.into_iter().for_each(|(log, slot)| self.work(context, log, Work::SeeTo(slot)));
        } else if is_due {
            self.see_to_values(context, missing);
        }
        false
    }

    /// Phase 1 of this epoch found nothing in a log of values above this slot: what was accepted there can never be chosen, and the
    /// sync pass does not wait for it. Whether it did.
    pub(crate) fn settled(&mut self, context: &mut Context, log: LogId, at: Slot) -> bool {
        let goal = self.changes.pass.as_mut().and_then(|pass| pass.goal.as_mut()?.get_mut(&log));
        let Some(goal) = goal.filter(|goal| at < **goal) else { return false };
        *goal = at;
        context.dirty_groups.insert(self.scope.group);
        true
    }

    /// What the sync pass wants of a log that this node does not know chosen so far.
    pub(crate) fn missing_in_pass(&self, log: LogId) -> Option<Slot> {
        let goal = self.changes.pass.as_ref()?.goal.as_ref()?;
        goal.get(&log).copied().filter(|slot| self.known_closed_of(log) < *slot)
    }

    /// Logs of values are mostly not in memory, here or elsewhere: who is behind is told.
    fn see_to_values(&mut self, context: &mut Context, missing: Vec<(LogId, Slot)>) {
        let mut told: BTreeMap<NodeId, Vec<LogPosition>> = BTreeMap::new();
        for (id, slot) in missing.into_iter().take(bounds::PAGE_LOGS) {
            if let Some(settled) = self.logs.get(&id).and_then(|log| log.settled_at(&self.scope)) {
                if self.settled(context, id, settled) {
                    continue;
                }
            }
            let pass = self.changes.pass.as_mut().expect("it is under way");
            let mine = pass.answers.get(&context.node).and_then(|page| page.logs.get(&id)).map(|(closed, _)| *closed);
            let closed = self.logs.get(&id).map(crate::log::Log::closed).max(mine).unwrap_or_default();
            if closed >= slot {
                let holders: Vec<NodeId> = pass.holders(id, slot).collect();
                let position = self.position_at(id, closed);
                let behind = self.scope.configuration.all_voters().into_iter();
                for node in behind.filter(|node| *node != context.node && !holders.contains(node)) {
                    told.entry(node).or_default().push(position);
                }
            } else {
                let holder = pass.holders(id, slot).find(|node| *node != context.node);
                let work = match holder {
                    Some(from) => Work::Position { from, position: self.position_at(id, slot) },
                    None => Work::SeeTo(slot),
                };
                self.work(context, id, work);
            }
        }
        for (node, logs) in told {
            context.send(&self.scope, [node], GroupMessage::Positions { logs });
        }
    }

    pub(crate) fn on_sync_answer(
        &mut self,
        context: &mut Context,
        from: NodeId,
        after: Option<LogId>,
        page: Page,
        votes: bool,
    ) {
        let Some(pass) = self.changes.pass.as_mut().filter(|pass| pass.after == after) else { return };
        if !votes || self.scope.configuration.index(from).is_none() {
            return;
        }
        pass.answers.insert(from, page);
        context.dirty_groups.insert(self.scope.group);
    }

    /// A new epoch is in force: whoever asked for it sees it through, or is answered.
    pub(crate) fn changes_epoch_changed(&mut self, context: &mut Context) {
        self.changes.resume_at = None;
        let asked = self.has_requests() || self.changes.absence.began(self.scope.epoch());
        self.changes.pass = (self.scope.configuration.is_joint() && asked).then(Pass::default);
        self.lift_bar_if_renewed(context);
        context.dirty_groups.insert(self.scope.group);
    }
}

/// The voters of before vote, and nobody else.
fn go_back(next: &mut Configuration) -> Result<(), Refusal> {
    let old = next.old_voters.take().ok_or(Refusal::Unfit("no change is under way"))?;
    for member in &mut next.members {
        member.role = match (old.contains(&member.node), member.role.holds_state()) {
            (true, true) => Role::Voter,
            (true, false) => Role::Witness,
            (false, true) if member.role == Role::Away => Role::Away,
            (false, true) => Role::Learner,
            (false, false) => Role::NewWitness,
        };
    }
    Ok(())
}

fn add_member(next: &mut Configuration, member: &Member, role: Role) -> Result<(), Refusal> {
    if let Some(index) = next.index(member.node) {
        let known = next.members[index].role;
        if known.holds_state() != role.holds_state() {
            return Err(Refusal::Unfit(
                "a member with a state cannot become a witness, nor the other way, without leaving",
            ));
        }
        let role = known;
        next.members[index] = Member { role, ..member.clone() };
        return Ok(());
    }
    if next.members.len() >= bounds::MEMBERS_MAX {
        return Err(Refusal::Full("members"));
    }
    let at = next.members.partition_point(|known| known.node < member.node);
    next.members.insert(at, Member { role, ..member.clone() });
    Ok(())
}

/// Whether the configuration in force is what the request wanted.
fn is_fulfilled(change: &Change, since: Epoch, configuration: &Arc<Configuration>) -> bool {
    let settled = !configuration.is_joint();
    match change {
        Change::AddLearner(member) | Change::AddWitness(member) => {
            settled
                && configuration.holds_state(member.node) == matches!(change, Change::AddLearner(_))
                && configuration
                    .member(member.node)
                    .is_some_and(|known| Member { role: member.role, ..known.clone() } == *member)
        }
        Change::Promote(node) => settled && configuration.member(*node).is_some_and(|member| member.role.votes()),
        Change::SetAway(node) => settled && configuration.member(*node).is_some_and(|member| member.role == Role::Away),
        // Others may be changing already.
        Change::Remove(node) => configuration.index(*node).is_none(),
        Change::GoBack => settled && configuration.epoch > since,
        Change::Renew(nodes) => {
            settled
                && configuration.epoch > since
                && nodes.iter().all(|node| configuration.renewed.get(node).is_some_and(|renewal| renewal.joint > since))
        }
    }
}
