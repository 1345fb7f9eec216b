//! Keys: the names under which two transactions can find that they meet.
//!
//! A key is the hash of the values of one unique index (or of a whole row, or of nothing, for a whole table) with
//! how strongly it was touched. A collision of hashes costs a needless rejection, never a missed conflict.

use consensus::Slot;
use serde::{Deserialize, Serialize};

use crate::encoding::{DecodeError, Reader};

/// A replicated table, by the number that its group's log gave it. The same on every node; OIDs and names are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId(pub u32);

impl TableId {
    /// The list of the group's tables itself: a transaction that adds or takes away a table touches its key, so that
    /// two nodes never give the same number to two tables.
    pub const CATALOG: TableId = TableId(0);
    /// The first number that a table can have.
    pub const FIRST: TableId = TableId(1);
}

/// Which of a table's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IndexId(pub u16);

impl IndexId {
    /// What tells rows apart: the primary key, else the whole stored row.
    pub const ROW: IndexId = IndexId(0);
    /// The first unique index beside the primary key; the others follow in the order of their names.
    pub const FIRST_UNIQUE: IndexId = IndexId(1);
    /// The table as a whole: every writer refers to it, LOCK TABLE holds it alone.
    pub const TABLE: IndexId = IndexId(u16::MAX);
}

/// The hash of a key's values, made at the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyHash(pub u64);

/// How strongly a transaction touched a key. The order is that of strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Strength {
    /// Relied on it being there: a foreign key's parent, FOR KEY SHARE.
    Reference = 0,
    /// Changed other columns of its row, or kept them from changing: FOR NO KEY UPDATE, FOR SHARE.
    Update = 1,
    /// Made it, removed it or changed it: FOR UPDATE.
    Exclusive = 2,
}

impl Strength {
    fn from_byte(byte: u8) -> Result<Strength, DecodeError> {
        match byte {
            0 => Ok(Strength::Reference),
            1 => Ok(Strength::Update),
            2 => Ok(Strength::Exclusive),
            value => Err(DecodeError::Unknown { part: "the strength of a key", value: value.into() }),
        }
    }
}

/// A key that a transaction touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The table.
    pub table: TableId,
    /// Which of the table's keys.
    pub index: IndexId,
    /// The hash of its values.
    pub hash: KeyHash,
    /// How strongly it was touched.
    pub strength: Strength,
    /// The slot up to which the origin had applied the log when the transaction first touched the key. Whatever
    /// changed the key above it, the transaction has not seen.
    pub position: Slot,
}

impl Key {
    /// Bytes of an encoded key.
    pub(crate) const ENCODED_BYTES: usize = 4 + 2 + 1 + 8 + 8;

    /// The key of a table as a whole.
    pub fn of_table(table: TableId, strength: Strength, position: Slot) -> Key {
        Key { table, index: IndexId::TABLE, hash: KeyHash(0), strength, position }
    }

    /// What identifies the key: everything but how and when it was touched.
    pub(crate) fn name(&self) -> KeyName {
        KeyName { table: self.table, index: self.index, hash: self.hash }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.table.0.to_le_bytes());
        out.extend_from_slice(&self.index.0.to_le_bytes());
        out.push(self.strength as u8);
        out.extend_from_slice(&self.hash.0.to_le_bytes());
        out.extend_from_slice(&self.position.0.to_le_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Key, DecodeError> {
        Ok(Key {
            table: TableId(reader.u32("a key's table")?),
            index: IndexId(reader.u16("a key's index")?),
            strength: Strength::from_byte(reader.u8("a key's strength")?)?,
            hash: KeyHash(reader.u64("a key's hash")?),
            position: Slot(reader.u64("a key's position")?),
        })
    }
}

/// A key without how and when it was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyName {
    pub(crate) table: TableId,
    pub(crate) index: IndexId,
    pub(crate) hash: KeyHash,
}

impl KeyName {
    /// Reads a name and the strength behind it, as a checkpoint has them.
    pub(crate) fn decode(reader: &mut Reader) -> Result<(KeyName, Strength), DecodeError> {
        let name = KeyName {
            table: TableId(reader.u32("a key's table")?),
            index: IndexId(reader.u16("a key's index")?),
            hash: KeyHash(reader.u64("a key's hash")?),
        };
        Ok((name, Strength::from_byte(reader.u8("a key's strength")?)?))
    }
}
