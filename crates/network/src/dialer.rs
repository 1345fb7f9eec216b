//! The outgoing link to one peer: dials, sends, and dials again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use consensus::{NodeId, Start};
use rustls::pki_types::ServerName;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::TlsConnector;

use crate::backoff::Backoff;
use crate::event::Event;
use crate::frame::FrameWriter;
use crate::hello::{Hello, HelloError};
use crate::identity::CERTIFICATE_NAME;
use crate::limits::{BACKOFF_MAX, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT};
use crate::links::{OutboundLink, Peer, Shared};
use crate::pinning;
use crate::socket;

/// Why a peer could not be connected to.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("could not connect: {0}")]
    Connect(io::Error),
    #[error("refused the connection: {0}")]
    Key(String),
    #[error("it does not take this node's key: by what it knows, this node is in no group with it")]
    OwnKey,
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("it says that it is node {said}")]
    OtherNode { said: NodeId },
    #[error("no answer within {HANDSHAKE_TIMEOUT:?}")]
    Silent,
}

/// Keeps the link up until the task is aborted.
pub(crate) async fn dial(shared: Arc<Shared>, node: NodeId, peer: Peer, link: Arc<OutboundLink>) {
    let config = pinning::client_config(&shared.identity, peer.public_key.clone())
        .expect("the identity's key was checked when it was loaded");
    let mut backoff = Backoff::new();
    let whom = format!("dial {node}");
    loop {
        let mut refused = false;
        let dialled = timeout(HANDSHAKE_TIMEOUT, connect(&shared, node, &peer, Arc::clone(&config)))
            .await
            .unwrap_or(Err(DialError::Silent));
        let error = match dialled {
            Ok((stream, hello)) => {
                shared.refusals.forget(&whom);
                tracing::info!(%node, address = peer.address, start = %hello.start, "connected to peer");
                let since = Instant::now();
                let open = OpenLink::new(&shared, &link, node, hello.start);
                let ended = run(&shared, &link, stream).await;
                drop(open);
                tracing::warn!(%node, address = peer.address, reason = %ended, "lost the connection to peer");
                if since.elapsed() >= BACKOFF_MAX {
                    backoff.reset();
                }
                ended.to_string()
            }
            Err(error) => {
                count(&shared, &error);
                refused = matches!(error, DialError::OwnKey);
                let error = error.to_string();
                if shared.refusals.is_news(&whom, &error) {
                    tracing::warn!(%node, address = peer.address, %error, "no connection to peer");
                }
                error
            }
        };
        link.is_down(error, refused);
        tokio::time::sleep(backoff.next()).await;
    }
}

fn count(shared: &Shared, error: &DialError) {
    match error {
        DialError::Key(_) => shared.counters.keys_refused.add(1),
        DialError::OtherNode { .. } | DialError::Hello(HelloError::Garbage | HelloError::Versions { .. }) => {
            shared.counters.hellos_refused.add(1);
        }
        _ => {}
    }
}

async fn connect(
    shared: &Shared,
    node: NodeId,
    peer: &Peer,
    config: Arc<ClientConfig>,
) -> Result<(TlsStream<TcpStream>, Hello), DialError> {
    let tcp = connect_tcp(&peer.address).await.map_err(DialError::Connect)?;
    let name = ServerName::try_from(CERTIFICATE_NAME).expect("a valid name");
    let handshake = TlsConnector::from(config).connect(name, tcp).await;
    let mut stream = handshake.map_err(|error| match pinning::key_refused(&error) {
        Some(refused) => DialError::Key(refused.to_string()),
        None => DialError::Tls(error),
    })?;
    let hello =
        exchange_hellos(&Hello::new(shared.node, shared.start), &mut stream).await.map_err(|error| match error {
            // In TLS 1.3 the side that dials is done before the other one has looked at its key.
            HelloError::Io(error) if pinning::own_key_refused(&error) => DialError::OwnKey,
            error => DialError::Hello(error),
        })?;
    if hello.node != node {
        return Err(DialError::OtherNode { said: hello.node });
    }
    Ok((stream, hello))
}

async fn exchange_hellos(mine: &Hello, stream: &mut TlsStream<TcpStream>) -> Result<Hello, HelloError> {
    mine.write(stream).await?;
    Hello::read(stream).await
}

/// Tries every address of the name. Each has a short time only: a lost SYN is sent again by dialling again, sooner
/// than the kernel would.
async fn connect_tcp(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
    for address in tokio::net::lookup_host(address).await? {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                socket::prepare(&stream)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} did not answer")),
        }
    }
    Err(last)
}

/// Sends what is queued until the connection ends; returns why it did.
async fn run(shared: &Shared, link: &OutboundLink, stream: TlsStream<TcpStream>) -> io::Error {
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        ended = watch(reader) => ended,
        ended = pump(shared, link, writer) => ended,
    }
}

/// The peer says nothing on this connection after its hello, so reading finds out that it is gone.
async fn watch(mut reader: impl AsyncRead + Unpin) -> io::Error {
    let mut byte = [0];
    match reader.read(&mut byte).await {
        Ok(0) => io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection"),
        Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "the peer sent data on a connection that is not for it"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection")
        }
        Err(error) => error,
    }
}

async fn pump(shared: &Shared, link: &OutboundLink, writer: impl AsyncWrite + Unpin) -> io::Error {
    let mut writer = FrameWriter::new(writer);
    let mut frames = VecDeque::new();
    loop {
        link.queue.take(&mut frames).await;
        let result = async {
            while let Some(frame) = frames.pop_front() {
                writer.write(&frame).await?;
                link.queue.written(frame.len());
                shared.counters.frames_sent.add(1);
                shared.counters.bytes_sent.add(frame.len() as u64);
            }
            writer.flush().await
        };
        match result.await {
            Ok(writes) => shared.counters.writes.add(writes),
            Err(error) => {
                shared.counters.frames_lost.add(1 + frames.len() as u64);
                return error;
            }
        }
    }
}

/// Says that the link is open, and when dropped, also by an aborted task, that it no longer is.
struct OpenLink<'a> {
    shared: &'a Shared,
    link: &'a OutboundLink,
    node: NodeId,
}

impl<'a> OpenLink<'a> {
    fn new(shared: &'a Shared, link: &'a OutboundLink, node: NodeId, start: Start) -> Self {
        link.queue.open();
        *link.state.lock().expect("no panic while holding the link's state") =
            crate::links::OutboundState { connected: Some(start), ..Default::default() };
        shared.counters.connects.add(1);
        // Nobody listens any more while the engine stops.
        let _ = shared.events.send((Event::Connected { node, start }, None));
        Self { shared, link, node }
    }
}

impl Drop for OpenLink<'_> {
    fn drop(&mut self) {
        let lost = self.link.queue.close();
        self.shared.counters.frames_lost.add(lost as u64);
        self.link.state.lock().expect("no panic while holding the link's state").connected = None;
        let _ = self.shared.events.send((Event::Disconnected { node: self.node }, None));
    }
}
