//! The engine's part of a state copy, which is also what a checkpoint file holds: slot, window of ids, the face's part.

use super::values::{operation_id, several, slot, some_bytes};
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use consensus::{IdWindow, NodeId, Occurrence, OperationId, Outcome, Slot, Start};
use node::fuzzing::{decode_checkpoint, encode_checkpoint};

/// The window's bytes grow tenfold in memory, and are turned round once: an id of 3 bytes, its slot and an outcome of 2
/// become 72 bytes in a list and 100 in a tree.
const MEMORY: Bound = Bound { fixed: 4 << 20, per_byte: 64 };

/// The decoder of checkpoints.
pub const TARGET: Target = Target { name: "state_copy", run, encode, memory: MEMORY, executions: 20_000 };

fn run(bytes: &[u8]) {
    if let Ok((slot, mut window, face)) = decode_checkpoint(bytes) {
        assert!(slot <= Slot::LARGEST, "slots can be counted on from here");
        let again = encode_checkpoint(slot, &window, &face);
        assert_eq!(decode_checkpoint(&again).as_ref(), Ok(&(slot, window.clone(), face)));
        use_window(&mut window);
    }
    if let Ok((slot, window, face)) = checkpoint(&mut Unstructured::new(bytes)) {
        let encoded = encode_checkpoint(slot, &window, &face);
        assert_eq!(decode_checkpoint(&encoded), Ok((slot, window, face)));
    }
}

/// A window that was let in works like any other: it takes ids, forgets old ones, and stays within its bound.
fn use_window(window: &mut IdWindow) {
    let before = window.len();
    for sequence in 0..10 {
        let id = OperationId { node: NodeId(77), start: Start(1), sequence };
        if window.look_up(id) == Occurrence::First {
            window.record(Slot(1000 + sequence), id, Outcome::Applied(Vec::new()));
        }
        window.close(Slot(2000 + sequence), OperationId { sequence: sequence * 2, ..id });
    }
    assert!(window.len() <= before + 20);
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let (slot, window, face) = checkpoint(choices)?;
    Ok(encode_checkpoint(slot, &window, &face))
}

fn checkpoint(choices: &mut Unstructured<'_>) -> Result<(Slot, IdWindow, Bytes)> {
    let mut window = IdWindow::new(choices.int_in_range(1..=8)?);
    let ids =
        several(choices, 12, |choices| Ok((operation_id(choices)?, some_bytes(choices)?, choices.arbitrary::<u8>()?)))?;
    for (number, (id, detail, kind)) in (1..).zip(ids) {
        if window.look_up(id) != Occurrence::First {
            continue;
        }
        let outcome = match kind % 3 {
            0 => Outcome::Applied(detail.to_vec()),
            1 => Outcome::Rejected(detail.to_vec()),
            _ => Outcome::Closed,
        };
        window.record(Slot(number), id, outcome);
    }
    Ok((slot(choices)?.max(Slot(20)), window, some_bytes(choices)?))
}
