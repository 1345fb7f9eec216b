//! What lies between the nodes: messages are late, lost, doubled, out of order; whole directions are cut off.

use std::collections::{BTreeMap, BTreeSet};

use consensus::NodeId;

use crate::plan::Plan;
use crate::random::Random;
use crate::schedule::Moment;

/// The paths between nodes, each direction by itself.
#[derive(Debug, Default)]
pub struct Network {
    blocked: BTreeSet<(NodeId, NodeId)>,
    last_arrival: BTreeMap<(NodeId, NodeId), Moment>,
}

/// The shapes that a partition takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Two sides that do not hear each other.
    Split,
    /// One node alone.
    Isolated,
    /// One side hears the other, but not the other way round.
    OneWay,
    /// A few directions of single links.
    Holes,
    /// One node in contact with all others, which hear only it.
    Star,
}

impl Network {
    /// Whether a message from one node to the other gets through at present.
    pub fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        !self.blocked.contains(&(from, to))
    }

    /// Whether any path is cut.
    pub fn is_partitioned(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// Opens every path.
    pub fn heal(&mut self) {
        self.blocked.clear();
    }

    /// Cuts some paths, in place of those cut before.
    pub fn partition(&mut self, nodes: &[NodeId], random: &mut Random) {
        self.heal();
        let shapes = [Shape::Split, Shape::Isolated, Shape::OneWay, Shape::Holes, Shape::Star];
        let shape = random.pick(&shapes).expect("there are shapes");
        let one = random.pick(nodes).expect("there are nodes");
        let side: BTreeSet<NodeId> = nodes.iter().copied().filter(|_| random.chance(0.5)).collect();
        for &from in nodes {
            for &to in nodes {
                let cut = match shape {
                    Shape::Split => side.contains(&from) != side.contains(&to),
                    Shape::Isolated => (from == one) != (to == one),
                    Shape::OneWay => side.contains(&from) && !side.contains(&to),
                    Shape::Holes => random.chance(0.3),
                    Shape::Star => from != one && to != one,
                };
                if cut && from != to {
                    self.blocked.insert((from, to));
                }
            }
        }
    }

    /// When a message sent now arrives: not at all, once, or twice.
    pub fn arrivals(&mut self, plan: &Plan, random: &mut Random, now: Moment, from: NodeId, to: NodeId) -> Vec<Moment> {
        let mut arrivals = Vec::new();
        if !self.is_open(from, to) || random.chance(plan.loss) {
            return arrivals;
        }
        let copies = if random.chance(plan.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            let mut delay = plan.delay_min + random.waiting_time(plan.delay_mean);
            if random.chance(plan.long_delay) {
                delay += random.below(3_000_000);
            }
            let mut arrival = now + delay;
            if plan.ordered {
                let last = self.last_arrival.entry((from, to)).or_default();
                arrival = arrival.max(*last);
                *last = arrival;
            }
            arrivals.push(arrival);
        }
        arrivals
    }
}
