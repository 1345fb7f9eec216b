//! The local API's connections: who is connected, what they sent, what they have yet to take.
//!
//! A small task per connection reads requests into the engine's [`Inbox`]. Answers are written by the engine thread
//! itself at the end of the turn that made them, all answers of a turn with one `write`, so the usual answer costs no
//! task switch; only what a socket does not take waits for a task that tells when it is writable again.

use crate::inbox::{Event, Inbox};
use crate::limits::{CLIENTS_MAX, CLIENT_OUTBOUND_BYTES_MAX, CLIENT_READ_BYTES};
use client::frame::{self, Decoder};
use client::{Refusal, RefusalReason, Request, RequestNumber, Response};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::rc::Rc;
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};

/// Names a connection for the life of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientNumber(pub(crate) u64);

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReplyTo {
    pub(crate) client: ClientNumber,
    pub(crate) request: RequestNumber,
}

struct Client {
    stream: Rc<UnixStream>,
    outbound: Vec<u8>,
    written: usize,
    /// A task waits for the socket to take more.
    awaiting: bool,
    greeted: bool,
    dirty: bool,
    reader: tokio::task::AbortHandle,
}

/// All connections.
pub(crate) struct Clients {
    inbox: Rc<Inbox>,
    next: u64,
    clients: BTreeMap<ClientNumber, Client>,
    dirty: Vec<ClientNumber>,
    /// Connections that failed while they were written to; their closing is an event of the next turn.
    broken: Vec<ClientNumber>,
}

impl Clients {
    pub(crate) fn new(inbox: Rc<Inbox>) -> Clients {
        Clients { inbox, next: 0, clients: BTreeMap::new(), dirty: Vec::new(), broken: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Takes up an accepted connection.
    pub(crate) fn accept(&mut self, stream: UnixStream) {
        let own = rustix::process::getuid().as_raw();
        match stream.peer_cred() {
            Ok(credentials) if credentials.uid() == own || credentials.uid() == 0 => {}
            Ok(credentials) => {
                warn!("refused a local connection of user id {}: the engine runs as {own}", credentials.uid());
                return;
            }
            Err(error) => {
                warn!("refused a local connection without credentials: {error}");
                return;
            }
        }
        if self.clients.len() >= CLIENTS_MAX {
            warn!("refused a local connection: {CLIENTS_MAX} are open");
            return;
        }
        let number = ClientNumber(self.next);
        self.next += 1;
        let stream = Rc::new(stream);
        let reader = tokio::task::spawn_local(read(number, Rc::clone(&stream), Rc::clone(&self.inbox)));
        self.clients.insert(
            number,
            Client {
                stream,
                outbound: Vec::new(),
                written: 0,
                awaiting: false,
                greeted: false,
                dirty: false,
                reader: reader.abort_handle(),
            },
        );
    }

    /// Forgets a connection; whether it was known.
    pub(crate) fn close(&mut self, number: ClientNumber) -> bool {
        match self.clients.remove(&number) {
            Some(client) => {
                client.reader.abort();
                true
            }
            None => false,
        }
    }

    pub(crate) fn is_greeted(&self, number: ClientNumber) -> bool {
        self.clients.get(&number).is_some_and(|client| client.greeted)
    }

    pub(crate) fn greet(&mut self, number: ClientNumber) {
        if let Some(client) = self.clients.get_mut(&number) {
            client.greeted = true;
        }
    }

    /// Whether the connection has taken everything, so that a stream may go on.
    pub(crate) fn is_drained(&self, number: ClientNumber) -> bool {
        self.clients.get(&number).is_some_and(|client| client.outbound.is_empty())
    }

    /// Queues an answer; it leaves with [`Clients::flush`].
    pub(crate) fn answer(&mut self, to: ReplyTo, response: &Response) {
        let Some(client) = self.clients.get_mut(&to.client) else {
            return;
        };
        if let Err(error) = frame::encode(to.request, response, &mut client.outbound) {
            let refusal = Refusal::definite(RefusalReason::TooLarge, format!("the answer cannot be sent: {error}"));
            frame::encode(to.request, &Response::Refused(refusal), &mut client.outbound)
                .expect("a refusal is smaller than a frame");
        }
        // A client that asks without reading has at most this much waiting; then it is cut off.
        if client.outbound.len() > CLIENT_OUTBOUND_BYTES_MAX {
            self.broken.push(to.client);
        }
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(to.client);
        }
    }

    pub(crate) fn refuse(&mut self, to: ReplyTo, refusal: Refusal) {
        self.answer(to, &Response::Refused(refusal));
    }

    /// The socket can take more.
    pub(crate) fn writable(&mut self, number: ClientNumber) {
        if let Some(client) = self.clients.get_mut(&number) {
            client.awaiting = false;
            if !client.dirty {
                client.dirty = true;
                self.dirty.push(number);
            }
        }
    }

    /// Writes what the turn produced. Connections that turn out broken are returned by [`Clients::take_broken`].
    pub(crate) fn flush(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            let Some(client) = self.clients.get_mut(&number) else {
                continue;
            };
            client.dirty = false;
            if client.awaiting {
                continue;
            }
            match client.write() {
                Ok(true) => {}
                Ok(false) => {
                    client.awaiting = true;
                    let stream = Rc::clone(&client.stream);
                    let inbox = Rc::clone(&self.inbox);
                    tokio::task::spawn_local(async move {
                        // An error shows at the next write or read.
                        let _ = stream.writable().await;
                        inbox.push(Event::ClientWritable(number));
                    });
                }
                Err(error) => {
                    debug!("local connection {} broke: {error}", number.0);
                    self.broken.push(number);
                }
            }
        }
    }

    /// Connections that are of no further use.
    pub(crate) fn take_broken(&mut self) -> Vec<ClientNumber> {
        std::mem::take(&mut self.broken)
    }
}

impl Client {
    /// Writes what the socket takes; whether that was all.
    fn write(&mut self) -> std::io::Result<bool> {
        while self.written < self.outbound.len() {
            match self.stream.try_write(&self.outbound[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.written = 0;
        if self.outbound.capacity() > CLIENT_READ_BYTES {
            self.outbound = Vec::new();
        } else {
            self.outbound.clear();
        }
        Ok(true)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads one connection's requests until it ends.
async fn read(number: ClientNumber, stream: Rc<UnixStream>, inbox: Rc<Inbox>) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; CLIENT_READ_BYTES];
    let why = loop {
        if let Err(error) = stream.readable().await {
            break error.to_string();
        }
        match stream.try_read(&mut buffer) {
            Ok(0) => break "end of stream".to_string(),
            Ok(bytes) => decoder.push(&buffer[..bytes]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => break error.to_string(),
        }
        let failed = loop {
            match decoder.next_frame::<Request>() {
                Ok(Some((request_number, request))) => {
                    let to = ReplyTo { client: number, request: request_number };
                    inbox.push(Event::Request { to, request });
                }
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        if let Some(error) = failed {
            break error;
        }
        // One read per turn: a client that floods the engine waits for the others' turns like everybody else.
        tokio::task::yield_now().await;
    };
    inbox.push(Event::ClientClosed { client: number, why });
}

/// Accepts connections for ever.
pub(crate) async fn listen(listener: UnixListener, inbox: Rc<Inbox>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => inbox.push(Event::ClientAccepted(stream)),
            Err(error) => {
                // Out of descriptors, most likely: others will close theirs.
                warn!("cannot accept a local connection: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}
