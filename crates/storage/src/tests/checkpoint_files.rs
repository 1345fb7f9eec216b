//! Checkpoints survive crashes and damage, and falling back is never silent.

use super::script::Dice;
use crate::checkpoints::{CheckpointError, Checkpoints};
use crate::simulation::{Fault, MemoryDisk};
use consensus::{GroupId, NodeId, Slot};
use proptest::prelude::*;
use std::sync::Arc;

const GROUP: GroupId = GroupId(3);

/// Three pieces.
const BYTES: usize = 5 << 20;

fn open(disk: &MemoryDisk) -> Checkpoints {
    Checkpoints::open_on(Arc::new(disk.clone()), NodeId(1)).unwrap()
}

fn name(slot: u64) -> String {
    format!("{:032x}-{slot:016x}.checkpoint", GROUP.0)
}

#[test]
fn the_last_two_are_kept_and_the_newest_is_read() {
    let disk = MemoryDisk::new();
    let checkpoints = open(&disk);
    assert_eq!(checkpoints.newest(GROUP).unwrap(), None);
    for slot in [5, 9, 12] {
        checkpoints.write(GROUP, Slot(slot), format!("state at {slot}").as_bytes()).unwrap();
    }
    assert_eq!(disk.names(), [name(9), name(12)]);
    let newest = open(&disk).newest(GROUP).unwrap().unwrap();
    assert_eq!((newest.slot, &newest.bytes[..], newest.fallen_back), (Slot(12), &b"state at 12"[..], None));
    assert_eq!(checkpoints.oldest_kept(GROUP).unwrap(), Some(Slot(9)));
    assert_eq!(checkpoints.groups().unwrap(), [GROUP]);
    let error = checkpoints.write(GROUP, Slot(11), b"late").unwrap_err();
    assert!(matches!(error, CheckpointError::Older { newest: Slot(12), .. }), "{error}");
    checkpoints.remove_group(GROUP).unwrap();
    assert!(checkpoints.groups().unwrap().is_empty());
}

#[test]
fn damage_falls_back_and_says_so_then_fails_and_says_what_to_do() {
    let disk = MemoryDisk::new();
    let checkpoints = open(&disk);
    checkpoints.write(GROUP, Slot(1), &[1; 1000]).unwrap();
    checkpoints.write(GROUP, Slot(2), &[2; 1000]).unwrap();
    disk.with_file(&name(2), |bytes| bytes[500] ^= 1);
    let fallen_back = checkpoints.newest(GROUP).unwrap().unwrap();
    assert_eq!((fallen_back.slot, fallen_back.bytes), (Slot(1), vec![1; 1000]));
    assert!(fallen_back.fallen_back.unwrap().contains("checksum"));
    disk.with_file(&name(1), |bytes| bytes.truncate(10));
    let error = checkpoints.newest(GROUP).unwrap_err();
    assert!(error.to_string().contains("join it again"), "{error}");
}

#[test]
fn another_version_group_or_node_is_refused() {
    let disk = MemoryDisk::new();
    open(&disk).write(GROUP, Slot(1), b"x").unwrap();
    let other = Checkpoints::open_on(Arc::new(disk.clone()), NodeId(2)).unwrap();
    assert!(matches!(other.newest(GROUP).unwrap_err(), CheckpointError::Damaged { .. }));
    disk.with_file(&name(1), |bytes| {
        bytes[8] = 2;
        let end = bytes.len() - 4;
        let checksum = crc32c::crc32c(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&checksum);
    });
    let error = open(&disk).newest(GROUP).unwrap_err();
    assert!(matches!(error, CheckpointError::UnknownVersion { found: 2, .. }), "{error}");
}

#[test]
fn a_crash_or_failure_at_any_operation_leaves_the_old_ones_or_the_new_one() {
    for operation in 1.. {
        let disk = MemoryDisk::new();
        let checkpoints = open(&disk);
        checkpoints.write(GROUP, Slot(1), &[1; BYTES]).unwrap();
        checkpoints.write(GROUP, Slot(2), &[2; BYTES]).unwrap();
        disk.fail_at(disk.operations() + operation, Fault::Error);
        let outcome = checkpoints.write(GROUP, Slot(3), &[3; BYTES]);
        let mut dice = Dice::new(operation);
        for image in [disk.copy(), disk.after_crash(&mut || false), disk.after_crash(&mut || dice.below(2) == 0)] {
            let found = open(&image).newest(GROUP).unwrap().unwrap();
            assert_eq!(found.bytes, vec![found.slot.0 as u8; BYTES]);
            assert!(found.slot == Slot(3) || (outcome.is_err() && found.slot == Slot(2)), "operation {operation}");
            assert_eq!(found.fallen_back, None);
        }
        if outcome.is_ok() {
            return;
        }
    }
}

proptest! {
    #[test]
    fn hostile_checkpoint_files_never_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
        let disk = MemoryDisk::new();
        let checkpoints = open(&disk);
        checkpoints.write(GROUP, Slot(1), b"x").unwrap();
        disk.with_file(&name(1), |bytes| *bytes = content);
        let _ = checkpoints.newest(GROUP);
    }
}
