//! What stands in the place of tables at a witness: nothing. The engine gives a witness no entries.

use node::{Delivery, Face, FaceContext, FaceFactory};

/// Serves groups of any kind, as a witness of them.
pub struct WitnessFaces;

impl FaceFactory for WitnessFaces {
    fn knows(&self, _kind: &str) -> bool {
        true
    }

    fn make(&mut self, context: FaceContext<'_>) -> Result<Box<dyn Face>, String> {
        match context.member {
            Some(member) if !member.role.is_witness() => {
                Err("this node holds no tables, and can only be a witness of the group".to_owned())
            }
            _ => Ok(Box::new(WitnessFace)),
        }
    }
}

struct WitnessFace;

impl Face for WitnessFace {
    fn apply(&mut self, delivery: Delivery<'_>) -> client::Verdict {
        unreachable!("a witness was given slot {}", delivery.slot)
    }

    fn pass(&mut self, slot: client::Slot) {
        unreachable!("a witness was given slot {slot}")
    }

    fn checkpoint(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _slot: client::Slot, _checkpoint: &[u8]) -> Result<(), String> {
        Err("a witness has no state".to_owned())
    }

    fn held(&mut self) -> client::Slot {
        client::Slot::ZERO
    }
}
