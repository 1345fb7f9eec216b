//! Lists of a group's logs, page by page: a group of values may have ten million, most of them on the disk only.
//!
//! A page is what the disk has, overlaid with what is in memory. The disk is asked once everything queued before the
//! question is durable, so that a page shows at least what this node had accepted when it was asked (rule 6: behind the
//! fence that it answers for).

use crate::bounds;
use crate::context::Context;
use crate::effect::Effect;
use crate::group::Group;
use crate::ids::{Epoch, LogId, NodeId, Slot, Token};
use crate::message::GroupMessage;
use crate::seeded_bug::{is_planted, SeededBug};
use std::collections::BTreeMap;

/// Logs that come after one, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    /// Closed-up-to and highest accepted slot of each.
    pub(crate) logs: BTreeMap<LogId, (Slot, Slot)>,
    /// The last log that it covers; none if no log follows.
    pub(crate) end: Option<LogId>,
}

impl Page {
    pub(crate) fn new(logs: Vec<(LogId, Slot, Slot)>, last: bool) -> Page {
        let end = logs.last().map(|(id, ..)| *id).filter(|_| !last);
        Page { logs: logs.into_iter().map(|(id, closed, highest)| (id, (closed, highest))).collect(), end }
    }

    pub(crate) fn covers(&self, log: LogId) -> bool {
        self.end.is_none_or(|end| log <= end)
    }
}

/// The smaller of two ends of pages: what both cover.
pub(crate) fn nearer(one: Option<LogId>, other: Option<LogId>) -> Option<LogId> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (end, None) | (None, end) => end,
    }
}

/// What a list from the disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListFor {
    /// The answer to a member's sync pass, of this epoch.
    SyncPass { to: NodeId, epoch: Epoch },
    /// The answer to a member's comparison.
    Comparison { to: NodeId, number: u64 },
    /// This node's own side of such a question.
    Own { with: NodeId, number: u64 },
}

/// Lists that the disk was asked for, with the log after which they begin.
#[derive(Debug, Default)]
pub(crate) struct Lists(BTreeMap<Token, (ListFor, Option<LogId>)>);

impl Group {
    /// Asks the disk for the logs after this one. Asked for twice by the same, once is enough.
    pub(crate) fn list_logs(&mut self, context: &mut Context, whose: ListFor, after: Option<LogId>) {
        let asked = self.lists.0.values().any(|known| *known == (whose, after));
        if asked || self.lists.0.len() >= bounds::LISTS_MAX {
            return;
        }
        let group = self.scope.group;
        let token = context.reading(group, LogId::CONTROL);
        self.lists.0.insert(token, (whose, after));
        let list = Effect::ListLogs { token, group, after, count_max: bounds::PAGE_LOGS };
        if is_planted(SeededBug::ListedBeforeFence) {
            context.effect(list);
        } else {
            context.effect_when_durable(group, list);
        }
    }

    pub(crate) fn logs_listed(
        &mut self,
        context: &mut Context,
        token: Token,
        logs: Vec<(LogId, Slot, Slot)>,
        last: bool,
    ) {
        let Some((whose, after)) = self.lists.0.remove(&token) else { return };
        let mut page = Page::new(logs, last);
        self.overlay(context, &mut page, after);
        let last = page.end.is_none();
        match whose {
            // Of an older epoch it says nothing of what was accepted before the fence of this one.
            ListFor::SyncPass { to, epoch } if epoch == self.scope.epoch() => {
                let damaged = self.logs.values().any(|log| log.is_damaged());
                let votes = self.scope.may_vote() && !damaged && self.has_enough_for_sync(context);
                let body = GroupMessage::SyncAnswer { after, logs: listed(page), last, votes };
                context.send_when_durable(&self.scope, to, body);
            }
            ListFor::SyncPass { .. } => {}
            ListFor::Comparison { to, number } => {
                let body = GroupMessage::Compare { number, after, logs: listed(page), last };
                context.send_when_durable(&self.scope, to, body);
            }
            ListFor::Own { with, number } => self.own_page(context, with, number, page),
        }
    }

    /// What is in memory is newer than what the disk had when it was asked.
    fn overlay(&self, context: &Context, page: &mut Page, after: Option<LogId>) {
        for (id, log) in self.logs.iter().filter(|(id, _)| after.is_none_or(|after| **id > after)) {
            let (closed, highest) = (log.closed_for_sync(context, &self.scope), log.highest());
            if page.covers(*id) && closed.max(highest) > Slot::ZERO {
                page.logs.insert(*id, (closed, highest));
            }
        }
    }

    /// For the sync pass: durable state only, after the fence; a node that lost its promises says so and counts in no sync pass
    /// (rule 9).
    pub(crate) fn on_sync_ask(&mut self, context: &mut Context, from: NodeId, after: Option<LogId>) {
        if self.scope.is_of_values() && !is_planted(SeededBug::SyncPassOfLoaded) {
            let epoch = self.scope.epoch();
            self.list_logs(context, ListFor::SyncPass { to: from, epoch }, after);
            return;
        }
        let mut page = Page::default();
        self.overlay(context, &mut page, after);
        let damaged = self.logs.values().any(|log| log.is_damaged());
        let votes = self.scope.may_vote() && !damaged && self.has_enough_for_sync(context);
        let body = GroupMessage::SyncAnswer { after, logs: listed(page), last: true, votes };
        context.send_when_durable(&self.scope, from, body);
    }
}

fn listed(page: Page) -> Vec<(LogId, Slot, Slot)> {
    page.logs.into_iter().map(|(id, (closed, highest))| (id, closed, highest)).collect()
}
