//! What every part of the core shares: the time, the node's identity, its peers, and the one way out.
//!
//! Rule 3 is enforced here: [`Context::send_when_durable`] keeps a reply until every record that was queued before it is on
//! the disk, and nothing else in the crate can send a promise or an acceptance. Which record is before which is decided by
//! turns, see `turns.rs`.

use crate::bounds;
use crate::effect::Effect;
use crate::group::Scope;
use crate::ids::{Epoch, GroupId, LogId, NodeId, Sequence, Start, Token};
use crate::message::{GroupMessage, Message};
use crate::options::CoreOptions;
use crate::peers::Peers;
use crate::random::Random;
use crate::record::Record;
use crate::seeded_bug::{is_planted, SeededBug};
use crate::time::Time;
use crate::turns::{Queued, Turn, Turns};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A message of this node to itself; it takes the same path as to a peer, without the network.
#[derive(Debug)]
pub(crate) struct ToSelf {
    pub(crate) group: GroupId,
    pub(crate) epoch: Epoch,
    pub(crate) body: GroupMessage,
}

#[derive(Debug)]
enum HeldBack {
    Message { to: Vec<NodeId>, to_self: bool, group: GroupId, epoch: Epoch, body: GroupMessage },
    Effect(Effect),
}

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) node: NodeId,
    pub(crate) start: Start,
    pub(crate) now: Time,
    pub(crate) options: CoreOptions,
    pub(crate) random: Random,
    pub(crate) peers: Peers,
    /// Logs with something to flush at the next poll.
    pub(crate) dirty: BTreeSet<(GroupId, LogId)>,
    /// Groups whose control log or change may be able to go on.
    pub(crate) dirty_groups: BTreeSet<GroupId>,
    pub(crate) stopped: bool,
    effects: VecDeque<Effect>,
    to_self: VecDeque<ToSelf>,
    /// Records, and the replies behind them, that have no place in the log yet.
    turns: Turns<HeldBack>,
    /// Last record handed to the log; last of those that must be synced; last durable.
    queued: Sequence,
    required: Sequence,
    durable: Sequence,
    /// Since when the disk owes an answer.
    owed_since: Option<Time>,
    held_back: VecDeque<(Sequence, HeldBack)>,
    next_token: u64,
    last_read_round: u64,
    reads: BTreeMap<Token, (GroupId, LogId)>,
}

impl Context {
    pub(crate) fn new(
        options: CoreOptions,
        node: NodeId,
        start: Start,
        position: Sequence,
        seed: u64,
        now: Time,
    ) -> Context {
        let mut random = Random::new(seed);
        let incarnation = random.next();
        Context {
            node,
            start,
            now,
            peers: Peers::new(node, start, incarnation, position, options.silence_max()),
            options,
            random,
            dirty: BTreeSet::new(),
            dirty_groups: BTreeSet::new(),
            stopped: false,
            effects: VecDeque::new(),
            to_self: VecDeque::new(),
            turns: Turns::new(),
            queued: position,
            required: position,
            durable: position,
            owed_since: None,
            held_back: VecDeque::new(),
            next_token: 0,
            last_read_round: if is_planted(SeededBug::ReadRoundsBeginAgain) { 0 } else { start.0 << 32 },
            reads: BTreeMap::new(),
        }
    }

    /// Queues a record; the acceptor's state changes with it, not when it is durable.
    pub(crate) fn persist(&mut self, record: Record) -> Queued {
        if !record.is_lazy() {
            self.owed_since.get_or_insert(self.now);
        }
        let queued = self.turns.queue(record);
        self.take_turns();
        queued
    }

    /// Gives records their places in the log as long as it has room.
    fn take_turns(&mut self) {
        while self.log_has_room() {
            let sequence = Sequence(self.queued.0 + 1);
            let Some(Turn { record, replies }) = self.turns.next(sequence) else { return };
            self.queued = sequence;
            if !record.is_lazy() {
                self.required = sequence;
            }
            self.effects.push_back(Effect::Persist { sequence, record });
            replies.into_iter().for_each(|reply| self.hold_back(reply));
        }
    }

    /// A log that holds only what nobody waits for may not write for long, so it always has room.
    fn log_has_room(&self) -> bool {
        self.turns.bytes_on_the_way() < self.options.log_ahead_bytes
            || self.durable >= self.required
            || self.turns.bytes_waiting() > bounds::WAITING_BYTES_MAX
    }

    /// Whether this record of the group is durable.
    pub(crate) fn is_durable(&self, scope: &Scope, record: Queued) -> bool {
        self.turns.is_durable(scope.group, record)
    }

    pub(crate) fn durable(&self) -> Sequence {
        self.durable
    }

