//! The network between the engines, in our hands: a proxy in front of each engine, through which the others reach it.
//!
//! A link of Synod is one way (crate `network`): a node sends its frames on connections that it dialled. So each
//! direction between two nodes can be held, cut or delayed by itself, which makes every shape of partition. Nobody's
//! privileges are needed: each engine advertises its proxy's address (`pg_paxos.advertise_address`), and who dialled a
//! connection is read from /proc, as TLS hides it.

use crate::cluster::Cluster;
use crate::Shape;
use anyhow::Context;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How far an engine's port is from its server's.
const ENGINE_PORT_DISTANCE: u16 = 10_000;

/// How often a held link looks whether it may go on.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Chunks under way on one connection; past it the sender feels it, as on a full line.
const CHUNKS_MAX: usize = 4096;

/// What happens to frames from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// They arrive after so many milliseconds.
    Open {
        /// One way.
        delay_ms: u32,
    },
    /// They wait, as packets do that are sent again until they arrive.
    Held,
    /// Connections are reset, and new ones too.
    Cut,
}

impl Link {
    const HELD: u64 = u64::MAX;
    const CUT: u64 = u64::MAX - 1;

    fn to_bits(self) -> u64 {
        match self {
            Link::Open { delay_ms } => u64::from(delay_ms),
            Link::Held => Link::HELD,
            Link::Cut => Link::CUT,
        }
    }

    fn from_bits(bits: u64) -> Link {
        match bits {
            Link::HELD => Link::Held,
            Link::CUT => Link::Cut,
            delay => Link::Open { delay_ms: u32::try_from(delay).expect("made of one") },
        }
    }
}

/// The proxies of a cluster.
#[derive(Debug)]
pub struct PeerNetwork {
    nodes: usize,
    links: Arc<Links>,
}

#[derive(Debug)]
struct Links {
    directory: PathBuf,
    nodes: usize,
    /// By sender and receiver.
    states: Vec<AtomicU64>,
    /// Connections passed on, so that a test can tell that its proxies were used at all.
    passed: AtomicU64,
    is_over: AtomicBool,
}

impl PeerNetwork {
    /// A cluster with a group, whose engines reach each other through proxies.
    ///
    /// # Errors
    /// If the cluster does not come up, or does not use the proxies.
    pub fn around(shape: Shape) -> anyhow::Result<(Cluster, PeerNetwork)> {
        let cluster = shape.without_group().up()?;
        let network = PeerNetwork::start(&cluster)?;
        cluster.run(1, &format!("SELECT paxos_create_group('local', '{}')", cluster.connection_string(1)))?;
        for node in 2..=cluster.nodes() {
            let (existing, own) = (cluster.connection_string(1), cluster.connection_string(node));
            cluster.run(node, &format!("SELECT paxos_join_group('local', '{existing}', '{own}')"))?;
        }
        let directions = (cluster.nodes() * (cluster.nodes() - 1)) as u64;
        let passed = network.links.passed.load(Ordering::Relaxed);
        anyhow::ensure!(passed >= directions, "{passed} connections went through the proxies");
        Ok((cluster, network))
    }

    fn start(cluster: &Cluster) -> anyhow::Result<PeerNetwork> {
        let nodes = cluster.nodes();
        let links = Arc::new(Links {
            directory: cluster.directory().canonicalize()?,
            nodes,
            states: (0..nodes * nodes).map(|_| AtomicU64::new(0)).collect(),
            passed: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        for node in 1..=nodes {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = listener.local_addr()?;
            let engine = cluster.port(node) + ENGINE_PORT_DISTANCE;
            let links = Arc::clone(&links);
            std::thread::spawn(move || links.accept(&listener, node, engine));
            cluster.run(node, &format!("ALTER SYSTEM SET pg_paxos.advertise_address = '{address}'"))?;
            cluster.stop(node)?;
            cluster.start(node)?;
        }
        Ok(PeerNetwork { nodes, links })
    }

    /// What happens from now on to what `from` sends to `to`.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.links.state(from, to).store(link.to_bits(), Ordering::Relaxed);
    }

    /// All links between two sets of nodes, both ways.
    pub fn split(&self, side: &[usize], link: Link) {
        for from in 1..=self.nodes {
            for to in 1..=self.nodes {
                if side.contains(&from) != side.contains(&to) {
                    self.set(from, to, link);
                }
            }
        }
    }

    /// All links open, without delay.
    pub fn heal(&self) {
        for from in 1..=self.nodes {
            for to in 1..=self.nodes {
                self.set(from, to, Link::Open { delay_ms: 0 });
            }
        }
    }
}

impl Drop for PeerNetwork {
    fn drop(&mut self) {
        self.links.is_over.store(true, Ordering::Relaxed);
    }
}

impl Links {
    fn state(&self, from: usize, to: usize) -> &AtomicU64 {
        &self.states[(from - 1) * self.nodes + to - 1]
    }

