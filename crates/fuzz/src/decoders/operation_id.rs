//! An operation's id as a user types it.

use super::values;
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use consensus::OperationId;

/// Nothing but the text that is compared.
const MEMORY: Bound = Bound { fixed: 4 << 10, per_byte: 8 };

/// `OperationId`'s `FromStr`.
pub const TARGET: Target = Target { name: "operation_id", run, encode, memory: MEMORY, executions: 20_000 };

fn run(bytes: &[u8]) {
    if let Ok(id) = String::from_utf8_lossy(bytes).parse::<OperationId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(id) = values::operation_id(&mut Unstructured::new(bytes)) {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(values::operation_id(choices)?.to_string().into_bytes())
}
