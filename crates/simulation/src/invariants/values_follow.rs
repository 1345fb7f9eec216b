//! In a log of values no write is lost under another: each value was made from the one at the slot before its own.

use std::collections::BTreeMap;

use consensus::{LogId, OperationId, Slot};

use super::{ensure, Invariant};
use crate::observation::Observation;
use crate::values::base_of;

/// Who put the value at each slot, and who had put the one that it was made from.
#[derive(Debug, Default)]
pub struct ValuesFollow {
    values: BTreeMap<(LogId, Slot), (OperationId, OperationId)>,
}

impl Invariant for ValuesFollow {
    fn name(&self) -> &'static str {
        "no write is lost under another"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Delivered { node, log, slot, entry, .. } = observation else { return Ok(()) };
        let Some(base) = base_of(entry) else { return Ok(()) };
        ensure!(entry.follows() == Some(slot.previous()), "{node} delivers {entry:?} at slot {slot} of {log}");
        self.values.insert((*log, *slot), (entry.id(), base));
        let before = self.values.get(&(*log, slot.previous())).map(|(id, _)| *id);
        let after = self.values.get(&(*log, slot.next())).map(|(_, base)| *base);
        ensure!(
            before.is_none_or(|before| before == base),
            "slot {slot} of {log} was made from {base}, before it is {before:?}"
        );
        ensure!(
            after.is_none_or(|after| after == entry.id()),
            "slot {slot} of {log} is {entry:?}; the next was made from {after:?}"
        );
        Ok(())
    }
}