    /// Whether the disk has owed an answer for longer than a live node may take.
    pub(crate) fn disk_is_silent(&self) -> bool {
        self.owed_since.is_some_and(|since| self.now - since > self.options.failure_timeout)
    }

    /// The durable length of the log once everything queued that must be synced is: what a reply held back may claim.
    pub(crate) fn required(&self) -> Sequence {
        self.required
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(crate) fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    pub(crate) fn next_to_self(&mut self) -> Option<ToSelf> {
        self.to_self.pop_front()
    }

    /// A number for a round of questions. An answer to a round of an earlier start, or of a log before it was unloaded, must not
    /// count in a later one: it may tell of older times.
    pub(crate) fn next_read_round(&mut self) -> u64 {
        self.last_read_round += 1;
        self.last_read_round
    }

    /// A name for a read from the disk on behalf of this log.
    pub(crate) fn reading(&mut self, group: GroupId, log: LogId) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.reads.insert(token, (group, log));
        token
    }

    /// Which log a read was for.
    pub(crate) fn read_was_for(&mut self, token: Token) -> Option<(GroupId, LogId)> {
        self.reads.remove(&token)
    }

    /// Sends at once to every node named, this one too if it is among them.
    pub(crate) fn send(&mut self, scope: &Scope, to: impl IntoIterator<Item = NodeId>, body: GroupMessage) {
        let epoch = scope.epoch();
        let (to, to_self) = self.split(to);
        self.dispatch(HeldBack::Message { to, to_self, group: scope.group, epoch, body });
    }

    /// Sends once everything queued so far is durable (rule 3).
    pub(crate) fn send_when_durable(&mut self, scope: &Scope, to: NodeId, body: GroupMessage) {
        let epoch = scope.epoch();
        let (to, to_self) = self.split([to]);
        self.when_durable(scope.group, HeldBack::Message { to, to_self, group: scope.group, epoch, body });
    }

    /// Answers a caller once everything queued so far for the group is durable.
    pub(crate) fn effect_when_durable(&mut self, group: GroupId, effect: Effect) {
        self.when_durable(group, HeldBack::Effect(effect));
    }

    pub(crate) fn send_to_node(&mut self, to: Vec<NodeId>, message: Message) {
        if !to.is_empty() {
            self.effects.push_back(Effect::Send { to, message: Arc::new(message) });
        }
    }

    /// Everything up to `sequence` is durable: lets go what waited for it.
    pub(crate) fn persisted(&mut self, sequence: Sequence) {
        assert!(sequence <= self.queued, "a record became durable that was never queued");
        if sequence <= self.durable {
            return;
        }
        self.durable = sequence;
        self.peers.position = sequence;
        self.turns.persisted(sequence);
        self.owed_since = (self.durable < self.required || self.turns.owes()).then_some(self.now);
        while self.held_back.front().is_some_and(|(after, _)| *after <= self.durable) {
            let (_, held) = self.held_back.pop_front().expect("it has a front");
            self.dispatch(held);
        }
        self.take_turns();
    }

    fn when_durable(&mut self, group: GroupId, held: HeldBack) {
        if is_planted(SeededBug::ReplyBeforeDurable) {
            self.dispatch(held);
        } else if let Some(held) = self.turns.wait_behind(group, held) {
            self.hold_back(held);
        }
    }

    /// The reply's place is behind every record that has one.
    fn hold_back(&mut self, mut held: HeldBack) {
        if let HeldBack::Message { body: GroupMessage::Promise { position, .. }, .. }
        | HeldBack::Message { body: GroupMessage::Accepted { position, .. }, .. } = &mut held
        {
            *position = self.required;
        }
        if self.durable >= self.required && self.held_back.is_empty() {
            self.dispatch(held);
        } else {
            self.held_back.push_back((self.required, held));
        }
    }

    fn split(&self, to: impl IntoIterator<Item = NodeId>) -> (Vec<NodeId>, bool) {
        let mut to_self = false;
        let others = to
            .into_iter()
            .filter(|node| {
                to_self |= *node == self.node;
                *node != self.node
            })
            .collect();
        (others, to_self)
    }

    fn dispatch(&mut self, held: HeldBack) {
        match held {
            HeldBack::Effect(effect) => self.effects.push_back(effect),
            HeldBack::Message { to, to_self, group, epoch, body } => {
                if to.is_empty() {
                    if to_self {
                        self.to_self.push_back(ToSelf { group, epoch, body });
                    }
                    return;
                }
                if to_self {
                    self.to_self.push_back(ToSelf { group, epoch, body: body.clone() });
                }
                let message = Arc::new(Message::Group { group, epoch, start: self.start, body });
                self.effects.push_back(Effect::Send { to, message });
            }
        }
    }
}
