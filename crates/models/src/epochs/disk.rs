//! The disks: syncs and crashes (rule 3), and whether what is on them is enough in every epoch that can still vote.

use super::{Bug, Configuration, Epochs, Member, State, Step, NODES};
use crate::words::{Node, Nodes};

impl Epochs {
    pub(super) fn sync_or_crash(&self, before: &State, next: &mut Vec<(Step, State)>) {
        if before.cluster.crashes == self.crashes {
            return;
        }
        for node in 0..NODES as Node {
            let mut state = before.clone();
            self.sync(&mut state, node);
            if state != *before {
                next.push((Step::Syncs { node }, self.settle(state)));
            }
            for keeps_closed in [true, false] {
                if !keeps_closed && !before.cluster.node(node).disk.closed {
                    continue;
                }
                let mut state = before.clone();
                state.cluster.node_mut(node).disk.closed &= keeps_closed;
                state.cluster.crash(node);
                self.forget_round(&mut state, node);
                next.push((Step::Crashes { node, keeps_closed }, self.settle(state)));
            }
        }
    }

    pub(super) fn sync(&self, state: &mut State, node: Node) {
        let it = state.cluster.node_mut(node);
        // What was learnt under a lower ballot does not replace what was accepted.
        let held = it.disk.held.max(it.now.held);
        let fenced = if self.has(Bug::FenceNotWritten) { it.disk } else { it.now };
        it.disk = Member { held, configuration: fenced.configuration, ..it.now };
        state.cluster.send_waiting(node);
    }

    /// Whether what was taken as chosen would be found by every phase 1 that can still succeed, in any epoch.
    pub(super) fn is_safe_on_disk(&self, state: &State) -> bool {
        let possible = [Configuration::Old].into_iter().chain(self.joint()).chain(state.third);
        possible.into_iter().all(|configuration| {
            let is_fenced = |node: &Node| state.cluster.node(*node).disk.epoch() > configuration.epoch();
            let may_vote: Nodes = self.voters(configuration).iter().filter(|node| !is_fenced(node)).collect();
            may_vote
                .subsets()
                .filter(|set| self.is_quorum(configuration, *set))
                .all(|set| state.cluster.would_find(state.taken, set, |disk| (disk.closed, disk.held)))
        })
    }
}
