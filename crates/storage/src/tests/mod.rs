//! Tests of the log as a whole.

mod log_on_files;
