//! Phase 1 over damage (rule 9): what a quorum of answers cannot tell, because it is damaged wherever it counts, may stand
//! intact on a member whose answer does not count: a learner, or a voter that lost its promises.
//!
//! A copy is taken only under the very ballot of a damaged acceptance. Under one ballot there is one value, so it is the value
//! that was accepted there; who has it, and what else that member may have forgotten, does not matter.

use super::phase_one::Preparing;
use super::proposer::Stage;
use super::Log;
use crate::ballot::Ballot;
use crate::context::Context;
use crate::group::Scope;
use crate::ids::Slot;
use crate::message::{Accepted, GroupMessage};

impl Preparing {
    /// Whether a voter answered that it accepted this and can no longer read it.
    fn is_damaged(&self, slot: Slot, ballot: Ballot) -> bool {
        self.damaged_ballots(slot).any(|damaged| damaged == ballot)
    }

    fn damaged_ballots(&self, slot: Slot) -> impl Iterator<Item = Ballot> + '_ {
        let answers = self.answers.values().filter_map(move |answer| answer.accepted.get(&slot));
        answers.filter(|(_, entry)| entry.is_none()).map(|(ballot, _)| *ballot)
    }
}

impl Log {
    /// The first slot for which delivery has to wait because its content is lost here.
    pub(super) fn first_damaged(&self) -> Option<Slot> {
        let delivered = self.learner.delivered;
        let chosen = self.catch_up.healing.first_above(delivered.max(self.learner.trimmed));
        let mut open = self.acceptor.above(delivered).filter(|(_, held)| held.entry.is_none());
        chosen.into_iter().chain(open.next().map(|(slot, _)| slot)).min()
    }

    /// Asks for this slot and those right behind it that are damaged too, and for nothing that is intact: it is asked again and
    /// again, for as long as nobody has a copy.
    pub(super) fn ask_for_copies(&mut self, context: &mut Context, scope: &Scope, from: Slot) {
        let Stage::Preparing(preparing) = &self.proposer.stage else { return };
        let damaged = (from.0..).map(Slot).take_while(|slot| preparing.damaged_ballots(*slot).next().is_some());
        let up_to = damaged.last().unwrap_or(from);
        let to = self.audience(context, scope);
        context.send(scope, to, GroupMessage::AskAccepted { log: self.id, from, up_to });
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
