//! A table as another node must have it: enough to create it there, and to say where an existing one differs.
//!
//! The texts are PostgreSQL's own (`format_type`, `pg_get_constraintdef`, ...), made with an empty search path, so
//! that they mean the same on every node.

use consensus::bounded::at_most;
use serde::{Deserialize, Serialize};

use crate::encoding::DecodeError;

/// Columns of a table: PostgreSQL's own bound (`MaxHeapAttributeNumber`).
const COLUMNS_MAX: usize = 1600;

/// Options, constraints, indexes, foreign keys or grants of one table: far more than PostgreSQL works with, and of the
/// largest of them (104 bytes) 7 MB.
const PARTS_MAX: usize = 1 << 16;

/// A replicated table's definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDefinition {
    /// The schema's name, not quoted.
    pub schema: String,
    /// The table's name, not quoted.
    pub name: String,
    /// The owner's role name; used where that role exists.
    pub owner: String,
    /// Storage options (`fillfactor=70`), in PostgreSQL's order.
    #[serde(deserialize_with = "at_most::<PARTS_MAX, _, _, _>")]
    pub options: Vec<String>,
    /// The live columns in order.
    #[serde(deserialize_with = "at_most::<COLUMNS_MAX, _, _, _>")]
    pub columns: Vec<ColumnDefinition>,
    /// Primary key, unique and check constraints, in the order of their names.
    #[serde(deserialize_with = "at_most::<PARTS_MAX, _, _, _>")]
    pub constraints: Vec<ConstraintDefinition>,
    /// Indexes that belong to no constraint, in the order of their names.
    #[serde(deserialize_with = "at_most::<PARTS_MAX, _, _, _>")]
    pub indexes: Vec<IndexDefinition>,
    /// Foreign keys to other replicated tables, in the order of their names.
    #[serde(deserialize_with = "at_most::<PARTS_MAX, _, _, _>")]
    pub foreign_keys: Vec<ForeignKeyDefinition>,
    /// What others than the owner may do, as it was when the table became replicated.
    #[serde(deserialize_with = "at_most::<PARTS_MAX, _, _, _>")]
    pub grants: Vec<GrantDefinition>,
}

/// A live column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDefinition {
    /// Its name, not quoted.
    pub name: String,
    /// Its type with modifiers, as SQL.
    pub type_name: String,
    /// Its collation as SQL, if it is not the type's own.
    pub collation: Option<String>,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// The default's expression, or that of a generated column, as SQL.
    pub default: Option<String>,
    /// Whether the expression generates the column.
    pub generated: bool,
}

/// A primary key, unique or check constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConstraintDefinition {
    /// Its name, not quoted.
    pub name: String,
    /// What follows `CONSTRAINT name` in SQL.
    pub definition: String,
}

/// An index that belongs to no constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexDefinition {
    /// Its name, not quoted.
    pub name: String,
    /// The whole CREATE INDEX statement.
    pub definition: String,
}

/// A foreign key to another replicated table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKeyDefinition {
    /// Its name, not quoted.
    pub name: String,
    /// What follows `CONSTRAINT name` in SQL.
    pub definition: String,
    /// The referenced table's schema, not quoted.
    pub parent_schema: String,
    /// The referenced table's name, not quoted.
    pub parent_name: String,
}

/// Privileges of one role, or of everyone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantDefinition {
    /// The role's name, not quoted; none for everyone (PUBLIC). Used where that role exists.
    pub role: Option<String>,
    /// The privileges as SQL, those on columns with their columns.
    pub privileges: String,
    /// Whether the role may pass them on.
    pub grantable: bool,
}

/// The format that this program writes, and the only one that it reads.
const VERSION: u8 = 1;

