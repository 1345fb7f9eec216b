//! The disks: syncs, replies that wait for them, crashes (rule 3), and whether what is on them is enough.

use super::state::{Message, Progress, State, Step};
use super::{Bug, Log};
use crate::stage::Stage;
use crate::words::Node;

impl<const N: usize> Log<N> {
    pub(super) fn sync_or_crash(&self, before: &State<N>, next: &mut Vec<(Step, State<N>)>) {
        if before.cluster.crashes == self.crashes {
            return;
        }
        for node in 0..N as Node {
            let it = before.cluster.node(node);
            if !it.waiting.is_empty() || it.now != it.disk {
                let mut state = before.clone();
                self.sync(&mut state, node);
                if state != *before {
                    next.push((Step::Syncs { node }, state));
                }
            }
            for keeps_closed in [true, false] {
                if !keeps_closed && it.disk.closed == 0 {
                    continue;
                }
                let state = self.crashed(before, node, keeps_closed);
                next.push((Step::Crashes { node, keeps_closed }, self.settle(state)));
            }
        }
    }

    pub(super) fn sync(&self, state: &mut State<N>, node: Node) {
        let forgets_promises = self.has(Bug::PromiseNotWritten);
        let it = state.cluster.node_mut(node);
        let accepted = it.now.held.iter().map(|entry| entry.ballot).max().unwrap_or_default();
        let promised = if forgets_promises { accepted } else { it.now.promised };
        it.disk.promised = it.disk.promised.max(promised);
        it.disk.closed = it.now.closed;
        for (disk, now) in it.disk.held.iter_mut().zip(it.now.held) {
            // As `RecoveredLog::accept` does: what was learnt under a lower ballot does not replace what was accepted.
            *disk = (*disk).max(now);
        }
        state.cluster.send_waiting(node);
    }

    fn crashed(&self, before: &State<N>, node: Node, keeps_closed: bool) -> State<N> {
        let mut state = before.clone();
        if !keeps_closed {
            state.cluster.node_mut(node).disk.closed = 0;
        }
        state.cluster.crash(node);
        if let (true, Stage::Owning { ballot, .. }) = (self.has(Bug::OwnsAfterRestart), before.cluster.node(node).stage)
        {
            let it = state.cluster.node_mut(node);
            let base = it.disk.closed + 1;
            it.stage = Stage::Owning { ballot, progress: Progress { base, next: base } };
        }
        state
    }

    /// An acceptor answers, once what it answers is durable.
    pub(super) fn reply(&self, state: &mut State<N>, node: Node, message: Message) {
        if self.has(Bug::ReplyBeforeDurable) {
            state.cluster.sent.insert(message);
        } else {
            state.cluster.reply(node, message);
        }
    }

    /// Whether everything that was taken as chosen would be found by every phase 1, whoever crashes now.
    pub(super) fn is_safe_on_disk(&self, state: &State<N>) -> bool {
        (1..=self.slots).zip(state.taken).filter(|(_, taken)| !taken.is_none()).all(|(slot, taken)| {
            self.quorums()
                .all(|set| state.cluster.would_find(taken, set, |disk| (disk.closed >= slot, disk.entry(slot))))
        })
    }
}
