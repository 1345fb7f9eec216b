//! What this crate decodes, open to `crates/fuzz`: the hello and the frames of a connection, without the TLS around them.

use crate::frame::{FrameReader, FrameWriter};
use crate::hello::Hello;
use bytes::Bytes;
use consensus::{NodeId, Start};
use std::future::Future;

/// Reads a hello or a refusal from the front of a stream; the newest version that both sides speak, and who speaks.
///
/// # Errors
/// Why a connection that begins so is closed.
pub fn read_hello(mut stream: &[u8]) -> Result<(u16, NodeId, Start), String> {
    let hello = block_on(Hello::read(&mut stream)).map_err(|error| error.to_string())?;
    let version = hello.common_version().map_err(|error| error.to_string())?;
    Ok((version, hello.node, hello.start))
}

/// The bytes of this build's own hello.
#[must_use]
pub fn write_hello(node: NodeId, start: Start) -> Vec<u8> {
    let mut stream = Vec::new();
    block_on(Hello::new(node, start).write(&mut stream)).expect("memory takes what is written");
    stream
}

/// The frames of a stream, and why it ends.
///
/// # Errors
/// What the link would close the connection for; the frames before it were handed on.
pub fn read_frames(stream: &[u8]) -> (Vec<Bytes>, Result<(), String>) {
    let mut frames = Vec::new();
    let end = block_on(async {
        let mut reader = FrameReader::new(stream);
        while let Some(length) = reader.length().await.map_err(|error| error.to_string())? {
            frames.push(reader.body(length).await.map_err(|error| error.to_string())?);
        }
        Ok(())
    });
    (frames, end)
}

/// The stream that these frames make.
#[must_use]
pub fn write_frames(frames: &[Bytes]) -> Vec<u8> {
    let mut stream = Vec::new();
    block_on(async {
        let mut writer = FrameWriter::new(&mut stream);
        for frame in frames {
            writer.write(frame).await.expect("memory takes what is written");
        }
        writer.flush().await.expect("memory takes what is written");
    });
    stream
}

/// Nothing here ever waits.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without devices");
    runtime.block_on(future)
}
