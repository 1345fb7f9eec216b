//! What kind of world a seed makes: how large, how slow, how broken.

use consensus::bounds;

use crate::random::Random;

/// Times are in microseconds, probabilities from 0 to 1.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of it all.
    pub seed: u64,
    /// Voters at the beginning.
    pub nodes: usize,
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
    /// A batch in flight survives a crash as a random prefix; otherwise all or nothing of it.
    pub torn_batches: bool,

    /// How far off in rate a node's clock may be.
    pub clock_drift: f64,
    /// A node polls its core up to this long after an input, so that inputs gather.
    pub poll_delay_max: u64,

    /// Average time between crashes; 0 for none.
    pub crash_every: u64,
    /// A crash between two effects of a core.
    pub crash_at_effect: f64,
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

    /// Average time between proposals.
    pub propose_every: u64,
    /// Proposals made at once are up to this many.
    pub burst_max: u64,
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
    /// Ids that the window holds.
    pub id_window: usize,

    /// Average time between changes of the group's members; 0 for none.
    pub change_every: u64,
    /// One of the nodes finds records of its disk damaged when it starts again.
    pub damage: f64,
    /// As in the core's options: so little in some worlds that records wait for their group's turn all the time.
    pub log_ahead_bytes: u64,
}

impl Plan {
    /// The world of this seed. Every kind of fault is absent in some worlds: a bug that one fault causes must not hide
    /// behind another that keeps the cluster from getting there.
    pub fn of_seed(seed: u64) -> Plan {
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
        Plan {
            seed,
            nodes: if change_every > 0 && r.chance(0.2) {
                1
            } else if r.chance(0.65) {
                3
            } else {
                5
            },
            failure_timeout,
            fault_phase: r.between(2_000, 6_000) * 1_000,
            recovery_bound: 60 * failure_timeout + 5_000_000,
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
            torn_batches: r.chance(0.7),
            clock_drift: if r.chance(0.3) { 0.5 } else { 0.01 },
            poll_delay_max: if r.chance(0.5) { r.between(1, 3_000) } else { 0 },
            crash_every,
            crash_at_effect: if crash_every > 0 && r.chance(0.6) { 0.0003 } else { 0.0 },
            down_for: r.between(20, 1_500) * 1_000,
            crash_all: r.chance(0.3),
            partition_every,
            partition_for: r.between(50, 1_500) * 1_000,
            pause_every,
            pause_for: r.between(20, 800) * 1_000,
            propose_every,
            burst_max,
            read_every: r.between(5, 100) * 1_000,
            withdraw: if r.chance(0.5) { 0.1 } else { 0.0 },
            propose_again: if r.chance(0.6) { 0.5 } else { 0.0 },
            close: if r.chance(0.4) { 0.3 } else { 0.0 },
            hand_over_every: some(r, 0.3, 100, 2_000),
            checkpoint_every,
            log_keep_entries: if r.chance(0.5) { r.between(1, 60) } else { 1_000_000 },
            id_window: if r.chance(0.3) { r.between(20, 200) as usize } else { bounds::ID_WINDOW_MAX },
            change_every,
            // Who removes members while another cannot vote may end without a quorum, and rightly so.
            damage: if change_every == 0 && crash_every > 0 && r.chance(0.3) { 0.5 } else { 0.0 },
            log_ahead_bytes: if r.chance(0.3) { r.between(1, 2_000) } else { bounds::LOG_AHEAD_BYTES },
        }
    }
}

/// An average of milliseconds, or now and then of tens of them.
fn slow_or_quick(random: &mut Random) -> u64 {
    let slowest = if random.chance(0.2) { 30_000 } else { 3_000 };
    random.between(20, slowest)
}
