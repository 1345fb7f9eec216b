//! Bytes from peers: what is sent can be read; nothing that can be sent makes decoding panic.

use crate::cluster::{node, GROUP};
use crate::{
    bounds, Accepted, Ballot, Entry, Epoch, GroupMessage, InvalidMessage, LogId, Message, NodeId, OperationId,
    Sequence, Slot, Start, MESSAGE_VERSION,
};
use proptest::prelude::*;

fn accept(slot: u64, bodies: &[Vec<u8>]) -> Message {
    let id = |sequence| OperationId { node: node(1), start: Start(1), sequence };
    let part = |body: &Vec<u8>| Entry::part(id(2), id(1), 3, body);
    let whole = bodies.iter().map(|body| Entry::operation(id(1), body));
    let parts = bodies.iter().skip(1).map(part);
    let last = bodies.iter().skip(1).map(|body| Entry::last_part(id(1), 1, 2, body));
    let entries: Vec<Entry> = whole.chain(parts).chain(last).collect();
    let ballot = Ballot { epoch: Epoch(1), round: 1, node: node(1), start: Start(1) };
    let body = GroupMessage::Accept {
        log: LogId::MAIN,
        ballot,
        first: Slot(slot),
        entries: entries.into(),
        chosen: None,
        answer_to: node(1),
    };
    Message::Group { group: GROUP, epoch: Epoch(1), start: Start(1), body }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(slot in 1u64..1 << 60, bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..5)) {
        let message = accept(slot, &bodies);
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn hostile_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = MESSAGE_VERSION;
        }
        let _ = Message::decode(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(slot in 1u64..1000, flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        let mut bytes = accept(slot, &[vec![1; 20], vec![2; 20]]).encode();
        for (at, with) in flips {
            let at = at % bytes.len();
            bytes[at] ^= with;
        }
        let _ = Message::decode(&bytes);
    }
}

/// No batch that the bounds allow makes a message that a peer refuses.
#[test]
fn the_largest_batch_fits_a_message() {
    let most = Ballot { epoch: Epoch(1 << 62), round: 1 << 62, node: NodeId(u128::MAX), start: Start(u64::MAX) };
    let id = OperationId { node: NodeId(u128::MAX), start: Start(u64::MAX), sequence: u64::MAX };
    let body = vec![0; bounds::BATCH_BYTES_MAX / bounds::BATCH_ENTRIES_MAX - Entry::operation(id, &[]).len()];
    let accepted = |_| Accepted { slot: Slot::LARGEST, ballot: most, entry: Some(Entry::operation(id, &body)) };
    let body = GroupMessage::Promise {
        log: LogId(u128::MAX),
        ballot: most,
        closed: Slot::LARGEST,
        above: Slot::LARGEST,
        part: u32::MAX,
        last: true,
        accepted: (0..bounds::BATCH_ENTRIES_MAX).map(accepted).collect(),
        position: Sequence(u64::MAX),
    };
    let message = Message::Group { group: GROUP, epoch: Epoch(1 << 62), start: Start(u64::MAX), body };
    let bytes = message.encode();
    assert!(bytes.len() <= bounds::MESSAGE_BYTES_MAX, "{}", bytes.len());
    assert_eq!(Message::decode(&bytes), Ok(message));
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(Message::decode(&[]), Err(InvalidMessage::Empty));
    assert_eq!(Message::decode(&[99, 0]), Err(InvalidMessage::Version(99)));
    assert_eq!(Message::decode(&[MESSAGE_VERSION, 255]), Err(InvalidMessage::Malformed));
    assert_eq!(
        Message::decode(&accept(u64::MAX, &[vec![]]).encode()),
        Err(InvalidMessage::OutOfBounds("group message"))
    );
    assert_eq!(Message::decode(&accept(1, &[]).encode()), Err(InvalidMessage::OutOfBounds("group message")));
    let mut long = accept(1, &[vec![]]).encode();
    long.push(0);
    assert_eq!(Message::decode(&long), Err(InvalidMessage::Malformed));
}
