//! The face of a tables group inside the engine: certification, and publication of each slot's turn.
//!
//! Runs on the engine's thread, so it calls nothing of PostgreSQL: it reads and writes shared memory and the
//! certifier's own state only. After a restart of the engine slots come again from the checkpoint on; those that were
//! published before are certified again, because the certifier's state must be rebuilt, and not published again.

use std::collections::BTreeMap;

use bytes::Bytes;
use client::Verdict;
use consensus::{GroupId, NodeId, Slot};
use node::{Delivery, Face, FaceContext, FaceFactory};
use tables::{Certifier, Fairness, WriteSet, WINDOW_BYTES_DEFAULT};

use crate::shared::{ApplierState, Area, BackendIndex, Group, Turn};

/// The kind by which groups of tables are made.
pub const KIND: &str = "tables";

/// What PostgreSQL's tables hold of each group, as its replication origins said when the server started.
pub type Progress = BTreeMap<GroupId, Slot>;

/// Makes the faces of tables groups.
pub struct TablesFaces {
    progress: Progress,
}

impl TablesFaces {
    /// A factory that knows how far each group was applied when the server started.
    pub fn new(progress: Progress) -> TablesFaces {
        TablesFaces { progress }
    }
}

impl FaceFactory for TablesFaces {
    fn knows(&self, kind: &str) -> bool {
        kind == KIND
    }

    fn make(&mut self, context: FaceContext<'_>) -> Result<Box<dyn Face>, String> {
        let group = context.group;
        let applied = self.progress.get(&group.group).copied().unwrap_or(Slot::ZERO);
        let database = context.member.map(|member| member.database.as_str()).unwrap_or_default();
        let area = Area::attached();
        let is_new = area.group(group.group).is_none();
        let shared = area
            .add_group(group.group, &group.name, database, applied)
            .ok_or("no room for another group in shared memory; raise pg_paxos.max_groups and restart the server")?;
        if is_new {
            // A member that was not there from the first slot on waits for a copy, unless it has applied something.
            let is_founder = group.members.len() == 1;
            let needs_copy = applied == Slot::ZERO && !is_founder;
            shared.set_applier_state(if needs_copy { ApplierState::Copying } else { ApplierState::Starting });
        }
        area.wake_engine();
        Ok(Box::new(TablesFace {
            shared,
            node: context.node,
            certifier: Certifier::new(WINDOW_BYTES_DEFAULT),
            fairness: Fairness::new(context.node),
        }))
    }

    fn forgotten(&mut self, group: GroupId) {
        self.progress.remove(&group);
        let area = Area::attached();
        if let Some(shared) = area.group(group) {
            shared.set_applier_state(ApplierState::Leaving);
            shared.wake_applier();
            area.wake_engine();
        }
    }
}

/// The face of one group.
struct TablesFace {
    shared: &'static Group,
    node: NodeId,
    certifier: Certifier,
    fairness: Fairness,
}

impl TablesFace {
    /// Whose turn an accepted operation is: the backend's that proposed it, if it still waits for it.
    fn publish_accepted(&mut self, delivery: &Delivery<'_>) {
        let slot = delivery.slot;
        if slot <= self.shared.decided() {
            return;
        }
        let waiting = (delivery.id.node == self.node && self.shared.has_room())
            .then(|| self.proposer(delivery))
            .flatten()
            .and_then(|index| {
                let backend = Area::attached().backend(index);
                backend.grant(delivery.id, slot).map(|word| (index, word))
            });
        let Some((index, word)) = waiting else {
            self.shared.publish(slot, Turn::Applier);
            return;
        };
        self.shared.publish(slot, Turn::Backend(index));
        // Between the grant and the publication the backend may have given up, before there was anything to hand over.
        if Area::attached().backend(index).word() != word {
            self.shared.hand_over(slot, index);
        }
    }

    /// The backend that proposed the operation. The engine knows it unless it was restarted since.
    fn proposer(&self, delivery: &Delivery<'_>) -> Option<BackendIndex> {
        if let Some(origin) = delivery.origin {
            return Some(BackendIndex(origin.0));
        }
        let backends = Area::attached().backends();
        let place = backends.iter().position(|backend| backend.process() != 0 && backend.proposed(delivery.id))?;
        u32::try_from(place).ok().map(BackendIndex)
    }
}

impl Face for TablesFace {
    fn apply(&mut self, delivery: Delivery<'_>) -> Verdict {
        let verdict = match WriteSet::decode_keys(delivery.body) {
            Ok(keys) => self.certifier.certify(delivery.slot, delivery.id.node, &keys),
            // Every member reads the same bytes, so every member rejects alike.
            Err(error) => {
                self.shared.publish(delivery.slot, Turn::Nothing);
                return Verdict::Rejected(Bytes::from(format!("malformed write set: {error}").into_bytes()));
            }
        };
        self.fairness.record(delivery.id.node, verdict.is_accepted());
        self.shared.set_hold(self.fairness.hold());
        if verdict.is_accepted() {
            self.publish_accepted(&delivery);
            Verdict::Accepted
        } else {
            self.shared.publish(delivery.slot, Turn::Nothing);
            Verdict::Rejected(Bytes::from(verdict.encode()))
        }
    }

    fn pass(&mut self, slot: Slot) {
        self.shared.publish(slot, Turn::Nothing);
    }

    fn mark(&mut self, delivery: Delivery<'_>) {
        // Only the asker has business at the mark; everybody else passes it.
        if delivery.id.node == self.node && delivery.origin.is_some() {
            self.publish_mark(&delivery);
        } else {
            self.shared.publish(delivery.slot, Turn::Nothing);
        }
    }

    fn admit(&mut self, body: &Bytes) -> Result<(), Bytes> {
        let Ok(keys) = WriteSet::decode_keys(body) else {
            return Ok(());
        };
        match self.certifier.conflict(&keys) {
            None => Ok(()),
            Some(conflict) => Err(Bytes::from(tables::Verdict::Rejected(conflict).encode())),
        }
    }

    fn checkpoint(&self) -> Vec<u8> {
        self.certifier.checkpoint()
    }

    fn restore(&mut self, slot: Slot, checkpoint: &[u8]) -> Result<(), String> {
        let certifier = Certifier::restore(checkpoint).map_err(|error| error.to_string())?;
        // It may be another server's: one that was ahead of its slot would refuse to judge what comes next.
        if certifier.last() > slot {
            return Err(format!(
                "the certification state is of slot {}, the checkpoint of slot {slot}",
                certifier.last()
            ));
        }
        self.certifier = certifier;
        if slot > self.shared.applied() {
            // A copy of the tables at this slot was just installed; nothing of the group is in flight here.
            self.shared.install(slot);
            self.shared.set_applier_state(ApplierState::Starting);
            self.shared.wake_applier();
            Area::attached().wake_engine();
        }
        Ok(())
    }

    fn held(&mut self) -> Slot {
        self.shared.held()
    }
}

impl TablesFace {
    fn publish_mark(&mut self, delivery: &Delivery<'_>) {
        let slot = delivery.slot;
        if slot <= self.shared.decided() {
            return;
        }
        let granted = self.proposer(delivery).and_then(|index| {
            let backend = Area::attached().backend(index);
            backend.grant(delivery.id, slot).map(|word| (index, word))
        });
        let Some((index, word)) = granted else {
            self.shared.publish(slot, Turn::Nothing);
            return;
        };
        self.shared.publish(slot, Turn::Backend(index));
        if Area::attached().backend(index).word() != word {
            self.shared.hand_over(slot, index);
        }
    }
}
