//! The runtime of a node: it puts the consensus core, the log, the links to the peers and the faces together, and
//! serves the local API.
//!
//! One *engine thread* owns the core, the links, the local connections and the faces, on a current-thread runtime: the
//! hot path has no locks and no hops between threads. The storage crate's writer thread syncs batches; checkpoints and
//! reads of old log entries go to other threads (design section 2).
#![forbid(unsafe_code)]

mod checkpoint;
mod clients;
mod decided;
mod description;
mod engine;
mod face;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod inbox;
mod limits;
mod node;
mod options;
mod outgoing;
mod refusals;
mod replica;
mod runtime;
mod stored_bodies;
mod waiting;

pub use engine::{Engine, EngineFailure, EngineHandle};
pub use face::{Delivery, Face, FaceContext, FaceFactory};
pub use options::{EngineOptions, FailureCallback, Limits, SequenceSource};
