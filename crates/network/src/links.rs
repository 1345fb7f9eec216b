//! All links of a node: the caller's side.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use consensus::{NodeId, Start};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::counters::{Counters, SharedCounters};
use crate::dialer;
use crate::event::{self, EventSender, Events};
use crate::identity::{Identity, PublicKey};
use crate::limits::HANDSHAKES_MAX;
use crate::listener::{self, Inbound};
use crate::pinning::{self, Pins};
use crate::queue::SendQueue;
use crate::refusal_log::RefusalLog;

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its identity in the protocol.
    pub node: NodeId,
    /// Its current start, durable already.
    pub start: Start,
    /// Its key pair.
    pub identity: Identity,
}

/// How to reach a peer and how to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `host:port`; a name is looked up at every attempt.
    pub address: String,
    /// The only key that is taken for this peer.
    pub public_key: PublicKey,
}

/// Why a frame was not taken. It was not sent and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No link to that node is up, or it is no peer.
    #[error("the peer is not connected")]
    NotConnected,
    /// More waits for that peer than the queue's bound.
    #[error("the peer's send queue is full")]
    Full,
    /// The frame is larger than [`limits::FRAME_BYTES_MAX`](crate::limits::FRAME_BYTES_MAX).
    #[error("a frame of {bytes} bytes is larger than a frame may be")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// Why this node cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address means nothing here.
    #[error("could not resolve listen address \"{address}\": {source}")]
    Resolve {
        /// As given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The address is taken, not local, or not allowed.
    #[error("could not listen for peers on {address}: {source}")]
    Bind {
        /// The resolved address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The state of the links with one peer, for views and error messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// The peer.
    pub node: NodeId,
    /// Where it is dialled.
    pub address: String,
    /// Its start, while frames can be sent to it.
    pub connected: Option<Start>,
    /// Whether a connection from it is up.
    pub receiving: bool,
    /// What waits to be sent to it, in bytes.
    pub queued_bytes: usize,
    /// Why the last attempt to connect failed, or the last connection ended; `None` while connected.
    pub last_error: Option<String>,
    /// Whether that was because the peer does not take this node's key: it knows of no group that both are in.
    pub refused: bool,
}

/// What the tasks of the links share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) start: Start,
    pub(crate) identity: Identity,
    pub(crate) server_config: Arc<ServerConfig>,
    pub(crate) pins: Arc<Pins>,
    pub(crate) events: EventSender,
    pub(crate) counters: SharedCounters,
    pub(crate) refusals: RefusalLog,
    pub(crate) inbound: Mutex<BTreeMap<NodeId, Inbound>>,
    pub(crate) handshakes: Arc<Semaphore>,
    /// Connections admitted so far: numbers the next one.
    pub(crate) admissions: AtomicU64,
}

/// The outgoing link to one peer.
#[derive(Debug)]
struct Outbound {
    peer: Peer,
    link: Arc<OutboundLink>,
    task: JoinHandle<()>,
}

/// The part of it that its task shares.
#[derive(Debug, Default)]
pub(crate) struct OutboundLink {
    pub(crate) queue: SendQueue,
    pub(crate) state: Mutex<OutboundState>,
}

impl OutboundLink {
    /// It could not be opened, or ended; `refused` if the peer does not take this node's key.
    pub(crate) fn is_down(&self, error: String, refused: bool) {
        let mut state = self.state.lock().expect("no panic while holding the link's state");
        (state.last_error, state.refused) = (Some(error), refused);
    }
}

/// What the status view says about it.
#[derive(Debug, Default)]
pub(crate) struct OutboundState {
    pub(crate) connected: Option<Start>,
    pub(crate) last_error: Option<String>,
    pub(crate) refused: bool,
}

/// A node's links with its peers. Dropping it closes all of them.
///
/// Methods that start tasks must be called inside a tokio runtime, current-thread or not; none blocks.
#[derive(Debug)]
pub struct Links {
    shared: Arc<Shared>,
    outbound: BTreeMap<NodeId, Outbound>,
    listeners: Vec<JoinHandle<()>>,
}

