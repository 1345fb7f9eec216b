//! This process's connection to the engine, and waits that PostgreSQL can interrupt.
//!
//! One connection per process, opened when first needed and opened again when the engine was restarted. A wait ends
//! when the engine answers, when the process's latch is set (a turn has come, a position was reached, a cancel), or at
//! the deadline. The set of events waited for is made once: making one per wait costs six system calls.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use client::{shown, Certainty, Connection, Error, Refusal, RefusalReason, Request, RequestNumber, Response};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{pg_sys, PgLogLevel, PgSqlErrorCode};

use crate::settings;
use crate::shared::Area;

/// How long to wait for the hello: the engine answers at once or is not there.
const HELLO_WAIT: Duration = Duration::from_secs(2);

/// How often a process looks for the engine while it is being restarted.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// How much longer than the engine a call waits, so that the engine's own, better informed refusal arrives.
const GRACE: Duration = Duration::from_millis(500);

/// An open connection with what is needed to wait for it.
pub struct EngineConnection {
    connection: Connection,
    /// The engine's start that this connection belongs to.
    incarnation: u64,
    events: Events,
    /// Whether [`with_fresh`] has not yet told of it.
    is_fresh: bool,
    /// Whether a stream arrives on this connection, of which a call in between must lose nothing.
    has_stream: bool,
    /// What a call in between met of the stream.
    aside: VecDeque<(RequestNumber, Response)>,
}

/// The events that a wait watches: the latch, the postmaster's death, the socket.
struct Events {
    set: *mut pg_sys::WaitEventSet,
    socket: i32,
    writable: bool,
}

impl Events {
    fn new(fd: RawFd) -> Events {
        // SAFETY: called on the main thread of a process with a latch; the set lives in TopMemoryContext until it is
        // freed when dropped.
        unsafe {
            let set = pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, 3);
            let none = std::ptr::null_mut();
            pg_sys::AddWaitEventToSet(set, pg_sys::WL_LATCH_SET, pg_sys::PGINVALID_SOCKET, pg_sys::MyLatch, none);
            pg_sys::AddWaitEventToSet(
                set,
                pg_sys::WL_EXIT_ON_PM_DEATH,
                pg_sys::PGINVALID_SOCKET,
                std::ptr::null_mut(),
                none,
            );
            let socket = pg_sys::AddWaitEventToSet(set, pg_sys::WL_SOCKET_READABLE, fd, std::ptr::null_mut(), none);
            Events { set, socket, writable: false }
        }
    }

    /// Whether the socket is ready.
    fn wait(&mut self, timeout: Option<Duration>, writable: bool) -> bool {
        // A wait of zero would spin when less than a millisecond is left.
        let milliseconds = timeout.map_or(-1, |timeout| {
            i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).saturating_add(1).min(i64::from(i32::MAX))
        });
        // SAFETY: the set was made by `new` on this thread; one event is room enough, the others stay pending.
        unsafe {
            if self.writable != writable {
                let events = pg_sys::WL_SOCKET_READABLE | if writable { pg_sys::WL_SOCKET_WRITEABLE } else { 0 };
                pg_sys::ModifyWaitEvent(self.set, self.socket, events, std::ptr::null_mut());
                self.writable = writable;
            }
            let mut event = pg_sys::WaitEvent::default();
            pg_sys::WaitEventSetWait(self.set, milliseconds, &mut event, 1, pg_sys::PG_WAIT_EXTENSION);
            if event.events & pg_sys::WL_LATCH_SET != 0 {
                pg_sys::ResetLatch(pg_sys::MyLatch);
            }
            event.events & (pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE) != 0
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed only here.
        unsafe { pg_sys::FreeWaitEventSet(self.set) };
    }
}

thread_local! {
    /// This process's connection; a process has one thread that calls PostgreSQL.
    static CONNECTION: RefCell<Option<EngineConnection>> = const { RefCell::new(None) };
}

/// The engine's socket.
pub fn socket_path() -> PathBuf {
    settings::data_directory().join("socket").join(client::SOCKET_NAME)
}

impl EngineConnection {
    fn open() -> Result<EngineConnection, Error> {
        let incarnation = Area::attached().engine_incarnation().ok_or_else(not_running)?;
        let connection = Connection::connect(&socket_path(), HELLO_WAIT)?;
        let events = Events::new(connection.fd());
        Ok(EngineConnection {
            connection,
            incarnation,
            events,
            is_fresh: true,
            has_stream: false,
            aside: VecDeque::new(),
        })
    }

    fn is_current(&self) -> bool {
        Area::attached().engine_incarnation() == Some(self.incarnation)
    }

    /// Queues a request. Never blocks.
    pub fn send(&mut self, request: &Request) -> Result<RequestNumber, Error> {
        self.connection.send(request)
    }

    /// The next response, if one has arrived. Never blocks.
    pub fn try_receive(&mut self) -> Result<Option<(RequestNumber, Response)>, Error> {
        match self.aside.pop_front() {
            Some(response) => Ok(Some(response)),
            None => self.connection.try_receive(),
        }
    }

    /// Waits until something arrives, this process's latch is set, or the time is over. Interrupts are the caller's
    /// to look for. Whether the socket is ready.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, Error> {
        let writable = !self.connection.flush()?;
        Ok(self.events.wait(timeout, writable))
    }
}

fn not_running() -> Error {
    Refusal::definite(RefusalReason::Stopping, "the pg_paxos engine is not running")
        .with_hint("It is started with the server and restarted when it fails; the server's log says why it stopped.")
        .into()
}

