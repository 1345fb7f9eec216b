//! What kind of world a seed makes: how large, how slow, how broken.

use consensus::{bounds, Windows};

use crate::random::Random;
use crate::worlds::World;

/// What an entry takes on average: few are large, and those are up to 20 kB.
const ENTRY_BYTES: usize = 300;

/// Times are in microseconds, probabilities from 0 to 1.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of it all.
    pub seed: u64,
    /// The kind of world.
    pub world: World,
    /// Voters at the beginning.
    pub nodes: usize,
    /// How many of them are witnesses.
    pub witnesses: usize,
    /// As in the core's options.
    pub failure_timeout: u64,
    /// How long faults happen.
    pub fault_phase: u64,
    /// The whole cluster must be whole again this long after the faults stopped.
    pub recovery_bound: u64,

    /// Shortest time of a message on its way.
    pub delay_min: u64,
    /// What it takes beyond that on average.
    pub delay_mean: u64,
    /// A message takes up to three seconds.
    pub long_delay: f64,
    /// A message is lost.
    pub loss: f64,
    /// A message comes twice.
    pub duplication: f64,
    /// Messages of one link keep their order, as on TCP.
    pub ordered: bool,
    /// A link that cannot deliver is noticed by the sender at a check of the links.
    pub break_links: f64,
    /// Messages are encoded and decoded on their way.
    pub encode: bool,

    /// Shortest time of a disk's sync.
    pub sync_min: u64,
    /// What it takes beyond that on average.
    pub sync_mean: u64,
    /// A sync takes up to two seconds.
    pub sync_stall: f64,
    /// The disk of this node takes so many times longer.
    pub slow_disk: Option<(usize, u64)>,
    /// A batch in flight survives a crash as a random prefix; otherwise all or nothing of it.
    pub torn_batches: bool,

    /// How far off in rate a node's clock may be.
    pub clock_drift: f64,
    /// Average time between jumps of a node's clock; 0 for none.
    pub clock_jump_every: u64,
    /// A node polls its core up to this long after an input, so that inputs gather.
    pub poll_delay_max: u64,

    /// Average time between crashes; 0 for none.
    pub crash_every: u64,
    /// A crash between two effects of a core.
    pub crash_at_effect: f64,
    /// A crash right after a message left.
    pub crash_after_send: f64,
    /// A crash in the middle of a write to real files.
    pub crash_in_write: f64,
    /// Average time that a node stays down.
    pub down_for: u64,
    /// All nodes crash at once now and then.
    pub crash_all: bool,
    /// Average time between partitions; 0 for none.
    pub partition_every: u64,
    /// Average time that a partition lasts.
    pub partition_for: u64,
    /// Average time between pauses of a node; 0 for none.
    pub pause_every: u64,
    /// Average time that a pause lasts.
    pub pause_for: u64,

    /// Only this node has users.
    pub lone_user: Option<usize>,
    /// Average time between proposals.
    pub propose_every: u64,
    /// Proposals made at once are up to this many.
    pub burst_max: u64,
    /// A proposal comes from the last of the running nodes, not from any.
    pub favourite: f64,
    /// Average time between reads.
    pub read_every: u64,
    /// A proposal is withdrawn.
    pub withdraw: f64,
    /// What became unknown is proposed again under its id, at any node.
    pub propose_again: f64,
    /// What became unknown is asked after, by closing its id.
    pub close: f64,
    /// Average time between hand-overs asked for; 0 for none.
    pub hand_over_every: u64,
    /// Average time between a face's checkpoints; 0 for none.
    pub checkpoint_every: u64,
    /// As in the core's options.
    pub log_keep_entries: u64,
    /// As in the core's options.
    pub witness_keep_entries: u64,
    /// Ids that the window holds.
    pub id_window: usize,

    /// Bytes of keys that certification remembers.
    pub certification_bytes: u64,

    /// Average time between changes of the group's members; 0 for none.
    pub change_every: u64,
    /// An operator's change is the loss of a member's disk, and its node with it.
    pub lose_disk: f64,
    /// Average time between looks for members that lost their promises, to renew the epoch; 0 for none.
    pub renew_every: u64,

    /// A node within the fault budget finds its disk damaged when it starts again.
    pub damage: f64,
    /// Average time between rot of an entry on the disk of a running node; 0 for none.
    pub rot_every: u64,
    /// Nodes whose disks may be damaged: a minority, so that a good copy of everything exists; or all.
    pub spoilt_max: usize,
    /// Reading entries fails.
    pub read_error: f64,
    /// A sync fails.
    pub sync_error: f64,
    /// A batch finds the disk full.
    pub disk_full: f64,
    /// A node starts again with its disk of some time ago.
    pub stale_disk: f64,
    /// An operation travels in parts.
    pub in_parts: f64,
    /// As in the core's options: so little in some worlds that records wait for their group's turn all the time.
    pub log_ahead_bytes: u64,
    /// As in the core's options: so small in some worlds that a few entries fill them.
    pub windows: Windows,
    /// Logs of values; 0 in a group of one sequence.
    pub values: u64,
    /// As in the core's options: so few that logs are loaded and unloaded all the time.
    pub resident_logs_max: usize,
    /// Segments of the nodes' real logs; 0 where a model of a disk is all there is.
    pub segment_bytes: u64,
    /// An operation that is not large is up to this much larger than its keys; 0: by eight bytes.
    pub padding_max: u64,
}

