//! What a sync pass needs of a log (rule 6): everything up to its goal chosen.
//!
//! The goal may be a slot that only a member which leaves has accepted, and which no phase 1 has to find: it was never
//! chosen, but who asked could not know. The log's next entries reach it. A group that nobody writes to has none, so there
//! it is filled with no-ops, which are proposed like anybody's entries, in slots that phase 1 found free (rule 2).

use super::ownership::Hint;
use super::proposer::Stage;
use super::Log;
use crate::context::Context;
use crate::entry::Entry;
use crate::group::Scope;
use crate::ids::{NodeId, Slot};
use crate::message::GroupMessage;
use crate::time::Time;

/// How the log gets on towards the goal, as far as this node, which sees a change through, knows.
#[derive(Debug, Default)]
pub(super) struct SyncGoal {
    /// The highest slot known chosen anywhere, and since when it is that one.
    standstill: Option<(Slot, Time)>,
}

impl SyncGoal {
    /// Whether nothing more was chosen for this long; asked again, it begins anew.
    fn stands_still(&mut self, known: Slot, context: &Context) -> bool {
        let (slot, since) = *self.standstill.get_or_insert((known, context.now));
        let long = slot == known && context.now - since >= context.options.retry_interval();
        if slot != known || long {
            self.standstill = Some((known, context.now));
        }
        long
    }
}

impl Log {
    /// A sync pass needs everything up to `slot` chosen and held: fetches what is chosen elsewhere, has the rest finished.
    pub(crate) fn see_to(&mut self, context: &mut Context, scope: &Scope, slot: Slot) {
        if self.learner.closed >= slot {
            self.sync_goal = SyncGoal::default();
            return;
        }
        let elsewhere = self.member_closed.values().max().copied().unwrap_or_default();
        if elsewhere > self.learner.closed {
            self.catch_up.aim(elsewhere.min(slot));
        }
        if elsewhere < slot {
            self.ownership.must_try = true;
            let known = elsewhere.max(self.learner.closed);
            if self.sync_goal.stands_still(known, context) {
                self.fill(context, scope, known, slot);
            }
        }
        self.wake(context, scope);
    }

    /// Has no-ops proposed for the slots above `known` up to `goal`, here or where the log's proposals go.
    fn fill(&mut self, context: &mut Context, scope: &Scope, known: Slot, goal: Slot) {
        let to: Option<NodeId> = match self.hint(context, scope) {
            Hint::To(owner) | Hint::Through(owner) => Some(owner),
            Hint::Here => None,
            Hint::Nobody if scope.may_propose() => None,
            Hint::Nobody => match scope.first_live_candidate(context) {
                Some(candidate) => Some(candidate),
                None => return,
            },
        };
        let next = match &self.proposer.stage {
            Stage::Idle => known.next(),
            Stage::Owning(owning) => owning.next_slot().plus(self.proposer.queue.len() as u64),
            // What it finds comes first.
            Stage::Preparing(_) => return,
        };
        let missing = usize::try_from(goal.next().0.saturating_sub(next.0)).unwrap_or(usize::MAX);
        let entries = vec![Entry::no_op(); missing.min(context.options.windows.batch_entries)];
        match to {
            // Without room there is enough to propose that leads there.
            None => entries.into_iter().take_while(|no_op| self.proposer.enqueue(no_op.clone())).for_each(drop),
            Some(_) if entries.is_empty() => {}
            Some(to) => {
                let body = GroupMessage::Forward { log: self.id, entries, origin: context.node, hops: 0 };
                context.send(scope, [to], body);
            }
        }
    }
}
