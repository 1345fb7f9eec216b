//! Counts what the current thread allocates, so that a target can be held to a bound.
//!
//! A length field that is believed shows as an allocation that the input cannot justify. What is far beyond any bound is
//! refused on the spot: the input is kept, and the process aborts, because an allocator must not panic.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Nothing that is decoded here takes this much: the largest input is far smaller.
const REFUSED_BYTES: usize = 1 << 30;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    /// The target and input that are being tried.
    static TRYING: Cell<Option<(&'static str, *const [u8])>> = const { Cell::new(None) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: hands every call on to the system's allocator; the counters beside it allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !count(layout.size() as isize) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !count(layout.size() as isize) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
}

fn count(bytes: isize) -> bool {
    // Threads that are being taken down have no counters any more.
    let Ok(held) = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        held.get()
    }) else {
        return true;
    };
    let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held)));
    if bytes > 0 && held > REFUSED_BYTES as isize {
        if let Ok(Some((target, input))) = TRYING.try_with(Cell::take) {
            HELD.with(|held| held.set(held.get() - bytes));
            // SAFETY: `measure` keeps the input alive while it is being tried.
            let place = crate::crash::keep(target, unsafe { &*input });
            eprintln!("{target}: an allocation of {bytes} bytes; the input is kept in {}", place.display());
            return false;
        }
    }
    true
}

/// The most bytes that this thread held at once while `action` ran on `input`, beyond what it held before.
pub(crate) fn measure(target: &'static str, input: &[u8], action: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    TRYING.set(Some((target, std::ptr::from_ref(input))));
    action();
    TRYING.set(None);
    usize::try_from(PEAK.get() - before).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_at_once_is_what_is_told() {
        let peak = measure("none", &[], || {
            drop(std::hint::black_box(vec![1u8; 3000]));
            drop(std::hint::black_box(vec![1u8; 5000]));
        });
        assert!((5000..6000).contains(&peak), "{peak}");
    }
}
