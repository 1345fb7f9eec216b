//! Every bound of this layer in one place (rule 11), each with its derivation.

use std::time::Duration;

/// Local connections: one per backend of a large PostgreSQL server, and as many again for workers and tools.
pub(crate) const CLIENTS_MAX: usize = 8192;

/// What is read from a local connection at once, in bytes: hundreds of small requests; and the buffer that an idle
/// connection keeps.
pub(crate) const CLIENT_READ_BYTES: usize = 16 << 10;

/// Answers that a local connection may leave untaken, in bytes: one largest entry and a megabyte. Beyond it is cut off.
pub(crate) const CLIENT_OUTBOUND_BYTES_MAX: usize = client::frame::FRAME_BYTES_MAX + (1 << 20);

/// Size of one batch of decided entries on a stream, in bytes: large enough that the cost of a frame vanishes, small
/// enough that it is written in well under a millisecond.
pub(crate) const STREAM_BATCH_BYTES: usize = 256 << 10;

/// Slots covered by one batch on a stream.
pub(crate) const STREAM_BATCH_SLOTS: u64 = 4096;

/// Bytes of decided entries kept in memory per group for streams and single entries; older ones are read from the
/// log. A second of a fast group.
pub(crate) const DECIDED_CACHE_BYTES_MAX: usize = 32 << 20;

/// Decided entries kept in memory per group: small entries cost more than their bytes.
pub(crate) const DECIDED_CACHE_ENTRIES_MAX: usize = 65_536;

/// Length of a group's name, its kind, a label or a database name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 1024;

/// Checkpoint bytes that a state copy may bring: the window of certification keys (256 MiB), the window of ids (100
/// MB), rounded up.
pub(crate) const CHECKPOINT_BYTES_MAX: u64 = 1 << 30;

/// Checkpoints kept for state copies, per group: copies to that many joiners at once.
pub(crate) const MARKS_MAX: usize = 4;

/// How often held positions and checkpoints are looked at when nothing else happens.
pub(crate) const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(500);

/// Requests that wait for a configuration change or the outcome of an id, per group.
pub(crate) const WAITERS_MAX: usize = 4096;
