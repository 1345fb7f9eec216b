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
pub(crate) const STREAM_BATCH_SLOTS: u64 = client::DecidedBatch::SLOTS_MAX;

/// Bytes of decided entries kept in memory per group for streams and single entries; older ones are read from the
/// log. A second of a fast group.
pub(crate) const DECIDED_CACHE_BYTES_MAX: usize = 32 << 20;

/// Decided entries kept in memory per group: small entries cost more than their bytes.
pub(crate) const DECIDED_CACHE_ENTRIES_MAX: usize = 65_536;

/// Length of a group's name, its kind, a label or a database name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 1024;

/// Checkpoint bytes that a state copy may bring: the window of certification keys (256 MiB), the window of ids (100
/// MB), the parts of unfinished operations (257 MiB), rounded up.
pub(crate) const CHECKPOINT_BYTES_MAX: u64 = 1 << 30;

/// Checkpoints kept for state copies, per group: copies to that many joiners at once.
pub(crate) const MARKS_MAX: usize = 4;

/// How often held positions and checkpoints are looked at when nothing else happens.
pub(crate) const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(200);

/// Requests that wait for a configuration change or the outcome of an id, per group.
pub(crate) const WAITERS_MAX: usize = 4096;

/// Operation ids whose outcomes a group remembers (rule 10). Part of the log's state: all members must use the same.
/// At 10,000 operations a second it spans 13 seconds, several times what any proposal waits; a full window adds about
/// 7 MB to a checkpoint, which the engine thread encodes in some 10 ms.
pub(crate) const ID_WINDOW: usize = 1 << 17;

/// What an entry without a body counts for when a checkpoint is due, in bytes: its verdict and id.
pub(crate) const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// Link events taken in one turn: a full batch of messages from every member of a large group, after which clients
/// and the log have their turn.
pub(crate) const LINK_EVENTS_PER_TURN: usize = 256;

/// How long the link to a removed member stays open, so that it can learn that it was removed.
pub(crate) const FAREWELL: Duration = Duration::from_secs(10);

/// For how long the others must have refused this node's key, and said nothing else, before it takes itself for removed: several
/// attempts to connect to each.
pub(crate) const DISOWNED_FOR: Duration = Duration::from_secs(10);

/// Decided slots given to faces between two looks at the log and the links: a few milliseconds of certification.
pub(crate) const DELIVERIES_PER_TURN: usize = 512;

/// Bytes of log per byte of checkpoint, at least: checkpoints add a quarter to what the disk writes, at most.
pub(crate) const LOG_PER_CHECKPOINT: u64 = 4;

/// Bytes of operations too large for one entry that wait on this node until they are wholly sent: as many as the core takes
/// of others, four of the largest.
pub(crate) const OUTGOING_BYTES_MAX: usize = consensus::bounds::PENDING_BYTES_MAX;

/// Parts of a large operation under way at a time, a mebibyte each: over a link of 1 Gbit/s to a member 30 ms away they
/// fill the time until the first one is chosen. What others propose meanwhile waits behind no more.
pub(crate) const PARTS_IN_FLIGHT_MAX: usize = 4;

/// A part that took longer than this to be chosen had a slow link, disk or queue before it: then parts go one at a time, so
/// that heartbeats and others' entries behind them come through within a failure time-out. The core takes a link for slow
/// below 16 MB/s, where a mebibyte to each of two peers takes longer.
pub(crate) const PART_QUICK: Duration = Duration::from_millis(125);

/// How long the entry that closes the id of an operation given up halfway is tried, in milliseconds: longer than most
/// partitions. Without it the parts lapse.
pub(crate) const LEFTOVERS_WAIT_MS: u32 = 60_000;
