//! Connections that peers dialled: accepts, checks, and takes in their frames.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use consensus::{NodeId, Start};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

use crate::event::Event;
use crate::frame::{FrameError, FrameReader};
use crate::hello::{self, Hello, HelloError};
use crate::identity::PublicKey;
use crate::limits::{FRAME_OVERHEAD_BYTES, HANDSHAKE_TIMEOUT, RECEIVED_BYTES_MAX};
use crate::links::Shared;
use crate::pinning;
use crate::socket;

/// The connection from a peer that is taken in at present.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// The key it came with.
    pub(crate) key: PublicKey,
    start: Start,
    /// Dropping it ends the connection.
    _keep: oneshot::Sender<()>,
    /// Tells this connection from one that replaced it.
    number: u64,
}

/// Why an accepted connection was refused.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error("{0}")]
    Key(String),
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("it says that it is node {said}, but its public key {key} is not that node's")]
    OtherNode { said: NodeId, key: PublicKey },
    #[error("node {node} comes in its start {start}, but its start {seen} was here already: an old process or a second copy of the node")]
    OldStart { node: NodeId, start: Start, seen: Start },
    #[error("no hello within {HANDSHAKE_TIMEOUT:?}")]
    Silent,
}

/// Accepts connections until the task is aborted.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let handshakes = Arc::clone(&shared.handshakes);
        let permit = handshakes.acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((tcp, address)) => {
                tokio::spawn(serve(Arc::clone(&shared), tcp, address, permit));
            }
            Err(error) => {
                // Out of descriptors, or a connection reset before it was accepted. The former needs time.
                if shared.refusals.is_news("accept", &error.to_string()) {
                    tracing::warn!(%error, "could not accept a connection");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(shared: Arc<Shared>, tcp: TcpStream, address: SocketAddr, handshaking: OwnedSemaphorePermit) {
    let handshake = timeout(HANDSHAKE_TIMEOUT, handshake(&shared, tcp)).await.unwrap_or(Err(AcceptError::Silent));
    drop(handshaking);
    let (stream, mut admission) = match handshake {
        Ok(accepted) => accepted,
        Err(error) => return refused(&shared, address, &error),
    };
    let node = admission.node;
    tracing::debug!(%node, %address, "peer connected");
    let ended = tokio::select! {
        _ = &mut admission.cancelled => None,
        result = receive(&shared, node, stream) => result.err(),
    };
    drop(admission);
    match ended {
        None => tracing::debug!(%node, %address, "connection from peer ended"),
        Some(FrameError::Io(error)) => {
            tracing::debug!(%node, %address, %error, "connection from peer ended")
        }
        Some(error) => {
            shared.counters.frames_malformed.add(1);
            tracing::warn!(%node, %address, %error, "connection from peer closed");
        }
    }
}

fn refused(shared: &Shared, address: SocketAddr, error: &AcceptError) {
    match error {
        AcceptError::Key(_) => shared.counters.keys_refused.add(1),
        _ => shared.counters.hellos_refused.add(1),
    }
    // Every attempt comes from another port.
    let complaint = error.to_string();
    if shared.refusals.is_news(&format!("accept {}", address.ip()), &complaint) {
        tracing::warn!(%address, error = complaint, "refused a connection");
    }
}

/// A connection's place as the current one of its node; dropping it gives the place up.
struct Admission<'a> {
    shared: &'a Shared,
    node: NodeId,
    number: u64,
    /// Resolves when another connection took the place, or the peer is none any more.
    cancelled: oneshot::Receiver<()>,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        let mut inbound = self.shared.inbound.lock().expect("no panic while holding the inbound links");
        if inbound.get(&self.node).is_some_and(|current| current.number == self.number) {
            inbound.remove(&self.node);
        }
    }
}

async fn handshake(shared: &Shared, tcp: TcpStream) -> Result<(TlsStream<TcpStream>, Admission<'_>), AcceptError> {
    socket::prepare(&tcp).map_err(AcceptError::Tls)?;
    let acceptor = TlsAcceptor::from(Arc::clone(&shared.server_config));
    let mut stream = acceptor.accept(tcp).await.map_err(|error| match pinning::key_refused(&error) {
        Some(refused) => AcceptError::Key(refused.to_string()),
        None => AcceptError::Tls(error),
    })?;
    let certificates = stream.get_ref().1.peer_certificates().expect("TLS demanded a certificate");
    let key = pinning::key_of(&certificates[0]).expect("TLS checked the certificate");
    match admit(shared, key, Hello::read(&mut stream).await) {
        Ok(admission) => {
            // Registered first, so that whoever dialled knows that its frames are taken.
            Hello::new(shared.node, shared.start).write(&mut stream).await.map_err(HelloError::Io)?;
            Ok((stream, admission))
        }
        Err(error) => {
            // The reason is a courtesy.
            let _ = hello::write_refusal(&mut stream, &error.to_string()).await;
            Err(error)
        }
    }
}

/// Judges a hello, and makes its connection the current one of its node.
fn admit(shared: &Shared, key: PublicKey, hello: Result<Hello, HelloError>) -> Result<Admission<'_>, AcceptError> {
    let Hello { node, start, .. } = hello?;
    let mut inbound = shared.inbound.lock().expect("no panic while holding the inbound links");
    // Asked under the lock: a change of the peers closes what is registered before it, and is seen by what is
    // registered after it.
    if shared.pins.node_of(&key) != Some(node) {
        return Err(AcceptError::OtherNode { said: node, key });
    }
    if let Some(current) = inbound.get(&node).filter(|current| current.start > start) {
        return Err(AcceptError::OldStart { node, start, seen: current.start });
    }
    let number = shared.admissions.fetch_add(1, Ordering::Relaxed);
    let (keep, cancelled) = oneshot::channel();
    inbound.insert(node, Inbound { key, start, _keep: keep, number });
    Ok(Admission { shared, node, number, cancelled })
}

/// Hands frames to the engine, at the pace at which it takes them.
async fn receive(shared: &Shared, from: NodeId, stream: TlsStream<TcpStream>) -> Result<(), FrameError> {
    let budget = Arc::new(Semaphore::new(RECEIVED_BYTES_MAX));
    let mut reader = FrameReader::new(stream);
    while let Some(length) = reader.length().await? {
        let cost = (length + FRAME_OVERHEAD_BYTES).min(RECEIVED_BYTES_MAX);
        let cost = u32::try_from(cost).expect("RECEIVED_BYTES_MAX fits");
        let permit = Arc::clone(&budget).acquire_many_owned(cost).await.expect("the semaphore is never closed");
        let bytes = reader.body(length).await?;
        shared.counters.frames_received.add(1);
        shared.counters.bytes_received.add(length as u64);
        if shared.events.send((Event::Frame { from, bytes }, Some(permit))).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
