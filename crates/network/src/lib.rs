//! Peer links: how the engines of a cluster talk to each other.
//!
//! A link is one way. A node dials every peer that it was given and sends its own frames on the connection that it
//! dialled; what peers send arrives on the connections that it accepted. So there is no rule about who dials whom, no
//! tie to break when two nodes dial at once, and a peer that restarts needs nothing from us but an open port.
//!
//! Every connection is mutual TLS 1.3. There is no certificate authority: each node makes a key pair once
//! ([`Identity`]), and the caller pins the public key of every peer ([`Peer`]); the certificate around the key is a
//! formality. A connection with any other key is refused, logged and counted.
//!
//! A link promises little, as consensus needs little: frames of one connection arrive whole, in order and at most
//! once; a frame may be lost when a connection ends. Nothing is sent again by this layer, and it never says who is
//! alive: that is for the heartbeats that travel as frames.

mod backoff;
mod counters;
mod dialer;
mod event;
mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hello;
mod identity;
pub mod limits;
mod links;
mod listener;
mod pinning;
mod queue;
mod refusal_log;
mod socket;

pub use counters::Counters;
pub use event::{Event, Events};
pub use identity::{Identity, IdentityError, PublicKey};
pub use links::{LinkStatus, Links, ListenError, Options, Peer, SendError};