    fn link(&self, from: usize, to: usize) -> Link {
        Link::from_bits(self.state(from, to).load(Ordering::Relaxed))
    }

    fn accept(self: Arc<Links>, listener: &TcpListener, to: usize, engine: u16) {
        let port = listener.local_addr().map_or(0, |address| address.port());
        for accepted in listener.incoming() {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let Ok(stream) = accepted else { continue };
            let links = Arc::clone(&self);
            std::thread::spawn(move || {
                // A dialler that is gone again has no use for its connection; it dials anew.
                let Some(from) = stream.peer_addr().ok().and_then(|peer| links.dialler(peer.port(), port)) else {
                    return;
                };
                // An engine that does not listen refuses, so does its proxy.
                drop(links.pass_on(&stream, from, to, engine));
                stream.shutdown(Shutdown::Both).ok();
            });
        }
    }

    /// Which node's process holds the connection between these two ports of this machine.
    fn dialler(&self, own: u16, proxy: u16) -> Option<usize> {
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        let inode = table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_it = port_of(fields.get(1)?)? == own && port_of(fields.get(2)?)? == proxy;
            is_it.then(|| format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()))
        })?;
        std::fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
            // Every process of a server stands in its data directory.
            let data = std::fs::read_link(process.path().join("cwd")).ok()?;
            let node = (1..=self.nodes).find(|node| data == self.directory.join(format!("node{node}/data")))?;
            let descriptors = std::fs::read_dir(process.path().join("fd")).ok()?;
            let holds = descriptors
                .flatten()
                .any(|descriptor| std::fs::read_link(descriptor.path()).is_ok_and(|to| to == Path::new(&inode)));
            holds.then_some(node)
        })
    }

    fn pass_on(self: &Arc<Links>, stream: &TcpStream, from: usize, to: usize, engine: u16) -> anyhow::Result<()> {
        if self.link(from, to) == Link::Cut {
            return Ok(());
        }
        let onward = TcpStream::connect((Ipv4Addr::LOCALHOST, engine)).context("the engine does not listen")?;
        stream.set_nodelay(true)?;
        onward.set_nodelay(true)?;
        self.passed.fetch_add(1, Ordering::Relaxed);
        // The answers to the handshake follow the state of their own direction.
        let (back_source, back_sink) = (onward.try_clone()?, stream.try_clone()?);
        let links = Arc::clone(self);
        let back = std::thread::spawn(move || links.carry(back_source, back_sink, to, from));
        self.carry(stream.try_clone()?, onward, from, to);
        back.join().expect("carrying bytes does not panic");
        Ok(())
    }

    /// Carries bytes one way until either side ends; then ends both.
    fn carry(self: &Arc<Links>, mut source: TcpStream, sink: TcpStream, from: usize, to: usize) {
        let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
        let links = Arc::clone(self);
        let ended = (source.try_clone(), sink.try_clone());
        let writer = std::thread::spawn(move || links.deliver(&receiver, sink, from, to));
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = source.read(&mut buffer) {
            if sender.send((Instant::now(), buffer[..length].to_vec())).is_err() {
                break;
            }
        }
        drop(sender);
        writer.join().expect("writing bytes does not panic");
        for stream in [ended.0, ended.1].into_iter().flatten() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    fn deliver(&self, chunks: &Receiver<(Instant, Vec<u8>)>, mut sink: TcpStream, from: usize, to: usize) {
        loop {
            // A link that is cut ends also the connection on which nothing is sent.
            let next = chunks.recv_timeout(LOOK_AGAIN * 10);
            let is_end = matches!(next, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
            let delay_ms = loop {
                match self.link(from, to) {
                    Link::Open { delay_ms } => break Some(delay_ms),
                    Link::Cut => break None,
                    Link::Held if self.is_over.load(Ordering::Relaxed) => break None,
                    Link::Held if next.is_err() && !is_end => break Some(0),
                    Link::Held => std::thread::sleep(LOOK_AGAIN),
                }
            };
            let (Some(delay_ms), false) = (delay_ms, is_end) else {
                sink.shutdown(Shutdown::Both).ok();
                return;
            };
            let Ok((at, bytes)) = next else { continue };
            let due = at + Duration::from_millis(u64::from(delay_ms));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sink.write_all(&bytes).is_err() {
                return;
            }
        }
    }
}

fn port_of(address: &str) -> Option<u16> {
    u16::from_str_radix(address.split_once(':')?.1, 16).ok()
}
