//! Bytes from peers: what is sent can be read; nothing that can be sent makes decoding panic.

use crate::cluster::{node, GROUP};
use crate::{
    Ballot, Entry, Epoch, GroupMessage, InvalidMessage, LogId, Message, OperationId, Slot, Start, MESSAGE_VERSION,
};
use proptest::prelude::*;

fn accept(slot: u64, bodies: &[Vec<u8>]) -> Message {
    let id = OperationId { node: node(1), start: Start(1), sequence: 1 };
    let entries: Vec<Entry> = bodies.iter().map(|body| Entry::operation(id, body)).collect();
    let ballot = Ballot { epoch: Epoch(1), round: 1, node: node(1), start: Start(1) };
    let body = GroupMessage::Accept {
        log: LogId::MAIN,
        ballot,
        first: Slot(slot),
        entries: entries.into(),
        chosen: None,
        answer_to: node(1),
    };
    Message::Group { group: GROUP, epoch: Epoch(1), body }
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
