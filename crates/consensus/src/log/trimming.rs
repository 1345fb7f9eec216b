//! What a member may drop from its log (design, section 4).
//!
//! A member with a state drops what its own state holds durably; whoever lacks that copies the state. A witness has no state
//! to give, so it keeps every entry that some voter's state may lack: should the members that have it be lost, it is in the
//! witness's log, or in the state of every voter that is left. `docs/decisions/0008-witnesses.md` gives the argument.

use super::Log;
use crate::configuration::Role;
use crate::context::Context;
use crate::effect::{Effect, Refusal};
use crate::group::Scope;
use crate::ids::{NodeId, Slot};
use crate::message::{GroupMessage, LogPosition, Room};
use crate::record::Record;
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};

/// Halves of what a witness may keep at which a voter in the way is set aside: an absent one, one that is in contact; and at
/// which nothing new is admitted. Between them is the time that the change takes.
const PRESSED_HALVES: u64 = 2;
const PRESSED_BY_LIVE_HALVES: u64 = 3;
const FULL_HALVES: u64 = 4;

/// What is known of the other members' states, and of their witnesses' room.
#[derive(Debug, Default)]
pub(super) struct Trimming {
    /// What each member's state holds durably, as last heard; of a witness, up to where it has trimmed. True for good.
    held: BTreeMap<NodeId, Slot>,
    /// Witnesses that keep as much as they may.
    full: BTreeSet<NodeId>,
    /// What the logs of members with a state no longer hold, as they said last.
    gone: BTreeMap<NodeId, Slot>,
    /// The slot that this witness lacks, that is gone from every log, and that some voter's state may lack.
    blocked: Option<Slot>,
    /// When the face was last asked to make its state durable for a witness.
    asked_to_hold: Option<Time>,
}

impl Trimming {
    pub(super) fn saw_position(&mut self, from: NodeId, position: &LogPosition) {
        let known = self.held.entry(from).or_default();
        *known = (*known).max(position.held);
        if position.room == Room::None {
            self.full.insert(from);
        } else {
            self.full.remove(&from);
        }
    }

    /// A member's log holds nothing up to this slot any more.
    pub(super) fn is_gone(&mut self, from: NodeId, up_to: Slot) {
        self.gone.insert(from, up_to);
    }

    pub(super) fn epoch_changed(&mut self, scope: &Scope) {
        let stays = |node: &NodeId| scope.configuration.index(*node).is_some();
        self.held.retain(|node, _| stays(node));
        self.full.retain(|node| stays(node));
        self.gone.retain(|node, _| stays(node));
    }
}

impl Log {
    /// The face holds everything up to `slot` durably: trims what no member needs, or what is beyond the bound for laggards.
    pub(crate) fn face_holds(&mut self, context: &mut Context, scope: &Scope, slot: Slot) {
        let learner = &mut self.learner;
        let before = learner.held;
        learner.held = learner.held.max(slot.min(learner.delivered));
        let laggard = scope
            .configuration
            .members
            .iter()
            .filter(|member| member.node != context.node)
            .map(|member| self.member_closed.get(&member.node).copied().unwrap_or_default())
            .min()
            .unwrap_or(Slot::LARGEST);
        let kept_entries = Slot(learner.delivered.0.saturating_sub(context.options.log_keep_entries));
        let oldest_bytes = learner.bytes.saturating_sub(context.options.log_keep_bytes);
        let kept_bytes = learner
            .samples
            .iter()
            .take_while(|(_, bytes)| **bytes <= oldest_bytes)
            .last()
            .map_or(Slot::ZERO, |(slot, _)| *slot);
        let up_to = laggard.max(kept_entries).max(kept_bytes).min(learner.held);
        let advanced = learner.held > before;
        self.trim_to(context, scope, up_to);
        if advanced && scope.configuration.has_witnesses() {
            // They wait for this.
            self.touch(context, scope);
        }
    }

    fn trim_to(&mut self, context: &mut Context, scope: &Scope, up_to: Slot) {
        let learner = &mut self.learner;
        if up_to > learner.trimmed {
            learner.trimmed = up_to;
            let kept = learner.samples.split_off(&up_to);
            let dropped = std::mem::replace(&mut learner.samples, kept);
            learner.trimmed_bytes = dropped.last_key_value().map_or(learner.trimmed_bytes, |(_, bytes)| *bytes);
            context.persist(Record::Trimmed { group: scope.group, log: self.id, up_to });
        }
    }

