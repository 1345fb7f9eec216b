//! What a node keeps on its disk: who it is ([`NodeDirectory`]), its write-ahead log of promises and accepted entries
//! ([`Log`]), and a checkpoint per group ([`Checkpoints`]). The design, section 4; `docs/on-disk-format.md` gives every
//! byte with its reason.
//!
//! The two duties, from rule 3 and rule 9: nothing is reported durable before it is, and nothing that was durable is
//! ever forgotten in silence. What a disk loses is told as damaged, with slot and ballot where they survive.

pub mod bounds;

mod bytes_reader;
mod carrying;
mod checkpoints;
mod cold_log;
mod cold_moves;
mod cold_state;
mod cold_store;
mod describe;
mod discipline;
mod disk;
mod fjall_store;
mod frame;
mod laggards;
mod laggards_file;
mod laggards_recovery;
mod live_entries;
mod log;
mod log_reader;
mod log_state;
mod node_directory;
mod record_identity;
mod recovery;
mod repair;
mod replay;
mod scrub;
mod segment_files;
mod segment_header;
mod segment_pool;
mod segment_scan;
mod segmented_log;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod stored_record;
mod writer;

pub use checkpoints::{Checkpoint, CheckpointError, Checkpoints, CHECKPOINT_BYTES_MAX};
pub use describe::{describe, DescribeError};
pub use disk::{Disk, DiskFile, RealDisk};
pub use log::{Completion, CompletionCallback, Log, LogOptions, SubmitError, Usage};
pub use log_reader::{LogPage, LogReader, ReadError, StoredEntry};
pub use node_directory::{DirectoryError, NodeDirectory, ENVIRONMENT_BYTES_MAX};
pub use recovery::RecoveryError;
pub use scrub::ScrubOptions;

#[cfg(test)]
mod tests;
