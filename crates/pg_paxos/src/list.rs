//! Walking PostgreSQL's lists.

use pgrx::pg_sys::{self, Oid};

unsafe fn cells<'a>(list: *const pg_sys::List) -> &'a [pg_sys::ListCell] {
    if list.is_null() {
        return &[];
    }
    let length = usize::try_from((*list).length).expect("a list has a length");
    std::slice::from_raw_parts((*list).elements, length)
}

/// The pointers in a list; none for NIL.
///
/// # Safety
/// A list of pointers to `T` that is not changed while it is walked.
pub unsafe fn pointers<T>(list: *const pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: the caller says that the cells hold pointers.
    cells(list).iter().map(|cell| unsafe { cell.ptr_value }.cast())
}

/// The OIDs in a list; none for NIL.
///
/// # Safety
/// A list of OIDs that is not changed while it is walked.
pub unsafe fn oids(list: *const pg_sys::List) -> impl Iterator<Item = Oid> {
    // SAFETY: the caller says that the cells hold OIDs.
    cells(list).iter().map(|cell| unsafe { cell.oid_value })
}

/// The integers in a list; none for NIL.
///
/// # Safety
/// A list of integers that is not changed while it is walked.
pub unsafe fn integers(list: *const pg_sys::List) -> impl Iterator<Item = i32> {
    // SAFETY: the caller says that the cells hold integers.
    cells(list).iter().map(|cell| unsafe { cell.int_value })
}

/// A list of the one pointer.
///
/// # Safety
/// Allocates in the current memory context.
pub unsafe fn append<T>(list: *mut pg_sys::List, pointer: *mut T) -> *mut pg_sys::List {
    pg_sys::lappend(list, pointer.cast())
}
