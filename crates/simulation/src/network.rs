//! What lies between the nodes: messages are late, lost, doubled, out of order; whole directions are cut off.

use std::collections::{BTreeMap, BTreeSet};

use consensus::NodeId;

use crate::plan::Plan;
use crate::random::Random;
use crate::schedule::Moment;
use crate::tally::{Fault, Tally};

/// The paths between nodes, each direction by itself.
#[derive(Debug, Default)]
pub struct Network {
    blocked: BTreeSet<(NodeId, NodeId)>,
    /// What a partition that comes and goes cuts while it is gone.
    spared: BTreeSet<(NodeId, NodeId)>,
    last_arrival: BTreeMap<(NodeId, NodeId), Moment>,
}

/// Two sides that do not hear each other; one node alone; one side that hears the other, but not the other way round; a
/// few directions of single links; one node in contact with all others, which hear only it; two sides with one node
/// that hears both.
const SHAPES: [Fault; 6] = [Fault::Split, Fault::Isolated, Fault::OneWay, Fault::Holes, Fault::Star, Fault::Bridge];

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
        self.spared.clear();
    }

    /// A partition comes or goes.
    pub fn flap(&mut self) {
        std::mem::swap(&mut self.blocked, &mut self.spared);
    }

    /// Cuts some paths, in place of those cut before; says in which shape.
    pub fn partition(&mut self, nodes: &[NodeId], random: &mut Random) -> Fault {
        self.heal();
        let shape = random.pick(&SHAPES).expect("there are shapes");
        let one = random.pick(nodes).expect("there are nodes");
        let side: BTreeSet<NodeId> = nodes.iter().copied().filter(|_| random.chance(0.5)).collect();
        for &from in nodes {
            for &to in nodes {
                let cut = match shape {
                    Fault::Split => side.contains(&from) != side.contains(&to),
                    Fault::Isolated => (from == one) != (to == one),
                    Fault::OneWay => side.contains(&from) && !side.contains(&to),
                    Fault::Holes => random.chance(0.3),
                    Fault::Star => from != one && to != one,
                    Fault::Bridge => from != one && to != one && side.contains(&from) != side.contains(&to),
                    _ => unreachable!("no shape"),
                };
                if cut && from != to {
                    self.blocked.insert((from, to));
                }
            }
        }
        shape
    }

    /// When a message sent now arrives: not at all, once, or twice.
    pub fn arrivals(
        &mut self,
        plan: &Plan,
        random: &mut Random,
        tally: &mut Tally,
        now: Moment,
        (from, to): (NodeId, NodeId),
    ) -> Vec<Moment> {
        let mut arrivals = Vec::new();
        if !self.is_open(from, to) {
            return arrivals;
        }
        if random.chance(plan.loss) {
            tally.count(Fault::Lost);
            return arrivals;
        }
        let copies = if random.chance(plan.duplication) { 2 } else { 1 };
        if copies > 1 {
            tally.count(Fault::Doubled);
        }
        for _ in 0..copies {
            let mut delay = plan.delay_min + random.waiting_time(plan.delay_mean);
            if random.chance(plan.long_delay) {
                delay += random.below(3_000_000);
                tally.count(Fault::Late);
            }
            let mut arrival = now + delay;
            let last = self.last_arrival.entry((from, to)).or_default();
            if arrival < *last {
                if plan.ordered {
                    arrival = *last;
                } else {
                    tally.count(Fault::Overtaken);
                }
            }
            *last = arrival.max(*last);
            arrivals.push(arrival);
        }
        arrivals
    }
}
