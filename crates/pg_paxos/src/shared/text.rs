//! A short text in shared memory.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A short text in shared memory. Written before the word that makes it valid, or torn at worst while it changes: it is
/// only shown.
#[repr(C)]
pub struct Text<const WORDS: usize> {
    length: AtomicU32,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Text<WORDS> {
    /// Changes it; what does not fit is cut off.
    pub fn set(&self, text: &str) {
        let mut end = text.len().min(WORDS * 8);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let bytes = &text.as_bytes()[..end];
        for (place, word) in self.words.iter().enumerate() {
            let mut part = [0; 8];
            for (offset, byte) in part.iter_mut().enumerate() {
                *byte = bytes.get(place * 8 + offset).copied().unwrap_or(0);
            }
            word.store(u64::from_ne_bytes(part), Ordering::SeqCst);
        }
        self.length.store(bytes.len() as u32, Ordering::SeqCst);
    }

    /// What it says.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.load(Ordering::SeqCst).to_ne_bytes())
            .take(self.length.load(Ordering::SeqCst) as usize)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Takes over what another one says.
    pub fn copy_from(&self, other: &Text<WORDS>) {
        for (word, others) in self.words.iter().zip(&other.words) {
            word.store(others.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        self.length.store(other.length.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}
