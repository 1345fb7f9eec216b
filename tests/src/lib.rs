//! The harness of the end-to-end tests and the measurements: real PostgreSQL servers with the
//! extension loaded, driven through the `synod` binary as a user would, and loads that keep
//! account of what was acknowledged to them.
//!
//! A test takes a [`Cluster`], does something to it, and waits for conditions with deadlines,
//! never for time to pass. Whatever happens to the test, the cluster's processes and directory go
//! with it; after a failure the servers' logs stay in `target/test-logs`.

mod checksum;
mod clocks;
mod cluster;
mod condition;
mod environment;
mod history_load;
mod ledger;
mod peer_network;
mod pgbench;
mod port_range;
mod random;
mod recorder;
mod sql_error;
mod stories;
mod witness;

pub use checksum::{checksum, Checksum};
pub use cluster::{Cluster, Shape, FAREWELL, RECOVERY_TIME_MAX};
pub use condition::{wait_for, wait_until};
pub use environment::{installation_bindir, is_full_size, step, Size};
pub use history_load::{pause, HistoryLoad, Manner, Work};
pub use ledger::{Account, Ledger};
pub use peer_network::{Link, PeerNetwork};
pub use pgbench::{initialize, Load, LoadOptions, Report};
pub use random::Random;
pub use recorder::Recorder;
pub use sql_error::{describe, is_serialization_failure, is_unknown_outcome, sqlstate};
pub use stories::{tell, Story};
pub use witness::Witness;
