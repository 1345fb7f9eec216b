//! A process that ends, or ends itself after a failed sync, leaves in the system's cache what it wrote, and the next process
//! reads it there. When the machine loses power after that, what was read must not turn out to have been in the cache only.

use super::script::{check, reader, script, Batch, Dice};
use crate::log::LogOptions;
use crate::recovery;
use crate::simulation::{Fault, MemoryDisk};
use consensus::{NodeId, Start};
use std::sync::Arc;

const NODE: NodeId = NodeId(9);

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

/// The next process reads the log, and then the power is lost: nothing that it read is gone, and nothing is taken for damage.
fn check_next_process(disk: &MemoryDisk, seed: u64, acknowledged: &[Batch], on_its_way: &[Batch]) {
    let (log, first) =
        recovery::open(Arc::new(disk.clone()), NODE, Start(2), options()).expect("it opens after a kill");
    check(&first, &reader(log.state()), acknowledged, on_its_way);
    drop(log);
    let mut dice = Dice::new(seed);
    let images = [disk.after_crash(&mut || false), disk.after_crash(&mut || true)];
    for image in images.into_iter().chain([disk.after_crash(&mut || dice.below(2) == 0)]) {
        let (log, second) = recovery::open(Arc::new(image), NODE, Start(3), options()).expect("it opens after a crash");
        assert_eq!(first, second);
        check(&second, &reader(log.state()), acknowledged, on_its_way);
    }
}

/// As [`check_next_process`], with each life but the last ended by `fault` at this operation after its beginning.
fn end_at_each_operation(fault: Fault) {
    for seed in 81..=83 {
        println!("seed {seed}");
        let script = script(seed, 60);
        let append_all = |disk: &MemoryDisk, operation: u64| {
            let opened = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options());
            let mut log = opened.expect("an empty disk").0;
            disk.fail_at(disk.operations() + operation, fault);
            script.iter().position(|batch| log.append(batch).is_err())
        };
        for operation in 1.. {
            let disk = MemoryDisk::new();
            let Some(done) = append_all(&disk, operation) else { break };
            disk.mend();
            check_next_process(&disk, seed * 1000 + operation, &script[..done], &script[done..=done]);
        }
    }
}

#[test]
fn what_a_killed_process_wrote_and_the_next_one_read_survives_a_loss_of_power() {
    end_at_each_operation(Fault::End);
}

#[test]
fn what_was_read_after_a_failed_sync_survives_a_loss_of_power() {
    end_at_each_operation(Fault::Error);
}

#[test]
fn a_start_that_was_killed_leaves_nothing_that_a_loss_of_power_takes() {
    for seed in 84..=86 {
        println!("seed {seed}");
        let script = script(seed, 40);
        let disk = MemoryDisk::new();
        let (mut log, _) = recovery::open(Arc::new(disk.clone()), NODE, Start(1), options()).unwrap();
        script.iter().for_each(|batch| assert!(log.append(batch).is_ok()));
        drop(log);
        for operation in 1..=30 {
            let disk = disk.copy();
            disk.fail_at(disk.operations() + operation, Fault::End);
            drop(recovery::open(Arc::new(disk.clone()), NODE, Start(2), options()));
            disk.mend();
            check_next_process(&disk, seed * 1000 + operation, &script, &[]);
        }
    }
}
