//! Who should let others go first (design-tables, section 4): on rows that every node writes, the node that owns the log
//! reaches it first and would win nearly always.
//!
//! Each node watches the verdicts that go by. One that gets more than its share while another is rejected and falls
//! behind holds its own proposals back a little, in proportion. That changes the order of entries only, never a verdict,
//! so nodes need not agree on it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use consensus::NodeId;

/// How many verdicts are looked back on: several transactions of every client of a few nodes, and a fraction of a second
/// under load.
const WINDOW: usize = 128;

/// So many rejections within the window mean that a node really competes.
const REJECTIONS_MIN: u32 = 2;

/// A node that gets less than this much of an equal share falls behind.
const BEHIND: f64 = 0.75;

/// How long a node with twice its share holds a proposal back: about a round trip and a retry of the others.
const HOLD_AT_TWICE: Duration = Duration::from_millis(4);

/// The longest that a proposal is held back.
const HOLD_MAX: Duration = Duration::from_millis(8);

/// What became of the last entries of each node.
#[derive(Debug, Clone)]
pub struct Fairness {
    own: NodeId,
    recent: VecDeque<(NodeId, bool)>,
    tallies: BTreeMap<NodeId, Tally>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    accepted: u32,
    rejected: u32,
}

impl Fairness {
    /// Nothing seen yet, on node `own`.
    pub fn new(own: NodeId) -> Fairness {
        Fairness { own, recent: VecDeque::with_capacity(WINDOW + 1), tallies: BTreeMap::new() }
    }

    /// Notes the verdict on an entry of a node.
    pub fn record(&mut self, origin: NodeId, accepted: bool) {
        self.recent.push_back((origin, accepted));
        self.count(origin, accepted, 1);
        if self.recent.len() > WINDOW {
            let (origin, accepted) = self.recent.pop_front().expect("there is a front");
            self.count(origin, accepted, u32::MAX);
        }
    }

    /// Adds one, or `u32::MAX` for minus one.
    fn count(&mut self, origin: NodeId, accepted: bool, by: u32) {
        let tally = self.tallies.entry(origin).or_default();
        let counter = if accepted { &mut tally.accepted } else { &mut tally.rejected };
        *counter = counter.wrapping_add(by);
        if tally.accepted == 0 && tally.rejected == 0 {
            self.tallies.remove(&origin);
        }
    }

    /// How long this node should hold its next proposal back.
    pub fn hold(&self) -> Duration {
        let accepted: u32 = self.tallies.values().map(|tally| tally.accepted).sum();
        let equal_share = f64::from(accepted) / self.tallies.len().max(1) as f64;
        let own = self.tallies.get(&self.own).map_or(0.0, |tally| f64::from(tally.accepted));
        let somebody_is_behind = self.tallies.iter().any(|(node, tally)| {
            *node != self.own && tally.rejected >= REJECTIONS_MIN && f64::from(tally.accepted) < BEHIND * equal_share
        });
        if !somebody_is_behind || own <= equal_share {
            return Duration::ZERO;
        }
        HOLD_AT_TWICE.mul_f64(own / equal_share - 1.0).min(HOLD_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    #[test]
    fn a_node_alone_never_waits() {
        let mut fairness = Fairness::new(OWN);
        for _ in 0..1000 {
            fairness.record(OWN, true);
        }
        assert_eq!(fairness.hold(), Duration::ZERO);
    }

    #[test]
    fn a_busier_node_does_not_wait_for_one_that_is_never_rejected() {
        let mut fairness = Fairness::new(OWN);
        for round in 0..1000 {
            fairness.record(OWN, true);
            if round % 10 == 0 {
                fairness.record(OTHER, true);
            }
        }
        assert_eq!(fairness.hold(), Duration::ZERO);
    }

    #[test]
    fn the_winner_waits_for_the_one_that_falls_behind_and_not_the_other_way_round() {
        let (mut winner, mut loser) = (Fairness::new(OWN), Fairness::new(OTHER));
        for _ in 0..100 {
            for fairness in [&mut winner, &mut loser] {
                fairness.record(OWN, true);
                fairness.record(OWN, true);
                fairness.record(OWN, true);
                fairness.record(OTHER, false);
            }
        }
        assert!(winner.hold() >= Duration::from_millis(3), "{:?}", winner.hold());
        assert!(winner.hold() <= HOLD_MAX);
        assert_eq!(loser.hold(), Duration::ZERO);
    }

    #[test]
    fn nobody_waits_once_the_shares_are_even_again() {
        let mut fairness = Fairness::new(OWN);
        for _ in 0..50 {
            fairness.record(OWN, true);
            fairness.record(OTHER, false);
        }
        assert!(fairness.hold() > Duration::ZERO);
        for _ in 0..WINDOW {
            fairness.record(OWN, true);
            fairness.record(OTHER, true);
        }
        assert_eq!(fairness.hold(), Duration::ZERO);
    }
}
