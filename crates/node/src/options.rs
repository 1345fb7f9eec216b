//! How an engine is started.

use crate::{EngineFailure, FaceFactory};
use std::path::PathBuf;
use std::time::Duration;

/// Hands out the sequence numbers of this node's operation ids: rising, never the same twice within one start.
pub type SequenceSource = Box<dyn Fn() -> u64 + Send>;

/// Is told why the engine stops.
pub type FailureCallback = Box<dyn FnOnce(&EngineFailure) + Send>;

/// How an engine is started.
pub struct EngineOptions {
    /// The engine's own directory: identity, keys, log, checkpoints. Created if it is missing.
    pub data_directory: PathBuf,
    /// The directory of the local API's socket ([`client::SOCKET_NAME`]); created with mode 0700.
    pub socket_directory: PathBuf,
    /// Where peers are listened for, `host:port` or several separated by commas; bound only once a group exists.
    pub listen_address: String,
    /// The address that peers are told to dial, `host:port`.
    pub advertise_address: String,
    /// A peer that is silent for this long is not live.
    pub failure_timeout: Duration,
    /// What else this directory belongs to (design rule 7), for instance PostgreSQL's system identifier and timeline.
    /// The engine refuses to start if it is not what it was.
    pub environment: String,
    /// Makes the faces of the groups.
    pub faces: Box<dyn FaceFactory>,
    /// Where operation ids come from; `None`: a counter inside the engine.
    pub sequence: Option<SequenceSource>,
    /// Called once, from an engine thread, if the engine fails.
    pub on_failure: Option<FailureCallback>,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of an engine that an administrator may set. The others are constants in `limits.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many bytes of entries are kept per group, beyond what this node needs itself, for members that lag.
    pub log_keep_bytes: u64,
    /// Of a witness: how many bytes of entries it keeps per group for voters whose state lacks them, before an absent one is
    /// set aside; at twice this the group takes nothing new.
    pub witness_keep_bytes: u64,
    /// A checkpoint is taken each time this many bytes of entries were delivered to a group.
    pub checkpoint_every_bytes: u64,
    /// How fast and how often the log and the checkpoints are read to find damage that nobody else reads.
    pub scrub: storage::ScrubOptions,
    /// Logs of values of one group that new work may have in memory; at least one.
    pub values_in_memory: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            // A member away for a quarter of an hour at 1 MB/s of write sets returns by the log alone.
            log_keep_bytes: 1 << 30,
            witness_keep_bytes: consensus::bounds::WITNESS_KEEP_BYTES,
            // Replay reads the log at hundreds of MB/s: well under a second after a crash.
            checkpoint_every_bytes: 64 << 20,
            scrub: storage::ScrubOptions::default(),
            values_in_memory: consensus::bounds::RESIDENT_LOGS_MAX,
        }
    }
}
