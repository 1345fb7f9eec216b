//! The decided slots of a group that somebody may still read: verdicts of all, bodies of the newest.
//!
//! A verdict takes one byte per slot and is kept from the slot that the face's own store lacks on, because it cannot be
//! told from the log alone; bodies beyond a bound of bytes are read from the log again.

use crate::limits::{DECIDED_CACHE_BYTES_MAX, DECIDED_CACHE_ENTRIES_MAX};
use client::Slot;
use consensus::Entry;
use std::collections::VecDeque;

/// What a decided slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effectiveness {
    /// Nothing: a no-op, a repeated or closed id, a configuration.
    Nothing,
    /// An operation that takes effect.
    Accepted,
    /// An operation that the face rejected.
    Rejected,
    /// A snapshot mark.
    Mark,
}

/// The decided slots of one group.
#[derive(Debug)]
pub(crate) struct Decided {
    /// The slot before the first of `verdicts`.
    before: Slot,
    verdicts: VecDeque<Effectiveness>,
    /// The newest entries; the last one is that of the last verdict.
    entries: VecDeque<Entry>,
    entry_bytes: usize,
}

impl Decided {
    /// Nothing decided yet after `before`.
    pub(crate) fn after(before: Slot) -> Decided {
        Decided { before, verdicts: VecDeque::new(), entries: VecDeque::new(), entry_bytes: 0 }
    }

    /// The last decided slot.
    pub(crate) fn last(&self) -> Slot {
        self.before.plus(self.verdicts.len() as u64)
    }

    /// The first slot whose verdict is known.
    pub(crate) fn first(&self) -> Slot {
        self.before.next()
    }

    /// The first slot whose entry is in memory.
    pub(crate) fn first_cached(&self) -> Slot {
        Slot(self.last().0 + 1 - self.entries.len() as u64)
    }

    /// Adds the next slot.
    pub(crate) fn push(&mut self, effectiveness: Effectiveness, entry: Entry) {
        self.verdicts.push_back(effectiveness);
        self.entry_bytes += entry.len();
        self.entries.push_back(entry);
        while self.entries.len() > 1
            && (self.entry_bytes > DECIDED_CACHE_BYTES_MAX || self.entries.len() > DECIDED_CACHE_ENTRIES_MAX)
        {
            let dropped = self.entries.pop_front().expect("there is more than one");
            self.entry_bytes -= dropped.len();
        }
        assert!(self.entries.len() <= self.verdicts.len());
    }

    /// What a slot does, if that is still known.
    pub(crate) fn effectiveness(&self, slot: Slot) -> Option<Effectiveness> {
        let index = slot.0.checked_sub(self.before.0 + 1)?;
        self.verdicts.get(usize::try_from(index).ok()?).copied()
    }

    /// A slot's entry, if it is in memory.
    pub(crate) fn entry(&self, slot: Slot) -> Option<&Entry> {
        let index = slot.0.checked_sub(self.first_cached().0)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Nobody asks for slots up to this one any more.
    pub(crate) fn forget(&mut self, up_to: Slot) {
        let gone = up_to.0.min(self.last().0).saturating_sub(self.before.0) as usize;
        // Entries stay within their own bound, so that the two deques keep ending at the same slot.
        let keep = self.entries.len();
        let gone = gone.min(self.verdicts.len() - keep);
        self.verdicts.drain(..gone);
        self.before = self.before.plus(gone as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::OperationId;

    #[test]
    fn verdicts_stay_while_entries_are_bounded() {
        let mut decided = Decided::after(Slot(10));
        let entry = Entry::operation(OperationId::NONE, &vec![0; DECIDED_CACHE_BYTES_MAX / 4]);
        for _ in 0..10 {
            decided.push(Effectiveness::Accepted, entry.clone());
        }
        assert_eq!((decided.first(), decided.last()), (Slot(11), Slot(20)));
        assert_eq!(decided.first_cached(), Slot(18));
        assert!(
            decided.entry(Slot(17)).is_none() && decided.entry(Slot(18)).is_some() && decided.entry(Slot(21)).is_none()
        );
        assert_eq!(decided.effectiveness(Slot(11)), Some(Effectiveness::Accepted));
        assert_eq!(decided.effectiveness(Slot(10)), None);
        assert_eq!(decided.effectiveness(Slot(21)), None);
    }

    #[test]
    fn forgetting_never_loses_an_entry_in_memory() {
        let mut decided = Decided::after(Slot(0));
        for _ in 0..5 {
            decided.push(Effectiveness::Nothing, Entry::no_op());
        }
        decided.forget(Slot(100));
        assert_eq!((decided.first(), decided.last(), decided.first_cached()), (Slot(1), Slot(5), Slot(1)));
    }
}
