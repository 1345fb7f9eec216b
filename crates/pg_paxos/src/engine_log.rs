//! What the engine says, in PostgreSQL's log.
//!
//! The engine's threads must not call PostgreSQL, so their events (those of `tracing`) wait in a queue, and the engine
//! worker's main thread writes them. Only that process has the queue: backends and appliers log for themselves.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// How many messages wait at most. The main thread looks every 50 ms, and what repeats is told once by whoever would
/// repeat it, so a hundred are many; past that the newest are counted and left out, as memory must stay bounded.
const MESSAGES_MAX: usize = 1000;

static QUEUE: Mutex<Queue> = Mutex::new(Queue { messages: VecDeque::new(), left_out: 0 });

struct Queue {
    messages: VecDeque<Message>,
    left_out: usize,
}

struct Message {
    is_warning: bool,
    text: String,
}

/// Takes what the engine says from now on. Called once, before the engine starts.
pub fn install() {
    // Only the engine worker calls this, and only once; a second call would find the first one's subscriber in place.
    tracing::subscriber::set_global_default(EngineLog).ok();
}

/// Writes what waits. To be called on the worker's main thread only, which alone may call PostgreSQL.
pub fn write() {
    let (messages, left_out) = {
        // Whoever panicked while holding the queue left it whole: each change of it is one call.
        let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut queue.messages), std::mem::take(&mut queue.left_out))
    };
    for Message { is_warning, text } in messages {
        let text = client::shown(&text);
        match is_warning {
            true => pgrx::warning!("pg_paxos engine: {text}"),
            false => pgrx::log!("pg_paxos engine: {text}"),
        }
    }
    if left_out > 0 {
        pgrx::warning!("pg_paxos engine: {left_out} further messages are left out");
    }
}

struct EngineLog;

impl Subscriber for EngineLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let message = Message { is_warning: *event.metadata().level() <= Level::WARN, text: text.finish() };
        let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.messages.len() < MESSAGES_MAX {
            true => queue.messages.push_back(message),
            false => queue.left_out += 1,
        }
    }

    // The engine's crates open no spans, which `enabled` would refuse.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event as a line: the message, then its fields in parentheses.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing into a string cannot fail.
        if field.name() == "message" {
            let _ = self.message.write_fmt(value);
            return;
        }
        let separator = if self.fields.is_empty() { "" } else { ", " };
        let _ = write!(self.fields, "{separator}{} {value}", field.name());
    }

    fn finish(self) -> String {
        match self.fields.is_empty() {
            true => self.message,
            false => format!("{} ({})", self.message, self.fields),
        }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}