    /// What a member's state holds durably, as far as this node knows; of a witness, up to where it has trimmed.
    pub(crate) fn known_held(&self, context: &Context, node: NodeId) -> Slot {
        if node == context.node {
            return self.held_here();
        }
        self.trimming.held.get(&node).copied().unwrap_or_default()
    }

    /// What this member says of itself.
    pub(super) fn held_here(&self) -> Slot {
        if self.witness {
            self.learner.trimmed
        } else {
            self.learner.held
        }
    }

    /// What the state of every voter holds durably: a witness needs nothing of it.
    fn held_by_all(&self, context: &Context, scope: &Scope) -> Slot {
        let all_or_live = |node: &NodeId| {
            !is_planted(SeededBug::WitnessTrimsByLiveMembers) || context.peers.is_live(*node, context.now)
        };
        let voters = scope.configuration.state_voters().filter(all_or_live);
        voters.map(|node| self.known_held(context, node)).min().unwrap_or_default()
    }

    /// A witness drops what every voter's state holds.
    pub(super) fn trim_as_witness(&mut self, context: &mut Context, scope: &Scope) {
        if !self.witness || !scope.is_member() {
            return;
        }
        let up_to = self.held_by_all(context, scope).min(self.learner.closed);
        if up_to > self.learner.trimmed {
            // What nobody needs needs no look either.
            self.learner.delivered = self.learner.delivered.max(up_to);
            self.trim_to(context, scope, up_to);
            self.touch(context, scope);
        }
    }

    /// A witness lacks slots from `first` on, and no log that it reaches holds them. What every voter's state holds it need
    /// not have. Before it votes, it need not have anything: it counts only once that is so.
    pub(super) fn skip_as_witness(&mut self, context: &mut Context, scope: &Scope, first: Slot) {
        let votes = scope.configuration.votes(context.node);
        let gone = self.trimming.gone.values().copied().filter(|gone| *gone >= first).min();
        let may_lack = !votes && gone.is_some() && self.is_gone_everywhere(context, scope, first);
        let up_to = self.held_by_all(context, scope).max(gone.filter(|_| may_lack).unwrap_or_default());
        if up_to < first {
            self.trimming.blocked = gone.map(|_| first).filter(|slot| *slot > self.learner.closed);
            return;
        }
        self.trimming.gone.clear();
        let learner = &mut self.learner;
        learner.delivered = learner.delivered.max(up_to);
        learner.reading = None;
        if up_to > learner.closed {
            learner.samples.clear();
            learner.trimmed_bytes = learner.bytes;
        }
        self.skip_to(context, scope, up_to);
        self.trim_to(context, scope, up_to);
        self.touch(context, scope);
    }

    /// Whether no member in contact that holds the state has this slot in its log. Those that have not said are asked.
    fn is_gone_everywhere(&self, context: &mut Context, scope: &Scope, first: Slot) -> bool {
        let members = scope.configuration.members.iter().filter(|member| member.role.holds_state());
        let heard = members.map(|member| member.node).filter(|node| context.peers.hears(*node, context.now));
        let unsaid = |node: &NodeId| self.trimming.gone.get(node).is_none_or(|gone| *gone < first);
        let ask: Vec<NodeId> = heard.filter(unsaid).collect();
        let none = ask.is_empty();
        if !none {
            context.send(scope, ask, GroupMessage::Fetch { log: self.id, from: first, up_to: first });
        }
        none
    }

    /// Whether this witness has dropped what the state of some member may lack: of a voter, as it may before it votes itself, or of
    /// one that is to become a voter. Until that state is durable, the change that lets either in cannot be made, or not ended.
    pub(crate) fn waits_for_states(&self, context: &Context, scope: &Scope) -> bool {
        let mut states = scope.configuration.members.iter().filter(|member| member.role.holds_state());
        self.witness
            && scope.is_member()
            && states.any(|member| self.known_held(context, member.node) < self.learner.trimmed)
    }

    /// Up to where this member has the log, for a sync pass. A witness has what every voter of the new configuration holds, as it
    /// may skip it there: without that, a voter that is set aside could hold up the very change that sets it aside.
    pub(crate) fn closed_for_sync(&self, context: &Context, scope: &Scope) -> Slot {
        if !self.witness {
            return self.learner.closed;
        }
        let members = scope.configuration.members.iter();
        let new = members.filter(|member| member.role == Role::Voter).map(|member| member.node);
        let held = new.map(|node| self.known_held(context, node)).min().unwrap_or_default();
        self.learner.closed.max(held)
    }

