//! The simulated world: takes one event after the other and gives each to whom it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use consensus::{
    Configuration, Discipline, Entry, Epoch, GroupId, Input, LogId, Member, Message, NodeId, OperationId, Record, Role,
    Slot, Start, Token,
};

use crate::disk::Disk;
use crate::invariants::{Invariants, Violation};
use crate::membership::Membership;
use crate::network::Network;
use crate::node::Node;
use crate::observation::Observation;
use crate::plan::Plan;
use crate::random::Random;
use crate::recovery::Recovery;
use crate::schedule::{Moment, Schedule};
use crate::tally::{Fault, Tally};
use crate::trace::Trace;
use crate::values::Values;
use crate::workload::Workload;

/// The one group of the simulation.
pub const GROUP: GroupId = GroupId(0xa);

/// A run of more events than this is going round in circles: usual ones have some ten thousands.
const EVENTS_MAX: u64 = 1_000_000;

/// Everything that can happen.
#[derive(Debug)]
pub(crate) enum Event {
    Arrive {
        from: NodeId,
        to: NodeId,
        message: Arc<Message>,
    },
    Poll {
        node: NodeId,
        life: u64,
    },
    Wake {
        node: NodeId,
        life: u64,
        at: Moment,
    },
    FlushLazy {
        node: NodeId,
        life: u64,
    },
    Synced {
        node: NodeId,
        life: u64,
    },
    EntriesRead {
        node: NodeId,
        life: u64,
        token: Token,
        place: (GroupId, LogId),
        from: Slot,
        up_to: Slot,
        bytes_max: usize,
    },
    LogLoaded {
        node: NodeId,
        life: u64,
        log: LogId,
    },
    Put {
        node: NodeId,
        life: u64,
        log: LogId,
    },
    LogsListed {
        node: NodeId,
        life: u64,
        token: Token,
        logs: Vec<(LogId, Slot, Slot)>,
        last: bool,
    },
    CopyState {
        node: NodeId,
        life: u64,
        place: (GroupId, LogId),
        donor: NodeId,
    },
    Checkpoint {
        node: NodeId,
        life: u64,
    },
    Rot,
    ClockJump,
    Renew,
    BackUp {
        node: NodeId,
    },
    SuspectBound {
        node: NodeId,
        start: Start,
    },
    CheckLinks,
    Restart {
        node: NodeId,
    },
    Resume {
        node: NodeId,
    },
    Crash,
    Partition,
    Heal {
        number: u64,
    },
    Flap {
        number: u64,
    },
    Pause,
    Propose,
    ProposeAgain {
        entry: Entry,
    },
    Close {
        id: OperationId,
    },
    Withdraw {
        node: NodeId,
        id: OperationId,
    },
    Read,
    HandOver,
    Change,
    Retire {
        node: NodeId,
    },
    FaultsEnd,
    Probe,
    Stopped,
}

/// What is seen, and who looks.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) trace: Trace,
    pub(crate) invariants: Invariants,
    pub(crate) violation: Option<Violation>,
    /// A node that runs on an old disk and must be refused: what it does binds nobody.
    pub(crate) hidden: Option<NodeId>,
}

impl Watch {
    fn new(plan: &Plan, trace: bool) -> Watch {
        Watch { trace: Trace { enabled: trace }, invariants: Invariants::new(plan), violation: None, hidden: None }
    }

    pub(crate) fn see(&mut self, now: Moment, observation: &Observation<'_>) {
        self.trace.tell(now, format_args!("{observation:?}"));
        let hidden = self.hidden.is_some_and(|hidden| hidden == observation.node());
        if self.violation.is_none() && !hidden {
            self.violation = self.invariants.observe(observation);
        }
    }

    pub(crate) fn violate(&mut self, invariant: &'static str, detail: String) {
        self.violation.get_or_insert(Violation { invariant, detail });
    }
}

/// What a run was like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Events that happened.
    pub events: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Partitions.
    pub partitions: u64,
    /// Configurations that came into force.
    pub configurations: u64,
    /// Copies of state.
    pub copies: u64,
    /// Proposals answered as chosen.
    pub chosen: u64,
    /// Proposals answered as failed.
    pub failed: u64,
    /// Proposals that became unknown.
    pub unknown: u64,
    /// Reads answered with a barrier.
    pub barriers: u64,
    /// Reads refused.
    pub refused: u64,
    /// Highest slot delivered.
    pub slots: u64,
    /// Worlds that ended in a clear stop, where nothing better was left.
    pub stops: u64,
    /// Segments of real logs that took the place of one that had left its log.
    pub segments_used_again: u64,
    /// Laggards' files that real logs wrote.
    pub laggards_files: u64,
    /// What was done to them.
    pub faults: Tally,
}

