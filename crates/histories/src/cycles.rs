//! Cycles of dependencies that the level forbids.
//!
//! Whether an edge may follow another one in a forbidden cycle depends on how that one arrived, and on nothing else. So
//! the search walks pairs of a transaction and the class of the edge that led to it, and a forbidden cycle of
//! transactions is a plain cycle of pairs.
//!
//! Why these are the forbidden ones: give each transaction the moments s (its snapshot) and c (its commit), s < c. An
//! edge of ww, wr or order from i to j means c(i) < s(j), an anti-dependency s(i) < c(j). Around a cycle in which no two
//! anti-dependencies are adjacent these add up to a moment before itself; around any other they do not. At READ COMMITTED
//! a snapshot belongs to a statement, and what is left is that dependencies order commits, c(i) < c(j), and that the
//! first snapshot comes after whatever the order names: so an anti-dependency counts right after an edge of order.

use crate::anomaly::{Anomaly, Kind};
use crate::graph::{Class, Edge, Graph};
use crate::history::Transaction;
use crate::level::Isolation;
use std::collections::{BTreeSet, VecDeque};

/// So many cycles of each search are told; one is enough to fail.
const CYCLES_TOLD_MAX: usize = 10;

/// From so many transactions of a knot a shortest cycle is looked for.
const STARTS_MAX: usize = 64;

/// How a walk came to a transaction.
const ARRIVALS: [Class; 4] = [Class::Write, Class::Read, Class::Anti, Class::Order];

/// The searches, from the plainest phenomena on, each told before a wider one would hide it.
const SEARCHES: [&[Class]; 5] = [
    &[Class::Write],
    &[Class::Write, Class::Read],
    &[Class::Write, Class::Read, Class::Order],
    &[Class::Write, Class::Read, Class::Anti],
    &[Class::Write, Class::Read, Class::Anti, Class::Order],
];

/// Finds forbidden cycles and tells them.
pub(crate) fn find(graph: &Graph, isolation: Isolation, transactions: &[Transaction]) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    let mut told: Vec<BTreeSet<usize>> = Vec::new();
    for classes in SEARCHES {
        let walk = Walk { graph, isolation, classes };
        let mut told_here = 0;
        for knot in walk.knots() {
            for start in knot.iter().take(STARTS_MAX) {
                let Some(cycle) = walk.shortest_cycle(*start, &knot) else { continue };
                let members: BTreeSet<usize> = cycle.iter().map(|(from, _)| *from).collect();
                if told_here < CYCLES_TOLD_MAX && !told.iter().any(|before| before.is_subset(&members)) {
                    anomalies.push(tell(&cycle, transactions));
                    told.push(members);
                    told_here += 1;
                }
            }
        }
    }
    anomalies
}

struct Walk<'a> {
    graph: &'a Graph,
    isolation: Isolation,
    classes: &'a [Class],
}

impl Walk<'_> {
    /// Where one can go from a pair.
    fn next(&self, pair: usize) -> impl Iterator<Item = (usize, Edge)> + '_ {
        let arrival = ARRIVALS[pair % ARRIVALS.len()];
        self.graph.from(pair / ARRIVALS.len()).iter().filter_map(move |edge| {
            let class = edge.why.class();
            let goes_on = self.classes.contains(&class) && may_follow(self.isolation, arrival, class);
            goes_on.then(|| (pair_of(edge.to, class), *edge))
        })
    }

    /// Sets of pairs that each reach all others of their set: Tarjan's components of more than one, without recursion.
    fn knots(&self) -> Vec<BTreeSet<usize>> {
        const UNSEEN: usize = usize::MAX;
        let pairs = self.graph.transactions() * ARRIVALS.len();
        let mut index = vec![UNSEEN; pairs];
        let mut low = vec![0; pairs];
        let mut is_on_stack = vec![false; pairs];
        let mut stack = Vec::new();
        let mut count = 0;
        let mut knots = Vec::new();
        for root in 0..pairs {
            if index[root] != UNSEEN {
                continue;
            }
            let mut calls: Vec<(usize, Vec<usize>)> = Vec::new();
            let mut enter = Some(root);
            loop {
                if let Some(pair) = enter.take() {
                    index[pair] = count;
                    low[pair] = count;
                    count += 1;
                    stack.push(pair);
                    is_on_stack[pair] = true;
                    calls.push((pair, self.next(pair).map(|(to, _)| to).collect()));
                }
                let Some((pair, ahead)) = calls.last_mut() else { break };
                let pair = *pair;
                if let Some(to) = ahead.pop() {
                    if index[to] == UNSEEN {
                        enter = Some(to);
                    } else if is_on_stack[to] {
                        low[pair] = low[pair].min(index[to]);
                    }
                    continue;
                }
                calls.pop();
                if let Some((caller, _)) = calls.last() {
                    low[*caller] = low[*caller].min(low[pair]);
                }
                if low[pair] == index[pair] {
                    let begin = stack.iter().rposition(|on| *on == pair).expect("it is on the stack");
                    let knot: BTreeSet<usize> = stack.drain(begin..).collect();
                    for member in &knot {
                        is_on_stack[*member] = false;
                    }
                    if knot.len() > 1 {
                        knots.push(knot);
                    }
                }
            }
        }
        knots
    }

    /// A shortest way from a pair back to itself, as transactions with the edge that leaves each.
    fn shortest_cycle(&self, start: usize, knot: &BTreeSet<usize>) -> Option<Vec<(usize, Edge)>> {
        let mut came: std::collections::BTreeMap<usize, (usize, Edge)> = std::collections::BTreeMap::new();
        let mut ahead = VecDeque::from([start]);
        while let Some(pair) = ahead.pop_front() {
            for (to, edge) in self.next(pair).filter(|(to, _)| knot.contains(to)) {
                if came.contains_key(&to) {
                    continue;
                }
                came.insert(to, (pair, edge));
                if to == start {
                    return Some(way_back(start, &came));
                }
                ahead.push_back(to);
            }
        }
        None
    }
}

