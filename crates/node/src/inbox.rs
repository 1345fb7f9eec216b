//! Everything that reaches the engine thread from tasks on that same thread.
//!
//! Tasks that become ready in one pass of the reactor all push before the engine's own task runs, so a turn takes the
//! whole pass in one batch.

use crate::clients::{ClientNumber, ReplyTo};
use client::Request;
use std::cell::RefCell;
use std::collections::VecDeque;
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    ClientAccepted(UnixStream),
    ClientClosed { client: ClientNumber, why: String },
    ClientWritable(ClientNumber),
    Request { to: ReplyTo, request: Request },
}

/// The queue between the tasks and the engine's turn. It is emptied at every turn and fed by at most one read per
/// connection in between, which bounds it.
#[derive(Default)]
pub(crate) struct Inbox {
    events: RefCell<VecDeque<Event>>,
    notify: Notify,
}

impl Inbox {
    pub(crate) fn push(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        self.notify.notify_one();
    }

    pub(crate) fn pop(&self) -> Option<Event> {
        self.events.borrow_mut().pop_front()
    }

    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
}
