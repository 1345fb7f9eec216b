//! What is done from time to time: checkpoints, trimming, changes that had to stand back.

use super::Node;
use crate::limits::FAREWELL;
use crate::EngineFailure;
use client::{GroupId, Slot};
use consensus::{Input, LogId};
use std::time::Instant;
use storage::CheckpointError;
use tracing::{debug, info, warn};

impl Node {
    pub(super) fn keep_house(&mut self) {
        let groups: Vec<GroupId> = self.replicas.keys().copied().collect();
        for group in groups {
            self.see_to_checkpoint(group);
            self.lapse_marks(group);
            let streamed = self.streams.position(group);
            if let Some(replica) = self.replicas.get_mut(&group) {
                replica.forget_decided(streamed);
            }
        }
        self.refuse_overdue();
        self.expire_value_readers();
        self.change_again();
        self.note_contact();
        self.note_disowned();
        let now = Instant::now();
        if self.farewells.values().any(|(_, until)| *until <= now) {
            // A removed member that was not told so yet would never hear it.
            let untold = self.core.status(self.now()).groups.into_iter().flat_map(|group| group.untold);
            for node in untold {
                if let Some((_, until)) = self.farewells.get_mut(&node) {
                    *until = now + FAREWELL;
                }
            }
            self.refresh_peers();
        }
    }

    /// Takes a checkpoint if one is due, and writes it on another thread once the face's own store has reached its slot.
    ///
    /// Asked after deliveries, after each checkpoint written and from time to time: what a burst brought while the one
    /// before was on its way must not wait for the next operation, which may never come, or the log is not trimmed.
    pub(super) fn see_to_checkpoint(&mut self, group: GroupId) {
        let every_bytes = self.limits.checkpoint_every_bytes;
        let Some(replica) = self.replicas.get_mut(&group) else {
            return;
        };
        replica.capture_if_due(every_bytes);
        let Some((slot, bytes)) = replica.take_writable() else {
            return;
        };
        let checkpoints = self.checkpoints.clone();
        self.in_background(
            move || {
                checkpoints.write(group, slot, &bytes)?;
                checkpoints.oldest_kept(group)
            },
            move |node, result| match result {
                Ok(oldest) => {
                    node.metrics.checkpoints += 1;
                    node.checkpoint_healed(group, slot);
                    if let Some(replica) = node.replicas.get_mut(&group) {
                        replica.writing = false;
                        replica.durable = slot;
                        replica.oldest_durable = oldest.unwrap_or(slot);
                    }
                    node.held(group);
                    node.see_to_checkpoint(group);
                }
                // A state copy, newer, was written meanwhile.
                Err(CheckpointError::Older { .. }) => {
                    if let Some(replica) = node.replicas.get_mut(&group) {
                        replica.writing = false;
                    }
                }
                // Rule 9: a failed write stops the node.
                Err(error) => node.fail(EngineFailure::Storage(error.to_string())),
            },
        );
    }

    /// A witness waits for this node's state to be durable.
    pub(super) fn checkpoint_at_once(&mut self, group: GroupId) {
        if let Some(replica) = self.replicas.get_mut(&group) {
            debug!("group \"{}\": a witness has little room, a checkpoint is written", replica.configuration.name);
            replica.capture();
        }
        self.see_to_checkpoint(group);
    }

    /// Scrub found a checkpoint that cannot be read any more: a new one is due at once.
    pub(super) fn checkpoint_damaged(&mut self, group: GroupId, slot: Slot) {
        let Some(replica) = self.replicas.get_mut(&group) else {
            return;
        };
        warn!(
            "the checkpoint of group \"{}\" at slot {slot} is damaged; a new one is written",
            replica.configuration.name
        );
        replica.damaged_checkpoints.insert(slot);
        replica.capture();
        self.see_to_checkpoint(group);
    }

    /// A whole checkpoint at `slot` is durable: damaged ones are not needed any more. One at its slot was replaced by it.
    fn checkpoint_healed(&mut self, group: GroupId, slot: Slot) {
        let Some(replica) = self.replicas.get_mut(&group) else {
            return;
        };
        if replica.damaged_checkpoints.is_empty() {
            return;
        }
        let later = replica.damaged_checkpoints.split_off(&slot.next());
        let damaged = std::mem::replace(&mut replica.damaged_checkpoints, later);
        info!("group \"{}\" has a whole checkpoint again, at slot {slot}", replica.configuration.name);
        let checkpoints = self.checkpoints.clone();
        self.in_background(
            move || {
                for damaged in damaged.into_iter().filter(|damaged| *damaged != slot) {
                    checkpoints.remove_damaged(group, damaged)?;
                }
                checkpoints.oldest_kept(group)
            },
            move |node, result| match result {
                Ok(oldest) => {
                    if let Some(replica) = node.replicas.get_mut(&group) {
                        replica.oldest_durable = oldest.unwrap_or(replica.oldest_durable).max(replica.oldest_durable);
                    }
                    node.held(group);
                }
                Err(error) => node.fail(EngineFailure::Storage(error.to_string())),
            },
        );
    }

    /// Tells the core how much of the log this node itself needs no more.
    pub(super) fn held(&mut self, group: GroupId) {
        if let Some(replica) = self.replicas.get_mut(&group) {
            let slot = replica.needed_up_to();
            debug!("group \"{}\" needs its log only after slot {slot}", replica.configuration.name);
            self.input(Input::Held { group, log: LogId::MAIN, slot });
        }
    }

    fn lapse_marks(&mut self, group: GroupId) {
        let bytes_max = self.limits.log_keep_bytes;
        let Some(replica) = self.replicas.get_mut(&group) else {
            return;
        };
        let lapsed = replica.lapse_marks(bytes_max);
        for slot in &lapsed {
            warn!(
                "the state copy from slot {slot} of group \"{}\" took longer than the log is kept ({bytes_max} bytes) and \
                 lost its hold",
                replica.configuration.name
            );
        }
        if !lapsed.is_empty() {
            self.held(group);
        }
    }
}
