//! A row as it travels: one value per live column, in column order, encoded once at the origin.

use bytes::Bytes;

use crate::encoding::{DecodeError, Reader};

/// A column's value in a row that travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Not sent: as it was before (in the new row of an update), or not needed to find the row (in an old row).
    Unchanged,
    /// NULL.
    Null,
    /// In the type's binary format (its send function).
    Binary(Bytes),
    /// In the type's text format, for types that have no binary one.
    Text(Bytes),
}

const UNCHANGED: u8 = 0;
const NULL: u8 = 1;
const BINARY: u8 = 2;
const TEXT: u8 = 3;

/// A row: its encoding, known to be well-formed. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(Bytes);

/// Bytes before a row's first value.
const HEADER_BYTES: usize = 2;

impl Row {
    /// The number of columns, unchanged ones included.
    pub fn column_count(&self) -> usize {
        usize::from(u16::from_le_bytes([self.0[0], self.0[1]]))
    }

    /// The values in column order.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        let mut reader = Reader::new(self.0.slice(HEADER_BYTES..));
        (0..self.column_count()).map(move |_| read_value(&mut reader).expect("checked when the row was made"))
    }

    /// Whether no value is sent at all.
    pub fn is_unchanged(&self) -> bool {
        self.values().all(|value| value == Value::Unchanged)
    }

    /// Bytes that the row takes.
    pub fn encoded_bytes(&self) -> usize {
        self.0.len()
    }

    /// The encoding, to be held against that of another row: equal bytes are equal rows.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// This row with every unchanged column taken from `before`, which has as many columns.
    pub fn over(&self, before: &Row) -> Row {
        assert_eq!(self.column_count(), before.column_count(), "two rows of one table");
        let mut builder = RowBuilder::with_capacity(self.0.len() + before.0.len());
        for (new, old) in self.values().zip(before.values()) {
            builder.push(if new == Value::Unchanged { &old } else { &new });
        }
        builder.finish()
    }

    /// A row of bytes that came from elsewhere, once they are known to be well-formed.
    pub fn from_bytes(bytes: Bytes) -> Result<Row, DecodeError> {
        Row::decode(bytes)
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Row, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let columns = reader.u16("a row's number of columns")?;
        for _ in 0..columns {
            read_value(&mut reader)?;
        }
        reader.finish()?;
        Ok(Row(bytes))
    }
}

fn read_value(reader: &mut Reader) -> Result<Value, DecodeError> {
    match reader.u8("a value's kind")? {
        UNCHANGED => Ok(Value::Unchanged),
        NULL => Ok(Value::Null),
        BINARY => Ok(Value::Binary(reader.counted("a value")?)),
        TEXT => Ok(Value::Text(reader.counted("a value")?)),
        value => Err(DecodeError::Unknown { part: "a value's kind", value: value.into() }),
    }
}

/// Encodes a row value by value.
#[derive(Debug)]
pub struct RowBuilder {
    out: Vec<u8>,
    columns: u16,
}

impl Default for RowBuilder {
    fn default() -> Self {
        RowBuilder::with_capacity(64)
    }
}

impl RowBuilder {
    /// A builder with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> RowBuilder {
        let mut out = Vec::with_capacity(bytes.max(HEADER_BYTES));
        out.extend_from_slice(&[0; HEADER_BYTES]);
        RowBuilder { out, columns: 0 }
    }

    fn kind(&mut self, kind: u8) {
        self.columns = self.columns.checked_add(1).expect("PostgreSQL has at most 1600 columns");
        self.out.push(kind);
    }

    /// Adds a column that is not sent.
    pub fn unchanged(&mut self) {
        self.kind(UNCHANGED);
    }

    /// Adds a NULL.
    pub fn null(&mut self) {
        self.kind(NULL);
    }

    /// Adds a value in binary format.
    pub fn binary(&mut self, bytes: &[u8]) {
        self.kind(BINARY);
        crate::encoding::put_counted(&mut self.out, bytes);
    }

    /// Adds a value in text format.
    pub fn text(&mut self, bytes: &[u8]) {
        self.kind(TEXT);
        crate::encoding::put_counted(&mut self.out, bytes);
    }

    /// Adds a value.
    pub fn push(&mut self, value: &Value) {
        match value {
            Value::Unchanged => self.unchanged(),
            Value::Null => self.null(),
            Value::Binary(bytes) => self.binary(bytes),
            Value::Text(bytes) => self.text(bytes),
        }
    }

    /// The row.
    pub fn finish(mut self) -> Row {
        self.out[..HEADER_BYTES].copy_from_slice(&self.columns.to_le_bytes());
        Row(Bytes::from(self.out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_row_covers_an_earlier_one_only_where_it_changed() {
        let mut before = RowBuilder::default();
        before.binary(b"1");
        before.null();
        before.text(b"old");
        let mut after = RowBuilder::default();
        after.unchanged();
        after.binary(b"2");
        after.null();
        let merged = after.finish().over(&before.finish());
        let values: Vec<Value> = merged.values().collect();
        assert_eq!(
            values,
            [Value::Binary(Bytes::from_static(b"1")), Value::Binary(Bytes::from_static(b"2")), Value::Null]
        );
    }
}
