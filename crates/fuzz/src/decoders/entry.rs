//! A slot's content, as it comes from a disk or a peer.

use super::values;
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use consensus::{Entry, EntryKind};

/// An entry shares the memory of its bytes; a configuration inside has at most 32 members.
const MEMORY: Bound = Bound { fixed: 64 << 10, per_byte: 8 };

/// [`Entry::from_bytes`].
pub const TARGET: Target = Target { name: "entry", run, encode, memory: MEMORY, executions: 30_000 };

fn run(bytes: &[u8]) {
    if let Ok(entry) = Entry::from_bytes(Bytes::copy_from_slice(bytes)) {
        assert_eq!(entry.bytes(), bytes, "an entry is its bytes");
        assert_eq!(entry.closes().is_some(), entry.kind() == EntryKind::Close);
        assert_eq!(Entry::new(entry.kind(), entry.id(), entry.body()), entry, "its parts make it again");
        let _ = format!("{entry:?}");
    }
    if let Ok(entry) = values::entry(&mut Unstructured::new(bytes)) {
        assert_eq!(Entry::from_bytes(entry.bytes().clone()), Ok(entry));
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(values::entry(choices)?.bytes().to_vec())
}