    /// Whether this witness keeps more than so many halves of what it may.
    fn keeps_halves(&self, context: &Context, halves: u64) -> bool {
        let entries = self.learner.closed.0.saturating_sub(self.learner.trimmed.0);
        let bytes = self.learner.bytes.saturating_sub(self.learner.trimmed_bytes);
        let most = |whole: u64| (whole / 2).saturating_mul(halves);
        entries > most(context.options.witness_keep_entries) || bytes > most(context.options.witness_keep_bytes)
    }

    /// What a witness says of its room.
    pub(super) fn room(&self, context: &Context) -> Room {
        match self.witness {
            true if self.keeps_halves(context, FULL_HALVES) => Room::None,
            true if self.keeps_halves(context, PRESSED_HALVES) => Room::Little,
            _ => Room::Enough,
        }
    }

    /// A witness has little room, or has dropped what this member's state has and does not hold durably: where only that delays,
    /// it is made up for at once.
    pub(super) fn hold_more_if_asked(
        &mut self,
        context: &mut Context,
        scope: &Scope,
        from: NodeId,
        position: &LogPosition,
    ) {
        let pause = context.options.failure_timeout;
        let due = self.trimming.asked_to_hold.is_none_or(|at| context.now - at >= pause);
        let learner = &self.learner;
        let could = !self.witness && learner.held < learner.delivered;
        let dropped = learner.held < position.held && position.held <= learner.delivered;
        let is_waited_for = scope.configuration.is_witness(from) && dropped;
        if (position.room != Room::Enough || is_waited_for) && due && could {
            self.trimming.asked_to_hold = Some(context.now);
            context.effect(Effect::HoldMore { group: scope.group, log: self.id });
        }
    }

    /// New work is admitted only while the witnesses in contact have room for it (rule 11).
    pub(super) fn refuse_for_witnesses(&self, context: &Context) -> Option<Refusal> {
        let full = self.trimming.full.iter().any(|node| context.peers.is_live(*node, context.now));
        full.then_some(Refusal::Full("entries that a witness keeps for a voter whose state lacks them"))
    }

    /// The voter to be set aside: it is absent, and this witness keeps more than it may for it, or cannot go on for want of what
    /// it may lack. One that is there and whose state does not get on is given more room, as all it accepts is in its own log.
    pub(crate) fn laggard(&self, context: &Context, scope: &Scope) -> Option<NodeId> {
        let held = |node| (self.known_held(context, node), node);
        let voters: Vec<(Slot, NodeId)> = scope.configuration.state_voters().map(held).collect();
        let (least, laggard) = voters.iter().min().copied().filter(|_| self.witness)?;
        let absent = !context.peers.is_live(laggard, context.now);
        let blocked = self.trimming.blocked.is_some_and(|first| first > self.learner.closed && least < first);
        let pressed = self.keeps_halves(context, if absent { PRESSED_HALVES } else { PRESSED_BY_LIVE_HALVES });
        // Without it, half of what is kept could go, or nothing would be won.
        let half = self.learner.trimmed.0 + self.learner.closed.0.saturating_sub(self.learner.trimmed.0) / 2;
        let worth_it = voters.iter().all(|(slot, node)| *node == laggard || slot.0 >= half);
        ((blocked && absent) || (pressed && worth_it)).then_some(laggard)
    }

    /// Whether a member that is away holds what the witnesses have dropped, and so much that none would soon lack the room again.
    pub(crate) fn has_returned(&self, context: &Context, scope: &Scope, node: NodeId) -> bool {
        let held = self.known_held(context, node);
        let mut witnesses = scope.configuration.members.iter().filter(|member| !member.role.holds_state());
        let learner = &self.learner;
        let before = learner.samples.range(..=held).next_back().map_or(learner.trimmed_bytes, |(_, bytes)| *bytes);
        witnesses.all(|witness| self.known_held(context, witness.node) <= held)
            && held.plus(context.options.witness_keep_entries / 2) >= learner.closed
            && learner.bytes - before <= context.options.witness_keep_bytes / 2
    }
}
