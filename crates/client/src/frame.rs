//! Frames: a length of four bytes (little-endian, of what follows), then `(RequestNumber, value)` in postcard.
//!
//! Used by both ends, so that the bound and the byte order are written down once.

use crate::request::RequestNumber;
use crate::Error;
use serde::de::DeserializeOwned;
use serde::Serialize;

/// The largest payload of one entry that the engine takes, in bytes: the limit of a write set (design of tables,
/// section 3).
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// The largest frame, in bytes: one largest body and 64 KiB for what stands around it.
pub const FRAME_BYTES_MAX: usize = BODY_BYTES_MAX + (64 << 10);

/// The size of the pieces in which a checkpoint crosses the socket, in bytes: large enough that the per-frame cost
/// vanishes, small enough that an engine thread spends well under a millisecond on one.
pub const CHECKPOINT_PIECE_BYTES: usize = 1 << 20;

const LENGTH_BYTES: usize = 4;

/// Appends one frame to `out`.
pub fn encode<T: Serialize>(number: RequestNumber, value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    let whole = postcard::to_extend(&(number, value), std::mem::take(out))
        .map_err(|error| Error::Malformed { what: format!("cannot encode a frame: {error}") })?;
    *out = whole;
    let length = out.len() - start - LENGTH_BYTES;
    if length > FRAME_BYTES_MAX {
        out.truncate(start);
        return Err(Error::TooLarge { bytes: length, bytes_max: FRAME_BYTES_MAX });
    }
    out[start..start + LENGTH_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Collects received bytes and hands out whole frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Everything before this is consumed; moved out only when the buffer would grow.
    consumed: usize,
}

impl Decoder {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed == self.bytes.len() {
            self.bytes.clear();
            self.consumed = 0;
        } else if self.consumed > 0 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if one has arrived.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<(RequestNumber, T)>, Error> {
        let pending = &self.bytes[self.consumed..];
        let Some((head, rest)) = pending.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(Error::TooLarge { bytes: length, bytes_max: FRAME_BYTES_MAX });
        }
        if rest.len() < length {
            return Ok(None);
        }
        let (value, more) = postcard::take_from_bytes(&rest[..length])
            .map_err(|error| Error::Malformed { what: format!("cannot decode a frame of {length} bytes: {error}") })?;
        if !more.is_empty() {
            let what = format!("{} of a frame's {length} bytes follow after its end", more.len());
            return Err(Error::Malformed { what });
        }
        self.consumed += LENGTH_BYTES + length;
        // A single large frame must not pin its memory for the rest of the connection.
        if self.consumed == self.bytes.len() && self.bytes.capacity() > CHECKPOINT_PIECE_BYTES {
            self.bytes = Vec::new();
            self.consumed = 0;
        }
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_arrives_whole_however_it_is_cut() {
        let mut bytes = Vec::new();
        encode(RequestNumber(7), &"first".to_string(), &mut bytes).unwrap();
        encode(RequestNumber(8), &"second".to_string(), &mut bytes).unwrap();
        for cut in 0..=bytes.len() {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame::<String>().unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, [(RequestNumber(7), "first".into()), (RequestNumber(8), "second".into())]);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allotted() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.next_frame::<String>(), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn garbage_is_an_error_and_not_a_panic() {
        let mut decoder = Decoder::default();
        decoder.push(&[3, 0, 0, 0, 0xff, 0xff, 0xff]);
        assert!(matches!(decoder.next_frame::<String>(), Err(Error::Malformed { .. })));
    }

    #[test]
    fn a_frame_holds_one_value_and_nothing_else() {
        let mut bytes = Vec::new();
        encode(RequestNumber(7), &"first".to_string(), &mut bytes).unwrap();
        bytes[0] += 1;
        bytes.push(0);
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        assert!(matches!(decoder.next_frame::<String>(), Err(Error::Malformed { .. })));
    }
}
