//! Errors that must say more than PostgreSQL knows, worded anew where they are reported, and only there.
//!
//! Three cases. A transaction that was doomed ends by a cancel, which PostgreSQL words as "canceling statement due to
//! user request"; the client must see 40001. An error after the log chose a transaction must not look as if the
//! transaction had failed; the client must see 08007. And a statement that went without a barrier may have failed on a
//! state that is not the latest; the client must see 40001.
//!
//! The one device is PostgreSQL's `emit_log_hook`, which `EmitErrorReport` calls with the finished error before it goes
//! to the log and to the client. It holds wherever the error came from: the planner, a lock wait, COPY, a wait of ours,
//! a trigger. Nothing is caught and thrown again, which would strip fields from every error on the server, and nothing
//! is put on PostgreSQL's stack of error callbacks: an entry there must not outlive the frame that put it there, since
//! every PG_TRY saves the stack and puts it back.
//!
//! Until it is reported a doomed transaction's error stays the cancel that it is. That is of use: PL/pgSQL's
//! `WHEN OTHERS` does not catch a cancel, so a function cannot by accident go on in a transaction that cannot commit.
//!
//! PostgreSQL calls the hook for what goes to the server's log only. Where `log_min_messages` keeps errors out of it,
//! [`let_errors_through`] lowers that setting while there may be something to say, and the hook takes back what the
//! setting as the user knows it would have kept out.

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, CStr, CString};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicI32, Ordering};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{pg_sys, PgLogLevel, PgSqlErrorCode};

use crate::{commit, conflict, statement_hooks};

mod raw {
    //! Without pgrx's guard, which would make an error of it: this cannot raise one.
    use pgrx::pg_sys;
    use std::ffi::{c_int, c_void};

    extern "C-unwind" {
        pub fn MemoryContextAllocExtended(context: pg_sys::MemoryContext, size: usize, flags: c_int) -> *mut c_void;
    }
}

/// What an error is turned into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The new SQLSTATE.
    pub code: PgSqlErrorCode,
    /// The new primary message.
    pub message: String,
    /// The new DETAIL.
    pub detail: String,
    /// The new HINT.
    pub hint: String,
}

/// An error or the end of a session, about to be reported.
#[derive(Debug)]
pub struct Report<'a> {
    /// Its SQLSTATE.
    pub code: c_int,
    /// Its primary message.
    pub message: &'a str,
}

impl Report<'_> {
    /// Whether its SQLSTATE is this one.
    pub fn is(&self, code: PgSqlErrorCode) -> bool {
        self.code == code as c_int
    }

    /// Whether it is how PostgreSQL words a cancel or the end of a session; or the end of a wait for a lock, which a
    /// transaction may meet instead in the same moment.
    pub fn is_interrupt(&self) -> bool {
        [
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
            PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN,
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED,
        ]
        .into_iter()
        .any(|code| self.is(code))
    }
}

impl Rewrite {
    /// Raises an error of these words.
    pub fn raise(self) -> ! {
        ErrorReport::new(self.code, self.message, "pg_paxos")
            .set_detail(self.detail)
            .set_hint(self.hint)
            .report(PgLogLevel::ERROR);
        unreachable!("an error was reported");
    }

    /// Whether a report that comes after the end of the transaction is that of its error. Any may be, where the outcome
    /// is unknown; a doomed one ends by an interrupt.
    fn is_said_of(&self, report: &Report) -> bool {
        match self.code {
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE => report.is_interrupt(),
            code => !report.is(code),
        }
    }

    /// Puts these words into the error under way.
    fn apply(&self, data: &mut pg_sys::ErrorData) {
        let context = data.assoc_context;
        let message = copy(context, &self.message);
        if message.is_null() {
            // No memory: the error is reported as it was.
            return;
        }
        data.sqlerrcode = self.code as c_int;
        data.message = message;
        data.message_id = message;
        data.detail = copy(context, &self.detail);
        data.detail_log = std::ptr::null_mut();
        data.hint = copy(context, &self.hint);
    }
}

/// A C string in the context of the error, which is freed with it; null if there is no memory.
fn copy(context: pg_sys::MemoryContext, text: &str) -> *mut c_char {
    let text = CString::new(text.replace('\0', " ")).expect("NULs were replaced");
    let bytes = text.as_bytes_with_nul();
    // SAFETY: the context is the error's own; the memory has room for all bytes.
    unsafe {
        let memory = raw::MemoryContextAllocExtended(context, bytes.len(), pg_sys::MCXT_ALLOC_NO_OOM as c_int);
        if !memory.is_null() {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.cast(), bytes.len());
        }
        memory.cast()
    }
}

static mut PREVIOUS: pg_sys::emit_log_hook_type = None;

