//! Groups of one node share its log in turns: those that flood keep no other waiting for more than a few batches.

use crate::cluster::{member, node};
use crate::{
    Core, CoreOptions, Effect, Entry, GroupId, Input, LogId, OperationId, ProposalOutcome, Record, Recovered, Role,
    Sequence, Start, Time, Token,
};
use std::collections::VecDeque;

/// As storage's.
const BATCH_BYTES_MAX: usize = 4 << 20;

const FLOODING: [GroupId; 4] = [GroupId(1), GroupId(2), GroupId(3), GroupId(4)];
const SMALL: GroupId = GroupId(5);

/// One node, alone in its groups, with a log that a test holds in its hands.
struct Alone {
    core: Core,
    now: Time,
    log: VecDeque<(Sequence, Record)>,
    chosen: Vec<OperationId>,
}

impl Alone {
    fn new(options: CoreOptions) -> Alone {
        let core = Core::new(options, node(1), Start(1), Recovered::default(), 1, Time(0));
        let mut alone = Alone { core, now: Time(1_000_000), log: VecDeque::new(), chosen: Vec::new() };
        for group in FLOODING.into_iter().chain([SMALL]) {
            alone.core.handle(
                alone.now,
                Input::CreateGroup {
                    token: Token(1),
                    group,
                    name: format!("{group}"),
                    kind: "tables".into(),
                    detail: String::new(),
                    discipline: crate::Discipline::Sequences,
                    member: member(1, Role::Voter),
                },
            );
        }
        // A first operation each, so that all logs are owned.
        for group in FLOODING.into_iter().chain([SMALL]) {
            alone.propose(group, group.0 as u64, 1);
        }
        while alone.chosen.len() < FLOODING.len() + 1 {
            assert!(alone.write_batch());
        }
        while alone.write_batch() {}
        alone
    }

    fn propose(&mut self, group: GroupId, sequence: u64, bytes: usize) {
        let id = OperationId { node: node(1), start: Start(1), sequence };
        let entry = Entry::operation(id, &vec![7; bytes]);
        let deadline = Time(self.now.0 + 60_000_000);
        self.core.handle(self.now, Input::Propose { group, log: LogId::MAIN, entry, deadline });
        self.poll();
    }

    fn poll(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Persist { sequence, record } => self.log.push_back((sequence, record)),
                Effect::Proposed { id, outcome: ProposalOutcome::Chosen(_), .. } => self.chosen.push(id),
                _ => {}
            }
        }
    }

    /// Writes what one batch takes, in order; false if there is nothing.
    fn write_batch(&mut self) -> bool {
        let mut bytes = 0;
        let mut last = None;
        while let Some((sequence, record)) = self.log.front() {
            bytes += record.size_hint();
            if last.is_some() && bytes > BATCH_BYTES_MAX {
                break;
            }
            last = Some(*sequence);
            self.log.pop_front();
        }
        let Some(sequence) = last else { return false };
        self.now = Time(self.now.0 + 1000);
        self.core.handle(self.now, Input::Persisted { sequence });
        self.poll();
        true
    }

    /// Batches until the small group's operation is chosen, beside a flood of 100 MiB.
    fn batches_beside_a_flood(mut self) -> usize {
        for sequence in 100..200 {
            self.propose(FLOODING[sequence as usize % FLOODING.len()], sequence, (1 << 20) - 64);
        }
        self.propose(SMALL, 1000, 10);
        let wanted = OperationId { node: node(1), start: Start(1), sequence: 1000 };
        let batches = (1..).find(|_| {
            assert!(self.write_batch(), "it is chosen in the end");
            self.chosen.contains(&wanted)
        });
        // The flood is not lost either.
        while self.write_batch() {}
        assert_eq!(self.chosen.len(), FLOODING.len() + 1 + 100 + 1);
        batches.unwrap()
    }
}

#[test]
fn a_small_group_waits_a_few_batches_beside_a_flood() {
    // What is handed over already (two batches and the record that filled the second), a turn of each, and its own batch.
    let batches = Alone::new(CoreOptions::default()).batches_beside_a_flood();
    assert!(batches <= 5, "{batches}");
    // Without turns it waits for all that the flooding logs may have in flight.
    let unbounded = CoreOptions { log_ahead_bytes: u64::MAX, ..CoreOptions::default() };
    let batches = Alone::new(unbounded).batches_beside_a_flood();
    assert!(batches >= 15, "{batches}");
}
