//! Checks that the ports of a cluster are free before any server is started: PostgreSQL's own
//! message about a taken port stands in a log file that nobody looks at.

use crate::failure::{Failure, Reason};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// Distance between a server's port and its engine's: the default of `pg_paxos.port`.
pub const ENGINE_PORT_DISTANCE: u16 = 10_000;

/// The port of a node's PostgreSQL server.
pub fn server_port(port_base: u16, node: usize) -> u16 {
    port_base + u16::try_from(node).expect("node numbers are far below 65536")
}

/// Checks that the whole range of a cluster lies within what TCP has.
pub fn check_range(port_base: u16, nodes: usize) -> Result<(), Failure> {
    let highest = usize::from(port_base) + nodes + usize::from(ENGINE_PORT_DISTANCE);
    if port_base >= 1024 && highest <= usize::from(u16::MAX) {
        return Ok(());
    }
    Err(Failure::new(
        Reason::PortTaken,
        format!("port base {port_base} does not fit"),
        format!("node N uses ports BASE+N and BASE+N+{ENGINE_PORT_DISTANCE}, which must lie between 1025 and 65535"),
        format!("choose --port-base between 1024 and {}", usize::from(u16::MAX - ENGINE_PORT_DISTANCE) - nodes),
    ))
}

/// Checks that a node's two ports on the loopback address are free.
pub fn check_free(node: usize, server: u16) -> Result<(), Failure> {
    for (port, user) in [(server, "PostgreSQL"), (server + ENGINE_PORT_DISTANCE, "the engine")] {
        if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            let holder = match holder(port) {
                Some(holder) => format!("{holder} has it"),
                None => error.to_string(),
            };
            return Err(Failure::new(
                Reason::PortTaken,
                format!("port {port} is taken"),
                format!("{user} of node {node} would listen there, but {holder}"),
                "stop that, or choose other ports with --port-base",
            ));
        }
    }
    Ok(())
}

/// Which process listens on a port, as far as /proc shows it to us.
fn holder(port: u16) -> Option<String> {
    let sockets: BTreeSet<String> = std::fs::read_to_string("/proc/net/tcp")
        .ok()?
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, listening_port) = fields.get(1)?.split_once(':')?;
            (u16::from_str_radix(listening_port, 16).ok()? == port)
                .then(|| format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()))
        })
        .collect();
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = std::fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok())
            .any(|target| is_one_of(&target, &sockets));
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        holds.then(|| format!("process {pid} ({})", name.trim()))
    })
}

fn is_one_of(target: &Path, sockets: &BTreeSet<String>) -> bool {
    target.to_str().is_some_and(|name| sockets.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if port > u16::MAX - ENGINE_PORT_DISTANCE {
            return; // No engine port above it: check_range refuses such a base before.
        }
        let failure = check_free(1, port).unwrap_err();
        assert_eq!(failure.reason, Reason::PortTaken);
        let text = failure.to_string();
        assert!(text.contains(&format!("port {port} is taken")), "{text}");
        let own = format!("process {}", std::process::id());
        assert!(text.contains(&own), "{text}");
    }

    #[test]
    fn a_range_past_the_last_port_is_refused() {
        assert!(check_range(55_430, 5).is_ok());
        assert!(check_range(55_530, 5).is_ok());
        assert!(check_range(55_531, 5).is_err());
        assert!(check_range(80, 3).is_err());
    }
}
