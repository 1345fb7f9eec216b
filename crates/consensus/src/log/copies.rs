//! Phase 1 over damage (rule 9): what a quorum of answers cannot tell, because it is damaged wherever it counts, may stand
//! intact on a member whose answer does not count: a learner, or a voter that lost its promises.
//!
//! A copy is taken only under the very ballot of a damaged acceptance. Under one ballot there is one value, so it is the value
//! that was accepted there; who has it, and what else that member may have forgotten, does not matter.

use super::proposer::{Preparing, Stage};
use super::Log;
use crate::ballot::Ballot;
use crate::context::Context;
use crate::group::Scope;
use crate::ids::Slot;
use crate::message::{Accepted, GroupMessage};

impl Preparing {
    /// Whether a voter answered that it accepted this and can no longer read it.
    fn is_damaged(&self, slot: Slot, ballot: Ballot) -> bool {
        let damaged = |(theirs, entry): &(Ballot, Option<_>)| *theirs == ballot && entry.is_none();
        self.answers.values().any(|answer| answer.accepted.get(&slot).is_some_and(damaged))
    }
}

impl Log {
    /// The first slot for which delivery has to wait because its content is lost here.
    pub(super) fn first_damaged(&self) -> Option<Slot> {
        let delivered = self.learner.delivered;
        let chosen = self.catch_up.first_healing(delivered.max(self.learner.trimmed));
        let mut open = self.acceptor.above(delivered).filter(|(_, held)| held.entry.is_none());
        chosen.into_iter().chain(open.next().map(|(slot, _)| slot)).min()
    }

    pub(super) fn ask_for_copies(&mut self, context: &mut Context, scope: &Scope, from: Slot) {
        let to = self.audience(context, scope);
        context.send(scope, to, GroupMessage::AskAccepted { log: self.id, from, up_to: Slot::LARGEST });
    }

    /// What a member has accepted may be what others have lost.
    pub(super) fn take_copies(&mut self, context: &mut Context, scope: &Scope, accepted: &[Accepted]) {
        let Stage::Preparing(preparing) = &mut self.proposer.stage else { return };
        let mut fresh = false;
        for found in accepted {
            let Some(entry) = found.entry.as_ref().filter(|_| preparing.is_damaged(found.slot, found.ballot)) else {
                continue;
            };
            fresh |= preparing.copies.insert((found.slot, found.ballot), entry.clone()).is_none();
        }
        if fresh {
            self.try_finish_phase_one(context, scope);
        }
    }
}
