//! Where the entries of a log come from, as its owner sees it: when nearly all come from one other node, the log is better
//! owned there, because each of them takes a hop less. A matter of speed only (rules 4 and 8).
//!
//! So that ownership does not wander: the same node must stand out in two dwell times in a row, by far, and a new owner
//! begins to count anew. Nothing runs while the log is idle.

use super::Log;
use crate::bounds;
use crate::context::Context;
use crate::group::Scope;
use crate::ids::{NodeId, OperationId};
use crate::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// Entries chosen under this node's ownership, by the node where they began.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// When the window began; none before the first entry.
    since: Option<Time>,
    counts: BTreeMap<NodeId, u64>,
    /// Who stood out in the window before.
    before: Option<NodeId>,
}

impl Origins {
    pub(super) fn count(&mut self, now: Time, id: OperationId) {
        if id == OperationId::NONE {
            return;
        }
        self.since.get_or_insert(now);
        // Members come and go, but within a window only so many can have proposed.
        if self.counts.len() < bounds::MEMBERS_MAX || self.counts.contains_key(&id.node) {
            *self.counts.entry(id.node).or_default() += 1;
        }
    }

    /// Once per dwell time: the node from which nearly everything came in this window and the one before.
    fn favourite(&mut self, now: Time, dwell: Duration) -> Option<NodeId> {
        if self.since.is_none_or(|since| now - since < dwell) {
            return None;
        }
        let total: u64 = self.counts.values().sum();
        let most = self.counts.iter().max_by_key(|(_, count)| **count);
        let stands_out = most.filter(|(_, count)| {
            total >= bounds::HAND_OVER_ENTRIES_MIN
                && **count * bounds::HAND_OVER_SHARE.1 >= total * bounds::HAND_OVER_SHARE.0
        });
        let favourite = stands_out.map(|(node, _)| *node);
        let lasting = favourite.filter(|node| self.before == Some(*node));
        *self = Origins { since: Some(now), counts: BTreeMap::new(), before: favourite };
        lasting
    }
}

impl Log {
    /// Invites the node from which nearly all entries come, if it is fit to own the log.
    pub(super) fn consider_hand_over(&mut self, context: &mut Context, scope: &Scope) {
        if self.proposer.owned_ballot().is_none() {
            return;
        }
        let dwell = context.options.hand_over_dwell();
        let Some(to) = self.origins.favourite(context.now, dwell).filter(|node| *node != context.node) else { return };
        let has_caught_up =
            self.known_closed(to).plus(context.options.windows.in_flight_slots as u64) >= self.learner.closed;
        if has_caught_up && context.peers.reaches_quorum(to, &scope.configuration, context.now) {
            self.hand_over(context, scope, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Start;

    const DWELL: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    fn count(origins: &mut Origins, now: Time, node: u128, entries: u64) {
        (1..=entries)
            .for_each(|sequence| origins.count(now, OperationId { node: NodeId(node), start: Start(1), sequence }));
    }

    #[test]
    fn only_who_stands_out_twice_in_a_row_is_a_favourite() {
        let mut origins = Origins::default();
        count(&mut origins, at(0), 2, 200);
        assert_eq!(origins.favourite(at(4), DWELL), None, "the window is not over");
        assert_eq!(origins.favourite(at(5), DWELL), None, "once is not enough");
        count(&mut origins, at(6), 2, 190);
        count(&mut origins, at(6), 1, 10);
        assert_eq!(origins.favourite(at(10), DWELL), Some(NodeId(2)));
    }

    #[test]
    fn nobody_stands_out_of_few_entries_or_of_equals() {
        for (one, other) in [(bounds::HAND_OVER_ENTRIES_MIN - 1, 0), (300, 150), (100, 100)] {
            let mut origins = Origins::default();
            for window in 0..4 {
                count(&mut origins, at(window * 5), 2, one);
                count(&mut origins, at(window * 5), 3, other);
                assert_eq!(origins.favourite(at(window * 5 + 5), DWELL), None, "{one} and {other}");
            }
        }
    }

    #[test]
    fn who_only_alternates_with_another_is_no_favourite() {
        let mut origins = Origins::default();
        for window in 0..6 {
            count(&mut origins, at(window * 5), 2 + u128::from(window % 2), 500);
            assert_eq!(origins.favourite(at(window * 5 + 5), DWELL), None);
        }
    }
}
