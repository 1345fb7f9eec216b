//! The few primitives that write sets and checkpoints are encoded with: little-endian, fixed width, lengths first.
//!
//! Reading treats its input as hostile: every length is held against the bytes that are left before anything is
//! allocated, and nothing panics.

use bytes::Bytes;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside the named part.
    #[error("bytes end inside {0}")]
    Short(&'static str),
    /// Bytes follow after the last part.
    #[error("{0} bytes follow after the end")]
    Trailing(usize),
    /// Made by a version of the format that this program does not know.
    #[error("unknown format version {0}")]
    Version(u8),
    /// The named part has a value that means nothing.
    #[error("{part} has the unknown value {value}")]
    Unknown {
        /// Which part.
        part: &'static str,
        /// What stands there.
        value: u64,
    },
    /// A text is not UTF-8.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
    /// A structured part does not decode.
    #[error("{0} is malformed")]
    Malformed(&'static str),
}

/// Reads parts from the front of bytes, sharing their memory.
pub(crate) struct Reader {
    left: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Reader {
        Reader { left: bytes }
    }

    pub(crate) fn bytes(&mut self, length: usize, part: &'static str) -> Result<Bytes, DecodeError> {
        if self.left.len() < length {
            return Err(DecodeError::Short(part));
        }
        Ok(self.left.split_to(length))
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], DecodeError> {
        let bytes = self.bytes(N, part)?;
        let mut array = [0; N];
        array.copy_from_slice(&bytes);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, part: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(part)?[0])
    }

    pub(crate) fn u16(&mut self, part: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(part)?))
    }

    pub(crate) fn u32(&mut self, part: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(part)?))
    }

    pub(crate) fn u64(&mut self, part: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(part)?))
    }

    pub(crate) fn u128(&mut self, part: &'static str) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array(part)?))
    }

    /// Bytes behind their own length.
    pub(crate) fn counted(&mut self, part: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.u32(part)? as usize;
        self.bytes(length, part)
    }

    pub(crate) fn text(&mut self, part: &'static str) -> Result<String, DecodeError> {
        let bytes = self.counted(part)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Text(part))
    }

    /// A count of items of at least `item_bytes` each; refused if the bytes left cannot hold them.
    pub(crate) fn count(&mut self, item_bytes: usize, part: &'static str) -> Result<usize, DecodeError> {
        let count = self.u32(part)? as usize;
        if count.checked_mul(item_bytes).is_none_or(|bytes| bytes > self.left.len()) {
            return Err(DecodeError::Short(part));
        }
        Ok(count)
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing(self.left.len()))
        }
    }
}

/// Appends bytes behind their own length. Panics above 4 GiB, which no part may reach (see `WRITE_SET_BYTES_MAX`).
pub(crate) fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a part is shorter than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a count of items.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("fewer than 2^32 items");
    out.extend_from_slice(&count.to_le_bytes());
}
