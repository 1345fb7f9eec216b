//! Why a transaction was rejected, as its proposer is told.

use super::values::{node, slot};
use super::write_set::key;
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use tables::{Conflict, Reason, Strength, Verdict};

/// A verdict is all numbers.
const MEMORY: Bound = Bound { fixed: 4 << 10, per_byte: 4 };

/// [`Verdict::decode`].
pub const TARGET: Target = Target { name: "verdict", run, encode, memory: MEMORY, executions: 20_000 };

fn run(bytes: &[u8]) {
    if let Ok(verdict) = Verdict::decode(bytes) {
        assert_eq!(Verdict::decode(&verdict.encode()), Ok(verdict));
    }
    if let Ok(verdict) = verdict(&mut Unstructured::new(bytes)) {
        let encoded = verdict.encode();
        assert_eq!(Verdict::decode(&encoded), Ok(verdict));
        assert!(encoded.len() <= client::Verdict::DETAIL_BYTES_MAX, "it is kept whole");
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(verdict(choices)?.encode())
}

fn verdict(choices: &mut Unstructured<'_>) -> Result<Verdict> {
    if choices.ratio(1, 8)? {
        return Ok(Verdict::Accepted);
    }
    let reason = if choices.arbitrary()? {
        let strength = *choices.choose(&[Strength::Reference, Strength::Update, Strength::Exclusive])?;
        Reason::Touched { slot: slot(choices)?, origin: node(choices)?, strength }
    } else {
        Reason::BelowFloor { floor: slot(choices)? }
    };
    Ok(Verdict::Rejected(Conflict { key: key(choices)?, reason }))
}
