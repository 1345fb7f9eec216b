//! The state machine above a log, reduced to what consensus promises it: a position, the window of ids (rule 10), and
//! certification as the tables do it, over write sets of a few hot keys, and the parts of operations whose last part is yet
//! to come.

use bytes::Bytes;
use consensus::{
    bounds, is_planted, Assembly, Ballot, Entry, EntryKind, IdWindow, Occurrence, OperationId, Outcome, SeededBug, Slot,
};
use tables::{Certifier, IndexId, Key, KeyHash, Strength, TableId, WriteSet};

use crate::parts;
use crate::random::Random;

/// Room for so few parts, and so few slots until they lapse, that both happen.
const PARTS_MAX: u64 = 12;
const LAPSE_SLOTS: u64 = 60;
const PIECE_BYTES: u64 = 64;

/// The bounds of a face's state: part of the group's state, so the same everywhere.
#[derive(Clone, Copy, Debug)]
pub struct FaceOptions {
    /// Ids that the window holds.
    pub id_window: usize,
    /// Bytes of keys that certification remembers.
    pub certification_bytes: u64,
}

/// A face's state.
#[derive(Clone, Debug)]
pub struct Face {
    /// Everything up to this slot is in it.
    pub applied: Slot,
    options: FaceOptions,
    window: IdWindow,
    certifier: Certifier,
    assembly: Assembly,
}

/// What passing a slot did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// The operation that took effect.
    pub effect: Option<OperationId>,
    /// The operation that was rejected here, and used its id up.
    pub rejected: Option<OperationId>,
    /// The ids that were closed without ever having taken effect.
    pub closed: Vec<OperationId>,
}

/// Tables of a few rows, so that transactions meet.
const HOT_KEYS: u64 = 12;

/// The body of an operation that read the log up to `position` and changes a row or two.
pub fn write_set(random: &mut Random, position: Slot, padding: usize) -> Vec<u8> {
    let keys: Vec<Key> = (0..random.between(1, 2))
        .map(|_| Key {
            table: TableId::FIRST,
            index: IndexId::ROW,
            hash: KeyHash(random.below(HOT_KEYS)),
            strength: if random.chance(0.7) { Strength::Exclusive } else { Strength::Update },
            position,
        })
        .collect();
    let mut body = WriteSet::new(keys, Vec::new()).encode().to_vec();
    body.resize(body.len() + padding, b'x');
    body
}

impl Face {
    /// A face that has seen nothing.
    pub fn new(options: FaceOptions) -> Face {
        Face {
            applied: Slot::ZERO,
            options,
            window: IdWindow::new(options.id_window),
            certifier: Certifier::new(options.certification_bytes),
            assembly: Assembly::new(PARTS_MAX * (bounds::PART_OVERHEAD_BYTES as u64 + PIECE_BYTES), LAPSE_SLOTS),
        }
    }

    /// A face as it begins again from its durable state, with what its log still reads.
    pub fn restored(&self, log: &[(Ballot, Entry)], first: Slot) -> Face {
        let mut face = self.clone();
        if is_planted(SeededBug::CertificationFromWindow) {
            face.certifier = Certifier::new(self.options.certification_bytes);
            for (slot, (_, entry)) in (first.0..=self.applied.0).map(Slot).zip(log) {
                face.certifier.certify(slot, entry.id().node, &keys(entry));
            }
        } else {
            let restored = Certifier::restore(&self.certifier.checkpoint());
            face.certifier = restored.expect("a checkpoint can be restored");
        }
        face
    }

    /// How many ids it remembers; at most as many as its options say.
    pub fn remembered_ids(&self) -> usize {
        self.window.len()
    }

    /// What the whole state comes to: equal states have equal digests.
    pub fn digest(&self) -> u64 {
        let window = postcard::to_stdvec(&self.window).expect("a window always encodes");
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        let assembly = postcard::to_stdvec(&self.assembly).expect("parts always encode");
        for byte in window.iter().chain(&self.certifier.checkpoint()).chain(&assembly) {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        digest
    }

    /// Takes the next entry.
    pub fn pass(&mut self, slot: Slot, entry: &Entry) -> Passed {
        assert_eq!(slot, self.applied.next(), "entries come without gaps");
        self.applied = slot;
        let mut passed = Passed::default();
        let lapsed = self.assembly.lapse(slot);
        self.give_up(slot, lapsed, &mut passed);
        match entry.kind() {
            EntryKind::Operation if self.window.look_up(entry.id()) == Occurrence::First => {
                self.decide(slot, entry, &mut passed);
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

    fn decide(&mut self, slot: Slot, entry: &Entry, passed: &mut Passed) {
        let id = entry.id();
        if self.certifier.certify(slot, id.node, &keys(entry)).is_accepted() {
            self.window.record(slot, id, Outcome::Applied(Vec::new()));
            passed.effect = Some(id);
            return;
        }
        passed.rejected = Some(id);
        if !is_planted(SeededBug::RejectedIdUsedAgain) {
            self.window.record(slot, id, Outcome::Rejected(Vec::new()));
        }
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

/// The keys of an entry; one that is no write set touches none.
fn keys(entry: &Entry) -> Vec<Key> {
    if entry.kind() != EntryKind::Operation {
        return Vec::new();
    }
    WriteSet::decode_keys(&Bytes::copy_from_slice(entry.body())).unwrap_or_default()
}
