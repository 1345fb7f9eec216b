//! Turns: the groups of a node share one log, and a group that floods must not keep the others out of it.
//!
//! Sequences, *persisted up to* and what a crash leaves are about one row of records, in which nothing overtakes. So the
//! turns are taken before that: a record gets its sequence, and with it its place in the row, only when the log has room
//! for it, which is while less than [`crate::CoreOptions::log_ahead_bytes`] of what was handed over is not durable.
//! Until then it waits in its group's lane, and lanes take turns of [`bounds::TURN_BYTES`]. A reply waits in the same lane
//! and gets its place right behind its group's records, so rule 3 holds in the row as it always did: a reply reflects every
//! record before it, and leaves, in that order, once all of those are durable.

use crate::bounds;
use crate::ids::{GroupId, Sequence};
use crate::record::Record;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

/// Names a record within its group from when it is queued: it has no sequence yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Queued(u64);

/// A group's records and replies; those of the node itself have a lane too.
type LaneOf = Option<GroupId>;

#[derive(Debug)]
struct Lane<Reply> {
    /// Handed over and not durable.
    on_the_way: VecDeque<Queued>,
    /// A record is always first.
    waiting: VecDeque<Waiting<Reply>>,
}

#[derive(Debug)]
enum Waiting<Reply> {
    Record(Queued, Record),
    Reply(Reply),
}

/// A record whose turn has come, with the replies that come right behind it.
#[derive(Debug)]
pub(crate) struct Turn<Reply> {
    pub(crate) record: Record,
    pub(crate) replies: Vec<Reply>,
}

#[derive(Debug)]
pub(crate) struct Turns<Reply> {
    lanes: BTreeMap<LaneOf, Lane<Reply>>,
    /// Lanes in which something waits.
    ready: BTreeSet<LaneOf>,
    /// Whose turn it is, and how many bytes are left of it.
    turn: (LaneOf, u64),
    /// In the row and not durable: sequence, lane, bytes.
    on_the_way: VecDeque<(Sequence, LaneOf, u64)>,
    bytes_on_the_way: u64,
    bytes_waiting: u64,
    /// Waiting records that somebody waits for.
    urgent_waiting: usize,
    last: u64,
}

impl<Reply> Turns<Reply> {
    pub(crate) fn new() -> Turns<Reply> {
        Turns {
            lanes: BTreeMap::new(),
            ready: BTreeSet::new(),
            turn: (None, 0),
            on_the_way: VecDeque::new(),
            bytes_on_the_way: 0,
            bytes_waiting: 0,
            urgent_waiting: 0,
            last: 0,
        }
    }

    /// Puts a record into its lane.
    pub(crate) fn queue(&mut self, record: Record) -> Queued {
        self.last += 1;
        let queued = Queued(self.last);
        self.bytes_waiting += record.size_hint() as u64;
        self.urgent_waiting += usize::from(!record.is_lazy());
        let of = record.group();
        let lane = self.lanes.entry(of).or_insert_with(Lane::new);
        lane.waiting.push_back(Waiting::Record(queued, record));
        self.ready.insert(of);
        queued
    }

    /// Puts a reply behind its group's waiting records; gives it back if there are none.
    pub(crate) fn wait_behind(&mut self, group: GroupId, reply: Reply) -> Option<Reply> {
        match self.lanes.get_mut(&Some(group)).filter(|lane| !lane.waiting.is_empty()) {
            Some(lane) => {
                lane.waiting.push_back(Waiting::Reply(reply));
                None
            }
            None => Some(reply),
        }
    }

    pub(crate) fn bytes_on_the_way(&self) -> u64 {
        self.bytes_on_the_way
    }

    pub(crate) fn bytes_waiting(&self) -> u64 {
        self.bytes_waiting
    }

    /// Whether a record that somebody waits for has no place in the row yet.
    pub(crate) fn owes(&self) -> bool {
        self.urgent_waiting > 0
    }

