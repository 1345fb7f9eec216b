//! One decoder and what it is held to.

use crate::allocation;
use arbitrary::Unstructured;
use std::time::Duration;

/// How much memory a decoder may hold at once, beside its input: `fixed + per_byte * input`.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Bytes, however small the input.
    pub fixed: usize,
    /// Bytes for each byte of input.
    pub per_byte: usize,
}

/// A decoder of bytes from outside.
#[derive(Debug)]
pub struct Target {
    /// Its name; also that of its folder in the corpus.
    pub name: &'static str,
    /// Decodes the input and checks what comes out. Panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Valid encodings made from choices.
    pub encode: fn(&mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>>,
    /// What it may hold in memory.
    pub memory: Bound,
    /// Executions beside the corpus in the test that every change must pass: the slow ones get fewer.
    pub executions: usize,
}

/// No input of the sizes that are tried here takes a tenth of this. Time of the processor, not of the clock, so that a busy
/// machine breaks nothing.
const LONGEST: Duration = Duration::from_secs(5);

impl Target {
    /// Runs the input, and holds it to its bounds of memory and time.
    ///
    /// # Panics
    /// Where a promise is broken.
    pub fn check(&self, input: &[u8]) {
        let began = thread_time();
        let held = allocation::measure(self.name, input, || (self.run)(input));
        let allowed = self.memory.fixed + self.memory.per_byte * input.len();
        assert!(held <= allowed, "{} bytes of input took {held} bytes of memory; {allowed} are allowed", input.len());
        let took = thread_time() - began;
        assert!(took < LONGEST, "{} bytes of input took {took:?}", input.len());
    }
}

fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs().try_into().unwrap_or(0))
}
