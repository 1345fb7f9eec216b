//! The state machine above a log, reduced to what consensus promises it: a position, the window of ids (rule 10), and the
//! parts of operations whose last part is yet to come.

use consensus::{bounds, Assembly, Entry, EntryKind, IdWindow, Occurrence, OperationId, Outcome, Slot};

use crate::parts;

/// Room for so few parts, and so few slots until they lapse, that both happen.
const PARTS_MAX: u64 = 12;
const LAPSE_SLOTS: u64 = 60;

/// A face's state.
#[derive(Clone, Debug)]
pub struct Face {
    /// Everything up to this slot is in it.
    pub applied: Slot,
    window: IdWindow,
    assembly: Assembly,
}

/// What passing a slot did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// The operation that took effect.
    pub effect: Option<OperationId>,
    /// The ids that were closed without ever having taken effect.
    pub closed: Vec<OperationId>,
}

impl Face {
    /// A face that has seen nothing.
    pub fn new(id_window: usize) -> Face {
        let piece_bytes = 64;
        let bytes_max = PARTS_MAX * (bounds::PART_OVERHEAD_BYTES as u64 + piece_bytes);
        Face { applied: Slot::ZERO, window: IdWindow::new(id_window), assembly: Assembly::new(bytes_max, LAPSE_SLOTS) }
    }

    /// Takes the next entry.
    pub fn pass(&mut self, slot: Slot, entry: &Entry) -> Passed {
        assert_eq!(slot, self.applied.next(), "entries come without gaps");
        self.applied = slot;
        let mut passed = Passed::default();
        let lapsed = self.assembly.lapse(slot);
        self.give_up(slot, lapsed, &mut passed);
        match entry.kind() {
            EntryKind::Operation => {
                if self.window.look_up(entry.id()) == Occurrence::First {
                    self.window.record(slot, entry.id(), Outcome::Applied(Vec::new()));
                    passed.effect = Some(entry.id());
                }
            }
            EntryKind::Close => {
                let target = entry.closes().expect("a close entry names an id");
                if let Occurrence::Repeated(_, Outcome::Closed) = self.window.close(slot, target) {
                    passed.closed.push(target);
                }
                self.assembly.forget(target);
            }
            EntryKind::Part => {
                let part = entry.to_part().expect("a part names its operation");
                if self.window.look_up(part.operation) == Occurrence::First {
                    let given_up = self.assembly.take(slot, part);
                    self.give_up(slot, given_up, &mut passed);
                } else {
                    self.assembly.forget(part.operation);
                }
            }
            EntryKind::LastPart => self.end(slot, entry, &mut passed),
            _ => {}
        }
        passed
    }

    /// The end of an operation in parts: it takes effect, whole, or never will.
    fn end(&mut self, slot: Slot, entry: &Entry, passed: &mut Passed) {
        let (id, last) = (entry.id(), entry.to_last_part().expect("a last part says how many there are"));
        if self.window.look_up(id) != Occurrence::First {
            self.assembly.forget(id);
            return;
        }
        let outcome = match self.assembly.finish(id, &last) {
            Ok(whole) => {
                assert_eq!(whole.body, parts::body(id, last.parts), "an operation is what it was");
                passed.effect = Some(id);
                Outcome::Applied(Vec::new())
            }
            Err(_) => {
                passed.closed.push(id);
                Outcome::Closed
            }
        };
        self.window.record(slot, id, outcome);
    }

    fn give_up(&mut self, slot: Slot, given_up: Vec<OperationId>, passed: &mut Passed) {
        for id in given_up {
            if self.window.look_up(id) == Occurrence::First {
                self.window.record(slot, id, Outcome::Closed);
                passed.closed.push(id);
            }
        }
    }
}
