//! An engine as its host process sees it.

use crate::EngineOptions;
use client::{NodeId, Start};
use std::path::PathBuf;

/// Starts engines.
pub struct Engine;

impl Engine {
    /// Starts an engine: opens its directory, recovers its log, listens on its socket. All its threads are made here
    /// or by threads made here, so they inherit the caller's signal mask: a host with signal handlers of its own blocks
    /// all signals around this call. Returns once local clients are served.
    pub fn start(options: EngineOptions) -> Result<EngineHandle, EngineFailure> {
        crate::runtime::start(options)
    }
}

/// Why an engine cannot start or had to stop. After it nothing more is answered; the host process exits with code 1
/// and may start again.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineFailure {
    /// The directory, the identity or the socket cannot be used.
    #[error("{what}")]
    Setup {
        /// What is wrong.
        what: String,
        /// What to do about it, as a sentence; may be empty.
        hint: String,
    },
    /// Writing or syncing the log or a checkpoint failed (design rule 9: never retried).
    #[error("storage failed: {0}")]
    Storage(String),
    /// The consensus core found a state that must not exist.
    #[error("{0}")]
    Consensus(String),
    /// A panic inside the engine.
    #[error("internal error: {0}")]
    Panic(String),
}

/// A running engine. Dropping it stops the engine and waits for its threads.
pub struct EngineHandle {
    /// This node.
    pub(crate) node: NodeId,
    pub(crate) start: Start,
    pub(crate) socket: PathBuf,
    pub(crate) public_key: Vec<u8>,
    pub(crate) shared: crate::runtime::Shared,
}

impl EngineHandle {
    /// The node's identity.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The node's current start.
    pub fn start(&self) -> Start {
        self.start
    }

    /// The local API's socket.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// The node's public key (SubjectPublicKeyInfo, DER).
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The failure that stopped the engine, if one did.
    pub fn failure(&self) -> Option<EngineFailure> {
        self.shared.failure()
    }

    /// Stops the engine in an orderly way: what is queued for the log is written and synced.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
