//! Checks that the ports of a cluster are free before any server is started: PostgreSQL's own
//! message about a taken port stands in a log file that nobody looks at.

use crate::failure::{Failure, Reason};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

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
        Reason::Usage,
        format!("port base {port_base} does not fit"),
        format!("node N uses ports BASE+N and BASE+N+{ENGINE_PORT_DISTANCE}, which must lie between 1025 and 65535"),
        format!("choose --port-base between 1024 and {}", usize::from(u16::MAX - ENGINE_PORT_DISTANCE) - nodes),
    ))
}

/// How long a port may be some connection's own end, or nobody's that is shown, before it counts as taken. The default ports lie
/// where the system picks those of outgoing connections; most of these last milliseconds.
const PASSING_TIME_MAX: Duration = Duration::from_secs(3);

/// How often to look whether a passing connection is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The state of a listening socket in /proc/net/tcp.
const LISTENING: &str = "0A";

/// Checks that a node's two ports on the loopback address are free.
pub fn check_free(node: usize, server: u16) -> Result<(), Failure> {
    for (port, user) in [(server, "PostgreSQL"), (server + ENGINE_PORT_DISTANCE, "the engine")] {
        let deadline = Instant::now() + PASSING_TIME_MAX;
        while let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            let sockets = sockets(port);
            let holder = holder(&sockets);
            // A killed process of many threads shows no descriptors any more while the last of them still ends.
            let is_passing = holder.is_none() || sockets.iter().all(|socket| !socket.is_listening);
            if is_passing && Instant::now() < deadline {
                std::thread::sleep(LOOK_AGAIN);
                continue;
            }
            let holder = match holder {
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

/// A socket whose own end is a certain port.
struct Socket {
    is_listening: bool,
    /// As a link in /proc/PID/fd names it.
    name: String,
}

/// The sockets on a port, as far as /proc shows them.
fn sockets(port: u16) -> Vec<Socket> {
    // A server that listens on all addresses of IPv6 mostly has those of IPv4 too.
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, own_port) = fields.get(1)?.split_once(':')?;
        (u16::from_str_radix(own_port, 16).ok()? == port).then(|| Socket {
            is_listening: fields.get(3) == Some(&LISTENING),
            name: format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()),
        })
    };
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(of_line).collect()
}

/// Which process has one of the sockets, as far as /proc shows it to us.
fn holder(sockets: &[Socket]) -> Option<String> {
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = std::fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok())
            .any(|target| sockets.iter().any(|socket| target.to_str() == Some(&socket.name)));
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        holds.then(|| format!("process {pid} ({})", name.trim()))
    })
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
