//! A client's connection to the engine of its own machine.

use crate::frame::{self, Decoder, CHECKPOINT_PIECE_BYTES};
use crate::request::{Answer, Origin, Request, RequestNumber};
use crate::response::{Engine, Outcome, Response, Settled};
use crate::{
    DecidedBatch, Error, GroupDescription, GroupId, LogId, OperationId, Refusal, RefusalReason, Slot, Status,
    PROTOCOL_VERSION,
};
use bytes::Bytes;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How much is read from the socket at once, in bytes: more than a pipelined batch of small answers.
const READ_BYTES: usize = 64 << 10;

/// How much longer than the engine a blocking call waits, so that the engine's own, better informed refusal arrives.
const GRACE: Duration = Duration::from_millis(500);

/// A connection to the engine.
///
/// `send`, `flush` and `try_receive` never block; `receive` and the calls below it block in `poll(2)` on this one
/// descriptor. A connection that returned [`Error::Lost`], [`Error::Malformed`] or [`Error::TooLarge`] from receiving
/// is of no further use.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    engine: Engine,
    decoder: Decoder,
    outbound: Vec<u8>,
    /// How much of `outbound` the socket took already.
    written: usize,
    number: u32,
    /// Responses that a blocking call met while it waited for its own.
    aside: VecDeque<(RequestNumber, Response)>,
    buffer: Box<[u8]>,
}

impl Connection {
    /// Connects to the engine's socket and exchanges the hello. Waits at most `wait`.
    pub fn connect(socket: &Path, wait: Duration) -> Result<Connection, Error> {
        let unreachable = |source| Error::Connect { path: socket.display().to_string(), source };
        let stream = UnixStream::connect(socket).map_err(unreachable)?;
        stream.set_nonblocking(true).map_err(unreachable)?;
        let mut connection = Connection {
            stream,
            engine: Engine {
                node: crate::NodeId(0),
                start: crate::Start(0),
                address: String::new(),
                public_key: Bytes::new(),
            },
            decoder: Decoder::default(),
            outbound: Vec::new(),
            written: 0,
            number: 0,
            aside: VecDeque::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        };
        let hello = Request::Hello { version: PROTOCOL_VERSION };
        match connection.call(&hello, wait)? {
            Response::Hello(engine) => connection.engine = engine,
            other => return Err(unexpected(&other)),
        }
        Ok(connection)
    }

    /// The descriptor, for a readiness call.
    pub fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Who answers at the other end.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Queues a request and writes what the socket takes. Never blocks.
    pub fn send(&mut self, request: &Request) -> Result<RequestNumber, Error> {
        let number = RequestNumber(self.number);
        self.number = self.number.wrapping_add(1);
        frame::encode(number, request, &mut self.outbound)?;
        self.flush()?;
        Ok(number)
    }

