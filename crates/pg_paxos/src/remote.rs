//! A connection from this server to another one, for joining and for the checks before a table is replicated.
//!
//! Runs inside a backend or a background worker, on its own thread: every wait is on the process' latch and the
//! connection's socket together, so a cancel, a time-out or a shutdown is served at once. Nothing is shared with the
//! session that caused it: the other server's own authentication decides who may connect.

use std::ffi::{c_int, c_void, CStr, CString};
use std::fmt;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::connection_string::ConnectionString;
use crate::libpq;

/// How long establishing a connection may take where the string does not say `connect_timeout`.
/// A handshake over the slowest link that a group can live with takes a second; ten covers a busy server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the other server could not be asked, or what it answered.
#[derive(Debug, Clone)]
pub struct RemoteError {
    /// The server, by host and port.
    pub server: String,
    /// What was being done there.
    pub doing: String,
    /// The other server's SQLSTATE; none if no answer came.
    pub sqlstate: Option<String>,
    /// The reason.
    pub message: String,
    /// The other server's DETAIL.
    pub detail: Option<String>,
    /// The other server's HINT.
    pub hint: Option<String>,
}

impl RemoteError {
    /// Why a server could not even be asked.
    pub fn local(server: &str, reason: String) -> RemoteError {
        RemoteError {
            server: server.to_owned(),
            doing: "connect".to_owned(),
            sqlstate: None,
            message: reason,
            detail: None,
            hint: None,
        }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "could not {} at {}: {}", self.doing, self.server, self.message)
    }
}

impl std::error::Error for RemoteError {}

/// Rows of a remote query, in text form.
pub struct Rows {
    result: NonNull<libpq::PGresult>,
}

impl Rows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        // SAFETY: the result lives as long as self.
        unsafe { libpq::PQntuples(self.result.as_ptr()) as usize }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One value; none for NULL.
    pub fn value(&self, row: usize, field: usize) -> Option<&str> {
        assert!(row < self.len());
        let (row, field) = (row as c_int, field as c_int);
        // SAFETY: the row is in range as asserted, the field is checked; the value lives as long as the result.
        unsafe {
            assert!(field < libpq::PQnfields(self.result.as_ptr()));
            if libpq::PQgetisnull(self.result.as_ptr(), row, field) != 0 {
                return None;
            }
            let length = libpq::PQgetlength(self.result.as_ptr(), row, field) as usize;
            let bytes = std::slice::from_raw_parts(libpq::PQgetvalue(self.result.as_ptr(), row, field).cast(), length);
            std::str::from_utf8(bytes).ok()
        }
    }

    /// A `bytea` value, decoded from its hexadecimal text form.
    pub fn bytes(&self, row: usize, field: usize) -> Option<Vec<u8>> {
        let digits = self.value(row, field)?.strip_prefix("\\x")?.as_bytes();
        let nibble = |digit: u8| (digit as char).to_digit(16).map(|value| value as u8);
        digits.chunks(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(*pair.get(1)?)?)).collect()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // SAFETY: we own the result.
        unsafe { libpq::PQclear(self.result.as_ptr()) }
    }
}

/// An open connection.
pub struct Remote {
    connection: NonNull<libpq::PGconn>,
    server: String,
}

impl Drop for Remote {
    fn drop(&mut self) {
        // SAFETY: we own the connection.
        unsafe { libpq::PQfinish(self.connection.as_ptr()) }
    }
}

