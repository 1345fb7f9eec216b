//! Latency and throughput of proposals, engines and clients in one process on loopback.
//!
//!     cargo run --release -p node --example propose_bench -- --nodes 3 --seconds 5 --body 200
//!
//! `--barrier 1` asks for read barriers instead.
//!
//! Prints one line per number of clients, beside the mean of one fdatasync of the same disk: with one client a
//! proposal should cost about one, with many the syncs are shared.

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use bytes::Bytes;
use client::Connection;
use cluster::{Cluster, PATIENCE};
use node::Limits;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All clients' operation ids, far above those that the engines hand out themselves.
static SEQUENCE: AtomicU64 = AtomicU64::new(1 << 40);

fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args();
    arguments.find(|argument| argument == name);
    arguments.next().map_or(default, |value| value.parse().expect("a number"))
}

fn main() {
    let nodes = argument("--nodes", 3) as usize;
    let seconds = argument("--seconds", 3);
    let body = Bytes::from(vec![b'x'; argument("--body", 200) as usize]);
    let only = argument("--clients", 0) as usize;
    let barrier = argument("--barrier", 0) == 1;
    let spread = argument("--spread", 1) == 1;
    let cluster = Cluster::group(nodes, Limits::default());
    println!("fdatasync of 4 KiB: {} us", sync_us(&cluster.members[0].directory));
    for clients in [1, 8, 32, 128] {
        if only != 0 && clients != only {
            continue;
        }
        let before = cluster.members[0].status().metrics;
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                let member = if spread { client % nodes } else { 0 };
                let mut connection = cluster.members[member].connect();
                let (stop, body, group) = (Arc::clone(&stop), body.clone(), cluster.group);
                std::thread::spawn(move || load(&mut connection, group, &body, barrier, &stop))
            })
            .collect();
        let began = Instant::now();
        std::thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        let mut latencies: Vec<u32> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let took = began.elapsed().as_secs_f64();
        latencies.sort_unstable();
        let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
        let after = cluster.members[0].status().metrics;
        let batches = after.log_batches - before.log_batches;
        println!(
            "{clients:>4} clients: {:>7.0}/s  p50 {} us  p99 {} us  max {} us | member 0: {:.0} syncs/s of {} us, {:.1} \
             proposals per sync, {:.0} turns/s",
            latencies.len() as f64 / took,
            at(0.5),
            at(0.99),
            at(1.0),
            batches as f64 / took,
            (after.log_sync_us - before.log_sync_us) / batches.max(1),
            latencies.len() as f64 / batches.max(1) as f64,
            (after.loop_turns - before.loop_turns) as f64 / took,
        );
    }
}

fn load(
    connection: &mut Connection,
    group: client::GroupId,
    body: &Bytes,
    barrier: bool,
    stop: &AtomicBool,
) -> Vec<u32> {
    let mut latencies = Vec::new();
    let mut id = connection.operation_id(PATIENCE).unwrap();
    while !stop.load(Ordering::Relaxed) {
        id.sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        if barrier {
            connection.barrier(group, PATIENCE).unwrap();
        } else {
            connection.propose(group, id, body.clone(), None, PATIENCE).unwrap();
        }
        latencies.push(began.elapsed().as_micros() as u32);
    }
    latencies
}

fn sync_us(directory: &std::path::Path) -> u128 {
    use std::io::{Seek, Write};
    let mut file = std::fs::File::create(directory.join("probe")).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    file.sync_all().unwrap();
    let began = Instant::now();
    for _ in 0..100 {
        file.rewind().unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.sync_data().unwrap();
    }
    began.elapsed().as_micros() / 100
}
