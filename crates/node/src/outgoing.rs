//! Operations of this node that are too large for one entry, on their way into the log as parts.
//!
//! The last part is proposed only when all others are known chosen, so that it stands behind them in the log whatever happens
//! on the way, takeovers included; until then the operation can be given up and has definitely failed (rule 10). Few parts
//! are under way at a time, and of one operation per group, so that the operations of others find their places among them.

use crate::limits::{OUTGOING_BYTES_MAX, PARTS_IN_FLIGHT_MAX, PART_QUICK};
use bytes::Bytes;
use client::{GroupId, OperationId};
use consensus::bounds::PIECE_BYTES;
use consensus::{Entry, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Per group in the order of their arrival; the first one is being sent.
    operations: BTreeMap<GroupId, VecDeque<Operation>>,
    /// Bytes of their bodies.
    bytes: usize,
    /// Parts in flight, by the id that each has for its way, and when it was proposed.
    in_flight: BTreeMap<OperationId, (GroupId, Time)>,
    /// Ids of parts of operations given up, and of the entries that close those: their answers concern nobody.
    unattended: BTreeSet<OperationId>,
}

#[derive(Debug)]
struct Operation {
    id: OperationId,
    body: Bytes,
    deadline: Time,
    /// Parts proposed.
    sent: u32,
    /// How many parts may be in flight.
    width: usize,
}

impl Operation {
    /// How many parts come before the last one, which is never empty.
    fn parts(&self) -> u32 {
        u32::try_from((self.body.len() - 1) / PIECE_BYTES).expect("bodies are bounded")
    }

    fn piece(&self, number: u32) -> &[u8] {
        let start = number as usize * PIECE_BYTES;
        &self.body[start..self.body.len().min(start + PIECE_BYTES)]
    }
}

/// What was given up, and what is to be done about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) group: GroupId,
    /// Parts that are to be withdrawn.
    pub(crate) in_flight: Vec<OperationId>,
    /// Whether parts of it may stand in the log.
    pub(crate) was_sent: bool,
}

impl Outgoing {
    /// Whether a body must travel in parts.
    pub(crate) fn is_large(body: &Bytes) -> bool {
        body.len() > PIECE_BYTES
    }

    /// Takes an operation; whether there was room for it.
    pub(crate) fn admit(&mut self, group: GroupId, id: OperationId, body: Bytes, deadline: Time) -> bool {
        assert!(Outgoing::is_large(&body), "small operations go whole");
        if self.bytes + body.len() > OUTGOING_BYTES_MAX {
            return false;
        }
        self.bytes += body.len();
        let operation = Operation { id, body, deadline, sent: 0, width: 1 };
        self.operations.entry(group).or_default().push_back(operation);
        true
    }

    /// The next entry to propose for a group, and until when it may wait; `fresh_id` names a part. With its last part an
    /// operation leaves: from there on it is a proposal like any other.
    pub(crate) fn next_entry(
        &mut self,
        group: GroupId,
        now: Time,
        fresh_id: impl FnOnce() -> OperationId,
    ) -> Option<(Entry, Time)> {
        let flying = self.in_flight.values().filter(|(of, _)| *of == group).count();
        let waiting = self.operations.get_mut(&group)?;
        let operation = waiting.front_mut()?;
        let parts = operation.parts();
        if operation.sent < parts {
            if flying >= operation.width {
                return None;
            }
            let id = fresh_id();
            let entry = Entry::part(id, operation.id, operation.sent, operation.piece(operation.sent));
            operation.sent += 1;
            self.in_flight.insert(id, (group, now));
            return Some((entry, operation.deadline));
        }
        if flying > 0 {
            return None;
        }
        let length = u32::try_from(operation.body.len()).expect("bodies are bounded");
        let entry = Entry::last_part(operation.id, parts, length, operation.piece(parts));
        let deadline = operation.deadline;
        self.remove(group, 0);
        Some((entry, deadline))
    }

    fn remove(&mut self, group: GroupId, index: usize) -> Operation {
        let waiting = self.operations.get_mut(&group).expect("the group has operations");
        let operation = waiting.remove(index).expect("the operation waits");
        if waiting.is_empty() {
            self.operations.remove(&group);
        }
        self.bytes -= operation.body.len();
        operation
    }

