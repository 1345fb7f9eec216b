//! Tries a target on the stable toolchain: the corpus, fresh valid encodings, and mutations of both.

use crate::{crash, Mutator, Target};
use arbitrary::Unstructured;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;

/// Longest input that is tried: several times the largest valid encoding that is made, and far below what would be slow.
const INPUT_BYTES_MAX: usize = 8 << 10;

/// Choices from which a valid value is made.
const CHOICES_BYTES_MAX: usize = 1 << 10;

/// Valid encodings that are made before the mutations begin.
const FRESH: usize = 48;

/// The corpus of a target, by file, in the order of the names.
///
/// # Panics
/// The corpus cannot be read.
#[must_use]
pub fn corpus_files(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = crash::corpus(target.name);
    let files = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("the folder can be listed").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("a file of the corpus"))).collect()
}

/// A run of one target from a seed.
#[derive(Debug)]
pub struct Driver {
    target: &'static Target,
    mutator: Mutator,
    pool: Vec<Vec<u8>>,
    executions: usize,
}

impl Driver {
    /// Begins with the corpus, which is tried here.
    ///
    /// # Panics
    /// A file of the corpus breaks a promise of the target.
    #[must_use]
    pub fn new(target: &'static Target, seed: u64) -> Driver {
        let mut driver = Driver { target, mutator: Mutator::new(seed), pool: Vec::new(), executions: 0 };
        for (path, input) in corpus_files(target) {
            driver.try_input(&input, &format!("corpus file {}", path.display()));
            driver.pool.push(input);
        }
        for _ in 0..FRESH {
            let fresh = driver.fresh();
            driver.try_input(&fresh, "a fresh encoding");
            driver.pool.push(fresh);
        }
        driver
    }

    /// How many inputs were tried.
    #[must_use]
    pub fn executions(&self) -> usize {
        self.executions
    }

    /// Tries one more input: mostly a mutation of what is there, now and then a fresh encoding or plain noise.
    ///
    /// # Panics
    /// A promise of the target is broken; the input is kept.
    pub fn step(&mut self) {
        let input = match self.mutator.below(64) {
            0..=3 => {
                let count = self.mutator.below(256);
                self.mutator.bytes(count)
            }
            4..=7 => self.fresh(),
            8..=11 => {
                let mut input = self.pool[self.mutator.below(self.pool.len())].clone();
                self.mutator.swell(&mut input);
                input
            }
            _ => {
                let mut input = self.pool[self.mutator.below(self.pool.len())].clone();
                let other = self.mutator.below(self.pool.len());
                self.mutator.mutate(&mut input, &self.pool[other], INPUT_BYTES_MAX);
                input
            }
        };
        self.try_input(&input, "a mutation");
    }

    fn fresh(&mut self) -> Vec<u8> {
        let count = self.mutator.below(CHOICES_BYTES_MAX);
        let choices = self.mutator.bytes(count);
        (self.target.encode)(&mut Unstructured::new(&choices)).unwrap_or(choices)
    }

    fn try_input(&mut self, input: &[u8], what: &str) {
        self.executions += 1;
        let target = self.target;
        if catch_unwind(AssertUnwindSafe(|| target.check(input))).is_err() {
            let place = crash::keep(target.name, input);
            panic!("{}: {what} breaks a promise; it is kept in {}", target.name, place.display());
        }
    }
}
