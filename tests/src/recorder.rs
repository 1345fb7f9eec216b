//! Writes down what clients do and are told, on one clock, for the checkers of the `histories` crate.

use histories::{Event, History, Moment, Node, Outcome, Phase, Process, Step};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

/// A history that is being made by many clients.
#[derive(Debug)]
pub struct Recorder {
    begin: Instant,
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    /// An empty history; its clock begins now.
    #[expect(clippy::new_without_default, reason = "a clock that begins is no default")]
    pub fn new() -> Recorder {
        Recorder { begin: Instant::now(), events: Mutex::new(Vec::new()) }
    }

    /// A client is about to begin: called before it sends anything.
    pub fn invoke(&self, process: Process, node: Node, steps: &[Step]) {
        self.note(process, node, Phase::Invoke, steps);
    }

    /// A client has learned what became of it: called after it received everything.
    pub fn learn(&self, process: Process, node: Node, outcome: Outcome, steps: &[Step]) {
        self.note(process, node, Phase::Return(outcome), steps);
    }

    fn note(&self, process: Process, node: Node, phase: Phase, steps: &[Step]) {
        let mut events = self.events.lock().expect("no panic while noting");
        // Under the lock, so that the order of the notes is that of their times.
        let at = Moment(u64::try_from(self.begin.elapsed().as_nanos()).expect("a test ends within centuries"));
        events.push(Event { at, process, node, phase, steps: steps.to_vec() });
    }

    /// The history so far.
    ///
    /// # Errors
    /// If a client did two things at once.
    pub fn history(&self) -> anyhow::Result<History> {
        Ok(History::of(self.events.lock().expect("no panic while noting").iter().cloned())?)
    }

    /// Keeps the history as text.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, file: &Path) -> anyhow::Result<()> {
        let events = self.events.lock().expect("no panic while noting");
        let text: String = events.iter().map(|event| format!("{event}\n")).collect();
        Ok(std::fs::write(file, text)?)
    }
}
