//! The decided slots of a group that somebody may still read: verdicts of all, bodies of the newest.
//!
//! A verdict takes one byte per slot and is kept from the slot that the face's own store lacks on, because it cannot be
//! told from the log alone; bodies beyond a bound of bytes are read from the log again. That an operation came in several
//! parts is known here and nowhere above: its body stands whole at the slot of the last part, and is read back from the
//! slots of all of them.

use crate::limits::{DECIDED_CACHE_BYTES_MAX, DECIDED_CACHE_ENTRIES_MAX};
use crate::stored_bodies::Unread;
use bytes::Bytes;
use client::{OperationId, Slot};
use std::collections::{BTreeMap, VecDeque};

/// What a decided slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effectiveness {
    /// Nothing: a no-op, a repeated or closed id, a part of a larger operation, a configuration.
    Nothing,
    /// An operation that takes effect.
    Accepted,
    /// An operation that the face rejected.
    Rejected,
    /// A snapshot mark.
    Mark,
}

/// The operation of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) id: OperationId,
    /// Its whole body; empty if it takes no effect.
    pub(crate) body: Bytes,
}

/// Where the parts of an operation stand that takes effect in several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assembled {
    pub(crate) id: OperationId,
    /// The slots of all parts but the last.
    pub(crate) parts: Vec<Slot>,
    /// The body, if the log need not hold all of them any more.
    pub(crate) kept: Option<Bytes>,
}

/// The decided slots of one group.
#[derive(Debug)]
pub(crate) struct Decided {
    /// The slot before the first of `verdicts`.
    before: Slot,
    verdicts: VecDeque<Effectiveness>,
    /// The newest contents; the last one is that of the last verdict.
    contents: VecDeque<Content>,
    content_bytes: usize,
    /// By the slot of the last part.
    assembled: BTreeMap<Slot, Assembled>,
}

impl Decided {
    /// Nothing decided yet after `before`.
    pub(crate) fn after(before: Slot) -> Decided {
        Decided {
            before,
            verdicts: VecDeque::new(),
            contents: VecDeque::new(),
            content_bytes: 0,
            assembled: BTreeMap::new(),
        }
    }

    /// The last decided slot.
    pub(crate) fn last(&self) -> Slot {
        self.before.plus(self.verdicts.len() as u64)
    }

    /// The first slot whose verdict is known.
    pub(crate) fn first(&self) -> Slot {
        self.before.next()
    }

    /// The first slot whose content is in memory.
    pub(crate) fn first_cached(&self) -> Slot {
        Slot(self.last().0 + 1 - self.contents.len() as u64)
    }

    /// Adds the next slot.
    pub(crate) fn push(&mut self, effectiveness: Effectiveness, content: Content) {
        self.verdicts.push_back(effectiveness);
        self.content_bytes += content.body.len();
        self.contents.push_back(content);
        while self.contents.len() > 1
            && (self.content_bytes > DECIDED_CACHE_BYTES_MAX || self.contents.len() > DECIDED_CACHE_ENTRIES_MAX)
        {
            let dropped = self.contents.pop_front().expect("there is more than one");
            self.content_bytes -= dropped.body.len();
        }
        assert!(self.contents.len() <= self.verdicts.len());
    }

    /// The last slot pushed takes effect and had parts before it.
    pub(crate) fn note_assembled(&mut self, assembled: Assembled) {
        assert_eq!(self.verdicts.back(), Some(&Effectiveness::Accepted), "only what takes effect is read back");
        self.assembled.insert(self.last(), assembled);
    }

    /// What a slot does, if that is still known.
    pub(crate) fn effectiveness(&self, slot: Slot) -> Option<Effectiveness> {
        let index = slot.0.checked_sub(self.before.0 + 1)?;
        self.verdicts.get(usize::try_from(index).ok()?).copied()
    }

    /// A slot's content, if it is in memory.
    pub(crate) fn content(&self, slot: Slot) -> Option<&Content> {
        let index = slot.0.checked_sub(self.first_cached().0)?;
        self.contents.get(usize::try_from(index).ok()?)
    }

    /// Where the parts of a slot's operation are, if it has several.
    pub(crate) fn assembled(&self, slot: Slot) -> Option<&Assembled> {
        self.assembled.get(&slot)
    }

    /// The last slot of those from `from` to `up_to` that have no effect, one after the other; the one before `from` if
    /// there is none.
    pub(crate) fn idle_through(&self, from: Slot, up_to: Slot) -> Slot {
        let idle = |slot: &Slot| self.effectiveness(*slot) == Some(Effectiveness::Nothing);
        (from.0..=up_to.0).map(Slot).take_while(idle).last().unwrap_or(from.previous())
    }

