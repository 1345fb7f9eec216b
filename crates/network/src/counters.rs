//! What the links count, for metrics and for tests.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals since the links were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections refused because of their key: not pinned, or another than the peer's.
    pub keys_refused: u64,
    /// Connections refused after their key was accepted: foreign protocol versions, a name that does not belong to
    /// the key, an older start, garbage instead of a hello.
    pub hellos_refused: u64,
    /// Connections ended for a frame longer than the bound or cut short.
    pub frames_malformed: u64,
    /// Frames not taken because the peer's queue was full.
    pub frames_refused_full: u64,
    /// Frames not taken because the peer was not connected.
    pub frames_refused_unconnected: u64,
    /// Frames queued that were lost with their connection.
    pub frames_lost: u64,
    /// Frames handed to the kernel.
    pub frames_sent: u64,
    /// Bytes of them.
    pub bytes_sent: u64,
    /// Writes that carried them; frames per write is how well they coalesce.
    pub writes: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Bytes of them.
    pub bytes_received: u64,
    /// Connections made, in this node's direction.
    pub connects: u64,
}

macro_rules! shared_counters {
    ($($name:ident),* $(,)?) => {
        /// The live form of [`Counters`].
        #[derive(Debug, Default)]
        pub(crate) struct SharedCounters { $(pub(crate) $name: Counter),* }

        impl SharedCounters {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.0.load(Ordering::Relaxed)),* }
            }
        }
    };
}

shared_counters!(
    keys_refused,
    hellos_refused,
    frames_malformed,
    frames_refused_full,
    frames_refused_unconnected,
    frames_lost,
    frames_sent,
    bytes_sent,
    writes,
    frames_received,
    bytes_received,
    connects,
);

/// One total.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
