//! Members of a group of values compare which logs they have when they come into contact, page by page, so that a log which
//! nobody uses any more catches up without being named.
//!
//! Each side sees to its own: it asks the other for a page of its logs, lists its own beside it, and brings up to date what
//! is behind, a few logs at a time, before it asks for the next page. An open slot of its own it settles. What the other lacks
//! it puts on the list of news (`news.rs`), as contact may have been lost on one side only. A matter of liveness only: which
//! values are chosen does not depend on it.

use crate::ballot::Ballot;
use crate::bounds;
use crate::context::Context;
use crate::group::Group;
use crate::ids::{LogId, NodeId, Slot};
use crate::message::{GroupMessage, LogPosition, Room};
use crate::pages::{nearer, ListFor, Page};
use crate::residence::Work;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How far the comparison with one member is.
#[derive(Debug)]
struct Comparison {
    /// Names the question for this page: an answer to one of an earlier contact says nothing of what came since.
    number: u64,
    /// The last log that is compared.
    after: Option<LogId>,
    theirs: Option<Page>,
    ours: Option<Page>,
    /// Logs that must reach these slots before the next page.
    behind: VecDeque<(LogId, Slot)>,
    /// Logs with an open slot that are to be looked at before the next page.
    open: VecDeque<LogId>,
    /// Whether the pages were compared, and what is behind is being brought up to date.
    compared: bool,
    again_at: Time,
}

impl Comparison {
    fn from(after: Option<LogId>, context: &mut Context) -> Comparison {
        let (behind, open) = (VecDeque::new(), VecDeque::new());
        let (number, again_at) = (context.next_read_round(), context.now);
        Comparison { number, after, theirs: None, ours: None, behind, open, compared: false, again_at }
    }
}

/// All that are under way.
#[derive(Debug, Default)]
pub(crate) struct Comparisons(BTreeMap<NodeId, Comparison>);

impl Comparisons {
    pub(crate) fn next_deadline(&self) -> Time {
        self.0.values().map(|comparison| comparison.again_at).min().unwrap_or(Time::NEVER)
    }
}

impl Group {
    /// Contact with a member began: what it has and this node lacks is to be fetched.
    pub(crate) fn compare_with(&mut self, context: &mut Context, node: NodeId) {
        if self.scope.is_of_values() && node != context.node {
            self.comparisons.0.insert(node, Comparison::from(None, context));
            context.dirty_groups.insert(self.scope.group);
        }
    }

    /// A member went out of contact: what it alone would have told, the others may tell.
    pub(crate) fn compare_without(&mut self, context: &mut Context, lost: NodeId) {
        let configuration = self.scope.configuration.clone();
        for node in configuration.members.iter().map(|member| member.node).filter(|node| *node != lost) {
            if context.peers.is_live(node, context.now) {
                self.compare_with(context, node);
            }
        }
    }

    /// Members that this node was in contact with before it knew that they are members.
    pub(crate) fn compare_with_new_members(&mut self, context: &mut Context, before: &[NodeId]) {
        let configuration = self.scope.configuration.clone();
        let new = configuration.members.iter().map(|member| member.node).filter(|node| !before.contains(node));
        for node in new.filter(|node| context.peers.is_live(*node, context.now)).collect::<Vec<_>>() {
            self.compare_with(context, node);
        }
    }

    pub(crate) fn on_compare_ask(&mut self, context: &mut Context, from: NodeId, number: u64, after: Option<LogId>) {
        if self.scope.is_of_values() {
            self.list_logs(context, ListFor::Comparison { to: from, number }, after);
        }
    }

    pub(crate) fn on_compare(&mut self, context: &mut Context, from: NodeId, number: u64, page: Page) {
        if let Some(comparison) = self.comparisons.0.get_mut(&from).filter(|known| known.number == number) {
            comparison.theirs = Some(page);
            context.dirty_groups.insert(self.scope.group);
        }
    }

    pub(crate) fn own_page(&mut self, context: &mut Context, with: NodeId, number: u64, page: Page) {
        if let Some(comparison) = self.comparisons.0.get_mut(&with).filter(|known| known.number == number) {
            comparison.ours = Some(page);
            context.dirty_groups.insert(self.scope.group);
        }
    }

    /// Goes on with every comparison as far as it can.
    pub(crate) fn go_on_comparing(&mut self, context: &mut Context) {
        let live = |node: &NodeId| {
            self.scope.configuration.index(*node).is_some() && context.peers.is_live(*node, context.now)
        };
        let is_member = self.scope.is_member();
        self.comparisons.0.retain(|node, _| is_member && live(node));
        for node in self.comparisons.0.keys().copied().collect::<Vec<_>>() {
            while self.compare_once(context, node) {}
        }
    }

