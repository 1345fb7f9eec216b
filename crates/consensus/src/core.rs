//! The whole of a node's consensus: inputs in, effects out, nothing else.

use crate::effect::Effect;
use crate::ids::{NodeId, Start};
use crate::input::Input;
use crate::options::CoreOptions;
use crate::recovered::Recovered;
use crate::status::NodeStatus;
use crate::time::Time;
use std::collections::VecDeque;

/// The protocol state of one node, over all its groups. Same inputs, same effects, byte for byte.
///
/// ```text
/// core.handle(now, input)            as many as are at hand: what arrives together travels together
/// while let Some(effect) = core.poll_effect() { carry it out }
/// wait for the next input, or until core.next_deadline()
/// ```
#[derive(Debug)]
pub struct Core {
    node: NodeId,
    start: Start,
    effects: VecDeque<Effect>,
    recovered: Recovered,
}

impl Core {
    /// A core for `node`, whose `start` was made durable just now, with what its log says.
    ///
    /// `seed` feeds every jitter, and tells this process from another that runs as the same node and start.
    #[must_use]
    pub fn new(_options: CoreOptions, node: NodeId, start: Start, recovered: Recovered, _seed: u64, _now: Time) -> Core {
        Core { node, start, effects: VecDeque::new(), recovered }
    }

    /// Takes one input.
    pub fn handle(&mut self, _now: Time, _input: Input) {}

    /// The next thing to be done. Poll until there is none before waiting: batches are formed here.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to give [`Input::Tick`] at the latest, if nothing else comes before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// A snapshot for views.
    #[must_use]
    pub fn status(&self, _now: Time) -> NodeStatus {
        NodeStatus { node: self.node, start: self.start, position: self.recovered.position, peers: Vec::new(), groups: Vec::new() }
    }
}