impl Plan {
    /// The world of this seed. Every kind of fault is absent in some worlds: a bug that one fault causes must not hide
    /// behind another that keeps the cluster from getting there.
    pub fn of_seed(seed: u64, world: World) -> Plan {
        let mut plan = Plan::any(seed, world);
        let r = &mut Random::new(seed ^ 0x776f_726c_6473);
        match world {
            World::Any => plan.add_witnesses(),
            World::Crashes => plan.make_crashes(r),
            World::Members => {
                plan.make_members(r);
                plan.add_witnesses();
            }
            World::Damage => {
                plan.make_damage(r);
                plan.add_witnesses();
            }
            World::Disks => plan.make_disks(r),
            World::Quiet => plan.make_quiet(r),
            World::Stale => plan.make_stale(r),
            World::Values => plan.make_values(r),
            World::Files => {
                plan.make_files(r);
                plan.add_witnesses();
                // Who is set aside, or leaves, while another's entry is torn may leave no quorum.
                if plan.witnesses > 0 || plan.change_every > 0 {
                    plan.spoilt_max = 0;
                }
            }
            World::NoGoodCopy => {
                plan.make_damage(r);
                plan.spoilt_max = plan.nodes;
            }
        }
        plan.recovery_bound = 60 * plan.failure_timeout + 5_000_000;
        plan.widen_windows();
        plan
    }

    /// Who was away all the time fetches the entries of the whole run, batch by batch, and has a quarter of the time for it
    /// within which everything must work again; half of that time is there to propose what still waits when the faults stop.
    fn widen_windows(&mut self) {
        // Half of the largest burst on average; as much again for parts, and for what is tried once more.
        let entries = self.fault_phase / self.propose_every * (self.burst_max + 1);
        let way = self.delay_min + self.delay_mean + self.poll_delay_max;
        let round_trip = 2 * way + self.sync_min + self.sync_mean;
        let at_once = |time: u64| entries.div_ceil((time / round_trip).max(1)) as usize;
        let entry_bytes = ENTRY_BYTES + self.padding_max as usize / 2;
        let windows = &mut self.windows;
        let batch = at_once(self.recovery_bound / 4);
        windows.batch_entries = windows.batch_entries.max(batch).min(bounds::BATCH_ENTRIES_MAX);
        windows.batch_bytes = windows.batch_bytes.max(batch * entry_bytes);
        let slots = at_once(self.recovery_bound / 2);
        windows.in_flight_slots = windows.in_flight_slots.max(slots).min(bounds::IN_FLIGHT_SLOTS_MAX);
    }

