//! The part of libpq that the extension uses, declared by hand.
//!
//! Servers that join reach an existing one by a connection string that a person wrote for libpq: password files, service
//! files, certificates and Kerberos must work as they do for `psql`. libpq is on every machine that has a PostgreSQL
//! server, and its non-blocking calls fit PostgreSQL's own latch, so no thread and no second event loop enters the
//! backend. See docs/decisions/ on why this and not a Rust client.

use std::ffi::{c_char, c_int, c_void};

/// A connection; opaque.
#[repr(C)]
pub struct PGconn {
    _opaque: [u8; 0],
}

/// The result of one command; opaque.
#[repr(C)]
pub struct PGresult {
    _opaque: [u8; 0],
}

/// One setting of a connection string, as `PQconninfoParse` gives them.
#[repr(C)]
pub struct ConninfoOption {
    /// The setting's name; null ends the array.
    pub keyword: *mut c_char,
    /// The environment variable that would give it.
    pub envvar: *mut c_char,
    /// Its built-in default.
    pub compiled: *mut c_char,
    /// What the string says, or null.
    pub val: *mut c_char,
    /// How a form would label it.
    pub label: *mut c_char,
    /// `*` for what must not be shown, `D` for what only developers see.
    pub dispchar: *mut c_char,
    /// How wide a form field would be.
    pub dispsize: c_int,
}

/// `ConnStatusType`: connected.
pub const CONNECTION_OK: c_int = 0;
/// `ConnStatusType`: failed.
pub const CONNECTION_BAD: c_int = 1;

/// `PostgresPollingStatusType`: failed.
pub const PGRES_POLLING_FAILED: c_int = 0;
/// `PostgresPollingStatusType`: wait until the socket can be read.
pub const PGRES_POLLING_READING: c_int = 1;
/// `PostgresPollingStatusType`: wait until the socket can be written.
pub const PGRES_POLLING_WRITING: c_int = 2;
/// `PostgresPollingStatusType`: connected.
pub const PGRES_POLLING_OK: c_int = 3;

/// `ExecStatusType`: a command that gives no rows is done.
pub const PGRES_COMMAND_OK: c_int = 1;
/// `ExecStatusType`: rows.
pub const PGRES_TUPLES_OK: c_int = 2;
/// `ExecStatusType`: COPY TO STDOUT begins.
pub const PGRES_COPY_OUT: c_int = 3;

/// `PG_DIAG_SQLSTATE`.
pub const DIAG_SQLSTATE: c_int = b'C' as c_int;
/// `PG_DIAG_MESSAGE_PRIMARY`.
pub const DIAG_MESSAGE_PRIMARY: c_int = b'M' as c_int;
/// `PG_DIAG_MESSAGE_DETAIL`.
pub const DIAG_MESSAGE_DETAIL: c_int = b'D' as c_int;
/// `PG_DIAG_MESSAGE_HINT`.
pub const DIAG_MESSAGE_HINT: c_int = b'H' as c_int;

/// Called with each notice or warning that the other server sends.
pub type NoticeReceiver = unsafe extern "C" fn(argument: *mut c_void, result: *const PGresult);

#[link(name = "pq")]
extern "C" {
    #![allow(missing_docs)]
    pub fn PQconninfoParse(conninfo: *const c_char, errmsg: *mut *mut c_char) -> *mut ConninfoOption;
    pub fn PQconninfoFree(options: *mut ConninfoOption);
    pub fn PQfreemem(pointer: *mut c_void);
    pub fn PQconnectStartParams(
        keywords: *const *const c_char,
        values: *const *const c_char,
        expand_dbname: c_int,
    ) -> *mut PGconn;
    pub fn PQconnectPoll(conn: *mut PGconn) -> c_int;
    pub fn PQfinish(conn: *mut PGconn);
    pub fn PQsetNoticeReceiver(
        conn: *mut PGconn,
        receiver: Option<NoticeReceiver>,
        argument: *mut c_void,
    ) -> Option<NoticeReceiver>;
    pub fn PQstatus(conn: *const PGconn) -> c_int;
    pub fn PQsocket(conn: *const PGconn) -> c_int;
    pub fn PQerrorMessage(conn: *const PGconn) -> *mut c_char;
    pub fn PQconnectionUsedPassword(conn: *const PGconn) -> c_int;
    pub fn PQsetnonblocking(conn: *mut PGconn, nonblocking: c_int) -> c_int;
    pub fn PQflush(conn: *mut PGconn) -> c_int;
    pub fn PQsendQueryParams(
        conn: *mut PGconn,
        command: *const c_char,
        parameters: c_int,
        types: *const u32,
        values: *const *const c_char,
        lengths: *const c_int,
        formats: *const c_int,
        result_format: c_int,
    ) -> c_int;
    pub fn PQconsumeInput(conn: *mut PGconn) -> c_int;
    pub fn PQisBusy(conn: *mut PGconn) -> c_int;
    pub fn PQgetResult(conn: *mut PGconn) -> *mut PGresult;
    pub fn PQgetCopyData(conn: *mut PGconn, buffer: *mut *mut c_char, asynchronous: c_int) -> c_int;
    pub fn PQresultStatus(result: *const PGresult) -> c_int;
    pub fn PQresultErrorField(result: *const PGresult, field: c_int) -> *mut c_char;
    pub fn PQresultErrorMessage(result: *const PGresult) -> *mut c_char;
    pub fn PQntuples(result: *const PGresult) -> c_int;
    pub fn PQnfields(result: *const PGresult) -> c_int;
    pub fn PQgetisnull(result: *const PGresult, row: c_int, field: c_int) -> c_int;
    pub fn PQgetvalue(result: *const PGresult, row: c_int, field: c_int) -> *mut c_char;
    pub fn PQgetlength(result: *const PGresult, row: c_int, field: c_int) -> c_int;
    pub fn PQclear(result: *mut PGresult);
}
