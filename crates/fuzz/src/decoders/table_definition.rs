//! A table as another server describes it.

use super::values::{perhaps, several, text};
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use tables::{
    ColumnDefinition, ConstraintDefinition, ForeignKeyDefinition, GrantDefinition, IndexDefinition, TableDefinition,
};

/// The shortest part takes 2 to 5 bytes and becomes up to 104; the statements made of it repeat its texts.
const MEMORY: Bound = Bound { fixed: 256 << 10, per_byte: 256 };

/// [`TableDefinition::decode`].
pub const TARGET: Target = Target { name: "table_definition", run, encode, memory: MEMORY, executions: 30_000 };

fn run(bytes: &[u8]) {
    if let Ok(definition) = TableDefinition::decode(bytes) {
        assert_eq!(TableDefinition::decode(&definition.encode()).as_ref(), Ok(&definition));
        let _ = (definition.create_statements(), definition.grant_statements(|_| true));
        // Two constraints of one name, which no server has, may well differ from each other.
        let _ = definition.first_difference(&definition);
    }
    if let Ok(definition) = definition(&mut Unstructured::new(bytes)) {
        assert_eq!(TableDefinition::decode(&definition.encode()), Ok(definition));
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(definition(choices)?.encode())
}

pub(super) fn definition(choices: &mut Unstructured<'_>) -> Result<TableDefinition> {
    Ok(TableDefinition {
        schema: text(choices)?,
        name: text(choices)?,
        owner: text(choices)?,
        options: several(choices, 2, text)?,
        columns: several(choices, 3, |choices| {
            Ok(ColumnDefinition {
                name: text(choices)?,
                type_name: text(choices)?,
                collation: perhaps(choices, text)?,
                not_null: choices.arbitrary()?,
                default: perhaps(choices, text)?,
                generated: choices.arbitrary()?,
            })
        })?,
        constraints: several(choices, 2, |choices| {
            Ok(ConstraintDefinition { name: text(choices)?, definition: text(choices)? })
        })?,
        indexes: several(choices, 2, |choices| {
            Ok(IndexDefinition { name: text(choices)?, definition: text(choices)? })
        })?,
        foreign_keys: several(choices, 2, |choices| {
            Ok(ForeignKeyDefinition {
                name: text(choices)?,
                definition: text(choices)?,
                parent_schema: text(choices)?,
                parent_name: text(choices)?,
            })
        })?,
        grants: several(choices, 2, |choices| {
            Ok(GrantDefinition {
                role: perhaps(choices, text)?,
                privileges: text(choices)?,
                grantable: choices.arbitrary()?,
            })
        })?,
    })
}