fn way_back(start: usize, came: &std::collections::BTreeMap<usize, (usize, Edge)>) -> Vec<(usize, Edge)> {
    let mut cycle = Vec::new();
    let mut at = start;
    loop {
        let (before, edge) = came[&at];
        cycle.push((before / ARRIVALS.len(), edge));
        at = before;
        if at == start {
            cycle.reverse();
            return cycle;
        }
    }
}

fn pair_of(transaction: usize, arrival: Class) -> usize {
    let arrival = ARRIVALS.iter().position(|class| *class == arrival).expect("all classes are there");
    transaction * ARRIVALS.len() + arrival
}

fn may_follow(isolation: Isolation, arrival: Class, class: Class) -> bool {
    match isolation {
        Isolation::Serializable => true,
        Isolation::Snapshot => !(arrival == Class::Anti && class == Class::Anti),
        Isolation::ReadCommitted => class != Class::Anti || arrival == Class::Order,
    }
}

fn tell(cycle: &[(usize, Edge)], transactions: &[Transaction]) -> Anomaly {
    let mut story: Vec<String> = Vec::new();
    let mut named = BTreeSet::new();
    for (number, _) in cycle {
        if named.insert(*number) {
            story.push(format!("T{number}: {}", transactions[*number]));
        }
    }
    for (number, edge) in cycle {
        story.push(format!("T{number} is before T{}: {edge}", edge.to));
    }
    Anomaly { kind: kind(cycle), story }
}

fn kind(cycle: &[(usize, Edge)]) -> Kind {
    use crate::graph::Why;
    let classes: Vec<Class> = cycle.iter().map(|(_, edge)| edge.why.class()).collect();
    let anti = classes.iter().filter(|class| **class == Class::Anti).count();
    let has_order = classes.contains(&Class::Order);
    let is_adjacent = (0..classes.len())
        .any(|index| classes[index] == Class::Anti && classes[(index + 1) % classes.len()] == Class::Anti);
    match anti {
        0 if classes.iter().all(|class| *class == Class::Write) => Kind::WriteCycle,
        0 => Kind::CircularInformationFlow,
        1 if has_order => Kind::StaleRead,
        1 => {
            let missed = cycle.iter().find_map(|(_, edge)| match edge.why {
                Why::Missed { key, .. } => Some(key),
                _ => None,
            });
            let wrote_after = cycle.iter().any(|(_, edge)| match edge.why {
                Why::Overwrote { key, .. } => Some(key) == missed,
                _ => false,
            });
            match cycle.len() == 2 && wrote_after {
                true => Kind::LostUpdate,
                false => Kind::SingleAntiDependency,
            }
        }
        _ if is_adjacent => Kind::AntiDependencyCycle,
        2 if cycle.len() == 4 && !has_order && classes.contains(&Class::Read) => Kind::LongFork,
        _ => Kind::NonAdjacentAntiDependencies,
    }
}
