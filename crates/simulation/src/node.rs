//! One node: a core that lives and dies, a disk that stays, a clock of its own.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{Core, GroupId, Input, LogId, NodeId, OperationId, Start, Time};

use crate::disk::Disk;
use crate::face::Face;
use crate::schedule::Moment;

/// A node and everything around its core.
#[derive(Debug)]
pub struct Node {
    /// Its identity.
    pub id: NodeId,
    /// Its current or last start, counted durably.
    pub start: Start,
    /// The core, while the node runs.
    pub core: Option<Core>,
    /// What survives.
    pub disk: Disk,
    /// The faces of this life.
    pub faces: BTreeMap<(GroupId, LogId), Face>,
    /// The clock of this life.
    pub clock: Clock,
    /// The time that the core was told last.
    pub told: Time,
    /// Frozen until then.
    pub paused_until: Moment,
    /// What arrived meanwhile.
    pub inbox: Vec<Input>,
    /// Whom it can send to.
    pub connected: BTreeSet<NodeId>,
    /// When the core is to be woken.
    pub wake_at: Option<Moment>,
    /// Whether a poll is planned.
    pub poll_planned: bool,
    /// Logs whose state is being copied here.
    pub copying: BTreeSet<(GroupId, LogId)>,
    /// Ids given out in this start.
    pub operations: u64,
    /// Whether it knows that it belongs to the group.
    pub has_group: bool,
    /// Its disk is full until then.
    pub full_until: Moment,
    /// A copy of its disk that somebody made.
    pub backup: Option<Box<Disk>>,
    /// Its own disk, while it runs on the copy.
    pub set_aside: Option<Box<Disk>>,
    /// Out of the group for good: not started again.
    pub retired: bool,
}

impl Node {
    /// A node with this disk, not running.
    pub fn new(id: NodeId, disk: Disk) -> Node {
        Node {
            id,
            start: Start(0),
            core: None,
            disk,
            faces: BTreeMap::new(),
            clock: Clock { origin: 0, begun: 0, rate: 1.0 },
            told: Time(0),
            paused_until: 0,
            inbox: Vec::new(),
            connected: BTreeSet::new(),
            wake_at: None,
            poll_planned: false,
            copying: BTreeSet::new(),
            operations: 0,
            has_group: false,
            full_until: 0,
            backup: None,
            set_aside: None,
            retired: false,
        }
    }

    /// Whether it runs, frozen or not.
    pub fn is_running(&self) -> bool {
        self.core.is_some()
    }

    /// Whether it takes no input now. One that goes on takes first what arrived meanwhile.
    pub fn is_frozen(&self, now: Moment) -> bool {
        self.paused_until > now || !self.inbox.is_empty()
    }

    /// A new operation id.
    pub fn next_id(&mut self) -> OperationId {
        self.operations += 1;
        OperationId { node: self.id, start: self.start, sequence: self.operations }
    }
}

/// A clock that is off in origin and in rate, but never goes back within a life.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it showed at first.
    pub origin: u64,
    /// When that was.
    pub begun: Moment,
    /// Its microseconds per real microsecond.
    pub rate: f64,
}

impl Clock {
    /// What it shows now.
    pub fn at(&self, now: Moment) -> Time {
        Time(self.origin + (now.saturating_sub(self.begun) as f64 * self.rate) as u64)
    }

    /// When it will show `time`; never before the next microsecond.
    pub fn moment_of(&self, time: Time, now: Moment) -> Moment {
        let local = time.0.saturating_sub(self.origin);
        let mut moment = self.begun.saturating_add((local as f64 / self.rate) as u64);
        while moment < Moment::MAX / 2 && self.at(moment) < time {
            moment += 1;
        }
        moment.max(now + 1)
    }
}
