//! Thousands of simulated clusters in every test run. `make simulate` runs many more.

use simulation::{run_seed, run_seeds, Fault, Fleet, World};

/// About a minute on two processors.
const SEEDS: u64 = 2_500;

#[test]
fn every_seed_keeps_every_promise() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let fleet = Fleet { seeds: 0..SEEDS, world: None, threads, time: None };
    let summary = run_seeds(&fleet, |failure| eprintln!("{failure}"), |_| {});
    println!("{summary}\nfaults injected:\n{}", summary.total.faults);
    assert!(summary.failures.is_empty(), "{} of {} seeds failed", summary.failures.len(), summary.seeds);

    // The worlds were not too kind to prove anything.
    let total = summary.total;
    assert!(total.crashes > SEEDS && total.partitions > SEEDS && total.copies > SEEDS / 10, "{summary}");
    assert!(total.chosen > 100 * SEEDS && total.unknown > SEEDS && total.refused > SEEDS, "{summary}");
    assert!(total.configurations > SEEDS / 10, "{summary}");
    assert!(total.segments_used_again > SEEDS && total.laggards_files > SEEDS, "{summary}");
    for fault in Fault::ALL {
        assert!(total.faults.of(*fault) > 0, "no {} in {SEEDS} seeds", fault.name());
    }
}

#[test]
fn a_seed_means_the_same_every_time() {
    for (seed, world) in (0..20).map(|seed| (seed, None)).chain((0..10).map(|seed| (seed, Some(World::Files)))) {
        let first = format!("{:?}", run_seed(seed, world, false));
        assert_eq!(first, format!("{:?}", run_seed(seed, world, false)), "seed {seed} of {world:?}");
    }
}
