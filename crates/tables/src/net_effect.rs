//! The net effect of a transaction: one operation per row, whatever happened to it on the way.
//!
//! Changes are not seen in the order in which they were made: a statement nested in another one (in a trigger, in a
//! function) reports its changes before the outer one does. But every change names the row version that it replaced
//! and the one that it made, so the changes of one row form a chain, and only its two ends matter.

use std::collections::{HashMap, HashSet};

use crate::key::TableId;
use crate::operation::Operation;
use crate::row::{Row, Value};

/// The place of a row version in its table, unique within the transaction that changes it (PostgreSQL's ctid).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowVersion(pub u64);

/// One change as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The table.
    pub table: TableId,
    /// The version that the change replaced or removed, with the columns that find the row; none for an insert.
    pub old: Option<(RowVersion, Row)>,
    /// The version that it made; columns that the change left alone may be unchanged. None for a delete.
    pub new: Option<(RowVersion, Row)>,
}

/// Changes that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetEffectError {
    /// Two changes replaced the same version, or made the same one.
    #[error("two changes of one transaction claim version {version:?} of a row of table {table:?}")]
    TwoChanges {
        /// The table.
        table: TableId,
        /// The version.
        version: RowVersion,
    },
    /// The chain of a row's changes has no beginning.
    #[error("{0} changes of one transaction form a circle")]
    Circle(usize),
}

/// Works out the net effect of a transaction's changes.
pub struct NetEffect;

impl NetEffect {
    /// One operation per row that is not as before: first all deletes, then updates, then inserts, so that a key that
    /// one row leaves is free when another takes it. Within a kind, in the order in which the rows were first seen.
    pub fn of(changes: &[Change]) -> Result<Vec<Operation>, NetEffectError> {
        let by_old = index_by(changes, |change| change.old.as_ref().map(|(version, _)| *version))?;
        let made = index_by(changes, |change| change.new.as_ref().map(|(version, _)| *version))?;
        let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
        let mut walked = HashSet::with_capacity(changes.len());
        for (first, change) in changes.iter().enumerate() {
            let begins = match &change.old {
                None => true,
                Some((version, _)) => !made.contains_key(&(change.table, *version)),
            };
            if !begins {
                continue;
            }
            let last_row = walk(changes, &by_old, first, &mut walked);
            match (&change.old, last_row) {
                (None, None) => {}
                (None, Some(new)) => inserts.push(Operation::Insert { table: change.table, new }),
                (Some((_, old)), None) => deletes.push(Operation::Delete { table: change.table, old: old.clone() }),
                (Some((_, old)), Some(new)) => {
                    let new = without_unchanged(&new, old);
                    if !new.is_unchanged() {
                        updates.push(Operation::Update { table: change.table, old: old.clone(), new });
                    }
                }
            }
        }
        if walked.len() != changes.len() {
            return Err(NetEffectError::Circle(changes.len() - walked.len()));
        }
        deletes.append(&mut updates);
        deletes.append(&mut inserts);
        Ok(deletes)
    }
}

type ByVersion = HashMap<(TableId, RowVersion), usize>;

fn index_by(changes: &[Change], version: impl Fn(&Change) -> Option<RowVersion>) -> Result<ByVersion, NetEffectError> {
    let mut by_version = HashMap::with_capacity(changes.len());
    for (index, change) in changes.iter().enumerate() {
        let Some(version) = version(change) else { continue };
        if by_version.insert((change.table, version), index).is_some() {
            return Err(NetEffectError::TwoChanges { table: change.table, version });
        }
    }
    Ok(by_version)
}

/// Follows a row from its first change to its last; what the row is then, or none if it is gone.
fn walk(changes: &[Change], by_old: &ByVersion, first: usize, walked: &mut HashSet<usize>) -> Option<Row> {
    let mut current = first;
    let mut row: Option<Row> = None;
    loop {
        walked.insert(current);
        let change = &changes[current];
        let (version, new) = change.new.as_ref()?;
        row = Some(match &row {
            None => new.clone(),
            Some(before) => new.over(before),
        });
        match by_old.get(&(change.table, *version)) {
            Some(next) => current = *next,
            None => return row,
        }
    }
}

/// A row that went from one value to another and back need not be sent: columns equal to the old row's are unchanged.
fn without_unchanged(new: &Row, old: &Row) -> Row {
    let mut builder = crate::row::RowBuilder::with_capacity(new.encoded_bytes());
    for (new, old) in new.values().zip(old.values()) {
        builder.push(if new == old { &Value::Unchanged } else { &new });
    }
    builder.finish()
}
