//! The first words on a connection, both ways, inside TLS: who speaks, since which start, in which protocol versions.
//!
//! The dialling side says its hello, the accepting side answers with its own or with the reason why it refuses, as
//! text for the other's log. All numbers are big-endian:
//!
//! ```text
//! hello    "SYNODHI\n" (8)  version_min (2)  version_max (2)  node (16)  start (8)
//! refused  "SYNODNO\n" (8)  length (2)  reason, UTF-8 (length)
//! ```
//!
//! The layout up to and including the versions never changes, so that any two versions can tell each other that they
//! do not fit.

use std::io;
use std::ops::RangeInclusive;

use consensus::{NodeId, Start};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Protocol versions that this build speaks: of the hello, of the frames and of the messages in them.
pub(crate) const VERSIONS: RangeInclusive<u16> = 1..=1;

const HELLO: &[u8; 8] = b"SYNODHI\n";
const REFUSED: &[u8; 8] = b"SYNODNO\n";
const HELLO_BYTES: usize = 8 + 2 + 2 + 16 + 8;
const REASON_BYTES_MAX: usize = 512;

/// What a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version_min: u16,
    pub(crate) version_max: u16,
    pub(crate) node: NodeId,
    pub(crate) start: Start,
}

/// Why a hello exchange failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("connection lost during the hello: {0}")]
    Io(#[from] io::Error),
    #[error("it does not speak this protocol")]
    Garbage,
    #[error(
        "it speaks protocol versions {} to {}, this node speaks {} to {}",
        theirs.start(), theirs.end(), VERSIONS.start(), VERSIONS.end()
    )]
    Versions { theirs: RangeInclusive<u16> },
    #[error("it refused this node: {0}")]
    Refused(String),
}

impl Hello {
    pub(crate) fn new(node: NodeId, start: Start) -> Self {
        Self { version_min: *VERSIONS.start(), version_max: *VERSIONS.end(), node, start }
    }

    /// The newest version that both sides speak.
    pub(crate) fn common_version(&self) -> Result<u16, HelloError> {
        let version = self.version_max.min(*VERSIONS.end());
        if version >= self.version_min && version >= *VERSIONS.start() {
            Ok(version)
        } else {
            Err(HelloError::Versions { theirs: self.version_min..=self.version_max })
        }
    }

    fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(HELLO);
        bytes[8..10].copy_from_slice(&self.version_min.to_be_bytes());
        bytes[10..12].copy_from_slice(&self.version_max.to_be_bytes());
        bytes[12..28].copy_from_slice(&self.node.0.to_be_bytes());
        bytes[28..36].copy_from_slice(&self.start.0.to_be_bytes());
        bytes
    }

    /// Says this hello.
    pub(crate) async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        stream.write_all(&self.encode()).await?;
        stream.flush().await
    }

    /// Hears the other side's hello or its refusal.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, HelloError> {
        let mut magic = [0; 8];
        stream.read_exact(&mut magic).await?;
        if &magic == REFUSED {
            let length = usize::from(stream.read_u16().await?);
            let mut reason = vec![0; length.min(REASON_BYTES_MAX)];
            stream.read_exact(&mut reason).await?;
            return Err(HelloError::Refused(printable(&reason)));
        }
        if &magic != HELLO {
            return Err(HelloError::Garbage);
        }
        let version_min = stream.read_u16().await?;
        let version_max = stream.read_u16().await?;
        // Another version may say anything after this.
        let node = NodeId(0);
        let start = Start(0);
        let hello = Self { version_min, version_max, node, start };
        hello.common_version()?;
        Ok(Self { node: NodeId(stream.read_u128().await?), start: Start(stream.read_u64().await?), ..hello })
    }
}

/// Tells the dialling side why it is not let in.
pub(crate) async fn write_refusal(stream: &mut (impl AsyncWrite + Unpin), reason: &str) -> io::Result<()> {
    let mut length = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(length) {
        length -= 1;
    }
    stream.write_all(REFUSED).await?;
    stream.write_u16(u16::try_from(length).expect("REASON_BYTES_MAX fits")).await?;
    stream.write_all(&reason.as_bytes()[..length]).await?;
    stream.flush().await?;
    stream.shutdown().await
}

/// A peer's words are not trusted with the log's line structure.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> Result<Hello, HelloError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Hello::read(&mut bytes))
    }

    #[test]
    fn the_layout_is_fixed() {
        let hello = Hello { version_min: 1, version_max: 1, node: NodeId(0x0102), start: Start(7) };
        let golden = b"SYNODHI\n\0\x01\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x07";
        assert_eq!(&hello.encode(), golden);
        assert_eq!(read(golden).unwrap(), hello);
    }

    #[test]
    fn foreign_versions_are_named_even_when_nothing_follows() {
        let error = read(b"SYNODHI\n\0\x05\0\x09").unwrap_err();
        assert_eq!(error.to_string(), "it speaks protocol versions 5 to 9, this node speaks 1 to 1");
        let newer = Hello { version_min: 1, version_max: 9, node: NodeId(1), start: Start(1) };
        assert_eq!(newer.common_version().unwrap(), 1);
    }

    #[test]
    fn garbage_and_cut_hellos_are_refused() {
        assert!(matches!(read(b"GET / HTTP/1.1\r\n"), Err(HelloError::Garbage)));
        let whole = Hello::new(NodeId(1), Start(1)).encode();
        for length in 0..whole.len() {
            assert!(matches!(read(&whole[..length]), Err(HelloError::Io(_))), "{length}");
        }
    }

    #[test]
    fn a_refusal_carries_its_reason_on_one_line() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut bytes = Vec::new();
        runtime.block_on(write_refusal(&mut bytes, "two\nlines")).unwrap();
        assert_eq!(read(&bytes).unwrap_err().to_string(), "it refused this node: two lines");
        bytes.clear();
        runtime.block_on(write_refusal(&mut bytes, &"ä".repeat(400))).unwrap();
        assert!(matches!(read(&bytes), Err(HelloError::Refused(reason)) if reason.chars().count() == 256));
    }
}