/// The world of one seed.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Moment,
    pub(crate) schedule: Schedule<Event>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) lives: BTreeMap<NodeId, u64>,
    pub(crate) network: Network,
    pub(crate) partition_number: u64,
    pub(crate) workload: Workload,
    pub(crate) membership: Membership,
    /// Nodes whose disks were damaged.
    pub(crate) spoilt: BTreeSet<NodeId>,
    /// The node that runs on an old disk.
    pub(crate) suspect: Option<NodeId>,
    /// When starts on an old disk were refused.
    pub(crate) refused: BTreeMap<(NodeId, Start), Moment>,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) values: Values,
    pub(crate) watch: Watch,
    pub(crate) report: Report,
    /// Nodes to be polled before anything else happens.
    pub(crate) dirty: BTreeSet<NodeId>,
}

impl Cluster {
    /// The world of a plan, with its nodes not yet started.
    pub fn new(plan: Plan, trace: bool) -> Cluster {
        let random = Random::new(plan.seed);
        let ids: Vec<NodeId> = (1..=plan.nodes as u128).map(NodeId).collect();
        let configuration = Arc::new(Configuration {
            members: ids.iter().enumerate().map(|(index, id)| member(*id, role(&plan, index))).collect(),
            discipline: if plan.values > 0 { Discipline::Values } else { Discipline::Sequences },
            ..Configuration::first(GROUP, "group", "simulation", "", member(ids[0], Role::Voter))
        });
        let nodes = ids.iter().map(|id| (*id, Node::new(*id, new_disk(&plan, *id)))).collect();
        let mut cluster = Cluster {
            watch: Watch::new(&plan, trace),
            plan,
            random,
            now: 0,
            schedule: Schedule::default(),
            nodes,
            lives: BTreeMap::new(),
            network: Network::default(),
            partition_number: 0,
            workload: Workload::default(),
            membership: Membership::new(configuration.clone()),
            spoilt: BTreeSet::new(),
            suspect: None,
            refused: BTreeMap::new(),
            recovery: None,
            values: Values::default(),
            report: Report::default(),
            dirty: BTreeSet::new(),
        };
        cluster.tell(format_args!("{:?}", cluster.plan));
        assert_eq!(configuration.epoch, Epoch(1));
        for id in &ids {
            cluster.preset(*id, Record::Configured { configuration: configuration.clone() });
        }
        for id in ids {
            let delay = cluster.random.below(50_000);
            cluster.schedule.at(delay, Event::Restart { node: id });
        }
        cluster.plan_events();
        cluster
    }

    /// A record that is on the node's disk before its first life.
    fn preset(&mut self, id: NodeId, record: Record) {
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let sequence = node.disk.preset(record.clone());
        self.watch.see(self.now, &Observation::Durable { node: id, sequence, record: &record });
    }

    fn plan_events(&mut self) {
        let plan = self.plan.clone();
        self.schedule.at(1, Event::CheckLinks);
        let random = &mut self.random;
        for (every, event) in [
            (plan.crash_every, Event::Crash),
            (plan.partition_every, Event::Partition),
            (plan.pause_every, Event::Pause),
            (plan.propose_every, Event::Propose),
            (plan.read_every, Event::Read),
            (plan.hand_over_every, Event::HandOver),
            (plan.change_every, Event::Change),
            (plan.renew_every, Event::Renew),
            (plan.rot_every, Event::Rot),
            (plan.clock_jump_every, Event::ClockJump),
        ] {
            if every > 0 {
                self.schedule.at(random.waiting_time(every), event);
            }
        }
        self.schedule.at(plan.fault_phase, Event::FaultsEnd);
    }

    /// Plans the next event of a kind that happens again and again while faults last.
    pub(crate) fn again(&mut self, every: u64, event: Event) {
        if self.recovery.is_none() && every > 0 {
            let wait = self.random.waiting_time(every);
            self.schedule.at(self.now + wait, event);
        }
    }

    /// Lets the world run to its end: faults, then recovery.
    pub fn run(mut self) -> Result<Report, Violation> {
        while let Some((moment, event)) = self.schedule.take_next() {
            assert!(moment >= self.now, "time goes forward");
            self.now = moment;
            self.report.events += 1;
            self.happen(event);
            self.poll_dirty();
            if let Some(violation) = self.watch.violation.take() {
                self.tell(format_args!("VIOLATION {violation}"));
                return Err(violation);
            }
            if self.is_recovered() || self.has_stopped() {
                break;
            }
            if self.report.events > EVENTS_MAX {
                self.watch.violate("progress", format!("{EVENTS_MAX} events and no end"));
            }
        }
        let Workload { chosen, failed, unknown, barriers, refused, .. } = self.workload;
        let figures = self.nodes.values().filter_map(|node| Some(node.disk.real.as_ref()?.figures()));
        let (segments_used_again, laggards_files) = figures.fold((0, 0), |(segments, files), of_node| {
            (segments + of_node.segments_used_again, files + of_node.laggards_files)
        });
        let report = Report { segments_used_again, laggards_files, ..self.report };
        Ok(Report { chosen, failed, unknown, barriers, refused, ..report })
    }

