//! The function by which PostgreSQL locks a row, exchanged for one of ours: there is no hook for row locks.
//!
//! The executor calls the heap's functions through one table of pointers, which the server has closed for writing once
//! it was loaded. The pointer is exchanged there, in the postmaster, before there are other processes. A copy of the
//! table with another function in it, set at the relations concerned, would not do: PostgreSQL compares relations'
//! pointers to the table with its address, and resets them whenever it reads a relation anew
//! (`docs/decisions/0011-row-locks.md`).

use std::io;

use pgrx::pg_sys;

/// The table's entry for locking a row (`access/tableam.h`).
pub type TupleLock = unsafe extern "C-unwind" fn(
    pg_sys::Relation,
    pg_sys::ItemPointer,
    pg_sys::Snapshot,
    *mut pg_sys::TupleTableSlot,
    pg_sys::CommandId,
    pg_sys::LockTupleMode::Type,
    pg_sys::LockWaitPolicy::Type,
    u8,
    *mut pg_sys::TM_FailureData,
) -> pg_sys::TM_Result::Type;

/// The function that locks a row now: the heap's own, or that of an extension which was loaded before.
pub fn tuple_lock() -> TupleLock {
    // SAFETY: returns the address of a constant of the server.
    unsafe { (*pg_sys::GetHeapamTableAmRoutine()).tuple_lock.expect("the heap can lock rows") }
}

/// Puts another function in its place. Fails if the system does not let a process write to such memory.
///
/// # Safety
/// In the postmaster while it loads libraries, when nothing else runs in the process.
pub unsafe fn set_tuple_lock(new: TupleLock) -> io::Result<()> {
    let routine = pg_sys::GetHeapamTableAmRoutine().cast_mut();
    let place = &raw mut (*routine).tuple_lock;
    let closed = protection_of(place as usize)?;
    // A pointer at its natural place lies within one page.
    let page_bytes = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).expect("pages have a size");
    let page = (place as usize & !(page_bytes - 1)) as *mut libc::c_void;
    protect(page, page_bytes, closed | libc::PROT_READ | libc::PROT_WRITE)?;
    // To the server's own code the table is a constant; what it has read of it is not kept across calls.
    std::ptr::write_volatile(place, Some(new));
    protect(page, page_bytes, closed)
}

unsafe fn protect(page: *mut libc::c_void, bytes: usize, protection: libc::c_int) -> io::Result<()> {
    match libc::mprotect(page, bytes, protection) {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What may be done with the memory at an address.
fn protection_of(address: usize) -> io::Result<libc::c_int> {
    let maps = std::fs::read("/proc/self/maps")?;
    String::from_utf8_lossy(&maps).lines().find_map(|line| protection_in(line, address)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the kernel does not show the memory of the heap's functions")
    })
}

/// The same by one line of `/proc/self/maps`, `first-end rwxp ...` in hexadecimal; none if it is about other memory.
fn protection_in(line: &str, address: usize) -> Option<libc::c_int> {
    let (range, rest) = line.split_once(' ')?;
    let (first, end) = range.split_once('-')?;
    let hexadecimal = |number| usize::from_str_radix(number, 16).ok();
    if !(hexadecimal(first)?..hexadecimal(end)?).contains(&address) {
        return None;
    }
    let of = |flag, protection| if rest.chars().take(3).any(|shown| shown == flag) { protection } else { 0 };
    Some(of('r', libc::PROT_READ) | of('w', libc::PROT_WRITE) | of('x', libc::PROT_EXEC))
}
