//! Values that a member in contact may lack although this node will not mention them again: their log leaves memory before
//! the member has accepted them. The member is sent a list of them until it says that it has them.
//!
//! A member that goes out of contact is owed nothing: when it comes back, both compare (`comparison.rs`).

use crate::bounds;
use crate::context::Context;
use crate::group::Group;
use crate::ids::{LogId, NodeId, Slot};
use crate::message::GroupMessage;
use crate::residence::Work;
use crate::time::Time;
use std::collections::BTreeMap;

/// What one member is owed.
#[derive(Debug)]
struct Owed {
    /// For the next list.
    next: BTreeMap<LogId, Slot>,
    /// The list under way, and its number.
    told: BTreeMap<LogId, Slot>,
    number: u64,
    again_at: Time,
}

/// A list that another member sent.
#[derive(Debug)]
struct Heard {
    number: u64,
    behind: Vec<(LogId, Slot)>,
    again_at: Time,
}

/// Both sides of it.
#[derive(Debug, Default)]
pub(crate) struct News {
    owed: BTreeMap<NodeId, Owed>,
    heard: BTreeMap<NodeId, Heard>,
}

impl News {
    pub(crate) fn next_deadline(&self) -> Time {
        let owed = self.owed.values().map(|owed| owed.again_at);
        owed.chain(self.heard.values().map(|heard| heard.again_at)).min().unwrap_or(Time::NEVER)
    }

    pub(crate) fn owe(&mut self, node: NodeId, log: LogId, slot: Slot, now: Time) {
        let fresh = || Owed { next: BTreeMap::new(), told: BTreeMap::new(), number: 0, again_at: now };
        let owed = self.owed.entry(node).or_insert_with(fresh);
        // What is beyond waits for the next comparison or use.
        if owed.next.len() < bounds::UNFINISHED_LOGS_MAX {
            let known = owed.next.entry(log).or_default();
            *known = slot.max(*known);
        }
    }
}

impl Group {
    pub(crate) fn on_newer(&mut self, context: &mut Context, from: NodeId, number: u64, logs: Vec<(LogId, Slot)>) {
        if self.scope.is_of_values() && self.news.heard.get(&from).is_none_or(|heard| heard.number != number) {
            self.news.heard.insert(from, Heard { number, behind: logs, again_at: context.now });
            context.dirty_groups.insert(self.scope.group);
        }
    }

    pub(crate) fn on_up_to_date(&mut self, context: &mut Context, from: NodeId, number: u64) {
        if let Some(owed) = self.news.owed.get_mut(&from).filter(|owed| owed.number == number) {
            owed.told.clear();
            owed.again_at = context.now;
            context.dirty_groups.insert(self.scope.group);
        }
    }

    /// Sends what is owed, again and again; brings up to date what others sent, a few logs at a time.
    pub(crate) fn go_on_with_news(&mut self, context: &mut Context) {
        let now = context.now;
        let scope = &self.scope;
        let live = |node: &NodeId| scope.configuration.index(*node).is_some() && context.peers.is_live(*node, now);
        self.news.owed.retain(|node, _| live(node));
        self.news.heard.retain(|node, _| live(node));
        let pause = context.options.failure_timeout;
        for (node, owed) in self.news.owed.iter_mut().filter(|(_, owed)| owed.again_at <= now) {
            if owed.told.is_empty() {
                let rest = owed.next.keys().nth(bounds::PAGE_LOGS).copied();
                let later = rest.map(|rest| owed.next.split_off(&rest)).unwrap_or_default();
                owed.told = std::mem::replace(&mut owed.next, later);
                owed.number = context.next_read_round();
            }
            owed.again_at = now + pause;
            if !owed.told.is_empty() {
                let logs = owed.told.iter().map(|(log, slot)| (*log, *slot)).collect();
                context.send(scope, [*node], GroupMessage::Newer { number: owed.number, logs });
            }
        }
        self.news.owed.retain(|_, owed| !owed.told.is_empty() || !owed.next.is_empty());
        for node in self.news.heard.keys().copied().collect::<Vec<_>>() {
            self.take_news(context, node);
        }
    }

    fn take_news(&mut self, context: &mut Context, node: NodeId) {
        let mut heard = self.news.heard.remove(&node).expect("it was there");
        heard.behind.retain(|(id, slot)| self.known_closed_of(*id) < *slot);
        if heard.behind.is_empty() {
            context.send(&self.scope, [node], GroupMessage::UpToDate { number: heard.number });
            return;
        }
        if context.now >= heard.again_at {
            heard.again_at = context.now + context.options.retry_interval();
            for (id, slot) in heard.behind.iter().copied().take(bounds::COMPARISON_AHEAD) {
                self.work(context, id, Work::Position { from: node, position: self.position_at(id, slot) });
            }
        }
        self.news.heard.insert(node, heard);
    }
}
