//! A checkpoint in its file.

use super::identity_file::{temporary, with_checksum};
use super::values::some_bytes;
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use consensus::{GroupId, Slot};
use std::cell::OnceCell;
use storage::{Checkpoints, NodeDirectory};
use tempfile::TempDir;

/// The file is read whole.
const MEMORY: Bound = Bound { fixed: 64 << 10, per_byte: 16 };

/// [`Checkpoints::newest`].
pub const TARGET: Target = Target { name: "checkpoint_file", run, encode, memory: MEMORY, executions: 4_000 };

const GROUP: GroupId = GroupId(1);
const SLOT: Slot = Slot(7);

/// A node's directory, used again for every input.
struct Place {
    directory: TempDir,
    node: NodeDirectory,
    checkpoints: Checkpoints,
}

thread_local! {
    static PLACE: OnceCell<Place> = const { OnceCell::new() };
}

fn make() -> Place {
    let directory = temporary();
    let node = NodeDirectory::open(directory.path(), "").expect("a new node");
    let checkpoints = Checkpoints::open(&node).expect("a new directory");
    Place { directory, node, checkpoints }
}

fn run(bytes: &[u8]) {
    PLACE.with(|place| {
        let place = place.get_or_init(make);
        let file =
            place.directory.path().join("checkpoints").join(format!("{:032x}-{:016x}.checkpoint", GROUP.0, SLOT.0));
        for content in [bytes.to_vec(), of_this_node(place, bytes)] {
            std::fs::write(&file, &content).expect("a file of our own is written");
            if let Ok(Some(checkpoint)) = place.checkpoints.newest(GROUP) {
                assert_eq!(checkpoint.slot, SLOT);
                assert_eq!(content[64..content.len() - 4], checkpoint.bytes, "the content is what stands in the file");
            }
        }
    });
}

/// The same with the node's own id, which is drawn anew in each process, and a checksum that fits.
fn of_this_node(place: &Place, bytes: &[u8]) -> Vec<u8> {
    let mut content = bytes.to_vec();
    if let Some(field) = content.get_mut(16..32) {
        field.copy_from_slice(&place.node.node().0.to_le_bytes());
    }
    with_checksum(&content)
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let content = some_bytes(choices)?;
    let mut out = b"SYNODCKP".to_vec();
    out.extend(1u64.to_le_bytes());
    out.extend([0; 16]);
    out.extend(GROUP.0.to_le_bytes());
    out.extend(SLOT.0.to_le_bytes());
    out.extend((content.len() as u64).to_le_bytes());
    out.extend_from_slice(&content);
    out.extend([0; 4]);
    Ok(with_checksum(&out))
}
