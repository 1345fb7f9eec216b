//! Operations: what an accepted write set does to a node's tables, in order.

use bytes::Bytes;

use crate::definition::TableDefinition;
use crate::encoding::{put_counted, DecodeError, Reader};
use crate::key::TableId;
use crate::row::Row;

/// One step of a write set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// A row comes in; every column has a value.
    Insert {
        /// Into which table.
        table: TableId,
        /// The row.
        new: Row,
    },
    /// A row changes.
    Update {
        /// In which table.
        table: TableId,
        /// What finds the row: the primary key's columns, or every column of a table without one.
        old: Row,
        /// The new values; unchanged columns are not sent.
        new: Row,
    },
    /// A row goes.
    Delete {
        /// From which table.
        table: TableId,
        /// What finds the row, as in an update.
        old: Row,
    },
    /// A table joins the group. Its rows follow as inserts, in this write set or in later ones.
    ReplicateTable {
        /// The number it has from now on.
        table: TableId,
        /// What it looks like. Boxed: it is much larger than any other operation, of which there are millions.
        definition: Box<TableDefinition>,
    },
    /// A table leaves the group; every node keeps its rows as a local table.
    UnreplicateTable {
        /// Which one.
        table: TableId,
    },
    /// A part of the rows of a table that is becoming replicated, kept aside until [`Operation::TakeStaged`] of the same
    /// number takes them all. It has an entry of its own, so that no entry is larger than a part.
    StageRows {
        /// Which lot of parts; made up by the proposer, never used again.
        lot: u128,
        /// The part's place among them, from 0.
        part: u32,
        /// A write set without keys, encoded.
        rows: Bytes,
    },
    /// Does all parts of a lot, in order.
    TakeStaged {
        /// Which lot.
        lot: u128,
        /// How many parts it has.
        parts: u32,
    },
    /// A value for a round of a raw group; the first one for a round wins.
    DecideRound {
        /// The round, as the user numbers them.
        round: i64,
        /// Who proposed it, as the user says.
        proposer: String,
        /// The value; opaque.
        value: Bytes,
    },
    /// A value for the round after the highest decided one of a raw group.
    AppendRound {
        /// Who proposed it, as the user says.
        proposer: String,
        /// The value; opaque.
        value: Bytes,
    },
}

const INSERT: u8 = 1;
const UPDATE: u8 = 2;
const DELETE: u8 = 3;
const REPLICATE_TABLE: u8 = 4;
const UNREPLICATE_TABLE: u8 = 5;
const DECIDE_ROUND: u8 = 6;
const APPEND_ROUND: u8 = 7;
const STAGE_ROWS: u8 = 8;
const TAKE_STAGED: u8 = 9;

impl Operation {
    /// Bytes that the shortest operation takes: a kind and a table.
    pub(crate) const ENCODED_BYTES_MIN: usize = 5;

    /// Bytes that the operation takes, to hold against the limit of a write set before it is encoded.
    pub fn encoded_bytes(&self) -> usize {
        // A kind byte, a table and the lengths of at most two parts.
        const FRAME: usize = 1 + 4 + 4 + 4;
        FRAME
            + match self {
                Operation::Insert { new, .. } => new.encoded_bytes(),
                Operation::Update { old, new, .. } => old.encoded_bytes() + new.encoded_bytes(),
                Operation::Delete { old, .. } => old.encoded_bytes(),
                Operation::ReplicateTable { definition, .. } => definition.encode().len(),
                Operation::UnreplicateTable { .. } => 0,
                Operation::StageRows { rows, .. } => 16 + rows.len(),
                Operation::TakeStaged { .. } => 16,
                Operation::DecideRound { proposer, value, .. } => 8 + proposer.len() + value.len(),
                Operation::AppendRound { proposer, value } => proposer.len() + value.len(),
            }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Operation::Insert { table, new } => {
                put_kind(out, INSERT, *table);
                put_counted(out, new.as_bytes());
            }
            Operation::Update { table, old, new } => {
                put_kind(out, UPDATE, *table);
                put_counted(out, old.as_bytes());
                put_counted(out, new.as_bytes());
            }
            Operation::Delete { table, old } => {
                put_kind(out, DELETE, *table);
                put_counted(out, old.as_bytes());
            }
            Operation::ReplicateTable { table, definition } => {
                put_kind(out, REPLICATE_TABLE, *table);
                put_counted(out, &definition.encode());
            }
            Operation::UnreplicateTable { table } => put_kind(out, UNREPLICATE_TABLE, *table),
            Operation::StageRows { lot, part, rows } => {
                out.push(STAGE_ROWS);
                out.extend_from_slice(&lot.to_le_bytes());
                out.extend_from_slice(&part.to_le_bytes());
                put_counted(out, rows);
            }
            Operation::TakeStaged { lot, parts } => {
                out.push(TAKE_STAGED);
                out.extend_from_slice(&lot.to_le_bytes());
                out.extend_from_slice(&parts.to_le_bytes());
            }
            Operation::DecideRound { round, proposer, value } => {
                out.push(DECIDE_ROUND);
                out.extend_from_slice(&round.to_le_bytes());
                put_counted(out, proposer.as_bytes());
                put_counted(out, value);
            }
            Operation::AppendRound { proposer, value } => {
                out.push(APPEND_ROUND);
                put_counted(out, proposer.as_bytes());
                put_counted(out, value);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Operation, DecodeError> {
        match reader.u8("an operation's kind")? {
            INSERT => Ok(Operation::Insert { table: read_table(reader)?, new: read_row(reader)? }),
            UPDATE => {
                Ok(Operation::Update { table: read_table(reader)?, old: read_row(reader)?, new: read_row(reader)? })
            }
            DELETE => Ok(Operation::Delete { table: read_table(reader)?, old: read_row(reader)? }),
            REPLICATE_TABLE => Ok(Operation::ReplicateTable {
                table: read_table(reader)?,
                definition: Box::new(TableDefinition::decode(&reader.counted("a table's definition")?)?),
            }),
            UNREPLICATE_TABLE => Ok(Operation::UnreplicateTable { table: read_table(reader)? }),
            STAGE_ROWS => Ok(Operation::StageRows {
                lot: reader.u128("a lot of rows")?,
                part: reader.u32("a part's place")?,
                rows: reader.counted("a part's rows")?,
            }),
            TAKE_STAGED => Ok(Operation::TakeStaged {
                lot: reader.u128("a lot of rows")?,
                parts: reader.u32("a lot's number of parts")?,
            }),
            DECIDE_ROUND => Ok(Operation::DecideRound {
                round: i64::from_le_bytes(reader.u64("a round")?.to_le_bytes()),
                proposer: reader.text("a round's proposer")?,
                value: reader.counted("a round's value")?,
            }),
            APPEND_ROUND => Ok(Operation::AppendRound {
                proposer: reader.text("a round's proposer")?,
                value: reader.counted("a round's value")?,
            }),
            value => Err(DecodeError::Unknown { part: "an operation's kind", value: value.into() }),
        }
    }
}

fn put_kind(out: &mut Vec<u8>, kind: u8, table: TableId) {
    out.push(kind);
    out.extend_from_slice(&table.0.to_le_bytes());
}

fn read_table(reader: &mut Reader) -> Result<TableId, DecodeError> {
    Ok(TableId(reader.u32("an operation's table")?))
}

fn read_row(reader: &mut Reader) -> Result<Row, DecodeError> {
    Row::decode(reader.counted("a row")?)
}
