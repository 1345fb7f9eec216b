//! A group as another server describes it to one that joins.

use super::values;
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use client::GroupDescription;

/// At most 32 members, described and once more as a configuration; their texts twice while they are read.
const MEMORY: Bound = Bound { fixed: 64 << 10, per_byte: 16 };

/// [`GroupDescription`], and the configuration inside.
pub const TARGET: Target = Target { name: "group_description", run, encode, memory: MEMORY, executions: 30_000 };

fn run(bytes: &[u8]) {
    if let Ok(description) = postcard::from_bytes::<GroupDescription>(bytes) {
        if let Ok(configuration) = node::fuzzing::configuration(&description) {
            assert_eq!(configuration.check(), Ok(()));
            assert_eq!(configuration.group, description.group);
        }
        let again = postcard::to_stdvec(&description).expect("a description always encodes");
        assert_eq!(postcard::from_bytes(&again), Ok(description));
    }
    if let Ok(configuration) = values::configuration(&mut Unstructured::new(bytes)) {
        let description = node::fuzzing::group_description(&configuration);
        assert_eq!(node::fuzzing::configuration(&description), Ok(configuration));
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(postcard::to_stdvec(&description(choices)?).expect("a description always encodes"))
}

pub(super) fn description(choices: &mut Unstructured<'_>) -> Result<GroupDescription> {
    Ok(node::fuzzing::group_description(&values::configuration(choices)?))
}