impl TableDefinition {
    /// The bytes in which a definition travels.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a definition always encodes")
    }

    /// The inverse of [`TableDefinition::encode`].
    pub fn decode(bytes: &[u8]) -> Result<TableDefinition, DecodeError> {
        match bytes.split_first() {
            None => Err(DecodeError::Short("a table's definition")),
            Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
                Ok((definition, [])) => Ok(definition),
                Ok((_, more)) => Err(DecodeError::Trailing(more.len())),
                Err(_) => Err(DecodeError::Malformed("a table's definition")),
            },
            Some((&version, _)) => Err(DecodeError::Version(version)),
        }
    }

    /// The table's name as SQL, with its schema.
    pub fn qualified_name(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// The statements that create the table, without owner and foreign keys: schema, table, indexes. To be run with
    /// an empty search path.
    pub fn create_statements(&self) -> Vec<String> {
        let mut parts: Vec<String> = self.columns.iter().map(ColumnDefinition::as_sql).collect();
        for constraint in &self.constraints {
            parts.push(format!("CONSTRAINT {} {}", quoted(&constraint.name), constraint.definition));
        }
        let options = match self.options.is_empty() {
            true => String::new(),
            false => format!(" WITH ({})", self.options.join(", ")),
        };
        let mut statements = vec![format!("CREATE TABLE {} ({}){options}", self.qualified_name(), parts.join(", "))];
        statements.extend(self.indexes.iter().map(|index| index.definition.clone()));
        statements
    }

    /// The statement that makes the schema, for a node that lacks it.
    pub fn schema_statement(&self) -> String {
        format!("CREATE SCHEMA {}", quoted(&self.schema))
    }

    /// The statement that gives the table to its owner, for a node where that role exists.
    pub fn owner_statement(&self) -> String {
        format!("ALTER TABLE {} OWNER TO {}", self.qualified_name(), quoted(&self.owner))
    }

    /// The statements that grant what `may_grant` says exists: the name of a role.
    pub fn grant_statements(&self, may_grant: impl Fn(&str) -> bool) -> Vec<String> {
        let table = self.qualified_name();
        let known = self.grants.iter().filter(|grant| grant.role.as_deref().is_none_or(&may_grant));
        known
            .map(|grant| {
                let role = grant.role.as_deref().map_or("PUBLIC".to_owned(), quoted);
                let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
                format!("GRANT {} ON {table} TO {role}{option}", grant.privileges)
            })
            .collect()
    }

    /// The statements that add the foreign keys, once the parents are there.
    pub fn foreign_key_statements(&self) -> Vec<String> {
        let table = self.qualified_name();
        self.foreign_keys
            .iter()
            .map(|key| format!("ALTER TABLE {table} ADD CONSTRAINT {} {}", quoted(&key.name), key.definition))
            .collect()
    }

    /// Where `found`, a table of the same name on another node, first differs from this one, as a sentence without
    /// a full stop; none if it may hold this table's rows. Owner, grants, storage options and indexes that are not unique
    /// may differ.
    pub fn first_difference(&self, found: &TableDefinition) -> Option<String> {
        self.column_difference(found)
            .or_else(|| {
                named_difference("constraint", &self.constraints, &found.constraints, |constraint| {
                    (&constraint.name, &constraint.definition)
                })
            })
            .or_else(|| {
                named_difference("unique index", &unique(&self.indexes), &unique(&found.indexes), |index| {
                    (&index.name, &index.definition)
                })
            })
            .or_else(|| {
                named_difference("foreign key", &self.foreign_keys, &found.foreign_keys, |key| {
                    (&key.name, &key.definition)
                })
            })
    }

    fn column_difference(&self, found: &TableDefinition) -> Option<String> {
        for (number, wanted) in self.columns.iter().enumerate() {
            let place = number + 1;
            let Some(there) = found.columns.get(number) else {
                return Some(format!("column {place} ({}) is missing", wanted.as_sql()));
            };
            if wanted != there {
                return Some(format!("column {place} is {} instead of {}", there.as_sql(), wanted.as_sql()));
            }
        }
        let extra = found.columns.get(self.columns.len())?;
        Some(format!("it has a further column {}", extra.as_sql()))
    }
}

impl ColumnDefinition {
    fn as_sql(&self) -> String {
        let mut sql = format!("{} {}", quoted(&self.name), self.type_name);
        if let Some(collation) = &self.collation {
            sql.push_str(&format!(" COLLATE {collation}"));
        }
        match &self.default {
            Some(expression) if self.generated => sql.push_str(&format!(" GENERATED ALWAYS AS ({expression}) STORED")),
            Some(expression) => sql.push_str(&format!(" DEFAULT {expression}")),
            None => {}
        }
        if self.not_null {
            sql.push_str(" NOT NULL");
        }
        sql
    }
}

fn unique(indexes: &[IndexDefinition]) -> Vec<IndexDefinition> {
    indexes.iter().filter(|index| index.definition.starts_with("CREATE UNIQUE INDEX ")).cloned().collect()
}

/// The first difference between two lists in the order of their names.
fn named_difference<T>(
    kind: &str,
    wanted: &[T],
    found: &[T],
    parts: impl Fn(&T) -> (&String, &String),
) -> Option<String> {
    for one in wanted {
        let (name, definition) = parts(one);
        match found.iter().map(&parts).find(|(other, _)| *other == name) {
            None => return Some(format!("{kind} {} ({definition}) is missing", quoted(name))),
            Some((_, other)) if other != definition => {
                return Some(format!("{kind} {} is {other} instead of {definition}", quoted(name)));
            }
            Some(_) => {}
        }
    }
    let extra = found.iter().map(&parts).find(|(name, _)| !wanted.iter().any(|one| parts(one).0 == *name));
    extra.map(|(name, definition)| format!("it has a further {kind} {} ({definition})", quoted(name)))
}

/// A name as SQL. Always quoted, so that no list of key words is needed.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