    /// The group and operation of a part in flight that is answered now.
    pub(crate) fn part_answered(&mut self, part: OperationId) -> Option<(GroupId, OperationId)> {
        let (group, _) = self.in_flight.remove(&part)?;
        let operation =
            self.operations.get(&group).and_then(VecDeque::front).expect("parts leave with their operation");
        Some((group, operation.id))
    }

    /// As [`Outgoing::part_answered`], for one that is chosen. While parts are quick there may be more of them under way.
    pub(crate) fn part_chosen(&mut self, part: OperationId, now: Time) -> Option<GroupId> {
        let (group, proposed_at) = self.in_flight.remove(&part)?;
        let operation = self.operations.get_mut(&group).and_then(VecDeque::front_mut);
        let operation = operation.expect("parts leave with their operation");
        let quick = now - proposed_at <= PART_QUICK;
        operation.width = if quick { PARTS_IN_FLIGHT_MAX.min(operation.width + 1) } else { 1 };
        Some(group)
    }

    /// Whether the answer to this proposal concerns nobody; it comes once.
    pub(crate) fn is_unattended(&mut self, id: OperationId) -> bool {
        self.unattended.remove(&id)
    }

    /// Nobody waits for the answer to this proposal.
    pub(crate) fn leave_unattended(&mut self, id: OperationId) {
        self.unattended.insert(id);
    }

    /// Whether the operation is here, its last part not proposed yet.
    pub(crate) fn holds(&self, id: OperationId) -> bool {
        self.operations.values().flatten().any(|operation| operation.id == id)
    }

    /// Takes an operation back, of which the last part was not proposed.
    pub(crate) fn give_up(&mut self, id: OperationId) -> Option<GivenUp> {
        let place = |waiting: &VecDeque<Operation>| waiting.iter().position(|operation| operation.id == id);
        let mut places =
            self.operations.iter().filter_map(|(group, waiting)| place(waiting).map(|index| (*group, index)));
        let (group, index) = places.next()?;
        let operation = self.remove(group, index);
        let mut in_flight = Vec::new();
        if index == 0 {
            in_flight.extend(self.in_flight.iter().filter(|(_, (of, _))| *of == group).map(|(part, _)| *part));
        }
        for part in &in_flight {
            self.in_flight.remove(part);
            self.unattended.insert(*part);
        }
        Some(GivenUp { group, in_flight, was_sent: operation.sent > 0 })
    }

    /// The group is gone, and with it whoever would answer; returns its operations.
    pub(crate) fn forget_group(&mut self, group: GroupId) -> Vec<OperationId> {
        self.in_flight.retain(|_, (of, _)| *of != group);
        let gone = self.operations.remove(&group).unwrap_or_default();
        self.bytes -= gone.iter().map(|operation| operation.body.len()).sum::<usize>();
        gone.into_iter().map(|operation| operation.id).collect()
    }

