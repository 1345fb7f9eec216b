//! Bits rot on one of three nodes, in entries and checkpoints that nobody reads: found, healed, and still healed later.

mod cluster;

use cluster::{small, wait_until, Cluster, PATIENCE};
use node::Limits;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

fn scrubbing() -> Limits {
    let scrub = storage::ScrubOptions { bytes_per_second: 1 << 30, pause: Duration::from_millis(50) };
    Limits { scrub, ..small() }
}

/// Flips a bit behind each of these texts in the files of a directory, wherever it stood before the first was flipped;
/// says how often. What is written again meanwhile stays as it is.
fn rot(directory: &Path, texts: &[String]) -> usize {
    let mut places = Vec::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for text in texts {
            let found = bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes());
            places.extend(found.map(|(at, _)| (path.clone(), at + text.len(), bytes[at + text.len()] ^ 4)));
        }
    }
    for (path, at, byte) in &places {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[*byte], *at as u64).unwrap();
    }
    places.len()
}

#[test]
fn entries_that_nobody_reads_are_healed_from_the_other_members() {
    let mut cluster = Cluster::group(3, scrubbing());
    for n in 0..60 {
        cluster.propose(n % 3, &format!("entry {n}: {}", "y".repeat(2000))).unwrap();
    }
    cluster.agree(&[0, 1, 2]);
    // Started anew, the node has none of them in memory.
    cluster.members[2].stop();
    cluster.members[2].start();
    cluster.agree(&[0, 1, 2]);
    let log = cluster.members[2].directory.join("data/log");
    let texts: Vec<String> = [3, 4, 5, 17, 40].iter().map(|n| format!("entry {n}: ")).collect();
    assert!(rot(&log, &texts) >= 5);

    // Several passes over all of it, so that none is overlooked.
    let read_before = cluster.members[2].status().metrics.scrub_bytes;
    wait_until(Instant::now() + PATIENCE, "scrub finds and heals them", || {
        let metrics = cluster.members[2].status().metrics;
        metrics.scrub_bytes > read_before + (2 << 20)
            && metrics.scrub_damage_found >= 5
            && metrics.scrub_damage_healed == metrics.scrub_damage_found
    });
    for member in &cluster.members[..2] {
        assert_eq!(member.status().metrics.scrub_damage_found, 0, "the others are well");
    }

    // Still so after a restart: passes over all of it find nothing.
    cluster.members[2].stop();
    cluster.members[2].start();
    wait_until(Instant::now() + PATIENCE, "scrub reads everything again", || {
        cluster.members[2].status().metrics.scrub_bytes > 2 << 20
    });
    assert_eq!(cluster.members[2].status().metrics.scrub_damage_found, 0);
    cluster.propose(2, "and goes on").unwrap();
    assert_eq!(cluster.agree(&[0, 1, 2]).len(), 61);
}

#[test]
fn a_checkpoint_that_rotted_is_written_anew() {
    let mut cluster = Cluster::group(1, scrubbing());
    let checkpoints = cluster.members[0].directory.join("data/checkpoints");
    let files = |of: &Path| std::fs::read_dir(of).unwrap().count();
    let deadline = Instant::now() + PATIENCE;
    while files(&checkpoints) < 2 {
        assert!(Instant::now() < deadline, "checkpoints are taken");
        cluster.propose(0, &format!("marked {}", "z".repeat(200_000))).unwrap();
    }
    wait_until(deadline, "none is on its way", || cluster.members[0].status().metrics.checkpoints >= 2);
    let proposed = cluster.agree(&[0]).len();
    assert!(rot(&checkpoints, &["marked ".to_string()]) > 0);
    wait_until(Instant::now() + PATIENCE, "scrub finds and heals it", || {
        let metrics = cluster.members[0].status().metrics;
        metrics.scrub_damage_found >= 1 && metrics.scrub_damage_healed >= metrics.scrub_damage_found
    });
    // It starts from what is there.
    cluster.members[0].stop();
    cluster.members[0].start();
    assert_eq!(cluster.agree(&[0]).len(), proposed);
}