    /// Writes what the socket takes of the queued requests; whether nothing is left. Never blocks.
    pub fn flush(&mut self) -> Result<bool, Error> {
        while self.written < self.outbound.len() {
            match self.stream.write(&self.outbound[self.written..]) {
                Ok(0) => return Err(lost("the socket takes no more")),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
        self.outbound.clear();
        self.written = 0;
        if self.outbound.capacity() > CHECKPOINT_PIECE_BYTES {
            self.outbound = Vec::new();
        }
        Ok(true)
    }

    /// Whether queued requests wait for the socket: then wait for writability too, and call [`Connection::flush`].
    pub fn wants_write(&self) -> bool {
        self.written < self.outbound.len()
    }

    /// The next response, if one has arrived. Never blocks.
    pub fn try_receive(&mut self) -> Result<Option<(RequestNumber, Response)>, Error> {
        if let Some(response) = self.aside.pop_front() {
            return Ok(Some(response));
        }
        self.try_receive_fresh()
    }

    fn try_receive_fresh(&mut self) -> Result<Option<(RequestNumber, Response)>, Error> {
        loop {
            if let Some(response) = self.decoder.next_frame()? {
                return Ok(Some(response));
            }
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(lost("the engine closed it")),
                Ok(bytes) => self.decoder.push(&self.buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
    }

    /// The next response, waiting for it until `deadline`; `None` if none came.
    pub fn receive(&mut self, deadline: Instant) -> Result<Option<(RequestNumber, Response)>, Error> {
        if let Some(response) = self.aside.pop_front() {
            return Ok(Some(response));
        }
        self.receive_fresh(deadline)
    }

    fn receive_fresh(&mut self, deadline: Instant) -> Result<Option<(RequestNumber, Response)>, Error> {
        loop {
            self.flush()?;
            if let Some(response) = self.try_receive_fresh()? {
                return Ok(Some(response));
            }
            if !self.wait(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits until the socket is ready or the deadline passed; whether it may be ready.
    fn wait(&self, deadline: Instant) -> Result<bool, Error> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(false);
        }
        let mut flags = PollFlags::IN;
        if self.wants_write() {
            flags |= PollFlags::OUT;
        }
        let timeout = Timespec {
            tv_sec: remaining.as_secs().min(i32::MAX as u64) as i64,
            tv_nsec: i64::from(remaining.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&self.stream, flags)], Some(&timeout)) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(lost(error)),
        }
    }

    /// Sends a request and waits for its final response. Responses to other requests are set aside for
    /// [`Connection::try_receive`]. A refusal comes as [`Error::Refused`].
    pub fn call(&mut self, request: &Request, wait: Duration) -> Result<Response, Error> {
        self.call_with_progress(request, wait, |_| {})
    }

    /// As [`Connection::call`], and hands every progress message on.
    pub fn call_with_progress(
        &mut self,
        request: &Request,
        wait: Duration,
        mut progress: impl FnMut(&str),
    ) -> Result<Response, Error> {
        let deadline = Instant::now() + wait + GRACE;
        let number = self.send(request)?;
        loop {
            match self.receive_fresh(deadline)? {
                None => return Err(Error::Deadline),
                Some((arrived, response)) if arrived != number => self.aside.push_back((arrived, response)),
                Some((_, Response::Progress(step))) => progress(&step.message),
                Some((_, Response::Refused(refusal))) => return Err(refusal.into()),
                Some((_, response)) => return Ok(response),
            }
        }
    }

    /// A fresh operation id from the engine.
    pub fn operation_id(&mut self, wait: Duration) -> Result<OperationId, Error> {
        match self.call(&Request::OperationId, wait)? {
            Response::OperationId(id) => Ok(id),
            other => Err(unexpected(&other)),
        }
    }

    /// Every group on this node.
    pub fn groups(&mut self, wait: Duration) -> Result<Vec<GroupDescription>, Error> {
        match self.call(&Request::Groups, wait)? {
            Response::Groups(groups) => Ok(groups),
            other => Err(unexpected(&other)),
        }
    }

    /// The engine's status.
    pub fn status(&mut self, wait: Duration) -> Result<Status, Error> {
        match self.call(&Request::Status, wait)? {
            Response::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a group with this node as its only voter.
    pub fn create_group(
        &mut self,
        name: &str,
        kind: &str,
        label: &str,
        database: &str,
        wait: Duration,
    ) -> Result<GroupDescription, Error> {
        let request = Request::CreateGroup {
            name: name.to_string(),
            kind: kind.to_string(),
            label: label.to_string(),
            database: database.to_string(),
        };
        match self.call(&request, wait)? {
            Response::Group(group) => Ok(group),
            other => Err(unexpected(&other)),
        }
    }

    /// Proposes an operation and waits for its outcome.
    pub fn propose(
        &mut self,
        group: GroupId,
        id: OperationId,
        body: Bytes,
        origin: Option<Origin>,
        wait: Duration,
    ) -> Result<Outcome, Error> {
        let request = Request::Propose { group, id, body, origin, answer: Answer::Always, wait_ms: milliseconds(wait) };
        match self.call(&request, wait)? {
            Response::Outcome(outcome) => Ok(outcome),
            other => Err(unexpected(&other)),
        }
    }

    /// Puts a value into a log of values, in place of the one at slot `follows`; the slot at which it stands.
    pub fn put_value(
        &mut self,
        (group, log): (GroupId, LogId),
        id: OperationId,
        follows: Slot,
        value: Bytes,
        wait: Duration,
    ) -> Result<Slot, Error> {
        let request = Request::PutValue { group, log, id, follows, value, wait_ms: milliseconds(wait) };
        match self.call(&request, wait)? {
            Response::Outcome(outcome) => Ok(outcome.slot),
            other => Err(unexpected(&other)),
        }
    }

    /// The newest value of a log of values, with its slot; at slot zero there is none.
    pub fn value(&mut self, group: GroupId, log: LogId, wait: Duration) -> Result<(Slot, Bytes), Error> {
        let request = Request::Value { group, log, wait_ms: milliseconds(wait) };
        match self.call(&request, wait)? {
            Response::Value { slot, value } => Ok((slot, value)),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for a barrier.
    pub fn barrier(&mut self, group: GroupId, wait: Duration) -> Result<Slot, Error> {
        let request = Request::Barrier { group, wait_ms: milliseconds(wait) };
        match self.call(&request, wait)? {
            Response::Barrier { slot } => Ok(slot),
            other => Err(unexpected(&other)),
        }
    }

    /// What became of an operation; closes it if it is undecided.
    pub fn outcome_of(&mut self, group: GroupId, id: OperationId, wait: Duration) -> Result<Settled, Error> {
        let request = Request::OutcomeOf { group, id, wait_ms: milliseconds(wait) };
        match self.call(&request, wait)? {
            Response::Settled(settled) => Ok(settled),
            other => Err(unexpected(&other)),
        }
    }

    /// One decided slot with its body.
    pub fn entry(&mut self, group: GroupId, slot: Slot, wait: Duration) -> Result<DecidedBatch, Error> {
        match self.call(&Request::Entry { group, slot }, wait)? {
            Response::Decided(batch) => Ok(batch),
            other => Err(unexpected(&other)),
        }
    }

    /// The whole checkpoint kept for a mark.
    pub fn checkpoint(&mut self, group: GroupId, slot: Slot, wait: Duration) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        loop {
            let request = Request::Checkpoint { group, slot, offset: whole.len() as u64 };
            match self.call(&request, wait)? {
                Response::CheckpointPiece { length, piece } => {
                    whole.extend_from_slice(&piece);
                    if whole.len() as u64 >= length {
                        return Ok(whole);
                    }
                    if piece.is_empty() {
                        return Err(Error::Malformed {
                            what: format!("checkpoint ends at {} of {length} bytes", whole.len()),
                        });
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Installs a checkpoint that belongs to a state copy at `slot`.
    pub fn install_checkpoint(
        &mut self,
        group: GroupId,
        slot: Slot,
        checkpoint: &[u8],
        wait: Duration,
    ) -> Result<(), Error> {
        let length = checkpoint.len() as u64;
        let mut offset = 0;
        loop {
            let end = checkpoint.len().min(offset + CHECKPOINT_PIECE_BYTES);
            let request = Request::InstallCheckpoint {
                group,
                slot,
                offset: offset as u64,
                length,
                piece: Bytes::copy_from_slice(&checkpoint[offset..end]),
            };
            self.done(&request, wait)?;
            offset = end;
            if offset == checkpoint.len() {
                return Ok(());
            }
        }
    }

    /// Sends a request whose answer is [`Response::Done`].
    pub fn done(&mut self, request: &Request, wait: Duration) -> Result<(), Error> {
        match self.call(request, wait)? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The group of this name on this node.
    pub fn group_named(&mut self, name: &str, wait: Duration) -> Result<GroupDescription, Error> {
        let groups = self.groups(wait)?;
        groups.into_iter().find(|group| group.name == name).ok_or_else(|| {
            Refusal::definite(RefusalReason::UnknownGroup, format!("group \"{name}\" does not exist on this node"))
                .into()
        })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A wait as requests carry it.
fn milliseconds(wait: Duration) -> u32 {
    wait.as_millis().min(u128::from(u32::MAX)) as u32
}

fn lost(what: impl std::fmt::Display) -> Error {
    Error::Lost { what: what.to_string() }
}

fn unexpected(response: &Response) -> Error {
    let text = format!("{response:?}");
    Error::Malformed { what: format!("unexpected response {}", text.chars().take(80).collect::<String>()) }
}