    /// How the bodies from `from` on are read from the log, up to `up_to` at most.
    pub(crate) fn unread(&self, from: Slot, up_to: Slot) -> Unread {
        match self.assembled.range(from..=up_to).next() {
            Some((slot, assembled)) if *slot == from => Unread::Parts { slot: from, parts: assembled.parts.clone() },
            Some((slot, _)) => Unread::Slots { from, up_to: slot.previous() },
            None => Unread::Slots { from, up_to },
        }
    }

    /// The first slot of the log from which a body above `held` may be read.
    pub(crate) fn first_part_above(&self, held: Slot) -> Option<Slot> {
        let unheld = self.assembled.range(held.next()..).filter(|(_, assembled)| assembled.kept.is_none());
        unheld.filter_map(|(_, assembled)| assembled.parts.iter().min().copied()).min()
    }

    /// Nobody asks for slots up to this one any more.
    pub(crate) fn forget(&mut self, up_to: Slot) {
        let gone = up_to.0.min(self.last().0).saturating_sub(self.before.0) as usize;
        // Contents stay within their own bound, so that the two deques keep ending at the same slot.
        let keep = self.contents.len();
        let gone = gone.min(self.verdicts.len() - keep);
        self.verdicts.drain(..gone);
        self.before = self.before.plus(gone as u64);
        // A body kept for want of a log goes as soon as nobody asks for it.
        self.assembled = self.assembled.split_off(&up_to.min(self.last()).next());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(bytes: usize) -> Content {
        Content { id: OperationId::NONE, body: vec![0; bytes].into() }
    }

    fn assembled(parts: &[u64], kept: bool) -> Assembled {
        let parts = parts.iter().copied().map(Slot).collect();
        Assembled { id: OperationId::NONE, parts, kept: kept.then(Bytes::new) }
    }

    #[test]
    fn verdicts_stay_while_contents_are_bounded() {
        let mut decided = Decided::after(Slot(10));
        for _ in 0..10 {
            decided.push(Effectiveness::Accepted, content(DECIDED_CACHE_BYTES_MAX / 4 + 1));
        }
        assert_eq!((decided.first(), decided.last()), (Slot(11), Slot(20)));
        assert_eq!(decided.first_cached(), Slot(18));
        assert!(
            decided.content(Slot(17)).is_none()
                && decided.content(Slot(18)).is_some()
                && decided.content(Slot(21)).is_none()
        );
        assert_eq!(decided.effectiveness(Slot(11)), Some(Effectiveness::Accepted));
        assert_eq!(decided.effectiveness(Slot(10)), None);
        assert_eq!(decided.effectiveness(Slot(21)), None);
    }

    #[test]
    fn forgetting_never_loses_a_content_in_memory() {
        let mut decided = Decided::after(Slot(0));
        for _ in 0..5 {
            decided.push(Effectiveness::Nothing, content(0));
        }
        decided.forget(Slot(100));
        assert_eq!((decided.first(), decided.last(), decided.first_cached()), (Slot(1), Slot(5), Slot(1)));
    }

    #[test]
    fn bodies_in_parts_are_read_apart_from_others() {
        let mut decided = Decided::after(Slot(10));
        for slot in 11..=20 {
            let effect = if slot == 15 || slot == 18 { Effectiveness::Accepted } else { Effectiveness::Nothing };
            decided.push(effect, content(0));
            match slot {
                15 => decided.note_assembled(assembled(&[13, 12], false)),
                18 => decided.note_assembled(assembled(&[5, 16], true)),
                _ => {}
            }
        }
        let slots = |from, up_to| Unread::Slots { from: Slot(from), up_to: Slot(up_to) };
        assert_eq!(decided.unread(Slot(11), Slot(20)), slots(11, 14));
        assert_eq!(
            decided.unread(Slot(15), Slot(20)),
            Unread::Parts { slot: Slot(15), parts: vec![Slot(13), Slot(12)] }
        );
        assert_eq!(decided.unread(Slot(16), Slot(17)), slots(16, 17));
        // What has no effect need not be read.
        assert_eq!(decided.idle_through(Slot(11), Slot(20)), Slot(14));
        assert_eq!(decided.idle_through(Slot(15), Slot(20)), Slot(14));
        assert_eq!(decided.idle_through(Slot(19), Slot(20)), Slot(20));
        // The log is needed from the first part on of what is neither held nor kept.
        assert_eq!(decided.first_part_above(Slot(14)), Some(Slot(12)));
        assert_eq!(decided.first_part_above(Slot(15)), None);
        decided.forget(Slot(15));
        assert!(decided.assembled(Slot(15)).is_none() && decided.assembled(Slot(18)).is_some());
    }
}
