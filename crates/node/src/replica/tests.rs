//! Operations in parts as replicated state: the same end on every member, from whatever checkpoint it starts.

use super::*;
use client::Start;
use consensus::bounds::{ASSEMBLY_BYTES_MAX, PARTS_LAPSE_SLOTS, PIECE_BYTES};
use std::cell::RefCell;
use std::rc::Rc;

const NODE: NodeId = NodeId(1);

type Seen = Rc<RefCell<Vec<(Slot, OperationId, Bytes)>>>;

/// Notes what it is given; rejects bodies that begin with `!`.
struct Recorder {
    seen: Seen,
    held: Slot,
}

impl Face for Recorder {
    fn apply(&mut self, delivery: Delivery<'_>) -> Verdict {
        self.seen.borrow_mut().push((delivery.slot, delivery.id, delivery.body.clone()));
        if delivery.body.starts_with(b"!") {
            return Verdict::Rejected(Bytes::from_static(b"no"));
        }
        Verdict::Accepted
    }

    fn pass(&mut self, _slot: Slot) {}

    fn checkpoint(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _slot: Slot, _checkpoint: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn held(&mut self) -> Slot {
        self.held
    }
}

/// A replica whose face holds what is at or below `held`, and what it is given.
fn replica(held: Slot) -> (Replica, Seen) {
    let member = consensus::Member {
        node: NODE,
        address: String::new(),
        public_key: Vec::new(),
        role: consensus::Role::Voter,
        label: String::new(),
    };
    let configuration = Configuration::first(consensus::GroupId(1), "g", "recorder", "", member);
    let seen = Seen::default();
    let face = Recorder { seen: Rc::clone(&seen), held };
    (Replica::new(NODE, Arc::new(configuration), Box::new(face)), seen)
}

fn id(sequence: u64) -> OperationId {
    OperationId { node: NODE, start: Start(1), sequence }
}

/// A part of operation `of`; its own id never matters.
fn part(of: u64, number: u32, piece: &[u8]) -> Entry {
    Entry::part(id(900 + u64::from(number)), id(of), number, piece)
}

fn deliver(replica: &mut Replica, entry: Entry) -> Delivered {
    let slot = replica.delivered().next();
    replica.deliver(slot, entry, |_| None)
}

fn outcome(delivered: Delivered) -> Outcome {
    match delivered {
        Delivered::Operation { outcome, .. } => outcome,
        other => panic!("expected an outcome, got {other:?}"),
    }
}

/// A log with operations in parts that come whole, in vain, doubled, closed, rejected and among small ones.
fn eventful_log() -> Vec<Entry> {
    vec![
        part(1, 0, b"ab"),
        Entry::operation(id(20), b"small"),
        part(2, 0, b"never whole"),
        part(1, 1, b"cd"),
        part(1, 0, b"ab"),
        part(3, 0, b"closed"),
        Entry::close(id(21), id(3)),
        part(3, 1, b"too late"),
        Entry::last_part(id(1), 2, 5, b"e"),
        part(1, 0, b"ab"),
        Entry::last_part(id(1), 2, 5, b"e"),
        Entry::last_part(id(3), 2, 15, b"x"),
        part(4, 0, b"!rejected "),
        Entry::no_op(),
        Entry::last_part(id(4), 1, 12, b"in"),
        Entry::last_part(id(2), 2, 20, b"x"),
        part(5, 0, b"once more "),
        Entry::last_part(id(5), 1, 15, b"whole"),
    ]
}

#[test]
fn the_face_sees_whole_bodies_at_the_slot_of_the_last_part_once() {
    let (mut replica, seen) = replica(Slot::LARGEST);
    let ends: Vec<Delivered> = eventful_log().into_iter().map(|entry| deliver(&mut replica, entry)).collect();
    let expected = [
        (Slot(2), id(20), Bytes::from_static(b"small")),
        (Slot(9), id(1), Bytes::from_static(b"abcde")),
        (Slot(15), id(4), Bytes::from_static(b"!rejected in")),
        (Slot(18), id(5), Bytes::from_static(b"once more whole")),
    ];
    assert_eq!(*seen.borrow(), expected);
    // The second time it is told what the first came to; a closed one and one whose parts are missing have failed.
    let at = |slot: usize| &ends[slot - 1];
    assert!(matches!(at(11), Delivered::Operation { slot: Slot(9), outcome: Outcome::Applied(_), .. }));
    assert!(matches!(at(12), Delivered::Operation { slot: Slot(7), outcome: Outcome::Closed, .. }));
    assert!(matches!(at(15), Delivered::Operation { outcome: Outcome::Rejected(_), .. }));
    assert!(matches!(at(16), Delivered::Incomplete { why: Incomplete::Missing { here: 1, parts: 2 }, .. }));
    assert_eq!(replica.look_up(id(2)), Occurrence::Repeated(Slot(16), Outcome::Closed));
    assert_eq!(replica.assembly.len(), 0, "nothing is left");
    let effects: Vec<u64> =
        (1..=18).filter(|slot| replica.decided.effectiveness(Slot(*slot)) == Some(Effectiveness::Accepted)).collect();
    assert_eq!(effects, [2, 9, 18]);
}

#[test]
fn every_checkpoint_leads_to_the_same_end() {
    let log = eventful_log();
    let (mut whole, seen) = replica(Slot::LARGEST);
    let mut checkpoints = Vec::new();
    for entry in &log {
        checkpoints.push(whole.encode());
        deliver(&mut whole, entry.clone());
    }
    let end = whole.encode();
    for (slot, checkpoint) in checkpoints.iter().enumerate() {
        let (mut restarted, seen_again) = replica(Slot::LARGEST);
        assert_eq!(restarted.restore(checkpoint), Ok(Slot(slot as u64)));
        for entry in &log[slot..] {
            deliver(&mut restarted, entry.clone());
        }
        assert_eq!(restarted.encode(), end, "from the checkpoint of slot {slot}");
        let after: Vec<_> = seen.borrow().iter().filter(|(at, ..)| at.0 > slot as u64).cloned().collect();
        assert_eq!(*seen_again.borrow(), after, "from the checkpoint of slot {slot}");
    }
}

#[test]
fn parts_lapse_and_what_comes_after_is_in_vain() {
    let (mut replica, seen) = replica(Slot::LARGEST);
    deliver(&mut replica, part(1, 0, b"early"));
    deliver(&mut replica, part(2, 0, b"early"));
    for _ in 0..PARTS_LAPSE_SLOTS - 1 {
        deliver(&mut replica, Entry::no_op());
    }
    assert_eq!(replica.take_given_up(), []);
    // Just in time for the one, too late for the other: only one slot came after their first parts each.
    deliver(&mut replica, part(2, 1, b" and late"));
    assert_eq!(replica.take_given_up(), [id(1)]);
    assert_eq!(outcome(deliver(&mut replica, Entry::last_part(id(1), 1, 5, b""))), Outcome::Closed);
    let applied = outcome(deliver(&mut replica, Entry::last_part(id(2), 2, 14, b"")));
    assert_eq!(applied, Outcome::Applied(Vec::new()));
    assert_eq!(seen.borrow().len(), 1);
    assert_eq!(seen.borrow()[0].2, "early and late");
}

#[test]
fn too_many_bytes_of_parts_end_an_operation_for_good() {
    let (mut replica, seen) = replica(Slot::LARGEST);
    let piece = vec![7; PIECE_BYTES];
    let mut given_up = Vec::new();
    let mut operation = 0;
    // Many begin and none goes on: the oldest makes room.
    while given_up.is_empty() {
        operation += 1;
        deliver(&mut replica, part(operation, 0, &piece));
        given_up = replica.take_given_up();
        assert!(replica.assembly.bytes() <= ASSEMBLY_BYTES_MAX as u64);
    }
    assert_eq!(given_up, [id(1)]);
    assert!(operation > 250, "{operation} fit");
    assert_eq!(replica.look_up(id(1)), Occurrence::Repeated(Slot(operation), Outcome::Closed));
    // Its end comes all the same, and so does that of another one.
    let length = PIECE_BYTES as u32;
    assert_eq!(outcome(deliver(&mut replica, Entry::last_part(id(1), 1, length, b""))), Outcome::Closed);
    let applied = outcome(deliver(&mut replica, Entry::last_part(id(2), 1, length, b"")));
    assert_eq!(applied, Outcome::Applied(Vec::new()));
    assert_eq!(seen.borrow().iter().map(|(_, id, _)| *id).collect::<Vec<_>>(), [id(2)]);
}

#[test]
fn the_log_is_kept_from_the_first_part_of_what_the_store_lacks() {
    // The face's store holds nothing above slot 2.
    let (mut replica, _) = replica(Slot(2));
    deliver(&mut replica, part(1, 0, b"ab"));
    deliver(&mut replica, part(2, 0, b"cd"));
    replica.oldest_durable = Slot(1);
    deliver(&mut replica, Entry::last_part(id(1), 1, 3, b"c"));
    deliver(&mut replica, Entry::last_part(id(2), 1, 3, b"e"));
    // What stands across the oldest checkpoint is kept in memory; of the other the log keeps the parts.
    let kept = |slot| replica.decided.assembled(Slot(slot)).unwrap().kept.clone();
    assert_eq!((kept(3), kept(4)), (Some(Bytes::from_static(b"abc")), None));
    replica.oldest_durable = Slot(2);
    assert_eq!(replica.needed_up_to(), Slot(1));
    // Once the store holds it, the log need not.
    let (mut replica, _) = self::replica(Slot::LARGEST);
    deliver(&mut replica, part(1, 0, b"ab"));
    deliver(&mut replica, Entry::last_part(id(1), 1, 3, b"c"));
    replica.oldest_durable = Slot(2);
    assert_eq!(replica.needed_up_to(), Slot(2));
}
