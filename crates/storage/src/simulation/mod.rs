//! What a simulator of whole nodes needs of storage: a disk in memory that can lose power at any operation, and the log
//! driven by hand, so that nothing depends on when a thread happens to run. No part of what is shipped.

mod memory_disk;
mod stepped_log;

pub use memory_disk::{Fault, MemoryDisk, Observer};
pub use stepped_log::SteppedLog;