    /// One step with one member; whether the next can follow at once.
    fn compare_once(&mut self, context: &mut Context, node: NodeId) -> bool {
        let Some(comparison) = self.comparisons.0.get_mut(&node) else { return false };
        if comparison.compared {
            return self.bring_up_to_date(context, node);
        }
        if let (Some(theirs), Some(ours)) = (&comparison.theirs, &comparison.ours) {
            let end = nearer(theirs.end, ours.end);
            comparison.behind = behind(theirs, ours, end);
            // The other one may not have noticed that contact was lost, and then it does not compare.
            for (log, slot) in behind(ours, theirs, end) {
                self.news.owe(node, log, slot, context.now);
            }
            comparison.open = open(theirs, ours, end);
            comparison.compared = true;
            comparison.after = end;
            return true;
        }
        if context.now < comparison.again_at {
            return false;
        }
        comparison.again_at = context.now + context.options.retry_interval();
        let (number, after) = (comparison.number, comparison.after);
        let (asks, lists) = (comparison.theirs.is_none(), comparison.ours.is_none());
        if asks {
            context.send(&self.scope, [node], GroupMessage::CompareAsk { number, after });
        }
        if lists {
            self.list_logs(context, ListFor::Own { with: node, number }, after);
        }
        false
    }

    /// Works on the first few logs that are behind; the next page once there are none.
    fn bring_up_to_date(&mut self, context: &mut Context, node: NodeId) -> bool {
        let mut comparison = self.comparisons.0.remove(&node).expect("it was there");
        comparison.behind.retain(|(id, slot)| self.known_closed_of(*id) < *slot);
        if comparison.behind.is_empty() && comparison.open.is_empty() {
            // Without an end there is nothing after it.
            if let Some(after) = comparison.after {
                self.comparisons.0.insert(node, Comparison::from(Some(after), context));
                return true;
            }
            return false;
        }
        if context.now >= comparison.again_at {
            comparison.again_at = context.now + context.options.failure_timeout / 20;
            for (id, slot) in comparison.behind.iter().copied().take(bounds::COMPARISON_AHEAD) {
                self.work(context, id, Work::Position { from: node, position: self.position_at(id, slot) });
            }
            let ahead = comparison.open.len().min(bounds::COMPARISON_AHEAD);
            for id in comparison.open.drain(..ahead) {
                self.work(context, id, Work::Look);
            }
        }
        self.comparisons.0.insert(node, comparison);
        false
    }

    /// Closed-up-to of a log that is or was in memory not long ago.
    pub(crate) fn known_closed_of(&self, id: LogId) -> Slot {
        let loaded = self.logs.get(&id).map(crate::log::Log::closed);
        loaded.or(self.residence.closed_when_unloaded(id)).unwrap_or_default()
    }

    /// Where a log stands, as a page tells it.
    pub(crate) fn position_at(&self, log: LogId, closed: Slot) -> LogPosition {
        let (group, epoch) = (self.scope.group, self.scope.epoch());
        // There is no state beside a value, and no witness.
        LogPosition { group, epoch, log, ballot: Ballot::ZERO, closed, held: Slot::ZERO, room: Room::Enough }
    }
}

/// What either has accepted and neither knows chosen: it may be, by now.
fn open(theirs: &Page, ours: &Page, end: Option<LogId>) -> VecDeque<LogId> {
    let within = |id: &LogId| end.is_none_or(|end| *id <= end);
    let is_open = |(id, (closed, highest)): (&LogId, &(Slot, Slot))| (highest > closed && within(id)).then_some(*id);
    let of_theirs = theirs.logs.iter().filter_map(is_open).filter(|id| {
        let mine = ours.logs.get(id).map(|(closed, _)| *closed).unwrap_or_default();
        theirs.logs[id].1 > mine
    });
    let either: BTreeSet<LogId> = ours.logs.iter().filter_map(is_open).chain(of_theirs).collect();
    either.into_iter().collect()
}

/// What one of two members knows chosen and the other one does not.
fn behind(knowing: &Page, lacking: &Page, end: Option<LogId>) -> VecDeque<(LogId, Slot)> {
    let within = |id: &LogId| end.is_none_or(|end| *id <= end);
    let newer = |(id, (closed, _)): (&LogId, &(Slot, Slot))| {
        let lacked = lacking.logs.get(id).map(|(closed, _)| *closed).unwrap_or_default();
        (*closed > lacked).then_some((*id, *closed))
    };
    knowing.logs.iter().filter(|(id, _)| within(id)).filter_map(newer).collect()
}
