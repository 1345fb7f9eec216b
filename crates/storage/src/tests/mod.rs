//! Tests of the log and the checkpoints as a whole.

mod bit_rot;
mod checkpoint_files;
mod cold_logs;
mod crash_matrix;
mod disk_store;
mod failures;
mod fjall_files;
mod golden_files;
mod killed;
mod laggards;
mod learnt;
mod log_on_files;
mod on_demand;
mod script;
mod scrubbing;
