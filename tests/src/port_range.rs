//! Ports for a test's cluster: a range of its own, held by a lock as long as the cluster lives,
//! so that tests of several checkouts on one machine never meet.

use rustix::fs::{flock, FlockOperation};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};

/// Nodes per range; the engine's ports lie 10000 above the servers'.
const RANGE: u16 = 20;
const ENGINE_PORT_DISTANCE: u16 = 10_000;

/// The ranges begin here: with their engines' ports they stay below 32768, where the system
/// begins to hand out ports to outgoing connections.
const FIRST: u16 = 21_000;
const RANGES: u16 = 80;

/// A range of ports, ours until dropped.
#[derive(Debug)]
pub struct PortRange {
    /// What `--port-base` takes: node N uses this plus N.
    pub base: u16,
    _lock: File,
}

impl PortRange {
    /// Takes the first range that nobody holds and nobody listens in.
    pub fn take() -> anyhow::Result<PortRange> {
        for number in 0..RANGES {
            let base = FIRST + number * RANGE;
            let path = format!("/tmp/synod-test-ports-{base}.lock");
            let Ok(lock) = File::options().create(true).append(true).open(&path) else {
                continue; // Another user's.
            };
            let is_ours = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if is_ours && is_free(base) {
                return Ok(PortRange { base, _lock: lock });
            }
        }
        anyhow::bail!("no free range of ports between {FIRST} and {}", FIRST + RANGES * RANGE)
    }
}

fn is_free(base: u16) -> bool {
    (base + 1..base + RANGE)
        .flat_map(|port| [port, port + ENGINE_PORT_DISTANCE])
        .all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}
