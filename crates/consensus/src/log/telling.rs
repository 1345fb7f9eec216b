//! In a log of values: who sees to it that every member learns what was chosen (design, section 1).
//!
//! The node that counted a quorum tells the others once, and its notice may get lost. A member that accepted the value holds it
//! then without knowing it chosen, and one that did not lacks it; in a log that nobody uses nothing would ever tell them.
//! So whoever counts remembers that it has to tell, until the log was quiet for a while. Heartbeats name busy logs, so by then
//! it mostly knows that everybody in contact has it; whoever is not known to is put on the list of news (`news.rs`). An idle
//! log costs nothing. If the node that counted crashes, the other members compare (`comparison.rs`).

use super::proposer::Stage;
use super::Log;
use crate::ballot::Ballot;
use crate::context::Context;
use crate::group::Scope;
use crate::ids::{NodeId, Slot};
use crate::time::Time;

/// What this node has to tell.
#[derive(Debug)]
pub(super) struct Telling {
    /// The highest slot that it counted a quorum for; zero if everybody in contact was told.
    slot: Slot,
    /// Whoever is not known to have it by then is told again.
    at: Time,
}

impl Default for Telling {
    fn default() -> Self {
        Telling { slot: Slot::ZERO, at: Time::NEVER }
    }
}

impl Telling {
    pub(super) fn next_deadline(&self) -> Time {
        self.at
    }
}

impl Log {
    /// This node counted a quorum for a slot.
    pub(super) fn counted(&mut self, context: &Context, scope: &Scope, slot: Slot) {
        if scope.is_of_values() && slot > self.telling.slot {
            self.telling = Telling { slot, at: context.now + context.options.failure_timeout };
        }
    }

    /// The members to be told, if it is time.
    pub(crate) fn due_to_tell(&mut self, context: &Context, scope: &Scope) -> Vec<NodeId> {
        if context.now < self.telling.at {
            return Vec::new();
        }
        let untold = self.untold(context, scope);
        self.telling = Telling::default();
        untold
    }

    /// The highest slot that this node knows chosen, its content here or not.
    pub(crate) fn known_chosen(&self) -> Slot {
        self.learner.closed.max(self.telling.slot)
    }

    /// Members in contact that may not know the newest value, as far as who counted it, its proposer or their own answers say.
    pub(crate) fn untold(&self, context: &Context, scope: &Scope) -> Vec<NodeId> {
        let proposed = match &self.proposer.stage {
            Stage::Owning(owning) => Some(owning),
            _ => None,
        };
        let lacks = |node: &NodeId| {
            let unsure = self.known_closed(*node) < self.telling.slot;
            let said = self.said_to_have.get(node).is_some_and(|slot| *slot < self.learner.closed);
            let proposed = proposed.is_some_and(|owning| !owning.has_told(scope, *node));
            *node != context.node && (unsure || said || proposed)
        };
        self.audience(context, scope).into_iter().filter(lacks).collect()
    }

    /// What is accepted here and not known chosen: its slot, and the ballot it has.
    pub(super) fn open_acceptance(&self) -> Option<(Slot, Ballot)> {
        let slot = self.acceptor.highest();
        let held = self.acceptor.held(slot).filter(|_| slot > self.learner.closed)?;
        Some((slot, held.ballot))
    }
}
