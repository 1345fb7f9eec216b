//! Thousands of simulated clusters in every test run. `make soak` runs many more.

use simulation::{run_seed, run_seeds};

/// About a minute on two processors.
const SEEDS: u64 = 2_500;

#[test]
fn every_seed_keeps_every_promise() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let summary = run_seeds(0..SEEDS, threads, None, |failure| eprintln!("{failure}"));
    println!("{summary}");
    assert!(summary.failures.is_empty(), "{} of {} seeds failed", summary.failures.len(), summary.seeds);

    // The worlds were not too kind to prove anything.
    let total = summary.total;
    assert!(total.crashes > SEEDS && total.partitions > SEEDS && total.copies > SEEDS / 10, "{summary}");
    assert!(total.chosen > 100 * SEEDS && total.unknown > SEEDS && total.refused > SEEDS, "{summary}");
    assert!(total.configurations > SEEDS / 10, "{summary}");
}

#[test]
fn a_seed_means_the_same_every_time() {
    for seed in 0..20 {
        let first = format!("{:?}", run_seed(seed, false));
        assert_eq!(first, format!("{:?}", run_seed(seed, false)), "seed {seed}");
    }
}
