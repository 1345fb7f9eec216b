//! The engine's part of a state copy, which is also what a checkpoint file holds: slot, window of ids, parts of operations
//! whose last one is yet to come, the face's part.

use super::values::{operation_id, several, slot, some_bytes};
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use consensus::{Assembly, IdWindow, NodeId, Occurrence, OperationId, Outcome, Part, Slot, Start};
use node::fuzzing::{decode_checkpoint, encode_checkpoint};

/// The window's bytes grow tenfold in memory, and are turned round once: an id of 3 bytes, its slot and an outcome of 2
/// become 72 bytes in a list and 100 in a tree.
const MEMORY: Bound = Bound { fixed: 4 << 20, per_byte: 64 };

/// The decoder of checkpoints.
pub const TARGET: Target = Target { name: "state_copy", run, encode, memory: MEMORY, executions: 20_000 };

fn run(bytes: &[u8]) {
    if let Ok((slot, mut window, mut assembly, face)) = decode_checkpoint(bytes) {
        assert!(slot <= Slot::LARGEST, "slots can be counted on from here");
        let again = encode_checkpoint(slot, &window, &assembly, &face);
        assert_eq!(decode_checkpoint(&again).as_ref(), Ok(&(slot, window.clone(), assembly.clone(), face)));
        use_window(&mut window);
        use_assembly(&mut assembly);
    }
    if let Ok((slot, window, assembly, face)) = checkpoint(&mut Unstructured::new(bytes)) {
        let encoded = encode_checkpoint(slot, &window, &assembly, &face);
        assert_eq!(decode_checkpoint(&encoded), Ok((slot, window, assembly, face)));
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

/// Parts that were let in lapse like any others, and none is left.
fn use_assembly(assembly: &mut Assembly) {
    let before = assembly.bytes();
    let operations = assembly.lapse(Slot(u64::MAX));
    assert_eq!(operations.is_empty(), before == 0);
    assert_eq!(assembly.bytes(), 0);
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let (slot, window, assembly, face) = checkpoint(choices)?;
    Ok(encode_checkpoint(slot, &window, &assembly, &face))
}

fn checkpoint(choices: &mut Unstructured<'_>) -> Result<(Slot, IdWindow, Assembly, Bytes)> {
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
    let mut assembly = Assembly::new(choices.int_in_range(1..=4096)?, choices.int_in_range(1..=100)?);
    let parts = several(choices, 6, |choices| Ok((operation_id(choices)?, some_bytes(choices)?)))?;
    for (number, (operation, piece)) in (1..).zip(parts) {
        // What is given up for want of room is gone like what never came.
        let _ = assembly.take(Slot(u64::from(number)), Part { operation, number, piece });
    }
    Ok((slot(choices)?.max(Slot(20)), window, assembly, some_bytes(choices)?))
}