impl Remote {
    /// Connects, interruptibly. The other session names itself `pg_paxos` unless the string says otherwise.
    pub fn connect(string: &ConnectionString) -> Result<Remote, RemoteError> {
        let timeout = string
            .value("connect_timeout")
            .and_then(|seconds| seconds.parse::<u64>().ok())
            .filter(|seconds| *seconds > 0)
            .map_or(CONNECT_TIMEOUT, Duration::from_secs);
        let deadline = Instant::now() + timeout;
        let encoding = database_encoding();
        let settings = string
            .settings()
            .chain([("fallback_application_name", "pg_paxos"), ("client_encoding", encoding.as_str())]);
        let (keywords, values): (Vec<_>, Vec<_>) = settings
            .map(|(keyword, value)| {
                (CString::new(keyword).expect("no zero bytes"), CString::new(value).expect("no zero bytes"))
            })
            .unzip();
        let pointers = |strings: &[CString]| {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        // SAFETY: both arrays end with null and outlive the call.
        let connection =
            unsafe { libpq::PQconnectStartParams(pointers(&keywords).as_ptr(), pointers(&values).as_ptr(), 0) };
        let connection = NonNull::new(connection).expect("libpq had memory for a connection");
        let remote = Remote { connection, server: string.server() };
        // SAFETY: the receiver ignores its argument and lives for ever.
        unsafe { libpq::PQsetNoticeReceiver(connection.as_ptr(), Some(drop_notice), std::ptr::null_mut()) };

        // As libpq's documentation asks: behave at first as if the last poll had said writing.
        let mut wanted = libpq::PGRES_POLLING_WRITING;
        // SAFETY: the connection is ours and open, here and below.
        while unsafe { libpq::PQstatus(connection.as_ptr()) } != libpq::CONNECTION_BAD {
            match wanted {
                libpq::PGRES_POLLING_OK => {
                    // SAFETY: as above.
                    unsafe { libpq::PQsetnonblocking(connection.as_ptr(), 1) };
                    return Ok(remote);
                }
                libpq::PGRES_POLLING_FAILED => break,
                _ => {}
            }
            let events = if wanted == libpq::PGRES_POLLING_READING {
                pg_sys::WL_SOCKET_READABLE
            } else {
                pg_sys::WL_SOCKET_WRITEABLE
            };
            if !remote.wait(events, Some(deadline)) {
                return Err(remote.failed("connect", format!("no answer within {} s", timeout.as_secs())));
            }
            // SAFETY: as above.
            wanted = unsafe { libpq::PQconnectPoll(connection.as_ptr()) };
        }
        Err(remote.failed("connect", remote.connection_error()))
    }

    /// The server, by host and port, as errors name it.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Whether the other server asked for a password.
    pub fn used_password(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { libpq::PQconnectionUsedPassword(self.connection.as_ptr()) != 0 }
    }

    /// Runs one command with text parameters; `doing` completes "could not ... at host" in errors.
    pub fn query(&mut self, doing: &str, command: &str, parameters: &[&str]) -> Result<Rows, RemoteError> {
        self.query_until(doing, command, parameters, None)
    }

    /// As [`Remote::query`], giving up at a deadline; the connection is then of no further use.
    pub fn query_until(
        &mut self,
        doing: &str,
        command: &str,
        parameters: &[&str],
        deadline: Option<Instant>,
    ) -> Result<Rows, RemoteError> {
        self.send(doing, command, parameters, deadline)?;
        let mut last = None;
        while let Some(result) = self.next_result(doing, deadline)? {
            last = Some(self.checked(doing, result, &[libpq::PGRES_COMMAND_OK, libpq::PGRES_TUPLES_OK])?);
        }
        last.ok_or_else(|| self.failed(doing, "no result".to_owned()))
    }

    /// Starts `COPY ... TO STDOUT`; read it with [`Remote::next_copy_data`] until that gives none.
    pub fn start_copy_out(&mut self, doing: &str, command: &str) -> Result<(), RemoteError> {
        self.send(doing, command, &[], None)?;
        let Some(result) = self.next_result(doing, None)? else {
            return Err(self.failed(doing, "no result".to_owned()));
        };
        self.checked(doing, result, &[libpq::PGRES_COPY_OUT]).map(drop)
    }

    /// The next piece of a COPY, or none at its end.
    pub fn next_copy_data(&mut self, doing: &str) -> Result<Option<CopyData>, RemoteError> {
        loop {
            let mut buffer = std::ptr::null_mut();
            // SAFETY: the connection is open; libpq gives us the buffer.
            let length = unsafe { libpq::PQgetCopyData(self.connection.as_ptr(), &mut buffer, 1) };
            match length {
                1.. => return Ok(Some(CopyData { buffer, length: length as usize })),
                0 => {
                    self.wait(pg_sys::WL_SOCKET_READABLE, None);
                    self.consume(doing)?;
                }
                -1 => break,
                _ => return Err(self.failed(doing, self.connection_error())),
            }
        }
        while let Some(result) = self.next_result(doing, None)? {
            self.checked(doing, result, &[libpq::PGRES_COMMAND_OK])?;
        }
        Ok(None)
    }

    /// Starts a command whose answer [`Remote::arrived`] gives. Waits for nothing and raises no PostgreSQL error.
    pub fn start(&mut self, doing: &str, command: &str, parameters: &[&str]) -> Result<(), RemoteError> {
        let command = CString::new(command).expect("commands hold no zero byte");
        let Ok(values) = parameters.iter().map(|value| CString::new(*value)).collect::<Result<Vec<_>, _>>() else {
            return Err(self.failed(doing, "a value holds a zero byte".to_owned()));
        };
        let pointers: Vec<_> = values.iter().map(|value| value.as_ptr()).collect();
        // SAFETY: the arrays have as many entries as said and outlive the call.
        let sent = unsafe {
            libpq::PQsendQueryParams(
                self.connection.as_ptr(),
                command.as_ptr(),
                pointers.len() as c_int,
                std::ptr::null(),
                pointers.as_ptr(),
                std::ptr::null(),
                std::ptr::null(),
                0,
            )
        };
        match sent {
            0 => Err(self.failed(doing, self.connection_error())),
            _ => Ok(()),
        }
    }

    /// The answer to a command that was started, once it is there as a whole. Waits for nothing and raises no PostgreSQL
    /// error.
    pub fn arrived(&mut self, doing: &str) -> Option<Result<Rows, RemoteError>> {
        // SAFETY: the connection is open, here and below.
        if unsafe { libpq::PQflush(self.connection.as_ptr()) } < 0 {
            return Some(Err(self.failed(doing, self.connection_error())));
        }
        if let Err(error) = self.consume(doing) {
            return Some(Err(error));
        }
        // SAFETY: as above; where it is not busy, this does not block.
        let result = match unsafe { libpq::PQisBusy(self.connection.as_ptr()) } {
            0 => NonNull::new(unsafe { libpq::PQgetResult(self.connection.as_ptr()) }),
            _ => return None,
        };
        Some(match result {
            Some(result) => self.checked(doing, result, &[libpq::PGRES_COMMAND_OK, libpq::PGRES_TUPLES_OK]),
            None => Err(self.failed(doing, "no result".to_owned())),
        })
    }

    /// The connection's socket, to wait for what arrives.
    pub fn socket(&self) -> c_int {
        // SAFETY: the connection is open.
        unsafe { libpq::PQsocket(self.connection.as_ptr()) }
    }

    fn send(
        &mut self,
        doing: &str,
        command: &str,
        parameters: &[&str],
        deadline: Option<Instant>,
    ) -> Result<(), RemoteError> {
        self.start(doing, command, parameters)?;
        loop {
            // SAFETY: the connection is open.
            match unsafe { libpq::PQflush(self.connection.as_ptr()) } {
                0 => return Ok(()),
                1 => {
                    // Both ways: the server may send before it reads on.
                    if !self.wait(pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE, deadline) {
                        return Err(self.failed(doing, "no answer in time".to_owned()));
                    }
                    self.consume(doing)?;
                }
                _ => return Err(self.failed(doing, self.connection_error())),
            }
        }
    }

    fn next_result(
        &mut self,
        doing: &str,
        deadline: Option<Instant>,
    ) -> Result<Option<NonNull<libpq::PGresult>>, RemoteError> {
        // SAFETY: the connection is open, here and below.
        while unsafe { libpq::PQisBusy(self.connection.as_ptr()) } != 0 {
            if !self.wait(pg_sys::WL_SOCKET_READABLE, deadline) {
                return Err(self.failed(doing, "no answer in time".to_owned()));
            }
            self.consume(doing)?;
        }
        // SAFETY: as above; not busy, so this does not block.
        Ok(NonNull::new(unsafe { libpq::PQgetResult(self.connection.as_ptr()) }))
    }

    fn consume(&mut self, doing: &str) -> Result<(), RemoteError> {
        // SAFETY: the connection is open.
        if unsafe { libpq::PQconsumeInput(self.connection.as_ptr()) } == 0 {
            return Err(self.failed(doing, self.connection_error()));
        }
        Ok(())
    }

    fn checked(
        &mut self,
        doing: &str,
        result: NonNull<libpq::PGresult>,
        expected: &[c_int],
    ) -> Result<Rows, RemoteError> {
        let rows = Rows { result };
        // SAFETY: the result lives as long as `rows`.
        if expected.contains(&unsafe { libpq::PQresultStatus(result.as_ptr()) }) {
            return Ok(rows);
        }
        let field = |code| {
            // SAFETY: as above; the field is null or terminated.
            unsafe {
                let text = libpq::PQresultErrorField(result.as_ptr(), code);
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        let message = field(libpq::DIAG_MESSAGE_PRIMARY).unwrap_or_else(|| {
            // SAFETY: as above; never null.
            let text = unsafe { CStr::from_ptr(libpq::PQresultErrorMessage(result.as_ptr())) };
            text.to_string_lossy().trim().to_owned()
        });
        let message = if message.is_empty() { "unexpected kind of answer".to_owned() } else { message };
        Err(RemoteError {
            sqlstate: field(libpq::DIAG_SQLSTATE),
            detail: field(libpq::DIAG_MESSAGE_DETAIL),
            hint: field(libpq::DIAG_MESSAGE_HINT),
            ..self.failed(doing, message)
        })
    }

    fn connection_error(&self) -> String {
        // SAFETY: the connection is ours; the message is terminated and owned by it.
        let message = unsafe { CStr::from_ptr(libpq::PQerrorMessage(self.connection.as_ptr())) };
        let message = message.to_string_lossy().split_whitespace().collect::<Vec<_>>().join(" ");
        if message.is_empty() {
            "the connection was lost".to_owned()
        } else {
            message
        }
    }

    fn failed(&self, doing: &str, message: String) -> RemoteError {
        RemoteError {
            server: self.server.clone(),
            doing: doing.to_owned(),
            sqlstate: None,
            message,
            detail: None,
            hint: None,
        }
    }

    /// Waits for the socket, serving interrupts; false if the deadline came first.
    fn wait(&self, events: u32, deadline: Option<Instant>) -> bool {
        loop {
            pgrx::check_for_interrupts!();
            let mut wake = events | pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
            let mut timeout_ms = -1;
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return false;
                }
                wake |= pg_sys::WL_TIMEOUT;
                timeout_ms = left.as_millis() as std::ffi::c_long + 1;
            }
            // SAFETY: called on the process' own thread; the socket belongs to the open connection.
            let happened = unsafe {
                let socket = libpq::PQsocket(self.connection.as_ptr());
                pg_sys::WaitLatchOrSocket(pg_sys::MyLatch, wake as c_int, socket, timeout_ms, pg_sys::PG_WAIT_EXTENSION)
                    as u32
            };
            if happened & pg_sys::WL_LATCH_SET != 0 {
                // SAFETY: our own latch.
                unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
            }
            if happened & events != 0 {
                return true;
            }
        }
    }
}

/// A piece of a COPY stream.
pub struct CopyData {
    buffer: *mut std::ffi::c_char,
    length: usize,
}

impl std::ops::Deref for CopyData {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: libpq gave us a buffer of this length.
        unsafe { std::slice::from_raw_parts(self.buffer.cast(), self.length) }
    }
}

impl Drop for CopyData {
    fn drop(&mut self) {
        // SAFETY: libpq allocated it for us.
        unsafe { libpq::PQfreemem(self.buffer.cast()) }
    }
}

/// Notices of the other server are not ours to repeat: libpq would print them to the server log's stream unformatted.
unsafe extern "C" fn drop_notice(_argument: *mut c_void, _result: *const libpq::PGresult) {}

fn database_encoding() -> String {
    // SAFETY: reads backend-local state; the name is static.
    unsafe { CStr::from_ptr(pg_sys::pg_encoding_to_char(pg_sys::GetDatabaseEncoding())).to_string_lossy().into_owned() }
}