impl Links {
    /// Links of a node without peers yet, and the end where their events arrive. Nothing listens until
    /// [`listen`](Self::listen).
    pub fn new(options: Options) -> (Self, Events) {
        let (sender, events) = event::channel();
        let pins = Arc::new(Pins::default());
        let server_config = pinning::server_config(&options.identity, Arc::clone(&pins))
            .expect("the identity's key was checked when it was loaded");
        let shared = Shared {
            node: options.node,
            start: options.start,
            identity: options.identity,
            server_config,
            pins,
            events: sender,
            counters: SharedCounters::default(),
            refusals: RefusalLog::default(),
            inbound: Mutex::default(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            admissions: AtomicU64::new(0),
        };
        (Self { shared: Arc::new(shared), outbound: BTreeMap::new(), listeners: Vec::new() }, events)
    }

    /// Accepts peers on `address` (`host:port`; port 0 lets the system choose) in addition to what is listened on
    /// already, and returns the bound addresses: one for each that the name resolves to.
    pub async fn listen(&mut self, address: &str) -> Result<Vec<SocketAddr>, ListenError> {
        let resolve_error = |source| ListenError::Resolve { address: address.to_owned(), source };
        let resolved: Vec<SocketAddr> = tokio::net::lookup_host(address).await.map_err(resolve_error)?.collect();
        let mut listeners: Vec<(SocketAddr, TcpListener)> = Vec::new();
        let mut unavailable = None;
        for mut address in resolved {
            if address.port() == 0 {
                // All addresses of a name share the port that the first one got.
                address.set_port(listeners.first().map_or(0, |(first, _)| first.port()));
            }
            let bind = async {
                let listener = TcpListener::bind(address).await?;
                io::Result::Ok((listener.local_addr()?, listener))
            };
            match bind.await {
                Ok((bound, _)) if listeners.iter().any(|(other, _)| *other == bound) => {}
                Ok(bound) => listeners.push(bound),
                // `localhost` may name an address of a protocol that this machine has switched off.
                Err(source) if source.kind() == io::ErrorKind::AddrNotAvailable => {
                    unavailable = Some(ListenError::Bind { address, source });
                }
                Err(source) => return Err(ListenError::Bind { address, source }),
            }
        }
        if listeners.is_empty() {
            return Err(unavailable.unwrap_or_else(|| resolve_error(io::Error::other("it has no addresses"))));
        }
        let bound = listeners.iter().map(|(address, _)| *address).collect();
        for (_, listener) in listeners {
            self.listeners.push(tokio::spawn(listener::accept(Arc::clone(&self.shared), listener)));
        }
        Ok(bound)
    }

    /// Sets who the peers are. New ones are dialled; links with those that are gone, or whose key changed, are
    /// closed; a peer whose address changed is dialled anew there. This node itself is left out if it is listed.
    pub fn set_peers(&mut self, mut peers: BTreeMap<NodeId, Peer>) {
        peers.remove(&self.shared.node);
        let pins = peers.iter().map(|(node, peer)| (peer.public_key.clone(), *node)).collect();
        self.shared.pins.set(pins);
        let mut inbound = self.shared.inbound.lock().expect("no panic while holding the inbound links");
        inbound.retain(|node, link| peers.get(node).is_some_and(|peer| peer.public_key == link.key));
        drop(inbound);
        self.outbound.retain(|node, outbound| {
            let stays = peers.get(node) == Some(&outbound.peer);
            if !stays {
                outbound.task.abort();
            }
            stays
        });
        for (node, peer) in peers {
            self.outbound.entry(node).or_insert_with(|| {
                let link = Arc::new(OutboundLink::default());
                let dialer = dialer::dial(Arc::clone(&self.shared), node, peer.clone(), Arc::clone(&link));
                Outbound { peer, link, task: tokio::spawn(dialer) }
            });
        }
    }

    /// Queues a frame for a peer. It leaves once the caller's task yields, in one write with whatever else was queued
    /// meanwhile. Ok means queued: it is lost if the connection ends first.
    pub fn send(&self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        let result = match self.outbound.get(&to) {
            Some(outbound) => outbound.link.queue.push(frame),
            None => Err(SendError::NotConnected),
        };
        match result {
            Err(SendError::Full) => self.shared.counters.frames_refused_full.add(1),
            Err(SendError::NotConnected) => self.shared.counters.frames_refused_unconnected.add(1),
            _ => {}
        }
        result
    }

    /// Whether frames for that node are taken now.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.outbound.get(&node).is_some_and(|outbound| outbound.link.queue.is_open())
    }

    /// The state of every peer's links.
    pub fn status(&self) -> Vec<LinkStatus> {
        let inbound = self.shared.inbound.lock().expect("no panic while holding the inbound links");
        let status = |(node, outbound): (&NodeId, &Outbound)| {
            let state = outbound.link.state.lock().expect("no panic while holding the link's state");
            LinkStatus {
                node: *node,
                address: outbound.peer.address.clone(),
                connected: state.connected,
                receiving: inbound.contains_key(node),
                queued_bytes: outbound.link.queue.bytes(),
                last_error: state.last_error.clone(),
                refused: state.refused,
            }
        };
        self.outbound.iter().map(status).collect()
    }

    /// Totals since the links were made.
    pub fn counters(&self) -> Counters {
        self.shared.counters.read()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
        for outbound in self.outbound.values() {
            outbound.task.abort();
        }
        // Handshakes under way find no pins at their end, and give up.
        self.shared.pins.set(BTreeMap::new());
        self.shared.inbound.lock().expect("no panic while holding the inbound links").clear();
    }
}