    fn any(seed: u64, world: World) -> Plan {
        let mut random = Random::new(seed ^ 0x706c_616e);
        let r = &mut random;
        let failure_timeout = r.between(100, 400) * 1_000;
        let calm = r.chance(0.1);
        let some = |r: &mut Random, probability: f64, low: u64, high: u64| {
            if !calm && r.chance(probability) {
                r.between(low, high) * 1_000
            } else {
                0
            }
        };
        let crash_every = some(r, 0.7, 200, 2_000);
        let partition_every = some(r, 0.6, 200, 2_000);
        let pause_every = some(r, 0.4, 300, 2_000);
        let change_every = if r.chance(0.4) { r.between(200, 1_000) * 1_000 } else { 0 };
        let checkpoint_every = if r.chance(0.6) { r.between(50, 1_000) * 1_000 } else { 0 };
        let burst_max = if r.chance(0.4) { r.between(2, 30) } else { 1 };
        // Not more operations than a run can carry out in a moment: some thousands a second.
        let propose_every = r.between(2, 60).max(burst_max) * 1_000;
        let nodes = if change_every > 0 && r.chance(0.2) {
            1
        } else if r.chance(0.65) {
            3
        } else {
            5
        };
        let damage = if change_every == 0 && crash_every > 0 && r.chance(0.3) { 0.5 } else { 0.0 };
        Plan {
            seed,
            world,
            nodes,
            witnesses: 0,
            failure_timeout,
            fault_phase: r.between(2_000, 6_000) * 1_000,
            recovery_bound: 0,
            delay_min: r.between(20, 2_000),
            delay_mean: slow_or_quick(r),
            long_delay: if !calm && r.chance(0.3) { 0.01 } else { 0.0 },
            loss: if !calm && r.chance(0.5) { r.fraction() * 0.15 } else { 0.0 },
            duplication: if !calm && r.chance(0.5) { r.fraction() * 0.15 } else { 0.0 },
            ordered: r.chance(0.4),
            break_links: if r.chance(0.7) { 0.3 } else { 0.0 },
            encode: r.chance(0.25),
            sync_min: r.between(20, 2_000),
            sync_mean: slow_or_quick(r),
            sync_stall: if !calm && r.chance(0.3) { 0.003 } else { 0.0 },
            slow_disk: r.chance(0.1).then(|| (r.below(nodes as u64) as usize, r.between(2, 20))),
            torn_batches: r.chance(0.7),
            clock_drift: if r.chance(0.3) { 0.5 } else { 0.01 },
            clock_jump_every: some(r, 0.2, 200, 2_000),
            poll_delay_max: if r.chance(0.5) { r.between(1, 3_000) } else { 0 },
            crash_every,
            crash_at_effect: if crash_every > 0 && r.chance(0.6) { 0.0003 } else { 0.0 },
            crash_after_send: if crash_every > 0 && r.chance(0.2) { 0.0005 } else { 0.0 },
            crash_in_write: 0.0,
            down_for: r.between(20, 1_500) * 1_000,
            crash_all: r.chance(0.3),
            partition_every,
            partition_for: r.between(50, 1_500) * 1_000,
            pause_every,
            pause_for: r.between(20, 800) * 1_000,
            lone_user: None,
            propose_every,
            burst_max,
            // Of a stream of its own, so that worlds without one stay what they are.
            favourite: if Random::new(seed ^ 0x6661_766f).chance(0.3) { 0.9 } else { 0.0 },
            read_every: r.between(5, 100) * 1_000,
            withdraw: if r.chance(0.5) { 0.1 } else { 0.0 },
            propose_again: if r.chance(0.6) { 0.5 } else { 0.0 },
            close: if r.chance(0.4) { 0.3 } else { 0.0 },
            hand_over_every: some(r, 0.3, 100, 2_000),
            checkpoint_every,
            log_keep_entries: if r.chance(0.5) { r.between(1, 60) } else { 1_000_000 },
            witness_keep_entries: bounds::WITNESS_KEEP_ENTRIES,
            id_window: if r.chance(0.3) { r.between(20, 200) as usize } else { bounds::ID_WINDOW_MAX },
            certification_bytes: r.between(2, 60) * 1_000,
            change_every,
            lose_disk: 0.05,
            renew_every: if damage > 0.0 && r.chance(0.5) { r.between(100, 1_000) * 1_000 } else { 0 },
            // Who removes members while another cannot vote may end without a quorum, and rightly so.
            damage,
            rot_every: if damage > 0.0 { some(r, 0.5, 100, 1_000) } else { 0 },
            spoilt_max: (nodes - 1) / 2,
            read_error: if r.chance(0.1) { 0.1 } else { 0.0 },
            sync_error: if !calm && r.chance(0.1) { 0.001 } else { 0.0 },
            disk_full: if !calm && r.chance(0.1) { 0.0005 } else { 0.0 },
            stale_disk: 0.0,
            in_parts: if r.chance(0.4) { 0.3 } else { 0.0 },
            log_ahead_bytes: if r.chance(0.3) { r.between(1, 2_000) } else { bounds::LOG_AHEAD_BYTES },
            windows: windows(seed),
            values: 0,
            resident_logs_max: bounds::RESIDENT_LOGS_MAX,
            segment_bytes: 0,
            padding_max: 0,
        }
    }

    /// In some worlds a minority of the voters hold no state. Of a stream of its own, so that worlds without them stay what
    /// they are.
    fn add_witnesses(&mut self) {
        let r = &mut Random::new(self.seed ^ 0x7769_746e);
        if self.nodes == 1 || !r.chance(0.25) {
            return;
        }
        self.witnesses = r.between(1, 2).min(self.nodes as u64 / 2) as usize;
        // Where a voter may be set aside at any time, nobody may be lost for good, or lose its promises, on top of it.
        let little = self.checkpoint_every > 0 && self.damage == 0.0 && r.chance(0.6);
        if little {
            self.witness_keep_entries = r.between(20, 200);
            self.lose_disk = 0.0;
        } else {
            self.log_keep_entries = 1_000_000;
        }
    }

