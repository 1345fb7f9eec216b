//! Who a node is, in its directory.

use super::values::{node, text};
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use std::cell::OnceCell;
use std::path::Path;
use tempfile::TempDir;

/// The file is read whole, and its text shown once in a line for people.
const MEMORY: Bound = Bound { fixed: 64 << 10, per_byte: 32 };

/// [`storage::describe`], which reads the identity as a start does.
pub const TARGET: Target = Target { name: "identity_file", run, encode, memory: MEMORY, executions: 4_000 };

fn run(bytes: &[u8]) {
    in_a_directory(|directory| {
        for content in [bytes.to_vec(), with_checksum(bytes)] {
            std::fs::write(directory.join("identity"), content).expect("a file of our own is written");
            let mut said = Vec::new();
            if storage::describe(directory, &mut said).is_ok() {
                assert_eq!(said.iter().filter(|byte| **byte == b'\n').count(), 1, "one line, whatever the text");
            }
        }
    });
}

/// The last four bytes made the checksum of those before.
pub(super) fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    let content = &bytes[..bytes.len().saturating_sub(4)];
    [content, &crc32c::crc32c(content).to_le_bytes()].concat()
}

/// Gives a directory that stays from one input to the next, so that an input costs one file and no directory.
pub(super) fn in_a_directory(action: impl FnOnce(&Path)) {
    thread_local! {
        static DIRECTORY: OnceCell<TempDir> = const { OnceCell::new() };
    }
    DIRECTORY.with(|directory| {
        action(directory.get_or_init(temporary).path());
    });
}

/// In memory where the machine has such a place: thousands of files are written over, and a disk flushes each.
pub(super) fn temporary() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let environment = text(choices)?;
    let mut out = b"SYNODID\0".to_vec();
    out.extend(1u32.to_le_bytes());
    out.extend((environment.len() as u32).to_le_bytes());
    out.extend(node(choices)?.0.to_le_bytes());
    for _ in 0..3 {
        out.extend(choices.arbitrary::<u64>()?.to_le_bytes());
    }
    out.extend([0; 8]);
    out.extend(environment.as_bytes());
    out.extend([0; 4]);
    Ok(with_checksum(&out))
}
