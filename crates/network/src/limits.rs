//! Every bound of this layer, in one place (rule 11: everything is bounded).

use std::time::Duration;

/// Largest frame, in bytes: the largest message.
pub const FRAME_BYTES_MAX: usize = consensus::bounds::MESSAGE_BYTES_MAX;

/// A frame of at most this size is small: replies, notices, heartbeats, fences, and batches of few rows.
pub const SMALL_FRAME_BYTES_MAX: usize = 4 << 10;

/// A peer's send queue takes small frames while it holds fewer bytes of them than this: two thousand of the largest,
/// some ten thousands of the usual ones. They have this room to themselves, so that a peer's bulk never silences the
/// answers owed to it.
pub const SMALL_FRAMES_QUEUE_BYTES_MAX: usize = 8 << 20;

/// A peer's send queue takes other frames while it holds fewer bytes of them than this: what an owner may have in flight.
/// It may pass the mark by one frame: memory per peer is at most this, one largest frame, and the small ones.
pub const LARGE_FRAMES_QUEUE_BYTES_MAX: usize = consensus::bounds::IN_FLIGHT_BYTES_MAX;

/// What one frame costs in a queue beside its own bytes: its length prefix and its place in the queue. It bounds the
/// number of tiny frames.
pub const FRAME_OVERHEAD_BYTES: usize = 64;

/// Bytes received from one peer and not yet taken by the caller, before reading from that peer's socket pauses: eight of
/// the largest frames, a tenth of a second of a link of 1 Gbit/s, in which the caller comes by many times.
pub const RECEIVED_BYTES_MAX: usize = 8 * FRAME_BYTES_MAX;

/// Frames queued together leave in one write of up to this size. Four of TLS's largest records (16 KiB each): past
/// that a larger write saves no measurable time.
pub const WRITE_BYTES_MAX: usize = 64 << 10;

/// First read buffer of a connection; it grows to the frame at hand.
pub const READ_BUFFER_BYTES: usize = 64 << 10;

/// Connections accepted whose peers have not proven who they are yet. Past this, new ones wait in the kernel's
/// backlog: a stranger who opens sockets costs no memory here.
pub const HANDSHAKES_MAX: usize = 64;

/// A peer has this long from connect to the end of the hello exchange: some round trips over the worst links, and the
/// arithmetic of a handshake on a loaded machine.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a TCP connection to one address. A lost SYN is sent again by the kernel after one second, then two; dialling
/// anew instead keeps the time to find a healed path short.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// First wait before dialling again.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest wait before dialling again: a peer that comes back is found within this time.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Unacknowledged data, or an unanswered keepalive, ends a connection after this time, so that a partition that healed
/// is not waited out by TCP's own doubling retransmission time.
pub const HALF_OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Silence before the kernel asks whether the other side is still there.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(1);

/// Time between two such questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// The same complaint about the same peer or address is logged again only after this time.
pub const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Strangers' addresses that the refusal log remembers; the oldest leaves first.
pub const REFUSAL_LOG_ENTRIES_MAX: usize = 256;
