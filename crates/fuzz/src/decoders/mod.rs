//! The targets, one file each; beside them what makes valid values of the types that several need.

pub mod certification;
pub mod checkpoint_file;
pub mod configuration;
pub mod connection_string;
pub mod entry;
pub mod group_description;
pub mod history;
pub mod identity_file;
pub mod key_file;
pub mod local_request;
pub mod local_response;
pub mod operation_id;
pub mod peer_message;
pub mod peer_stream;
pub mod row;
pub mod segment;
pub mod state_copy;
pub mod table_definition;
pub mod verdict;
pub mod write_set;

mod forged_segment;
mod memory_disk;
mod values;