    /// Operations that have waited for too long.
    pub(crate) fn overdue(&self, now: Time) -> Vec<OperationId> {
        self.operations.values().flatten().filter(|operation| operation.deadline <= now).map(|o| o.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{NodeId, Start};
    use std::time::Duration;

    const GROUP: GroupId = GroupId(1);

    fn id(sequence: u64) -> OperationId {
        OperationId { node: NodeId(1), start: Start(1), sequence }
    }

    fn body(bytes: usize) -> Bytes {
        (0..bytes).map(|n| (n / 1000) as u8).collect::<Vec<_>>().into()
    }

    /// Proposes all that may be proposed now; parts get ids from 100 on.
    fn propose_all(outgoing: &mut Outgoing, next_id: &mut u64, now: Time) -> Vec<Entry> {
        let mut entries = Vec::new();
        while let Some((entry, _)) = outgoing.next_entry(GROUP, now, || {
            *next_id += 1;
            id(*next_id)
        }) {
            entries.push(entry);
        }
        entries
    }

    #[test]
    fn pieces_make_the_body_and_the_last_part_waits_for_all_others() {
        for length in [PIECE_BYTES + 1, 2 * PIECE_BYTES, 2 * PIECE_BYTES + 1, 9 * PIECE_BYTES + 77] {
            let (mut outgoing, mut next_id) = (Outgoing::default(), 100);
            let body = body(length);
            assert!(outgoing.admit(GROUP, id(1), body.clone(), Time(9)));
            let mut assembly = consensus::Assembly::default();
            let mut slot = client::Slot(0);
            let mut widest = 0;
            let whole = loop {
                let entries = propose_all(&mut outgoing, &mut next_id, Time(0));
                widest = widest.max(entries.len());
                if let Some(last) = entries[0].to_last_part() {
                    assert_eq!((entries.len(), entries[0].id()), (1, id(1)));
                    break assembly.finish(id(1), &last).unwrap();
                }
                assert!(outgoing.holds(id(1)));
                for entry in entries {
                    slot = slot.next();
                    assert!(assembly.take(slot, entry.to_part().unwrap()).is_empty());
                    assert_eq!(outgoing.part_chosen(entry.id(), Time(0)), Some(GROUP));
                }
            };
            assert_eq!(whole.body, body);
            assert_eq!(whole.slots.len(), (length - 1) / PIECE_BYTES);
            assert!(widest <= PARTS_IN_FLIGHT_MAX && !outgoing.holds(id(1)));
            assert_eq!(outgoing.bytes, 0);
        }
    }

    #[test]
    fn slow_parts_go_one_at_a_time_and_quick_ones_together() {
        let (mut outgoing, mut next_id) = (Outgoing::default(), 100);
        assert!(outgoing.admit(GROUP, id(1), body(30 * PIECE_BYTES), Time(9)));
        let mut now = Time(0);
        let mut round = |quick: bool| {
            let entries = propose_all(&mut outgoing, &mut next_id, now);
            now = now + if quick { PART_QUICK } else { PART_QUICK + Duration::from_millis(1) };
            for entry in &entries {
                outgoing.part_chosen(entry.id(), now);
            }
            entries.len()
        };
        let widths = [true, true, true, true, false, false, true, true].map(&mut round);
        assert_eq!(widths, [1, 2, PARTS_IN_FLIGHT_MAX, PARTS_IN_FLIGHT_MAX, PARTS_IN_FLIGHT_MAX, 1, 1, 2]);
    }

    #[test]
    fn full_is_told_at_once_and_room_comes_back() {
        let mut outgoing = Outgoing::default();
        let large = body(64 << 20);
        let fit = OUTGOING_BYTES_MAX / large.len();
        for n in 0..fit {
            assert!(outgoing.admit(GROUP, id(n as u64), large.clone(), Time(9)));
        }
        assert!(!outgoing.admit(GROUP, id(99), large.clone(), Time(9)));
        outgoing.give_up(id(0)).unwrap();
        assert!(outgoing.admit(GROUP, id(99), large, Time(9)));
    }

    #[test]
    fn what_is_given_up_leaves_nothing_but_answers_that_concern_nobody() {
        let (mut outgoing, mut next_id) = (Outgoing::default(), 100);
        for n in [1, 2] {
            assert!(outgoing.admit(GROUP, id(n), body(3 * PIECE_BYTES), Time(n * 10)));
        }
        assert_eq!(outgoing.overdue(Time(9)), []);
        assert_eq!(outgoing.overdue(Time(15)), [id(1)]);
        let first = propose_all(&mut outgoing, &mut next_id, Time(0));
        assert_eq!(first.iter().map(Entry::id).collect::<Vec<_>>(), [id(101)]);
        // The one behind has sent nothing, the first one has.
        assert!(!outgoing.give_up(id(2)).unwrap().was_sent);
        let given_up = GivenUp { group: GROUP, in_flight: vec![id(101)], was_sent: true };
        assert_eq!(outgoing.give_up(id(1)), Some(given_up));
        assert_eq!((outgoing.give_up(id(1)), outgoing.bytes), (None, 0));
        assert!(outgoing.part_answered(id(101)).is_none());
        assert!(outgoing.is_unattended(id(101)) && !outgoing.is_unattended(id(101)));
        assert!(propose_all(&mut outgoing, &mut next_id, Time(0)).is_empty());
        // Nor does a group that is gone.
        assert!(outgoing.admit(GROUP, id(3), body(3 * PIECE_BYTES), Time(9)));
        propose_all(&mut outgoing, &mut next_id, Time(0));
        assert_eq!(outgoing.forget_group(GROUP), [id(3)]);
        assert_eq!((outgoing.bytes, outgoing.in_flight.len()), (0, 0));
    }
}
