//! What a transaction on replicated tables sends through the log, and how every node decides alike whether it may commit.
//!
//! - [`WriteSet`]: the rows a transaction changed ([`Operation`]) and the hashed [`Key`]s they stand for.
//! - [`Certifier`]: walks the chosen write sets in log order and accepts or rejects each (design-tables, section 4).
//! - [`Fairness`]: how long a node that wins too often holds its proposals back.
//! - [`NetEffect`]: turns the changes of one transaction, in the order they were seen, into one operation per row.
//! - [`TableDefinition`]: a table as another node must have it, with the first difference between two of them.
//!
//! Everything here is deterministic and knows nothing of PostgreSQL: table names, column values and hashes are
//! made by the extension, and carried here as ids, bytes and numbers.

mod certifier;
mod conflict_matrix;
mod definition;
mod encoding;
mod fairness;
mod key;
mod net_effect;
mod operation;
mod row;
mod verdict;
mod write_set;

pub use certifier::{Certifier, CheckpointError, WINDOW_BYTES_DEFAULT};
pub use conflict_matrix::{relation, Relation};
pub use definition::{
    ColumnDefinition, ConstraintDefinition, ForeignKeyDefinition, GrantDefinition, IndexDefinition, TableDefinition,
};
pub use encoding::DecodeError;
pub use fairness::Fairness;
pub use key::{IndexId, Key, KeyHash, Strength, TableId};
pub use net_effect::{Change, NetEffect, NetEffectError, RowVersion};
pub use operation::Operation;
pub use row::{Row, RowBuilder, Value};
pub use verdict::{Conflict, Reason, Verdict};
pub use write_set::{WriteSet, WRITE_SET_BYTES_MAX};