    /// Nothing is ever durable for long before its node dies.
    fn make_crashes(&mut self, r: &mut Random) {
        self.nodes = 3;
        self.spoilt_max = 1;
        self.slow_disk = None;
        (self.change_every, self.damage, self.rot_every, self.renew_every) = (0, 0.0, 0, 0);
        self.failure_timeout = r.between(60, 150) * 1_000;
        self.crash_every = r.between(100, 500) * 1_000;
        self.crash_after_send = 0.002 + 0.01 * r.fraction();
        self.crash_at_effect = 0.001;
        self.down_for = r.between(10, 300) * 1_000;
        self.propose_every = r.between(5, 40) * 1_000;
        self.burst_max = r.between(1, 4);
    }

    /// Few entries, held by few, while those who decide change.
    fn make_members(&mut self, r: &mut Random) {
        self.nodes = if r.chance(0.5) { 3 } else { 1 };
        self.spoilt_max = 0;
        self.slow_disk = None;
        (self.damage, self.rot_every, self.renew_every) = (0.0, 0, 0);
        self.change_every = r.between(80, 400) * 1_000;
        self.lose_disk = 0.1;
        self.loss = if r.chance(0.5) { 0.2 * r.fraction() } else { 0.0 };
        self.propose_every = r.between(20, 200) * 1_000;
        self.burst_max = 1;
        self.partition_every = r.between(100, 500) * 1_000;
        self.partition_for = r.between(100, 600) * 1_000;
    }

    /// A minority forgets what it accepted and promised, while others come and go.
    fn make_damage(&mut self, r: &mut Random) {
        self.nodes = if r.chance(0.7) { 3 } else { 5 };
        self.spoilt_max = (self.nodes - 1) / 2;
        self.slow_disk = None;
        (self.change_every, self.damage) = (0, 0.8);
        self.rot_every = if r.chance(0.5) { r.between(50, 500) * 1_000 } else { 0 };
        self.renew_every = if r.chance(0.7) { r.between(50, 500) * 1_000 } else { 0 };
        self.crash_every = r.between(80, 600) * 1_000;
        self.down_for = r.between(20, 500) * 1_000;
        self.checkpoint_every = if r.chance(0.5) { r.between(50, 500) * 1_000 } else { 0 };
        self.propose_every = r.between(5, 100) * 1_000;
        self.burst_max = r.between(1, 5);
        self.partition_every = r.between(100, 800) * 1_000;
    }

    /// Disks say no, and go for good; the group changes its members to live on.
    fn make_disks(&mut self, r: &mut Random) {
        (self.damage, self.rot_every, self.renew_every) = (0.0, 0, 0);
        self.sync_error = 0.003 * r.fraction();
        self.disk_full = 0.002 * r.fraction();
        self.read_error = 0.3 * r.fraction();
        self.nodes = if r.chance(0.7) { 3 } else { 5 };
        self.spoilt_max = 0;
        self.slow_disk = None;
        self.change_every = r.between(200, 800) * 1_000;
        self.lose_disk = 0.2;
        self.down_for = r.between(20, 300) * 1_000;
    }

    /// One node has users and the slowest disk; it dies right after it spoke, stays away until nobody speaks of the log
    /// any more, and much of what is said is lost.
    fn make_quiet(&mut self, r: &mut Random) {
        self.nodes = 3;
        self.spoilt_max = 0;
        let lone = r.below(3) as usize;
        (self.lone_user, self.slow_disk) = (Some(lone), Some((lone, r.between(20, 200))));
        (self.change_every, self.damage, self.rot_every, self.renew_every) = (0, 0.0, 0, 0);
        self.failure_timeout = r.between(60, 100) * 1_000;
        self.fault_phase = 6_000_000;
        (self.delay_min, self.delay_mean) = (r.between(20, 500), r.between(20, 2_000));
        (self.sync_min, self.sync_mean, self.sync_stall) = (r.between(100, 500), r.between(100, 1_000), 0.0);
        (self.loss, self.long_delay) = (0.15 + 0.3 * r.fraction(), 0.0);
        (self.crash_every, self.crash_at_effect, self.pause_every, self.hand_over_every) = (0, 0.0, 0, 0);
        self.crash_after_send = 0.02 + 0.1 * r.fraction();
        self.down_for = 4 * self.failure_timeout + r.between(50, 400) * 1_000;
        self.partition_every = r.between(50, 300) * 1_000;
        self.partition_for = r.between(100, 1_000) * 1_000;
        (self.sync_error, self.disk_full, self.clock_jump_every) = (0.0, 0.0, 0);
        self.propose_every = r.between(50, 400) * 1_000;
        self.burst_max = 1;
        (self.read_every, self.propose_again, self.close) = (2_000_000, 0.0, 0.0);
        (self.poll_delay_max, self.checkpoint_every) = (0, 0);
    }

