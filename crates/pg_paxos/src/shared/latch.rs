//! Waking a PostgreSQL process from a thread that must not call PostgreSQL.
//!
//! The same steps as PostgreSQL's `SetLatch`, on the same structure, so that its owner's `WaitLatch` and
//! `WaitEventSetWait` see no difference. PostgreSQL's own function cannot be used: it decides how to signal by a
//! variable of the calling process, and calling it from a foreign thread is refused by pgrx.

use std::ptr;
use std::sync::atomic::{fence, Ordering};

use pgrx::pg_sys::Latch;

/// Sets a latch that lives in shared memory, and wakes its owner if it sleeps. May be called from any thread of any
/// process of the server; does nothing if nobody owns the latch.
///
/// # Safety
/// `latch` points to a latch in PostgreSQL's main shared memory.
pub unsafe fn set_latch(latch: *mut Latch) {
    // SAFETY: the caller guarantees that the latch is mapped; its fields are int-sized and only read and written
    // whole, as PostgreSQL itself does; volatile keeps the compiler from merging them across the fences.
    unsafe {
        // The writes by which the caller made something to be seen come before the latch is looked at.
        fence(Ordering::SeqCst);
        if ptr::read_volatile(&raw const (*latch).is_set) != 0 {
            return;
        }
        ptr::write_volatile(&raw mut (*latch).is_set, 1);
        fence(Ordering::SeqCst);
        if ptr::read_volatile(&raw const (*latch).maybe_sleeping) == 0 {
            return;
        }
        let owner = ptr::read_volatile(&raw const (*latch).owner_pid);
        if owner != 0 {
            // The process may be gone: then nobody is left to be woken.
            libc::kill(owner, libc::SIGURG);
        }
    }
}
