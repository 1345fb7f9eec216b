//! What an operator may set.

use crate::bounds;
use crate::windows::Windows;
use std::time::Duration;

/// Options of a core. Every node of a group should have the same failure time-out; safety does not depend on it (rule 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreOptions {
    /// By this time after an owner fell silent another has taken over, so that the members in contact wait no longer than
    /// this, once. Default one second; at least 10 ms.
    pub failure_timeout: Duration,
    /// Bytes of trimmable log kept per log for members that lag behind, before they need a state copy. Default 256 MiB.
    pub log_keep_bytes: u64,
    /// Entries kept likewise. Default 1,000,000.
    pub log_keep_entries: u64,
    /// Bytes of entries that a witness keeps per log for voters whose state lacks them, before it has such a voter made a
    /// learner; at twice this the group admits nothing new. Default [`bounds::WITNESS_KEEP_BYTES`].
    pub witness_keep_bytes: u64,
    /// Entries kept likewise. Default [`bounds::WITNESS_KEEP_ENTRIES`].
    pub witness_keep_entries: u64,
    /// Bytes of records that the log may hold and not have synced before further ones take turns, group by group. Default
    /// [`bounds::LOG_AHEAD_BYTES`].
    pub log_ahead_bytes: u64,
    /// Sizes of batches and windows.
    pub windows: Windows,
    /// Logs of values of one group that new work may have in memory, at least one; twice as many and one are there at most.
    /// Default [`bounds::RESIDENT_LOGS_MAX`].
    pub resident_logs_max: usize,
}

impl Default for CoreOptions {
    fn default() -> Self {
        CoreOptions {
            failure_timeout: Duration::from_secs(1),
            log_keep_bytes: 256 << 20,
            log_keep_entries: 1_000_000,
            witness_keep_bytes: bounds::WITNESS_KEEP_BYTES,
            witness_keep_entries: bounds::WITNESS_KEEP_ENTRIES,
            log_ahead_bytes: bounds::LOG_AHEAD_BYTES,
            windows: Windows::default(),
            resident_logs_max: bounds::RESIDENT_LOGS_MAX,
        }
    }
}

impl CoreOptions {
    /// After this long without a heartbeat a node counts as not live. The rest of the failure time-out is for the takeover:
    /// the turns of the members ahead, a round trip and two syncs, and the write that waited.
    #[must_use]
    pub fn silence_max(&self) -> Duration {
        self.failure_timeout / 10 * 8
    }

    /// Heartbeats go out this often: five of them in a row must be lost before a node counts as not live.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        self.failure_timeout / 8
    }

    /// A member takes over this much later than the one ahead of it, which knows of the loss by a message then: more than a
    /// message takes within a continent.
    #[must_use]
    pub(crate) fn turn_step(&self) -> Duration {
        self.failure_timeout / 20
    }

    /// What went unanswered is sent again after this long: well beyond a round trip, well within the failure time-out.
    #[must_use]
    pub fn retry_interval(&self) -> Duration {
        self.failure_timeout / 4
    }

    /// An owner looks this often from where its log's entries come: a hand-over costs a round trip and a sync, which must not
    /// count beside what it saves.
    #[must_use]
    pub fn hand_over_dwell(&self) -> Duration {
        self.failure_timeout * 5
    }

    /// What this many bytes take on their way to a disk and back, at the slowest that is not taken for a loss: 16 MB/s. Sent
    /// again sooner, a large entry would only stand in its own way.
    #[must_use]
    pub(crate) fn transfer_time(&self, bytes: usize) -> Duration {
        Duration::from_micros(bytes as u64 / 16)
    }
}
