//! What a transaction changed, as it stands in the body of a log entry.

use super::row::made as row;
use super::table_definition::definition;
use super::values::{self, several, slot, some_bytes, text};
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use tables::{IndexId, Key, KeyHash, Operation, Strength, TableId, WriteSet};

/// Rows share the memory of the entry. The shortest operation takes 5 bytes and becomes 80, and its keys the half of it
/// again; a table's definition has bounded lists whose texts take their bytes.
const MEMORY: Bound = Bound { fixed: 256 << 10, per_byte: 40 };

/// [`WriteSet::decode`].
pub const TARGET: Target = Target { name: "write_set", run, encode, memory: MEMORY, executions: 30_000 };

fn run(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    if let Ok(write_set) = WriteSet::decode(body.clone()) {
        assert_eq!(WriteSet::decode_keys(&body).as_ref(), Ok(&write_set.keys), "certification reads the same keys");
        write_set.operations.iter().for_each(hold);
        let again = write_set.encode();
        assert_eq!(WriteSet::decode(again), Ok(write_set));
    }
    if let Ok(write_set) = made(&mut Unstructured::new(bytes)) {
        assert_eq!(WriteSet::decode(write_set.encode()), Ok(write_set));
    }
}

fn hold(operation: &Operation) {
    let rows = match operation {
        Operation::Insert { new, .. } => vec![new],
        Operation::Update { old, new, .. } => vec![old, new],
        Operation::Delete { old, .. } => vec![old],
        Operation::StageRows { rows, .. } => {
            let _ = WriteSet::decode(rows.clone());
            Vec::new()
        }
        _ => Vec::new(),
    };
    for row in rows {
        assert_eq!(row.values().count(), row.column_count());
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(made(choices)?.encode().to_vec())
}

fn made(choices: &mut Unstructured<'_>) -> Result<WriteSet> {
    Ok(WriteSet::new(several(choices, 4, key)?, several(choices, 4, operation)?))
}

pub(super) fn key(choices: &mut Unstructured<'_>) -> Result<Key> {
    Ok(Key {
        table: TableId(choices.int_in_range(0..=3)?),
        index: *choices.choose(&[IndexId::ROW, IndexId::FIRST_UNIQUE, IndexId::TABLE])?,
        hash: KeyHash(choices.int_in_range(0..=5)?),
        strength: *choices.choose(&[Strength::Reference, Strength::Update, Strength::Exclusive])?,
        position: slot(choices)?,
    })
}

fn operation(choices: &mut Unstructured<'_>) -> Result<Operation> {
    let table = TableId(choices.int_in_range(0..=3)?);
    let lot = values::node(choices)?.0;
    Ok(match choices.int_in_range(0..=8)? {
        0 => Operation::Insert { table, new: row(choices)? },
        1 => Operation::Update { table, old: row(choices)?, new: row(choices)? },
        2 => Operation::Delete { table, old: row(choices)? },
        3 => Operation::ReplicateTable { table, definition: Box::new(definition(choices)?) },
        4 => Operation::UnreplicateTable { table },
        5 => Operation::StageRows { lot, part: choices.arbitrary()?, rows: some_bytes(choices)? },
        6 => Operation::TakeStaged { lot, parts: choices.arbitrary()? },
        7 => Operation::DecideRound {
            round: choices.arbitrary()?,
            proposer: text(choices)?,
            value: some_bytes(choices)?,
        },
        _ => Operation::AppendRound { proposer: text(choices)?, value: some_bytes(choices)? },
    })
}
