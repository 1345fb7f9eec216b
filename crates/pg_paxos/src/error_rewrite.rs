//! Errors that must say more than PostgreSQL knows, rewritten where PostgreSQL allows it: in an error-context callback.
//!
//! Two cases. A transaction that was doomed is interrupted by a cancel, which PostgreSQL words as "canceling statement
//! due to user request"; the client must see 40001. And an error after the log chose a transaction must not look as if
//! the transaction had failed; the client must see 08007. Catching and rethrowing would strip fields from every error
//! on the server, so nothing is caught.

use std::ffi::{c_char, c_int, c_void, CString};
use std::ptr;

use pgrx::{pg_sys, PgSqlErrorCode};

extern "C-unwind" {
    fn errcode(code: c_int) -> c_int;
    fn errmsg(format: *const c_char, ...) -> c_int;
    fn errdetail(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
}

/// What an error is turned into.
#[derive(Debug)]
pub struct Rewrite {
    /// The new SQLSTATE.
    pub code: PgSqlErrorCode,
    /// The new primary message.
    pub message: CString,
    /// The new DETAIL.
    pub detail: CString,
    /// The new HINT; none if empty.
    pub hint: CString,
}

impl Rewrite {
    /// Replaces what the error under way says. Only to be called from an error-context callback.
    ///
    /// # Safety
    /// An error is being reported, and its context callbacks are being called.
    pub unsafe fn apply(&self) {
        // SAFETY: the caller is in a context callback, where these change the error under way; the strings are
        // given as arguments, never as formats.
        unsafe {
            errcode(self.code as c_int);
            errmsg(c"%s".as_ptr(), self.message.as_ptr());
            errdetail(c"%s".as_ptr(), self.detail.as_ptr());
            if !self.hint.is_empty() {
                errhint(c"%s".as_ptr(), self.hint.as_ptr());
            }
        }
    }
}

/// Text for an error; a NUL, which no text of ours holds, would end it.
pub fn text(text: impl Into<String>) -> CString {
    CString::new(text.into().replace('\0', " ")).expect("NULs were replaced")
}

/// Whether the report under way is an error and not a notice, a warning or a log line, which share the callbacks.
/// Told by the class of its SQLSTATE: PostgreSQL has no way to ask for the level.
///
/// # Safety
/// As [`Rewrite::apply`].
pub unsafe fn is_error() -> bool {
    // SAFETY: the caller is in a context callback.
    let code = unsafe { pg_sys::geterrcode() };
    // Two characters of six bits: "00" success, "01" warning, "02" no data.
    !matches!(code & 0xfff, 0x000 | 0x040 | 0x080)
}

/// A context callback in static memory, which stays on PostgreSQL's stack of callbacks across function returns.
pub struct Lasting {
    entry: pg_sys::ErrorContextCallback,
}

impl Lasting {
    /// A callback that is not on the stack.
    pub const fn new(callback: unsafe extern "C-unwind" fn(*mut c_void)) -> Lasting {
        Lasting {
            entry: pg_sys::ErrorContextCallback {
                previous: ptr::null_mut(),
                callback: Some(callback),
                arg: ptr::null_mut(),
            },
        }
    }

    /// Puts it on top of the stack, if it is nowhere on it.
    ///
    /// # Safety
    /// On the main thread; `this` is in static memory.
    pub unsafe fn push(this: *mut Lasting) {
        // SAFETY: the stack is a list of live entries ended by null.
        unsafe {
            let entry = &raw mut (*this).entry;
            let mut place = pg_sys::error_context_stack;
            while !place.is_null() {
                if place == entry {
                    return;
                }
                place = (*place).previous;
            }
            (*entry).previous = pg_sys::error_context_stack;
            pg_sys::error_context_stack = entry;
        }
    }

    /// Puts it under everything that is on the stack, if it is nowhere on it: what lies above may leave the stack, and
    /// it stays. Being last, it can never be part of a circle.
    ///
    /// # Safety
    /// As [`Lasting::push`]; an entry that is put on the stack in this way only.
    pub unsafe fn push_under(this: *mut Lasting) {
        // SAFETY: the stack is a list of live entries ended by null; the last one's link is made to point here.
        unsafe {
            let entry = &raw mut (*this).entry;
            let mut link = &raw mut pg_sys::error_context_stack;
            while !(*link).is_null() {
                if *link == entry {
                    return;
                }
                link = &raw mut (**link).previous;
            }
            *link = entry;
        }
    }

    /// Takes it off the stack, wherever it is; nothing if it is not there.
    ///
    /// # Safety
    /// As [`Lasting::push`].
    pub unsafe fn pop(this: *mut Lasting) {
        // SAFETY: as above; links are only read until the entry is found.
        unsafe {
            let entry = &raw mut (*this).entry;
            let mut link = &raw mut pg_sys::error_context_stack;
            while !(*link).is_null() {
                if *link == entry {
                    *link = (*entry).previous;
                    return;
                }
                link = &raw mut (**link).previous;
            }
        }
    }
}
