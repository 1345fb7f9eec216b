//! Every bound of storage in one place (rule 11), each with its derivation.

use std::time::Duration;

/// Default size of a segment: a quarter second of full-speed writing at 64 MB/s, so rolling to the next is rare, yet
/// zero-filling one costs little and space is given back in small steps.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// Smallest segment: two header blocks, one small batch and some distance between the two copies of its identities.
/// Sizes this small are for tests, in which a log goes round many times.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 10;

/// Largest segment: offsets of entries are kept in 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;

/// The two copies of an identity are at least this part of the segment apart: 1 MiB of 16, as far as Protocol-Aware
/// Recovery asks ("megabytes"), for a sixteenth of the space.
pub const SEPARATION_PART: u64 = 16;

/// Bytes that one sync covers at most, unless one record is larger: 4 MiB take 10 to 40 ms on common disks, which bounds
/// how long a small record waits behind a batch of large ones.
pub const BATCH_BYTES_MAX: u64 = 4 << 20;

/// Bytes that may wait for the disk: 32 times the core's in-flight bytes of one log (32 MiB), so a node of many
/// busy groups is refused new work by the core long before.
pub const QUEUE_BYTES_MAX: u64 = 1 << 30;

/// How long records that nobody waits for may stay in the queue of an idle node: too short to notice, long enough that an
/// idle node syncs at most ten times a second.
pub const LAZY_WAIT: Duration = Duration::from_millis(100);

/// Values up to this size are copied into the batch's buffer; larger ones are handed to the kernel where they are. Below,
/// copying costs less than one more slice in the call.
pub const COPY_BYTES_MAX: usize = 16 << 10;

/// Segments that may be in use beyond twice the live bytes before the oldest is emptied by copying its live entries
/// forward: 128 MiB at the default size, so a healthy log never copies.
pub const SLACK_SEGMENTS: u64 = 8;

/// Bytes of live entries copied forward with one batch while the oldest segment is emptied: small beside a batch, so no
/// commit waits noticeably longer.
pub const CARRY_BYTES_MAX: u64 = 1 << 20;

/// Bytes of entries in a laggards' file, and of one move to it, unless one entry is larger: as a batch of the log, 10 to 40
/// ms on common disks. Small, so that trimming frees whole files.
pub const LAGGARDS_FILE_BYTES: u64 = 4 << 20;

/// Laggards' files of one group in which less than half of that counts; with more, the smallest are put together. So a group
/// holds at most 32 MiB more than twice what counts.
pub const LAGGARDS_FILES_SMALL_MAX: usize = 8;

/// Logs that move to the store of cold logs with one batch, and bytes of their entries: as much as a batch can bring, so that
/// the log does not outgrow its bound; some tens of milliseconds, and little in memory.
pub const COLD_MOVE_LOGS_MAX: usize = 16 << 10;

/// See [`COLD_MOVE_LOGS_MAX`].
pub const COLD_MOVE_BYTES: u64 = 4 << 20;

/// Logs of a dropped group that are taken out of the store at once.
pub const COLD_WIPE_LOGS_MAX: usize = 16 << 10;

/// Bytes of blocks that the store of cold logs keeps in memory. Cold logs are read seldom, and each once.
pub const COLD_CACHE_BYTES: u64 = 8 << 20;

/// Files that the store of cold logs keeps open: a small part of what a process may have (1024).
pub const COLD_FILES_MAX: usize = 128;

/// Empty segments kept ready; more are removed. Two, so that a burst can roll while the next is being made.
pub const SPARE_SEGMENTS_MAX: usize = 2;

/// Wait before trying again to prepare a segment that could not be made: a full disk may have room again.
pub const SPARE_RETRY: Duration = Duration::from_secs(1);

/// A checkpoint is written and synced in pieces of this size, so that a sync of the log never waits behind more of it:
/// 2 MiB take 5 to 20 ms on common disks.
pub const CHECKPOINT_PIECE_BYTES: usize = 2 << 20;

/// After each piece the writer of a checkpoint pauses as long as the piece took, half the disk for the log, but no longer
/// than this, so that a slow disk does not make it endless.
pub const CHECKPOINT_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Positions of peers that may wait for a batch that somebody needs.
pub const PEERS_SEEN_WAITING_MAX: usize = 1024;

/// No log has this many segments: 32 PiB at the default size. What comes after the largest can still be counted.
pub const SEGMENT_SEQUENCE_MAX: u64 = 1 << 31;

/// No node writes this many batches or records, at a million a second in 146,000 years. What is larger on a disk was not
/// written by a node, and no sum of what is smaller overflows.
pub const COUNT_MAX: u64 = 1 << 62;

/// Segments that may be missing from the middle of a log and be told as damage, each with a record of its own: 16 GiB at
/// the default size. A log that lacks more is no log any more, and its node must join anew.
pub const MISSING_SEGMENTS_MAX: u64 = 1024;

/// Bytes that scrub reads per second unless told otherwise: 2 to 5 % of what common disks read, and 16 GiB in an hour, so that a
/// log and its checkpoints are gone through many times a day.
pub const SCRUB_BYTES_PER_SECOND: u64 = 4 << 20;

/// Rest between two passes of scrub: a small log is not read for ever, and damage is found within the hour all the same.
pub const SCRUB_PAUSE: Duration = Duration::from_secs(600);

/// Bytes that scrub reads at once: a millisecond of a common disk.
pub const SCRUB_PIECE_BYTES: u64 = 256 << 10;

/// Where a piece cannot be read, it is read in parts of this size, the unit in which disks lose data.
pub const SCRUB_SECTOR_BYTES: usize = 4096;

/// Cold logs that scrub reads at once.
pub const SCRUB_LOGS_AT_ONCE: usize = 64;

/// Finds of scrub that may wait for the writer or the node; more are found again by the next pass.
pub const REPAIRS_WAITING_MAX: usize = 4096;
