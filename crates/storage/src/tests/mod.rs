//! Tests of the log as a whole.

mod crash_matrix;
mod log_on_files;
mod memory_disk;
mod script;
