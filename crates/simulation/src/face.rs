//! The state machine above a log, reduced to what consensus promises it: a position, the window of ids (rule 10), and
//! certification as the tables do it, over write sets of a few hot keys.

use bytes::Bytes;
use consensus::{is_planted, Ballot, Entry, EntryKind, IdWindow, Occurrence, OperationId, Outcome, SeededBug, Slot};
use tables::{Certifier, IndexId, Key, KeyHash, Strength, TableId, WriteSet};

use crate::random::Random;

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
}

/// What passing a slot did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// The operation that took effect.
    pub effect: Option<OperationId>,
    /// The operation that was rejected here, and used its id up.
    pub rejected: Option<OperationId>,
    /// The id that was closed without ever having taken effect.
    pub closed: Option<OperationId>,
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
        for byte in window.iter().chain(&self.certifier.checkpoint()) {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        digest
    }

    /// Takes the next entry.
    pub fn pass(&mut self, slot: Slot, entry: &Entry) -> Passed {
        assert_eq!(slot, self.applied.next(), "entries come without gaps");
        self.applied = slot;
        let mut passed = Passed::default();
        match entry.kind() {
            EntryKind::Operation if self.window.look_up(entry.id()) == Occurrence::First => {
                self.decide(slot, entry, &mut passed);
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
}

/// The keys of an entry; one that is no write set touches none.
fn keys(entry: &Entry) -> Vec<Key> {
    if entry.kind() != EntryKind::Operation {
        return Vec::new();
    }
    WriteSet::decode_keys(&Bytes::copy_from_slice(entry.body())).unwrap_or_default()
}
