//! Taking in the engine's part of a state copy from another member (design section 4: the same slot as the data).

use super::Node;
use crate::clients::ReplyTo;
use crate::limits::CHECKPOINT_BYTES_MAX;
use crate::replica::Installing;
use crate::waiting::ChangeKind;
use crate::{checkpoint, EngineFailure};
use bytes::Bytes;
use client::{GroupId, Refusal, RefusalReason, Response, Slot};
use consensus::{Input, LogId};
use std::sync::Arc;
use tracing::info;

impl Node {
    /// Takes the next piece of a checkpoint; the last one installs it.
    pub(super) fn install_piece(
        &mut self,
        to: ReplyTo,
        group: GroupId,
        slot: Slot,
        offset: u64,
        length: u64,
        piece: Bytes,
    ) -> Result<(), Refusal> {
        let invalid = |what: String| Err(Refusal::definite(RefusalReason::Invalid, what));
        let replica = self.replica(group)?;
        if slot <= replica.delivered() {
            let delivered = replica.delivered();
            return invalid(format!("a state copy at slot {slot} is older than this node's state at slot {delivered}"));
        }
        if length > CHECKPOINT_BYTES_MAX {
            return Err(Refusal::definite(
                RefusalReason::TooLarge,
                format!("a checkpoint of {length} bytes is larger than the limit of {CHECKPOINT_BYTES_MAX} bytes"),
            ));
        }
        if offset == 0 {
            replica.installing = Some(Installing { slot, length, bytes: Vec::new() });
        }
        let Some(installing) = &mut replica.installing else {
            return invalid(format!("a piece of a checkpoint at {offset} came without the first one"));
        };
        let expected = (installing.slot, installing.length, installing.bytes.len() as u64);
        if (slot, length, offset) != expected || offset + piece.len() as u64 > length {
            replica.installing = None;
            return invalid(format!("a piece of a checkpoint at {offset} does not follow the one before"));
        }
        installing.bytes.extend_from_slice(&piece);
        if (installing.bytes.len() as u64) < length {
            self.clients.answer(to, &Response::Done);
            return Ok(());
        }
        let bytes = replica.installing.take().expect("it was just filled").bytes;
        match checkpoint::decode(&bytes) {
            Ok(checkpoint) if checkpoint.slot == slot => {}
            Ok(checkpoint) => return invalid(format!("the checkpoint is of slot {}, not {slot}", checkpoint.slot)),
            Err(why) => return invalid(why),
        }
        self.write_installed(to, group, slot, Arc::new(bytes));
        Ok(())
    }

    /// The checkpoint must be durable before anything counts on it.
    fn write_installed(&mut self, to: ReplyTo, group: GroupId, slot: Slot, bytes: Arc<Vec<u8>>) {
        let checkpoints = self.checkpoints.clone();
        let written = Arc::clone(&bytes);
        self.in_background(
            move || checkpoints.write(group, slot, &written),
            move |node, result| match result {
                Ok(()) => node.installed(to, group, slot, &bytes),
                Err(error) => node.fail(EngineFailure::Storage(error.to_string())),
            },
        );
    }

    fn installed(&mut self, to: ReplyTo, group: GroupId, slot: Slot, bytes: &[u8]) {
        let Some(replica) = self.replicas.get_mut(&group) else {
            let refusal = Refusal::definite(RefusalReason::UnknownGroup, "the group was forgotten meanwhile");
            return self.clients.refuse(to, refusal);
        };
        if let Err(why) = replica.restore(bytes) {
            let refusal =
                Refusal::definite(RefusalReason::Invalid, format!("the checkpoint cannot be restored: {why}"));
            return self.clients.refuse(to, refusal);
        }
        info!("group \"{}\" has the state of slot {slot} from another member", replica.configuration.name);
        replica.durable = slot;
        replica.oldest_durable = slot;
        replica.needs_state = None;
        let first = std::mem::replace(&mut replica.awaits_state, false);
        let configuration = Arc::clone(&replica.configuration);
        // Both together, so that nothing can be delivered in between.
        if first {
            let token = self.waiting.token();
            let kind = ChangeKind::Learn;
            self.waiting.changes.insert(token, crate::waiting::ChangeWaiter { to, group, kind });
            self.input(Input::LearnGroup { token, configuration });
        }
        self.input(Input::Installed { group, log: LogId::MAIN, slot });
        if !first {
            self.clients.answer(to, &Response::Done);
        }
    }
}
