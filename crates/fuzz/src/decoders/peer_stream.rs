//! A connection between nodes inside its TLS: a hello, then frames.

use super::values;
use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use network::fuzzing::{read_frames, read_hello, write_frames, write_hello};

/// A frame that is announced gets its buffer at once, so that it arrives in one piece, and the stream's own buffers beside
/// it. An empty frame of 4 bytes becomes a handle of 32, here in a list that doubles and is copied as it grows.
const MEMORY: Bound = Bound { fixed: network::limits::FRAME_BYTES_MAX + (1 << 20), per_byte: 24 };

/// The reader of hellos and frames.
pub const TARGET: Target = Target { name: "peer_stream", run, encode, memory: MEMORY, executions: 10_000 };

/// Bytes of a hello.
const HELLO_BYTES: usize = 36;

fn run(bytes: &[u8]) {
    if let Ok((version, node, start)) = read_hello(bytes) {
        assert_eq!(version, 1, "the only version that both sides speak");
        assert_eq!(read_hello(&write_hello(node, start)), Ok((version, node, start)));
    }
    let stream = bytes.get(HELLO_BYTES..).unwrap_or(bytes);
    let (frames, end) = read_frames(stream);
    if end.is_ok() {
        assert_eq!(write_frames(&frames), stream, "a stream that ends well is its frames and nothing else");
    }
}

fn encode(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut stream = write_hello(values::node(choices)?, values::start(choices)?);
    let frames: Vec<Bytes> = values::several(choices, 4, values::some_bytes)?;
    stream.extend(write_frames(&frames));
    Ok(stream)
}
