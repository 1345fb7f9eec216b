//! Frames on a byte stream: four bytes of length, big-endian, then that many bytes. TLS under it already detects
//! every damage and every forgery, so there is no checksum here.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits::{FRAME_BYTES_MAX, READ_BUFFER_BYTES, WRITE_BYTES_MAX};

const LENGTH_BYTES: usize = 4;

/// Why no further frame can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a frame of {bytes} bytes was announced, the largest is {FRAME_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error("the connection ended inside a frame")]
    Cut,
}

/// Takes frames off a stream.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::with_capacity(READ_BUFFER_BYTES) }
    }

    /// Waits for the next frame's announcement and returns its length; `None` when the stream ended between frames.
    /// The frame itself is read by [`body`](Self::body), so that the caller may first wait for room.
    pub(crate) async fn length(&mut self) -> Result<Option<usize>, FrameError> {
        while self.buffer.len() < LENGTH_BYTES {
            self.buffer.reserve(READ_BUFFER_BYTES);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
            }
        }
        let bytes = self.buffer.get_u32() as usize;
        if bytes > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge { bytes });
        }
        Ok(Some(bytes))
    }

    /// Reads the frame whose length was just returned.
    pub(crate) async fn body(&mut self, length: usize) -> Result<Bytes, FrameError> {
        self.buffer.reserve(length.saturating_sub(self.buffer.len()));
        while self.buffer.len() < length {
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(FrameError::Cut);
            }
        }
        Ok(self.buffer.split_to(length).freeze())
    }
}

/// Puts frames on a stream, as many as fit into one write.
#[derive(Debug)]
pub(crate) struct FrameWriter<W> {
    writer: W,
    buffer: BytesMut,
    writes: u64,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, buffer: BytesMut::with_capacity(WRITE_BYTES_MAX), writes: 0 }
    }

    /// Adds a frame; it leaves at the next [`flush`](Self::flush) at the latest.
    pub(crate) async fn write(&mut self, frame: &Bytes) -> io::Result<()> {
        assert!(frame.len() <= FRAME_BYTES_MAX, "the queue refuses larger frames");
        if self.buffer.len() + LENGTH_BYTES + frame.len() > WRITE_BYTES_MAX {
            self.write_buffer().await?;
        }
        let length = u32::try_from(frame.len()).expect("FRAME_BYTES_MAX fits");
        self.buffer.extend_from_slice(&length.to_be_bytes());
        if self.buffer.len() + frame.len() <= WRITE_BYTES_MAX {
            self.buffer.extend_from_slice(frame);
        } else {
            // A large frame is not copied.
            self.write_buffer().await?;
            self.writer.write_all(frame).await?;
            self.writes += 1;
        }
        Ok(())
    }

    /// Sends what was added, and returns the number of writes since the last call.
    pub(crate) async fn flush(&mut self) -> io::Result<u64> {
        self.write_buffer().await?;
        self.writer.flush().await?;
        Ok(std::mem::take(&mut self.writes))
    }

    async fn write_buffer(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.writer.write_all(&self.buffer).await?;
            self.buffer.clear();
            self.writes += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl std::future::Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    async fn read_all(bytes: &[u8]) -> (Vec<Bytes>, Option<FrameError>) {
        let mut reader = FrameReader::new(bytes);
        let mut frames = Vec::new();
        loop {
            match reader.length().await {
                Ok(None) => return (frames, None),
                Ok(Some(length)) => match reader.body(length).await {
                    Ok(frame) => frames.push(frame),
                    Err(error) => return (frames, Some(error)),
                },
                Err(error) => return (frames, Some(error)),
            }
        }
    }

    #[test]
    fn what_is_written_is_read_whatever_its_size() {
        block_on(async {
            let sizes =
                [0, 1, 3, 4, 5, 1000, WRITE_BYTES_MAX - 4, WRITE_BYTES_MAX, WRITE_BYTES_MAX + 1, FRAME_BYTES_MAX, 0, 7];
            let frames: Vec<Bytes> = (0u8..).zip(sizes).map(|(i, size)| Bytes::from(vec![i; size])).collect();
            let mut bytes = Vec::new();
            let mut writer = FrameWriter::new(&mut bytes);
            for frame in &frames {
                writer.write(frame).await.unwrap();
            }
            writer.flush().await.unwrap();
            let (read, error) = read_all(&bytes).await;
            assert!(error.is_none());
            assert_eq!(read, frames);
        });
    }

    #[test]
    fn small_frames_share_a_write() {
        block_on(async {
            let mut writer = FrameWriter::new(Vec::new());
            for _ in 0..1000 {
                writer.write(&Bytes::from_static(b"0123456789")).await.unwrap();
            }
            assert_eq!(writer.flush().await.unwrap(), 1);
        });
    }

    #[test]
    fn oversized_and_cut_frames_end_the_stream() {
        block_on(async {
            let announced = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes();
            assert!(matches!(read_all(&announced).await.1, Some(FrameError::TooLarge { .. })));
            let whole = [0, 0, 0, 3, b'a', b'b', b'c'];
            for length in 1..whole.len() {
                assert!(matches!(read_all(&whole[..length]).await.1, Some(FrameError::Cut)), "{length}");
            }
        });
    }
}
