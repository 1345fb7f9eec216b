//! A crash at every operation on the disk, with every sector of what was not synced kept or lost: nothing acknowledged is
//! ever missing, and a crash is never taken for damage.

use super::script::{check, reader, script, Batch, Dice};
use crate::log::LogOptions;
use crate::recovery;
use crate::repair::Repair;
use crate::simulation::MemoryDisk;
use crate::Checkpoints;
use consensus::{GroupId, NodeId, Slot, Start};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

const NODE: NodeId = NodeId(9);

/// What a crash leaves, in several ways: nothing, all, and any mixture.
fn crashes(disk: &MemoryDisk, seed: u64, mixtures: u64) -> Vec<MemoryDisk> {
    let mut images = vec![disk.after_crash(&mut || false), disk.after_crash(&mut || true)];
    for mixture in 0..mixtures {
        let mut dice = Dice::new(seed * 1000 + disk.operations() * 10 + mixture);
        images.push(disk.after_crash(&mut || dice.below(2) == 0));
    }
    images
}

fn check_image(image: MemoryDisk, acknowledged: &[Batch], on_its_way: &[Batch]) {
    let (log, recovered) =
        recovery::open(Arc::new(image), NODE, Start(2), options()).expect("the log opens after a crash");
    check(&recovered, &reader(log.state()), acknowledged, on_its_way);
}

fn crash_everywhere(seed: u64, batches: usize) {
    println!("seed {seed}");
    let script: Arc<Vec<Batch>> = Arc::new(script(seed, batches));
    let disk = MemoryDisk::new();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();

    // At every operation from here on, look at what a crash right then would leave.
    let observed = (script.clone(), acknowledged.clone());
    disk.observe(Some(Box::new(move |disk| {
        let done = observed.1.load(Ordering::SeqCst);
        let on_its_way = &observed.0[done..(done + 1).min(observed.0.len())];
        for image in crashes(disk, seed, 3) {
            check_image(image, &observed.0[..done], on_its_way);
        }
    })));
    for batch in script.iter() {
        log.append(batch).unwrap();
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
    disk.observe(None);
    check_image(disk.after_crash(&mut || false), &script, &[]);
    let (_, segments) = log.files();
    assert!(segments < 40, "segments were recycled: {segments}");
}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_crash() {
    for seed in 1..=3 {
        crash_everywhere(seed, 150);
    }
}

#[test]
fn a_crash_during_recovery_loses_nothing_either() {
    for seed in 11..=13 {
        let script = script(seed, 60);
        let disk = MemoryDisk::new();
        let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
        let (last, before) = script.split_last().unwrap();
        before.iter().for_each(|batch| assert!(log.append(batch).is_ok()));

        // The last batch is cut short in the middle of its writes.
        let images: Arc<std::sync::Mutex<Vec<MemoryDisk>>> = Arc::default();
        let collected = images.clone();
        disk.observe(Some(Box::new(move |disk| collected.lock().unwrap().extend(crashes(disk, seed, 6)))));
        log.append(last).unwrap();
        disk.observe(None);
        let images = std::mem::take(&mut *images.lock().unwrap());
        assert!(images.len() > 8);
        for image in images {
            // Recover, and crash again at every operation of the recovery; what the first recovery found, the second
            // must find too once the first has ended, and be between the two before.
            let (before, last) = (before.to_vec(), last.clone());
            let observed = (before.clone(), last.clone());
            image.observe(Some(Box::new(move |disk| {
                for image in crashes(disk, seed, 2) {
                    check_image(image, &observed.0, std::slice::from_ref(&observed.1));
                }
            })));
            let (log, first) = recovery::open(Arc::new(image.clone()), NODE, Start(2), options()).unwrap();
            image.observe(None);
            check(&first, &reader(log.state()), &before, std::slice::from_ref(&last));
            let (_, second) = recovery::open(Arc::new(image), NODE, Start(3), options()).unwrap();
            assert_eq!(first, second);
        }
    }
}

#[test]
fn a_log_goes_on_after_a_crash_as_if_nothing_had_been() {
    for seed in 21..=30 {
        let script = script(seed, 80);
        let mut disk = MemoryDisk::new();
        let mut dice = Dice::new(seed);
        let mut done = 0;
        let mut start = 0;
        while done < script.len() {
            // Each life appends some batches; then the power fails.
            start += 1;
            let (mut log, recovered) = recovery::open(Arc::new(disk.clone()), NODE, Start(start), options()).unwrap();
            check(&recovered, &reader(log.state()), &script[..done], &[]);
            for _ in 0..=dice.below(20) {
                if done < script.len() {
                    log.append(&script[done]).unwrap();
                    done += 1;
                }
            }
            disk = disk.after_crash(&mut || dice.below(2) == 0);
        }
        check_image(disk, &script, &[]);
    }
}

#[test]
fn leaving_a_damaged_segment_may_be_cut_short_anywhere() {
    for seed in 31..=33 {
        println!("seed {seed}");
        let script: Arc<Vec<Batch>> = Arc::new(script(seed, 100));
        let disk = MemoryDisk::new();
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
        let observed = (script.clone(), acknowledged.clone());
        disk.observe(Some(Box::new(move |disk| {
            let done = observed.1.load(Ordering::SeqCst);
            let on_its_way = &observed.0[done..(done + 1).min(observed.0.len())];
            for image in crashes(disk, seed, 2) {
                check_image(image, &observed.0[..done], on_its_way);
            }
        })));
        let mut left = 0;
        for (number, batch) in script.iter().enumerate() {
            if number % 9 == 8 {
                // Scrub found something: now in the oldest segment, now in the one in use, now in between.
                let segments: Vec<u32> = log.state().lock().segments.keys().copied().collect();
                let segment = segments[number / 9 % segments.len()];
                log.begin_repair(Repair::Header(segment)).unwrap();
                log.begin_repair(Repair::Segment(segment)).unwrap();
                left += 1;
            }
            log.append(batch).unwrap();
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        while log.is_leaving() {
            log.append(&[]).unwrap();
        }
        disk.observe(None);
        assert_eq!(left, 11);
        check_image(disk.after_crash(&mut || false), &script, &[]);
    }
}

#[test]
fn a_checkpoint_is_there_as_a_whole_or_as_it_was_wherever_the_crash() {
    const GROUP: GroupId = GroupId(1);
    let content = |slot: u64| vec![slot as u8; 3000 * slot as usize];
    for seed in 41..=43 {
        let disk = MemoryDisk::new();
        let checkpoints = Checkpoints::open_on(Arc::new(disk.clone()), NODE).unwrap();
        let durable = Arc::new(AtomicUsize::new(0));
        let observed = durable.clone();
        disk.observe(Some(Box::new(move |disk| {
            let done = observed.load(Ordering::SeqCst) as u64;
            for image in crashes(disk, seed, 6) {
                let found = Checkpoints::open_on(Arc::new(image), NODE).unwrap().newest(GROUP).unwrap();
                let slot = found.as_ref().map_or(0, |found| found.slot.0);
                assert!(slot == done || slot == done + 1, "checkpoint {slot} after {done}");
                if let Some(found) = found {
                    assert_eq!((found.bytes, found.fallen_back), (content(slot), None));
                }
            }
        })));
        for slot in 1..=6 {
            checkpoints.write(GROUP, Slot(slot), &content(slot)).unwrap();
            durable.store(slot as usize, Ordering::SeqCst);
        }
        checkpoints.remove_damaged(GROUP, Slot(5)).unwrap();
        disk.observe(None);
        assert_eq!(checkpoints.oldest_kept(GROUP).unwrap(), Some(Slot(6)));
    }
}