    /// Logs of values, of which few are in memory; in half of the worlds members come and go, so that sync passes cover the rest.
    fn make_values(&mut self, r: &mut Random) {
        self.values = r.between(2, 24);
        self.resident_logs_max = r.between(1, 6) as usize;
        (self.damage, self.rot_every, self.renew_every) = (0.0, 0, 0);
        (self.in_parts, self.close, self.checkpoint_every) = (0.0, 0.0, 0);
        self.burst_max = r.between(1, 4);
        self.propose_every = r.between(3, 40) * 1_000;
        self.read_every = r.between(5, 60) * 1_000;
        self.nodes = if r.chance(0.8) { 3 } else { 5 };
        self.spoilt_max = 0;
        self.slow_disk = None;
        self.change_every = if r.chance(0.5) { r.between(100, 600) * 1_000 } else { 0 };
        if r.chance(0.3) {
            self.crash_every = r.between(100, 600) * 1_000;
            self.crash_after_send = 0.002 * r.fraction();
            self.down_for = r.between(10, 300) * 1_000;
        }
        self.fault_phase = self.fault_phase.min(4_000_000);
    }

    /// Real logs in small segments, of which little is kept, so that they go round; what goes wrong with them is what a crash
    /// leaves, of the process or of the machine, and writes and syncs that fail.
    fn make_files(&mut self, r: &mut Random) {
        (self.damage, self.rot_every, self.renew_every) = (0.0, 0, 0);
        if r.chance(0.5) {
            (self.nodes, self.change_every, self.spoilt_max) = (3, 0, 1);
            self.slow_disk = None;
        }
        self.segment_bytes = r.pick(&[16 << 10, 16 << 10, 32 << 10]).expect("not empty");
        self.padding_max = if r.chance(0.8) { r.between(100, 4_000) } else { 0 };
        self.checkpoint_every = if r.chance(0.8) { r.between(50, 600) * 1_000 } else { 0 };
        self.log_keep_entries = if r.chance(0.7) { r.between(1, 60) } else { 1_000_000 };
        if r.chance(0.7) {
            self.crash_every = r.between(100, 1_000) * 1_000;
            self.down_for = r.between(20, 400) * 1_000;
        }
        self.crash_in_write = if r.chance(0.8) { 0.06 * r.fraction() } else { 0.0 };
        self.torn_batches = r.chance(0.9);
        self.sync_error = if r.chance(0.4) { 0.01 * r.fraction() } else { 0.0 };
    }

    /// Links keep their order and lose nothing, as TCP does: the first that a peer hears of a start is where its log stands.
    fn make_stale(&mut self, r: &mut Random) {
        self.stale_disk = 0.5;
        self.nodes = if r.chance(0.7) { 3 } else { 5 };
        self.spoilt_max = 0;
        self.slow_disk = None;
        (self.change_every, self.damage, self.rot_every, self.renew_every) = (0, 0.0, 0, 0);
        (self.ordered, self.loss, self.duplication, self.long_delay) = (true, 0.0, 0.0, 0.0);
        self.crash_every = r.between(200, 800) * 1_000;
        self.down_for = r.between(20, 300) * 1_000;
    }
}

/// Batches and windows, in half of the worlds small; of a stream of its own, so that the other worlds stay what they are.
fn windows(seed: u64) -> Windows {
    let r = &mut Random::new(seed ^ 0x7769_6e64_6f77);
    if r.chance(0.5) {
        return Windows::default();
    }
    Windows {
        batch_entries: r.between(1, 20) as usize,
        batch_bytes: r.between(50, 30_000) as usize,
        in_flight_batches: r.between(1, bounds::IN_FLIGHT_BATCHES_MAX as u64) as usize,
        in_flight_slots: r.between(1, 60) as usize,
    }
}

/// An average of milliseconds, or now and then of tens of them.
fn slow_or_quick(random: &mut Random) -> u64 {
    let slowest = if random.chance(0.2) { 30_000 } else { 3_000 };
    random.between(20, slowest)
}
