//! The local API of a node: what a face that lives outside the engine, or the command line, says to the engine on
//! its own machine.
//!
//! The engine listens on a Unix socket in a directory of mode 0700 and answers only peers with its own user id (design
//! of tables, section 12), so whoever can connect is as powerful as the engine; no other authentication exists here.
//! A frame is a length and a [postcard](https://docs.rs/postcard) value ([`frame`]); the first request of a connection
//! is [`Request::Hello`] with the version that the client speaks. Every request bears a number, which its responses
//! repeat; requests may be pipelined and are answered in any order.
//!
//! [`Connection`] is blocking-free by construction: `send` and `try_receive` never wait, `fd` can be handed to any
//! readiness call. A PostgreSQL backend drives it from `WaitLatchOrSocket`; there are no threads and no runtime inside.
#![forbid(unsafe_code)]

mod connection;
mod decided;
mod description;
mod error;
pub mod frame;
mod refusal;
mod request;
mod response;
mod shown;
mod status;

pub use connection::Connection;
pub use decided::{DecidedBatch, DecidedEntry, Verdict};
pub use description::{GroupDescription, MemberDescription, MemberRole, NewMember};
pub use error::Error;
pub use refusal::{Certainty, Refusal, RefusalReason};
pub use request::{Answer, Origin, Request, RequestNumber};
pub use response::{Engine, Outcome, Progress, Response, Settled};
pub use shown::shown;
pub use status::{GroupStatus, LogStatus, MemberStatus, Metrics, Status};

pub use consensus::{GroupId, LogId, NodeId, OperationId, Slot, Start};

/// The version of this protocol. A client that speaks another one is refused at its hello, with both versions named.
pub const PROTOCOL_VERSION: u32 = 3;

/// The name of the socket inside the engine's socket directory.
pub const SOCKET_NAME: &str = "engine.sock";