/// Runs `action` with this process's connection, opened first if necessary. A connection that fails is closed, so that
/// the next use opens a new one. `action` must not come back here.
pub fn with<T>(action: impl FnOnce(&mut EngineConnection) -> Result<T, Error>) -> Result<T, Error> {
    CONNECTION.with_borrow_mut(|place| {
        if place.as_ref().is_some_and(|connection| !connection.is_current()) {
            *place = None;
        }
        if place.is_none() {
            *place = Some(EngineConnection::open()?);
        }
        let connection = place.as_mut().expect("just opened");
        let result = action(connection);
        if let Err(Error::Lost { .. } | Error::Malformed { .. }) = result {
            *place = None;
        }
        result
    })
}

/// As [`with`], for a process that reads a stream: tells whether the connection was opened for this call, since what
/// was asked on an older one is lost.
pub fn with_fresh<T>(action: impl FnOnce(&mut EngineConnection, bool) -> Result<T, Error>) -> Result<T, Error> {
    with(|connection| {
        let is_fresh = std::mem::replace(&mut connection.is_fresh, false);
        connection.has_stream = true;
        action(connection, is_fresh)
    })
}

/// Closes this process's connection.
pub fn close() {
    CONNECTION.with_borrow_mut(|place| *place = None);
}

/// Asks the engine and waits for its final answer, at most `wait`. The wait can be interrupted: then PostgreSQL's own
/// error is raised and the answer, when it comes, is dropped. A refusal comes as [`Error::Refused`].
pub fn call(request: &Request, wait: Duration) -> Result<Response, Error> {
    call_with_progress(request, wait, |_| {})
}

/// As [`call`], and hands every progress message on.
pub fn call_with_progress(
    request: &Request,
    wait: Duration,
    mut progress: impl FnMut(&str),
) -> Result<Response, Error> {
    let deadline = Instant::now() + wait + GRACE;
    await_engine(deadline)?;
    with(|connection| {
        let number = connection.send(request)?;
        loop {
            while let Some((arrived, response)) = connection.connection.try_receive()? {
                match response {
                    response if arrived != number => {
                        if connection.has_stream {
                            connection.aside.push_back((arrived, response));
                        }
                    }
                    Response::Progress(step) => progress(&shown(&step.message)),
                    Response::Refused(refusal) => return Err(refusal.into()),
                    response => return Ok(response),
                }
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(Error::Deadline);
            }
            connection.wait(Some(remaining))?;
            serve_interrupts();
        }
    })
}

/// Asks for a barrier on a connection of its own and without a single PostgreSQL call, for the report of an error.
/// `None` if there was no answer.
pub fn ask_barrier(group: client::GroupId, wait: Duration) -> Option<client::Slot> {
    let mut connection = Connection::connect(&socket_path(), wait).ok()?;
    connection.barrier(group, wait).ok()
}

/// Waits until the engine serves, for instance while it is being restarted.
pub fn await_engine(deadline: Instant) -> Result<(), Error> {
    while Area::attached().engine_incarnation().is_none() {
        if Instant::now() >= deadline {
            return Err(not_running());
        }
        pause(RECONNECT_PAUSE);
    }
    Ok(())
}

/// Sleeps on the latch; PostgreSQL may interrupt it.
pub fn pause(time: Duration) {
    // SAFETY: the usual wait of a PostgreSQL process, on its main thread.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1),
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    serve_interrupts();
}

/// Serves what PostgreSQL wants of this process. A transaction that was doomed meanwhile says so in its own words: the
/// words that the signal brought along were dropped with the frame of the wait.
fn serve_interrupts() {
    crate::conflict::raise_if_doomed();
    pgrx::check_for_interrupts!();
}

/// The SQLSTATE that a failure of the engine is reported with.
pub fn sqlstate(error: &Error) -> PgSqlErrorCode {
    match error {
        Error::Refused(refusal) => sqlstate_of_refusal(refusal),
        Error::TooLarge { .. } => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        _ => PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
    }
}

fn sqlstate_of_refusal(refusal: &Refusal) -> PgSqlErrorCode {
    if refusal.certainty == Certainty::Unknown {
        return PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN;
    }
    match refusal.reason {
        RefusalReason::UnknownGroup | RefusalReason::UnknownMember => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        RefusalReason::GroupExists => PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
        RefusalReason::TooLarge => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        RefusalReason::Full => PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        RefusalReason::Conflict => PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        RefusalReason::Change | RefusalReason::NotAMember | RefusalReason::NoState | RefusalReason::Gone => {
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
        }
        RefusalReason::Invalid => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        RefusalReason::Storage => PgSqlErrorCode::ERRCODE_IO_ERROR,
        _ => PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
    }
}

/// Raises a failure of the engine as a PostgreSQL error: what was attempted, why it failed, who answers, what to do.
pub fn raise(attempted: &str, error: &Error) -> ! {
    let message = shown(&format!("{attempted}: {error}")).into_owned();
    let mut report = ErrorReport::new(sqlstate(error), message, "pg_paxos");
    if let Error::Refused(refusal) = error {
        let contact = refusal.contact();
        if !contact.is_empty() {
            report = report.set_detail(shown(&contact));
        }
        if !refusal.hint.is_empty() {
            report = report.set_hint(shown(&refusal.hint));
        }
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an error was reported");
}
