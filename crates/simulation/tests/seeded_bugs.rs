//! A simulation that finds nothing proves nothing: every rule broken on purpose must be found.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use consensus::{plant, SeededBug};
use simulation::{run_seed, Failure, World};

/// Found within so many seeds, or not found.
const SEEDS_MAX: u64 = 20_000;

/// Where a bug is looked for: in worlds in which what it breaks is at home.
fn world(bug: SeededBug) -> World {
    match bug {
        SeededBug::BallotsWithoutStart | SeededBug::EqualValuesAreChosen => World::Quiet,
        SeededBug::OwnerResumesAfterRestart => World::Crashes,
        SeededBug::JointAsksNewOnly
        | SeededBug::JointStepSkipped
        | SeededBug::RemovedToldAtOnce
        | SeededBug::NoSyncPass
        | SeededBug::SyncPassFromOne
        | SeededBug::OwnerResumesAfterEpoch
        | SeededBug::BallotsWithoutEpoch => World::Members,
        SeededBug::NoOpOverDamage | SeededBug::VotesFromJointEpoch | SeededBug::RenewalOfBefore => World::Damage,
        SeededBug::WordBeforeHeartbeat => World::Stale,
        SeededBug::FsyncRetried | SeededBug::LostDiskRejoins => World::Disks,
        bug if SeededBug::OF_VALUES.contains(&bug) => World::Values,
        _ => World::Any,
    }
}

fn find(bug: SeededBug) -> Option<Failure> {
    plant(Some(bug));
    let found = (0..SEEDS_MAX).find_map(|seed| run_seed(seed, Some(world(bug)), false).err());
    plant(None);
    found
}

#[test]
fn every_seeded_bug_is_found() {
    let only = std::env::var("BUG").ok().filter(|only| !only.is_empty());
    let bugs: Vec<SeededBug> = SeededBug::ALL
        .iter()
        .copied()
        .filter(|bug| only.as_ref().is_none_or(|only| format!("{bug:?}").contains(only.as_str())))
        .collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; bugs.len()]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(bug) = bugs.get(index) else { break };
                let found = find(*bug);
                if let Some(failure) = &found {
                    let what: String = failure.what.chars().take(300).collect();
                    eprintln!("{bug:?}: seed {} of world {}: {what}", failure.seed, failure.world);
                }
                results.lock().expect("no panic while holding the results")[index] = found;
            });
        }
    });
    let results = results.into_inner().expect("no panic while holding the results");
    println!("| bug | what is broken | world | seeds | found as |\n|---|---|---|---|---|");
    for (bug, found) in bugs.iter().zip(&results) {
        let (seeds, invariant) = match found {
            Some(failure) => ((failure.seed + 1).to_string(), failure.what.split(": ").next().unwrap_or_default()),
            None => (format!("> {SEEDS_MAX}"), "NOT FOUND"),
        };
        println!("| {bug:?} | {} | {} | {seeds} | {invariant} |", bug.breaks(), world(*bug));
    }
    let missed: Vec<_> = bugs.iter().zip(&results).filter(|(_, found)| found.is_none()).map(|(bug, _)| bug).collect();
    assert!(missed.is_empty(), "not found in {SEEDS_MAX} seeds: {missed:?}");
}
