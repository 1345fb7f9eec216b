//! The face's part of a checkpoint: which keys were touched, and when.

use super::values::{node, several, slot};
use super::write_set::key;
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use consensus::{NodeId, Slot};
use tables::{Certifier, IndexId, Key, KeyHash, Strength, TableId};

/// A key of 15 bytes takes 24 in its entry and up to 96 in the index while that grows.
const MEMORY: Bound = Bound { fixed: 64 << 10, per_byte: 64 };

/// [`Certifier::restore`].
pub const TARGET: Target = Target { name: "certification", run, encode, memory: MEMORY, executions: 30_000 };

fn run(bytes: &[u8]) {
    if let Ok(certifier) = Certifier::restore(bytes) {
        let again = certifier.checkpoint();
        assert_eq!(again, bytes, "a state has one encoding");
        use_certifier(certifier);
    }
    if let Ok(certifier) = certifier(&mut Unstructured::new(bytes)) {
        let encoded = certifier.checkpoint();
        let back = Certifier::restore(&encoded).expect("what was written can be read");
        assert_eq!(back.checkpoint(), encoded);
    }
}

/// A state that was let in judges what comes next.
fn use_certifier(mut certifier: Certifier) {
    if certifier.last() >= Slot::LARGEST {
        return;
    }
    for number in 0..6 {
        let index = [IndexId::ROW, IndexId::TABLE][number % 2];
        let strength = [Strength::Reference, Strength::Update, Strength::Exclusive][number % 3];
        let position = Slot(certifier.last().0.saturating_sub(number as u64));
        let key = Key { table: TableId(1), index, hash: KeyHash(0), strength, position };
        let next = certifier.last().next();
        certifier.certify(next, NodeId(1), &[key]);
        assert_eq!(certifier.last(), next);
        assert!(certifier.floor() <= next);
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(certifier(choices)?.checkpoint())
}

fn certifier(choices: &mut Unstructured<'_>) -> Result<Certifier> {
    let mut certifier = Certifier::new(*choices.choose(&[0, 200, 1000, 1 << 20])?);
    let mut at = slot(choices)?;
    for keys in several(choices, 8, |choices| several(choices, 3, key))? {
        at = Slot(at.0 % (1 << 40) + 1);
        if at > certifier.last() {
            certifier.certify(at, node(choices)?, &keys);
        }
    }
    Ok(certifier)
}