/// `log_min_messages` as the user knows it, while errors are let through; [`AS_IT_IS`] if they are not.
static USERS_LEVEL: AtomicI32 = AtomicI32::new(AS_IT_IS);

/// No level of PostgreSQL's.
const AS_IT_IS: i32 = -1;

thread_local! {
    /// Whether an error was reported since the transaction began.
    static IS_REPORTED: Cell<bool> = const { Cell::new(false) };
    /// What is to be said of the transaction that has just ended, should its error be reported only now.
    static UNTOLD: RefCell<Option<Rewrite>> = const { RefCell::new(None) };
}

/// Installs the hook. Called once, from `_PG_init`.
pub fn register() {
    // SAFETY: _PG_init runs alone in the postmaster.
    unsafe {
        PREVIOUS = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(before_report);
    }
}

/// Makes sure that the hook is called for errors, until [`end_letting_through`]. Stores plain integers only, so a
/// signal handler may call it.
pub fn let_errors_through() {
    // SAFETY: a plain variable of this process.
    unsafe {
        let level = pg_sys::log_min_messages;
        if USERS_LEVEL.load(Ordering::SeqCst) == AS_IT_IS && !goes_to_log(PgLogLevel::ERROR as c_int, level) {
            USERS_LEVEL.store(level, Ordering::SeqCst);
            pg_sys::log_min_messages = PgLogLevel::ERROR as c_int;
        }
    }
}

/// Puts `log_min_messages` back.
pub fn end_letting_through() {
    let level = USERS_LEVEL.swap(AS_IT_IS, Ordering::SeqCst);
    // SAFETY: a plain variable of this process. Had it been set anew meanwhile, it would be left as it is.
    unsafe {
        if level != AS_IT_IS && pg_sys::log_min_messages == PgLogLevel::ERROR as c_int {
            pg_sys::log_min_messages = level;
        }
    }
}

/// PostgreSQL's rule for what goes to the log.
fn goes_to_log(level: c_int, least: c_int) -> bool {
    let (log, error, fatal) = (PgLogLevel::LOG as c_int, PgLogLevel::ERROR as c_int, PgLogLevel::FATAL as c_int);
    if level == log || level == PgLogLevel::LOG_SERVER_ONLY as c_int {
        least == log || least <= error
    } else if least == log {
        level >= fatal
    } else {
        level >= least
    }
}

/// The transaction was rolled back, and this should be said of it. Most often its error was reported before; where a
/// procedure ends transactions, it is reported after.
pub fn tell_later(rewrite: impl FnOnce() -> Option<Rewrite>) {
    // SAFETY: looks at this process's own state.
    if !IS_REPORTED.get() && unsafe { pg_sys::SPI_inside_nonatomic_context() } {
        UNTOLD.set(rewrite());
    }
}

/// A new transaction has begun.
pub fn begin_transaction() {
    IS_REPORTED.set(false);
    UNTOLD.set(None);
}

/// Called by PostgreSQL with every report that is to go to the log.
unsafe extern "C-unwind" fn before_report(data: *mut pg_sys::ErrorData) {
    // SAFETY: PostgreSQL gives the report under way. No panic may leave: that would be an error within an error.
    unsafe {
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| word(&mut *data)));
        // After a panic the report goes out as PostgreSQL worded it; better than none.
        drop(outcome);
        if (*data).output_to_server {
            if let Some(previous) = PREVIOUS {
                previous(data);
            }
        }
    }
}

fn word(data: &mut pg_sys::ErrorData) {
    let (error, panic) = (PgLogLevel::ERROR as c_int, PgLogLevel::PANIC as c_int);
    let mut is_reworded = false;
    if data.elevel >= error && data.elevel < panic {
        let message = if data.message.is_null() {
            String::new()
        } else {
            // SAFETY: the report's own text.
            unsafe { CStr::from_ptr(data.message) }.to_string_lossy().into_owned()
        };
        let report = Report { code: data.sqlerrcode, message: &message };
        let words = UNTOLD
            .take()
            .filter(|untold| untold.is_said_of(&report))
            .or_else(|| commit::words_for(&report))
            .or_else(|| conflict::words_for(&report))
            .or_else(|| statement_hooks::words_for(&report));
        if let Some(words) = words {
            words.apply(data);
            is_reworded = true;
        }
        IS_REPORTED.set(true);
    }
    // Judged by the setting as the user knows it; that of a transaction which has ended is back already.
    let users_level = USERS_LEVEL.load(Ordering::SeqCst);
    if users_level != AS_IT_IS {
        data.output_to_server = goes_to_log(data.elevel, users_level);
    } else if is_reworded {
        // SAFETY: a plain variable of this process.
        data.output_to_server = goes_to_log(data.elevel, unsafe { pg_sys::log_min_messages });
    }
}
