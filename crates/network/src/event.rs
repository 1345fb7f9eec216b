//! What the links tell the engine.

use bytes::Bytes;
use consensus::{NodeId, Start};
use tokio::sync::{mpsc, OwnedSemaphorePermit};

/// Something that happened on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Frames for `node` can be sent from now on. `start` is the start the peer said hello with.
    Connected {
        /// The peer.
        node: NodeId,
        /// Its start.
        start: Start,
    },
    /// Frames for `node` are refused until it is connected again; those queued are lost.
    Disconnected {
        /// The peer.
        node: NodeId,
    },
    /// A frame from a peer whose key was checked. It may come before `Connected` of the same peer: the two
    /// directions are separate connections.
    Frame {
        /// The sender.
        from: NodeId,
        /// Its bytes, as given to `send` there.
        bytes: Bytes,
    },
}

/// The receiving end of the links' events.
///
/// The number of bytes waiting here is bounded per peer: a frame holds its share of the peer's budget until it is
/// taken, and reading from that peer's socket pauses meanwhile.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::UnboundedReceiver<Held>,
}

/// An event and the budget that it holds.
pub(crate) type Held = (Event, Option<OwnedSemaphorePermit>);

/// The sending end, kept by the tasks of the links.
pub(crate) type EventSender = mpsc::UnboundedSender<Held>;

/// Makes both ends.
pub(crate) fn channel() -> (EventSender, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Events { receiver })
}

impl Events {
    /// The next event; `None` once the links are gone and everything was taken.
    pub async fn receive(&mut self) -> Option<Event> {
        self.receiver.recv().await.map(|(event, _)| event)
    }

    /// The next event if one is waiting.
    pub fn try_receive(&mut self) -> Option<Event> {
        self.receiver.try_recv().ok().map(|(event, _)| event)
    }
}
