//! The state machine above a log, reduced to what consensus promises it: a position, and the window of ids (rule 10).

use consensus::{Entry, EntryKind, IdWindow, Occurrence, OperationId, Outcome, Slot};

/// A face's state.
#[derive(Clone, Debug)]
pub struct Face {
    /// Everything up to this slot is in it.
    pub applied: Slot,
    window: IdWindow,
}

/// What passing a slot did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// The operation that took effect.
    pub effect: Option<OperationId>,
    /// The id that was closed without ever having taken effect.
    pub closed: Option<OperationId>,
}

impl Face {
    /// A face that has seen nothing.
    pub fn new(id_window: usize) -> Face {
        Face { applied: Slot::ZERO, window: IdWindow::new(id_window) }
    }

    /// Takes the next entry.
    pub fn pass(&mut self, slot: Slot, entry: &Entry) -> Passed {
        assert_eq!(slot, self.applied.next(), "entries come without gaps");
        self.applied = slot;
        let mut passed = Passed::default();
        match entry.kind() {
            EntryKind::Operation if self.window.look_up(entry.id()) == Occurrence::First => {
                self.window.record(slot, entry.id(), Outcome::Applied(Vec::new()));
                passed.effect = Some(entry.id());
            }
            EntryKind::Close => {
                let target = entry.closes().expect("a close entry names an id");
                if let Occurrence::Repeated(_, Outcome::Closed) = self.window.close(slot, target) {
                    passed.closed = Some(target);
                }
            }
            _ => {}
        }
        passed
    }
}
