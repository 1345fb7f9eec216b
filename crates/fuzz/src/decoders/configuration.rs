//! A group's configuration: in the control log, in the write-ahead log, from a peer.

use super::values;
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use consensus::{Configuration, Entry, EntryKind, OperationId};

/// At most 32 members, old voters and renewed members; their texts take their bytes, twice while they are read, and a
/// complaint about them may show them again.
const MEMORY: Bound = Bound { fixed: 64 << 10, per_byte: 16 };

/// [`Entry::to_configuration`].
pub const TARGET: Target = Target { name: "configuration", run, encode, memory: MEMORY, executions: 30_000 };

fn run(bytes: &[u8]) {
    let decode = |bytes: &[u8]| Entry::new(EntryKind::Configuration, OperationId::NONE, bytes).to_configuration();
    if let Some(configuration) = decode(bytes) {
        hold(&configuration);
        assert_eq!(Entry::configuration(&configuration).to_configuration().as_ref(), Some(&configuration));
    }
    if let Ok(configuration) = values::configuration(&mut Unstructured::new(bytes)) {
        hold(&configuration);
        assert_eq!(Entry::configuration(&configuration).to_configuration(), Some(configuration));
    }
}

/// Quorums of a configuration that passed its own check make sense.
fn hold(configuration: &Configuration) {
    assert_eq!(configuration.check(), Ok(()));
    let voters = configuration.all_voters();
    assert!(configuration.is_quorum(configuration.set_of(voters.iter().copied())), "all together are a quorum");
    assert!(!configuration.is_quorum(consensus::MemberSet::EMPTY), "nobody is none");
    let _ = format!("{configuration:?}");
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(Entry::configuration(&values::configuration(choices)?).body().to_vec())
}
