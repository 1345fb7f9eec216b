//! Logs of values that this node has to see to for itself: something in them is open here, or known to be newer elsewhere, and
//! nobody waits for it. Most are seen to while there is room; a log for which there was none, or that had to leave memory
//! before it was done, waits here for its turn.
//!
//! One log at a time has the turn, in the order of their ids, round and round. It has a place in memory of its own, so
//! that neither new work nor what peers ask can drive it out, however few logs may be in memory, and it keeps this place until it
//! is done or its time is over. So whatever a log needs of the other members, their answers find it here; and they can always
//! give them, because no turn of theirs takes the room of what peers ask (`docs/decisions/0009-logs-of-values.md`).

use crate::bounds;
use crate::context::Context;
use crate::group::Group;
use crate::ids::LogId;
use crate::residence::Work;
use crate::time::Time;
use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

/// Who waits, and whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Attention {
    waiting: BTreeSet<LogId>,
    turn: Option<Turn>,
    /// The log that had the turn last.
    last: Option<LogId>,
    /// When the next turn begins.
    next_at: Option<Time>,
}

#[derive(Debug)]
struct Turn {
    log: LogId,
    until: Time,
}

impl Attention {
    /// This log's turn is to come. What is beyond the bound waits for the next comparison or use.
    pub(crate) fn wait(&mut self, log: LogId, from: Time) {
        if self.waiting.len() < bounds::UNFINISHED_LOGS_MAX {
            self.waiting.insert(log);
            self.next_at.get_or_insert(from);
        }
    }

    /// The log that has a place in memory of its own.
    pub(crate) fn turn(&self) -> Option<LogId> {
        self.turn.as_ref().map(|turn| turn.log)
    }

    pub(crate) fn next_deadline(&self) -> Time {
        match &self.turn {
            Some(turn) => turn.until,
            None => self.next_at.unwrap_or(Time::NEVER),
        }
    }

    /// The next in order.
    fn take_next(&mut self) -> Option<LogId> {
        let after = self.last.map_or(Unbounded, Excluded);
        let next = *self.waiting.range((after, Unbounded)).next().or_else(|| self.waiting.first())?;
        self.waiting.remove(&next);
        self.last = Some(next);
        Some(next)
    }
}

impl Group {
    /// Ends the turn that is over, and begins the next.
    pub(crate) fn take_turns(&mut self, context: &mut Context) {
        if self.residence.attention.turn.as_ref().is_some_and(|turn| turn.until <= context.now) {
            self.end_turn(context);
        }
        let attention = &mut self.residence.attention;
        if !self.scope.is_member() {
            attention.waiting.clear();
        }
        if attention.turn.is_some() || attention.next_at.is_none_or(|at| context.now < at) {
            return;
        }
        attention.next_at = None;
        let Some(log) = attention.take_next() else { return };
        // A look takes several round trips, each of them sent again until it is answered, and perhaps both phases.
        let until = context.now + context.options.failure_timeout * 4;
        attention.turn = Some(Turn { log, until });
        self.work(context, log, Work::Look);
        if let Some(slot) = self.missing_in_pass(log) {
            self.work(context, log, Work::SeeTo(slot));
        }
    }

    /// There is nothing to see to in this log any more.
    pub(crate) fn is_done(&mut self, context: &mut Context, log: LogId) {
        self.residence.attention.waiting.remove(&log);
        if self.residence.attention.turn() == Some(log) {
            self.end_turn(context);
        }
    }

    /// Ends the turn, if the log can stay in memory without it or leave. It cannot while something of it is being written, or
    /// somebody uses it: then the turn goes on until it can.
    fn end_turn(&mut self, context: &mut Context) {
        let Some(turn) = self.residence.attention.turn.take() else { return };
        let most = context.options.resident_logs_max;
        self.unload_down_to(context, most, false);
        if self.residence.count() > most {
            let until = context.now + context.options.retry_interval();
            self.residence.attention.turn = Some(Turn { until, ..turn });
            return;
        }
        let attention = &mut self.residence.attention;
        attention.next_at = (!attention.waiting.is_empty()).then_some(context.now);
        context.dirty_groups.insert(self.scope.group);
    }
}
