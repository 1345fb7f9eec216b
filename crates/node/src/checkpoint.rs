//! The engine's checkpoint of a group at a slot: the window of ids, the parts of operations whose last part is yet to come,
//! and the face's state, together.
//!
//! Encoding: the version (one byte), then in postcard the slot, the window, the parts and the face's bytes. Storage adds the
//! checksum; a copy for a joiner carries the same bytes.

use client::Slot;
use consensus::{Assembly, IdWindow};
use serde::{Deserialize, Serialize};

const VERSION: u8 = 2;

#[derive(Serialize)]
struct Written<'a> {
    slot: Slot,
    window: &'a IdWindow,
    assembly: &'a Assembly,
    #[serde(serialize_with = "as_bytes")]
    face: &'a [u8],
}

fn as_bytes<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// A decoded checkpoint.
#[derive(Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) slot: Slot,
    pub(crate) window: IdWindow,
    pub(crate) assembly: Assembly,
    pub(crate) face: bytes::Bytes,
}

/// Encodes the state as of `slot`.
pub(crate) fn encode(slot: Slot, window: &IdWindow, assembly: &Assembly, face: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(face.len() + assembly.bytes() as usize + window.len() * 48 + 64);
    out.push(VERSION);
    postcard::to_extend(&Written { slot, window, assembly, face }, out).expect("a checkpoint always encodes")
}

/// Decodes what [`encode`] made. It may come from another member, so nothing in it is relied on unseen.
pub(crate) fn decode(bytes: &[u8]) -> Result<Checkpoint, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            let (checkpoint, rest): (Checkpoint, &[u8]) =
                postcard::take_from_bytes(rest).map_err(|error| format!("cannot decode the checkpoint: {error}"))?;
            if !rest.is_empty() {
                return Err(format!("{} bytes follow after the checkpoint's end", rest.len()));
            }
            let newest = checkpoint.window.last_slot().max(checkpoint.assembly.newest()).unwrap_or(Slot::ZERO);
            if checkpoint.slot > Slot::LARGEST || newest > checkpoint.slot {
                return Err(format!("the checkpoint's slot {} is out of bounds", checkpoint.slot));
            }
            Ok(checkpoint)
        }
        Some((version, _)) => Err(format!("the checkpoint has version {version}, this build knows version {VERSION}")),
        None => Err("the checkpoint is empty".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{NodeId, OperationId, Start};
    use consensus::{Outcome, Part};

    /// Version, slot, the window (capacity, one id rejected at slot 4 for the reason 5, no floors), the parts (room, slots
    /// until they lapse, one operation with part 6 at slot 8), the face's bytes.
    const GOLDEN: &str =
        concat!("02", "09", "03010102030401010500", "e8070a", "01", "010203", "01", "0608057069656365", "0466616365");

    #[test]
    fn a_checkpoint_reads_back() {
        let mut window = IdWindow::new(3);
        let id = OperationId { node: NodeId(1), start: Start(2), sequence: 3 };
        window.record(Slot(4), id, Outcome::Rejected(vec![5]));
        let mut assembly = Assembly::new(1000, 10);
        let part = Part { operation: id, number: 6, piece: bytes::Bytes::from_static(b"piece") };
        assert!(assembly.take(Slot(8), part).is_empty());
        let bytes = encode(Slot(9), &window, &assembly, b"face");
        // The bytes on the disk: a change of them needs another version.
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        let read = decode(&bytes).unwrap();
        assert_eq!((read.slot, &read.window, &read.face[..]), (Slot(9), &window, &b"face"[..]));
        assert_eq!(read.assembly, assembly);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(decode(&[&bytes[..], &[0]].concat()).is_err(), "something follows");
        assert!(decode(&encode(Slot(3), &window, &assembly, b"face")).is_err(), "older than the newest id in it");
        assert!(decode(&encode(Slot(u64::MAX), &window, &assembly, b"face")).is_err(), "beyond any slot");
    }

    #[test]
    #[ignore = "a measurement: how long a full window of ids holds up the engine thread"]
    fn a_full_window_takes_milliseconds() {
        let mut window = IdWindow::new(crate::limits::ID_WINDOW);
        for n in 0..crate::limits::ID_WINDOW as u64 {
            let node = NodeId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef << (n % 3));
            let id = OperationId { node, start: Start(7), sequence: n + 1 };
            window.record(Slot(n + 1), id, Outcome::Applied(Vec::new()));
        }
        let began = std::time::Instant::now();
        let bytes = encode(Slot(9), &window, &Assembly::default(), b"face");
        let encoded = began.elapsed();
        decode(&bytes).unwrap();
        eprintln!("{} bytes, encoded in {encoded:?}, decoded in {:?}", bytes.len(), began.elapsed() - encoded);
    }

    #[test]
    fn another_version_is_named() {
        assert!(decode(&[7, 0]).err().unwrap().contains("version 7"));
    }
}
