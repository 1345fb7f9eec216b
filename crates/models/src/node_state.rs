//! One node: what it knows, what of that is on its disk, and the replies that wait for the rest (rule 3).
//!
//! The state changes at once; a sync makes it durable and lets the replies go; a crash returns to the durable state and loses
//! them. A crash that keeps only a part of a batch is a sync after that part, whose replies are lost.

use crate::messages::Messages;
use crate::stage::Stage;

/// The node, with what its acceptor keeps, what it says, and what its proposer has done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeState<Kept, Message, Progress> {
    /// As it answers.
    pub now: Kept,
    /// As it would be after a crash.
    pub disk: Kept,
    /// Replies that wait for the disk.
    pub waiting: Messages<Message>,
    /// Counts its starts, from 1.
    pub start: u8,
    /// Its proposer.
    pub stage: Stage<Progress>,
}

impl<Kept: Default, Message, Progress> Default for NodeState<Kept, Message, Progress> {
    /// A node started for the first time.
    fn default() -> NodeState<Kept, Message, Progress> {
        NodeState {
            now: Kept::default(),
            disk: Kept::default(),
            waiting: Messages::default(),
            start: 1,
            stage: Stage::Idle,
        }
    }
}

impl<Kept: Copy, Message, Progress> NodeState<Kept, Message, Progress> {
    /// Crashes, and starts again.
    pub fn restart(&mut self) {
        self.now = self.disk;
        self.waiting = Messages::default();
        self.start += 1;
        self.stage = Stage::Idle;
    }
}