    pub(crate) fn tell(&self, what: std::fmt::Arguments<'_>) {
        self.watch.trace.tell(self.now, what);
    }

    pub(crate) fn life(&self, node: NodeId) -> u64 {
        self.lives.get(&node).copied().unwrap_or(0)
    }

    fn is_alive(&self, node: NodeId, life: u64) -> bool {
        self.life(node) == life && self.nodes[&node].is_running()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, message } => self.arrive(from, to, message),
            Event::Poll { node, life } if self.is_alive(node, life) => {
                let it = self.nodes.get_mut(&node).expect("a node of this cluster");
                it.poll_planned = false;
                if it.paused_until <= self.now {
                    self.dirty.insert(node);
                }
            }
            Event::Wake { node, life, at } if self.is_alive(node, life) && self.nodes[&node].wake_at == Some(at) => {
                self.nodes.get_mut(&node).expect("a node of this cluster").wake_at = None;
                self.tell(format_args!("{node} wakes"));
                self.give(node, Input::Tick);
            }
            Event::FlushLazy { node, life } if self.is_alive(node, life) && self.nodes[&node].disk.could_sync() => {
                self.begin_sync(node);
            }
            Event::Synced { node, life } if self.is_alive(node, life) => self.synced(node),
            Event::EntriesRead { node, life, token, place, from, up_to, bytes_max } if self.is_alive(node, life) => {
                let (mut entries, damaged) = self.nodes[&node].disk.read_entries(place, from, up_to, bytes_max);
                if self.random.chance(self.plan.read_error) {
                    self.report.faults.count(Fault::ReadError);
                    entries.clear();
                }
                self.give(node, Input::EntriesRead { token, entries, damaged });
            }
            Event::LogLoaded { node, life, log } if self.is_alive(node, life) => self.log_loaded(node, log),
            Event::Put { node, life, log } if self.is_alive(node, life) => self.put(node, log),
            Event::LogsListed { node, life, token, logs, last } if self.is_alive(node, life) => {
                self.give(node, Input::LogsListed { token, logs, last });
            }
            Event::CopyState { node, life, place, donor } if self.is_alive(node, life) => {
                self.copy_state(node, place, donor);
            }
            Event::Checkpoint { node, life } if self.is_alive(node, life) => self.checkpoint(node),
            Event::CheckLinks => self.check_links(),
            Event::Restart { node } => self.start(node),
            Event::Resume { node } => self.resume(node),
            // Faults and new work end together; these were planned before.
            Event::Crash
            | Event::Partition
            | Event::Pause
            | Event::Propose
            | Event::Read
            | Event::HandOver
            | Event::Change
            | Event::Renew
            | Event::Rot
            | Event::ClockJump
                if self.recovery.is_some() => {}
            Event::Crash => self.fault_crash(),
            Event::Partition => self.fault_partition(),
            Event::Heal { number } if number == self.partition_number => {
                self.tell(format_args!("HEALED"));
                self.network.heal();
            }
            Event::Flap { number } => self.fault_flap(number),
            Event::Rot => self.fault_rot(),
            Event::ClockJump => self.fault_clock_jump(),
            Event::BackUp { node } => self.back_up(node),
            Event::SuspectBound { node, start } => self.check_suspect(node, start),
            Event::Renew => {
                self.renew_the_barred();
                self.again(self.plan.renew_every, Event::Renew);
            }
            Event::Pause => self.fault_pause(),
            Event::Propose => self.user_proposes(),
            Event::ProposeAgain { entry } => self.user_proposes_again(entry),
            Event::Close { id } => self.user_closes(id),
            Event::Withdraw { node, id } => self.user_withdraws(node, id),
            Event::Read => self.user_reads(),
            Event::HandOver => self.user_hands_over(),
            Event::Change => self.change_members(),
            Event::Retire { node } => self.retire_removed(node),
            Event::FaultsEnd => self.end_faults(),
            Event::Probe => self.probe(),
            Event::Stopped => self.check_stop(),
            // Of an earlier life of its node.
            _ => {}
        }
    }
}

/// The disk of a new node.
pub(crate) fn new_disk(plan: &Plan, id: NodeId) -> Disk {
    match plan.segment_bytes {
        0 => Disk::default(),
        segment_bytes => Disk::of_files(id, segment_bytes),
    }
}

/// The first members hold the state.
fn role(plan: &Plan, index: usize) -> Role {
    if index < plan.nodes - plan.witnesses {
        Role::Voter
    } else {
        Role::Witness
    }
}

/// A node as a member of the group.
pub(crate) fn member(node: NodeId, role: Role) -> Member {
    Member { node, address: format!("{node}:1"), public_key: node.0.to_be_bytes().to_vec(), role, label: String::new() }
}