    /// The next record, which gets this sequence.
    pub(crate) fn next(&mut self, sequence: Sequence) -> Option<Turn<Reply>> {
        let (mut of, mut left) = self.turn;
        if left == 0 || !self.ready.contains(&of) {
            of = *self.ready.range((Excluded(of), Unbounded)).next().or_else(|| self.ready.first())?;
            left = bounds::TURN_BYTES;
        }
        let lane = self.lanes.get_mut(&of).expect("what is ready has a lane");
        let Some(Waiting::Record(queued, record)) = lane.waiting.pop_front() else {
            unreachable!("a reply never stands first");
        };
        let mut replies = Vec::new();
        while let Some(Waiting::Reply(_)) = lane.waiting.front() {
            let Some(Waiting::Reply(reply)) = lane.waiting.pop_front() else { unreachable!("just looked at") };
            replies.push(reply);
        }
        lane.on_the_way.push_back(queued);
        if lane.waiting.is_empty() {
            self.ready.remove(&of);
        }
        let bytes = record.size_hint() as u64;
        self.turn = (of, left.saturating_sub(bytes));
        self.bytes_waiting -= bytes;
        self.urgent_waiting -= usize::from(!record.is_lazy());
        self.bytes_on_the_way += bytes;
        self.on_the_way.push_back((sequence, of, bytes));
        Some(Turn { record, replies })
    }

    /// Everything in the row up to `sequence` is durable.
    pub(crate) fn persisted(&mut self, sequence: Sequence) {
        while let Some((_, of, bytes)) = self.on_the_way.pop_front_if(|(known, ..)| *known <= sequence) {
            self.bytes_on_the_way -= bytes;
            let lane = self.lanes.get_mut(&of).expect("what is on its way has a lane");
            lane.on_the_way.pop_front().expect("it holds what is on its way");
            if lane.on_the_way.is_empty() && lane.waiting.is_empty() {
                self.lanes.remove(&of);
            }
        }
    }

    pub(crate) fn is_durable(&self, group: GroupId, record: Queued) -> bool {
        let Some(lane) = self.lanes.get(&Some(group)) else { return true };
        match (lane.on_the_way.front(), lane.waiting.front()) {
            (Some(first), _) | (None, Some(Waiting::Record(first, _))) => *first > record,
            _ => true,
        }
    }
}

impl<Reply> Lane<Reply> {
    fn new() -> Lane<Reply> {
        Lane { on_the_way: VecDeque::new(), waiting: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ballot::Ballot;
    use crate::entry::Entry;
    use crate::ids::{LogId, OperationId, Slot};

    fn accepted(group: u128, slot: u64, bytes: usize) -> Record {
        Record::Accepted {
            group: GroupId(group),
            log: LogId::MAIN,
            ballot: Ballot::ZERO,
            first: Slot(slot),
            entries: [Entry::operation(OperationId::NONE, &vec![0; bytes])].into(),
        }
    }

    #[test]
    fn lanes_take_turns_and_keep_their_own_order() {
        let mut turns = Turns::new();
        let quarter = bounds::TURN_BYTES as usize / 4;
        for slot in 1..=40 {
            turns.queue(accepted(1, slot, quarter));
            turns.wait_behind(GroupId(1), (1, slot));
        }
        let small = turns.queue(accepted(2, 1, 10));
        turns.wait_behind(GroupId(2), (2, 1));
        turns.queue(accepted(2, 2, 10));
        let mut order = Vec::new();
        for sequence in (1..).map(Sequence) {
            let Some(turn) = turns.next(sequence) else { break };
            let Record::Accepted { group, first, .. } = turn.record else { unreachable!() };
            assert!(turn.replies.iter().all(|reply| *reply == (group.0, first.0)), "right behind what they answer");
            order.push((group.0, first.0));
        }
        // The flood has one turn, then the two small ones have theirs, then the flood goes on alone.
        let place = |of| order.iter().position(|known| *known == of).unwrap();
        assert!(place((2, 1)) <= 4 && place((2, 2)) == place((2, 1)) + 1, "{order:?}");
        let flood: Vec<u64> = order.iter().filter(|(group, _)| *group == 1).map(|(_, slot)| *slot).collect();
        assert_eq!(flood, (1..=40).collect::<Vec<_>>());

        // What is durable is known per group.
        let sequence = Sequence(place((2, 1)) as u64 + 1);
        assert!(!turns.is_durable(GroupId(2), small));
        turns.persisted(Sequence(sequence.0 - 1));
        assert!(!turns.is_durable(GroupId(2), small));
        turns.persisted(sequence);
        assert!(turns.is_durable(GroupId(2), small));
        turns.persisted(Sequence(42));
        assert_eq!((turns.bytes_on_the_way(), turns.bytes_waiting(), turns.lanes.len()), (0, 0, 0));
    }
}
