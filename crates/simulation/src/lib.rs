//! A deterministic cluster: real [`consensus::Core`]s on a simulated network, simulated disks and simulated clocks.
//!
//! One seed decides everything: who crashes when and between which two effects, which record of a half-written batch
//! survives, which message is lost, late, doubled or out of order. After every event all [`invariants`] are checked;
//! each stands in a file of its own, named after the promise that it holds the core to. After the faults stop, the
//! cluster must become whole again within a bound ([`cluster::Cluster::run`]).
//!
//! A failure names its seed, and the same seed shows it again, event by event:
//!
//! ```text
//! cargo run --release -p simulation -- --seed 4711 --trace
//! ```

pub mod cluster;
pub mod disk;
mod disk_damage;
mod disk_files;
mod effects;
pub mod face;
mod faults;
pub mod fleet;
pub mod invariants;
mod links;
mod lives;
pub mod membership;
pub mod network;
pub mod node;
pub mod observation;
pub mod parts;
pub mod plan;
pub mod random;
mod real_log;
pub mod recovery;
pub mod schedule;
mod survivors;
pub mod tally;
pub mod trace;
mod users;
mod values;
pub mod workload;
pub mod worlds;

pub use cluster::Cluster;
pub use fleet::{run_seed, run_seeds, Failure, Fleet, Summary};
pub use plan::Plan;
pub use tally::{Fault, Tally};
pub use worlds::World;
