//! Three nodes of one group and the messages between them. Everything stands still until the test moves it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use consensus::{
    Change, Configuration, Entry, Epoch, GroupId, Input, LogId, LogStatus, Member, Message, NodeId, Record, Role,
    Sequence, Time, Token,
};
use storage::simulation::MemoryDisk;

use crate::machine::{open_log, Machine};

pub const GROUP: GroupId = GroupId(0xa);
pub const NODES: usize = 3;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    Lost,
    /// Kept until [`Trio::release`].
    Held,
}

pub struct Trio {
    pub machines: Vec<Machine>,
    now: Time,
    in_flight: VecDeque<(usize, usize, Arc<Message>)>,
    held: VecDeque<(usize, usize, Arc<Message>)>,
    /// The fate of a message from one node, counted from 0, to another.
    pub fate: fn(usize, usize, &Message) -> Fate,
}

pub fn node(index: usize) -> NodeId {
    NodeId(index as u128 + 1)
}

fn member(index: usize) -> Member {
    Member {
        node: node(index),
        address: format!("host{index}:1"),
        public_key: vec![1],
        role: Role::Voter,
        label: String::new(),
    }
}

/// Disks that hold nothing but the group's configuration.
pub fn fresh_disks() -> Vec<MemoryDisk> {
    let mut configuration = Configuration::first(GROUP, "masks", "tables", "", member(0));
    configuration.members = (0..NODES).map(member).collect();
    configuration.epoch = Epoch(1);
    let configuration = Arc::new(configuration);
    let disk = |index| {
        let disk = MemoryDisk::default();
        let (log, _, _) = open_log(&disk, node(index), 1);
        let record = Record::Configured { configuration: configuration.clone() };
        log.submit(vec![(Sequence(1), record)]).expect("a fresh log takes it");
        log.close();
        disk
    };
    (0..NODES).map(disk).collect()
}

impl Trio {
    /// Starts every node from its disk, and connects all.
    pub fn start(disks: Vec<MemoryDisk>, start: u64) -> Trio {
        let now = Time(1_000_000);
        let machines = disks.into_iter().enumerate();
        let mut trio = Trio {
            machines: machines.map(|(index, disk)| Machine::start(node(index), start, disk, now)).collect(),
            now,
            in_flight: VecDeque::new(),
            held: VecDeque::new(),
            fate: |_, _, _| Fate::Arrives,
        };
        for (one, other) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            trio.input(one, Input::Connected { node: node(other) });
        }
        trio
    }

    pub fn input(&mut self, index: usize, input: Input) {
        self.machines[index].input(self.now, input);
    }

    pub fn propose(&mut self, index: usize, entry: Entry, patience: Duration) {
        let deadline = self.now + patience;
        self.input(index, Input::Propose { group: GROUP, log: LogId::MAIN, entry, deadline });
    }

    pub fn read(&mut self, index: usize, token: Token, patience: Duration) {
        let deadline = self.now + patience;
        self.input(index, Input::Read { group: GROUP, log: LogId::MAIN, token, deadline });
    }

    pub fn change(&mut self, index: usize, token: Token, change: Change, patience: Duration) {
        let deadline = self.now + patience;
        self.input(index, Input::Change { token, group: GROUP, change, deadline });
    }

    pub fn status(&self, index: usize) -> LogStatus {
        self.machines[index].core.status(self.now).groups[0].logs[0].clone()
    }

    pub fn may_vote(&self, index: usize) -> bool {
        self.machines[index].core.status(self.now).groups[0].may_vote
    }

    /// Lets go of what was held.
    pub fn release(&mut self) {
        self.in_flight.append(&mut self.held);
    }

    /// Until nothing moves any more, at this moment of time.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for index in 0..NODES {
                for (to, message) in self.machines[index].poll(self.now) {
                    moved = true;
                    let to = usize::try_from(to.0 - 1).expect("small in this test");
                    self.in_flight.push_back((index, to, message));
                }
            }
            let Some((from, to, message)) = self.in_flight.pop_front() else {
                if moved {
                    continue;
                }
                return;
            };
            match (self.fate)(from, to, &message) {
                Fate::Arrives => self.input(to, Input::Message { from: node(from), message: (*message).clone() }),
                Fate::Held => self.held.push_back((from, to, message)),
                Fate::Lost => {}
            }
        }
        panic!("it never settles");
    }

    /// Lets time pass, with every deadline kept.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.settle();
            let next = self.machines.iter().filter_map(|machine| machine.core.next_deadline()).min();
            let next = next.unwrap_or(Time::NEVER).max(Time(self.now.0 + 1));
            self.now = next.min(end);
            (0..NODES).for_each(|index| self.input(index, Input::Tick));
            if self.now == end {
                self.settle();
                return;
            }
        }
    }

    /// What the disks hold at this moment, without what still waits to be written.
    pub fn crash(self) -> Vec<MemoryDisk> {
        self.machines.iter().map(|machine| machine.disk.copy()).collect()
    }

    /// What the disks hold after a clean stop.
    pub fn close(self) -> Vec<MemoryDisk> {
        self.machines.into_iter().map(Machine::close).collect()
    }
}
