//! A row as it travels.

use super::values::{several, some_bytes};
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use tables::{Row, RowBuilder, Value};

/// Values share the memory of the row; the shortest takes a byte and is 40 bytes large in the list made here.
const MEMORY: Bound = Bound { fixed: 64 << 10, per_byte: 128 };

/// [`Row::from_bytes`].
pub const TARGET: Target = Target { name: "row", run, encode, memory: MEMORY, executions: 30_000 };

fn run(bytes: &[u8]) {
    if let Ok(row) = Row::from_bytes(Bytes::copy_from_slice(bytes)) {
        let values: Vec<Value> = row.values().collect();
        assert_eq!(values.len(), row.column_count());
        let again = built(&values);
        assert_eq!(again.as_bytes(), bytes, "a row has one encoding: equal bytes are equal rows");
        assert_eq!(again.over(&row), row.over(&row));
    }
    if let Ok(row) = made(&mut Unstructured::new(bytes)) {
        assert_eq!(Row::from_bytes(Bytes::copy_from_slice(row.as_bytes())), Ok(row));
    }
}

fn built(values: &[Value]) -> Row {
    let mut builder = RowBuilder::default();
    values.iter().for_each(|value| builder.push(value));
    builder.finish()
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(made(choices)?.as_bytes().to_vec())
}

pub(super) fn made(choices: &mut Unstructured<'_>) -> Result<Row> {
    let values = several(choices, 5, |choices| {
        Ok(match choices.int_in_range(0..=3)? {
            0 => Value::Unchanged,
            1 => Value::Null,
            2 => Value::Binary(some_bytes(choices)?),
            _ => Value::Text(some_bytes(choices)?),
        })
    })?;
    Ok(built(&values))
}
