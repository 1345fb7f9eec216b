//! How fast the log takes records on this machine's disk: alone, and in batches from many at once.
//!
//! `cargo run --release -p storage --example writer_speed -- DIRECTORY`: the directory decides which disk is measured; it
//! must not exist yet, and is removed at the end.

use consensus::{Ballot, Entry, Epoch, GroupId, LogId, NodeId, OperationId, Record, Sequence, Slot, Start};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::{Completion, Log, LogOptions, NodeDirectory};

const RUN: Duration = Duration::from_secs(4);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: writer_speed DIRECTORY")?;
    let path = std::path::PathBuf::from(path);
    if path.exists() {
        return Err(format!("{} exists already", path.display()).into());
    }
    println!("in flight  entry bytes  records/s  records/sync  syncs/s  mean sync us  slowest us  MB/s");
    for (in_flight, bytes) in
        [(1, 200), (8, 200), (32, 200), (128, 200), (1024, 200), (4096, 200), (32, 8192), (4, 1 << 20)]
    {
        measure(&path, in_flight, bytes)?;
        std::fs::remove_dir_all(&path)?;
    }
    Ok(())
}

/// Keeps `in_flight` records on their way for a while.
fn measure(path: &std::path::Path, in_flight: u64, bytes: usize) -> Result<(), Box<dyn std::error::Error>> {
    let directory = NodeDirectory::open(path, "")?;
    let (sender, completions): (_, Receiver<Completion>) = channel();
    let completion = Box::new(move |completion| drop(sender.send(completion)));
    let (log, _) = Log::open(&directory, LogOptions::default(), completion)?;
    let ballot = Ballot { epoch: Epoch(1), round: 1, node: NodeId(1), start: Start(1) };
    let entry = Entry::operation(OperationId::NONE, &vec![7u8; bytes]);
    let (mut submitted, mut durable) = (0u64, 0u64);
    let began = Instant::now();
    while began.elapsed() < RUN {
        let mut records = Vec::new();
        while submitted < durable + in_flight {
            submitted += 1;
            let entries: Arc<[Entry]> = Arc::from([entry.clone()]);
            let first = Slot(submitted);
            let accepted = Record::Accepted { group: GroupId(1), log: LogId::MAIN, ballot, first, entries };
            records.push((Sequence(submitted), accepted));
        }
        if let (Some((last, _)), true) = (records.last().cloned(), submitted % 4096 < in_flight) {
            submitted = last.0 + 1;
            let up_to = Slot(durable);
            records.push((Sequence(submitted), Record::Trimmed { group: GroupId(1), log: LogId::MAIN, up_to }));
        }
        log.submit(records)?;
        match completions.recv()? {
            Completion::Durable(reached) => durable = reached.0,
            Completion::Failed(why) => return Err(why.to_string().into()),
            _ => {}
        }
    }
    let took = began.elapsed().as_secs_f64();
    let usage = log.usage();
    let batches = usage.batches.max(1);
    println!(
        "{in_flight:9}  {bytes:11}  {:9.0}  {:12.1}  {:7.0}  {:12.0}  {:10.0}  {:4.0}",
        durable as f64 / took,
        usage.records as f64 / batches as f64,
        batches as f64 / took,
        usage.writing.as_secs_f64() * 1e6 / batches as f64,
        usage.slowest.as_secs_f64() * 1e6,
        usage.bytes_written as f64 / took / 1e6,
    );
    log.close();
    Ok(())
}
