//! Links between nodes on loopback, and what becomes of those who should not be there.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use consensus::{NodeId, Start};
use network::limits::{FRAME_BYTES_MAX, LARGE_FRAMES_QUEUE_BYTES_MAX, RECEIVED_BYTES_MAX};
use network::{Event, Events, Identity, Links, ListenError, Options, Peer, PublicKey, SendError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// No wait here is longer; on a loaded machine everything else is much shorter.
const DEADLINE: Duration = Duration::from_secs(20);

struct Node {
    node: NodeId,
    identity: Identity,
    address: String,
    links: Links,
    events: Events,
}

impl Node {
    /// A node that listens on a port of its own.
    async fn new(number: u128) -> Self {
        Self::start(NodeId(number), Start(1), new_identity(), "127.0.0.1:0").await
    }

    async fn start(node: NodeId, start: Start, identity: Identity, address: &str) -> Self {
        let (mut links, events) = Links::new(Options { node, start, identity: identity.clone() });
        let bound = links.listen(address).await.unwrap();
        Self { node, identity, address: bound[0].to_string(), links, events }
    }

    /// Gives its port and identity to its next start.
    async fn restart(self, start: Start) -> Self {
        let Self { node, identity, address, links, events } = self;
        drop((links, events));
        // The port is free once the aborted tasks have run to their end.
        let address: SocketAddr = address.parse().unwrap();
        until(|| std::net::TcpListener::bind(address).is_ok()).await;
        Self::start(node, start, identity, &address.to_string()).await
    }

    fn as_peer(&self) -> (NodeId, Peer) {
        let public_key = self.identity.public_key().clone();
        (self.node, Peer { address: self.address.clone(), public_key })
    }

    async fn event(&mut self) -> Event {
        let event = tokio::time::timeout(DEADLINE, self.events.receive()).await;
        event.expect("no event in time").expect("links are alive")
    }

    async fn frame(&mut self) -> (NodeId, Bytes) {
        loop {
            if let Event::Frame { from, bytes } = self.event().await {
                return (from, bytes);
            }
        }
    }
}

fn new_identity() -> Identity {
    Identity::load_or_create(tempfile::tempdir().unwrap().path()).unwrap()
}

fn peers<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> BTreeMap<NodeId, Peer> {
    nodes.into_iter().map(Node::as_peer).collect()
}

fn introduce<const N: usize>(mut nodes: [&mut Node; N]) {
    let all = peers(nodes.iter().map(|node| &**node));
    nodes.iter_mut().for_each(|node| node.links.set_peers(all.clone()));
}

/// Waits for a condition, with a deadline.
async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the condition did not come true in time");
}

/// The engine's runtime: one thread.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn three_nodes_talk_to_each_other() {
    run(async {
        let (mut a, mut b, mut c) = (Node::new(1).await, Node::new(2).await, Node::new(3).await);
        introduce([&mut a, &mut b, &mut c]);
        for (from, to) in [(&a, &b), (&a, &c), (&b, &a), (&b, &c), (&c, &a), (&c, &b)] {
            until(|| from.links.is_connected(to.node)).await;
            from.links.send(to.node, Bytes::from(format!("{} to {}", from.node, to.node))).unwrap();
        }
        for node in [&mut a, &mut b, &mut c] {
            for _ in 0..2 {
                let (from, bytes) = node.frame().await;
                assert_eq!(bytes, Bytes::from(format!("{from} to {}", node.node)));
            }
        }
        let status = a.links.status();
        assert_eq!(status.len(), 2, "a node is no peer of its own");
        assert!(status.iter().all(|peer| peer.connected == Some(Start(1)) && peer.receiving));
    });
}

#[test]
fn frames_arrive_whole_in_order_and_share_writes() {
    run(async {
        let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
        introduce([&mut a, &mut b]);
        until(|| a.links.is_connected(b.node)).await;
        let frame = |number: u32| Bytes::from(number.to_be_bytes().repeat(1 + number as usize % 100));
        for number in 0..10_000 {
            a.links.send(b.node, frame(number)).unwrap();
        }
        for number in 0..10_000 {
            assert_eq!(b.frame().await, (a.node, frame(number)));
        }
        let counters = a.links.counters();
        assert_eq!(counters.frames_sent, 10_000);
        assert!(counters.writes < 200, "{} writes", counters.writes);
        until(|| a.links.status()[0].queued_bytes == 0).await;
    });
}

#[test]
fn the_largest_frame_passes_and_a_larger_one_is_refused() {
    run(async {
        let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
        introduce([&mut a, &mut b]);
        until(|| a.links.is_connected(b.node)).await;
        let largest = Bytes::from(vec![7; FRAME_BYTES_MAX]);
        let larger = Bytes::from(vec![7; FRAME_BYTES_MAX + 1]);
        assert_eq!(a.links.send(b.node, larger), Err(SendError::TooLarge { bytes: FRAME_BYTES_MAX + 1 }));
        a.links.send(b.node, largest.clone()).unwrap();
        a.links.send(b.node, Bytes::from_static(b"after")).unwrap();
        assert_eq!(b.frame().await.1, largest);
        assert_eq!(b.frame().await.1, "after");
    });
}

#[test]
fn a_stranger_is_refused_and_counted() {
    run(async {
        let (mut a, mut stranger) = (Node::new(1).await, Node::new(2).await);
        stranger.links.set_peers(peers([&a]));
        until(|| a.links.counters().keys_refused > 0).await;
        until(|| stranger.links.status()[0].refused).await;
        let error = stranger.links.status()[0].last_error.clone().unwrap();
        assert!(error.contains("does not take this node's key"), "{error}");
        assert!(!stranger.links.is_connected(a.node));

        // Once it is known, it comes in by itself.
        a.links.set_peers(peers([&stranger]));
        until(|| stranger.links.is_connected(a.node)).await;
        assert!(!stranger.links.status()[0].refused);
        stranger.links.send(a.node, Bytes::from_static(b"hello")).unwrap();
        assert_eq!(a.frame().await, (stranger.node, Bytes::from_static(b"hello")));
    });
}

#[test]
fn a_peer_with_another_key_is_not_talked_to() {
    run(async {
        let (mut a, b) = (Node::new(1).await, Node::new(2).await);
        let other_key = new_identity().public_key().clone();
        let (node, peer) = b.as_peer();
        a.links.set_peers(BTreeMap::from([(node, Peer { public_key: other_key, ..peer })]));
        until(|| a.links.counters().keys_refused > 0).await;
        assert_eq!(a.links.send(b.node, Bytes::from_static(b"secret")), Err(SendError::NotConnected));
        until(|| a.links.status()[0].last_error.is_some()).await;
        let error = a.links.status()[0].last_error.clone().unwrap();
        assert!(error.contains("not ") && error.contains("as recorded for this peer"), "{error}");
        assert_eq!(b.links.counters().frames_received, 0);
    });
}

#[test]
fn a_name_must_belong_to_the_key() {
    run(async {
        let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
        // The same key pair under another name: a copied directory whose identity was edited.
        let mut liar = Node::start(NodeId(3), Start(1), b.identity.clone(), "127.0.0.1:0").await;
        introduce([&mut a, &mut b]);
        liar.links.set_peers(peers([&a]));
        until(|| a.links.counters().hellos_refused > 0).await;
        until(|| liar.links.status()[0].last_error.is_some()).await;
        let error = liar.links.status()[0].last_error.clone().unwrap();
        assert!(error.contains("is not that node's"), "{error}");
        until(|| a.links.is_connected(b.node)).await;
    });
}

#[test]
fn an_older_start_of_a_connected_node_is_refused() {
    run(async {
        let mut a = Node::new(1).await;
        let identity = new_identity();
        let mut b = Node::start(NodeId(2), Start(5), identity.clone(), "127.0.0.1:0").await;
        introduce([&mut a, &mut b]);
        until(|| b.links.is_connected(a.node)).await;
        let mut copy = Node::start(NodeId(2), Start(4), identity, "127.0.0.1:0").await;
        copy.links.set_peers(peers([&a]));
        until(|| copy.links.status()[0].last_error.is_some()).await;
        let error = copy.links.status()[0].last_error.clone().unwrap();
        assert!(error.contains("a second copy of the node"), "{error}");
        assert!(b.links.is_connected(a.node), "the newer start keeps its link");
    });
}

#[test]
fn a_restarted_peer_is_found_again_soon() {
    run(async {
        let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
        introduce([&mut a, &mut b]);
        assert_eq!(a.event().await, Event::Connected { node: b.node, start: Start(1) });
        let mut b = b.restart(Start(2)).await;
        b.links.set_peers(peers([&a]));
        assert_eq!(a.event().await, Event::Disconnected { node: b.node });
        let since = std::time::Instant::now();
        assert_eq!(a.event().await, Event::Connected { node: b.node, start: Start(2) });
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        a.links.send(b.node, Bytes::from_static(b"again")).unwrap();
        assert_eq!(b.frame().await, (a.node, Bytes::from_static(b"again")));
        until(|| b.links.is_connected(a.node)).await;
    });
}

#[test]
fn a_removed_peer_is_cut_off_in_both_directions() {
    run(async {
        let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
        introduce([&mut a, &mut b]);
        until(|| a.links.is_connected(b.node) && b.links.is_connected(a.node)).await;
        a.links.set_peers(BTreeMap::new());
        assert_eq!(a.links.send(b.node, Bytes::new()), Err(SendError::NotConnected));
        until(|| !b.links.is_connected(a.node)).await;
        until(|| a.links.counters().keys_refused > 0).await;
        assert_eq!(a.event().await, Event::Connected { node: b.node, start: Start(1) });
        assert_eq!(a.event().await, Event::Disconnected { node: b.node });
    });
}

#[test]
fn a_peer_that_moves_is_followed() {
    run(async {
        let (mut a, b) = (Node::new(1).await, Node::new(2).await);
        a.links.set_peers(peers([&b]));
        let mut moved = Node::start(b.node, Start(2), b.identity.clone(), "127.0.0.1:0").await;
        moved.links.set_peers(peers([&a]));
        drop(b);
        a.links.set_peers(peers([&moved]));
        until(|| a.links.is_connected(moved.node)).await;
        a.links.send(moved.node, Bytes::from_static(b"there you are")).unwrap();
        assert_eq!(moved.frame().await.1, "there you are");
    });
}

#[test]
fn a_full_queue_refuses_and_says_so() {
    run(async {
        let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
        introduce([&mut a, &mut b]);
        until(|| a.links.is_connected(b.node)).await;
        // B's engine takes nothing: B reads until its budget is used up, then A's queue fills.
        let frame = Bytes::from(vec![0; 1 << 20]);
        let mut sent = 0;
        while a.links.send(b.node, frame.clone()).is_ok() {
            sent += frame.len();
            tokio::task::yield_now().await;
            assert!(sent < 10 * (RECEIVED_BYTES_MAX + LARGE_FRAMES_QUEUE_BYTES_MAX), "nothing holds A back");
        }
        assert_eq!(a.links.send(b.node, frame.clone()), Err(SendError::Full));
        assert!(a.links.counters().frames_refused_full >= 2);
        assert!(a.links.status()[0].queued_bytes >= LARGE_FRAMES_QUEUE_BYTES_MAX);
        a.links.send(b.node, Bytes::from_static(b"heartbeat")).unwrap();

        // Everything that was taken arrives once B's engine goes on.
        let mut received = 0;
        loop {
            let (_, bytes) = b.frame().await;
            if bytes == "heartbeat" {
                break;
            }
            received += bytes.len();
        }
        assert_eq!(received, sent);
    });
}

#[test]
fn garbage_and_silence_do_no_harm() {
    run(async {
        let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
        for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0; 5000], &[0x16, 3, 1, 255, 255, 1], b""] {
            let mut stream = TcpStream::connect(&a.address).await.unwrap();
            stream.write_all(garbage).await.unwrap();
            stream.shutdown().await.unwrap();
            // A closes it, politely or not.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        until(|| a.links.counters().hellos_refused >= 4).await;

        // Strangers that say nothing do not keep a peer out.
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(TcpStream::connect(&a.address).await.unwrap());
        }
        introduce([&mut a, &mut b]);
        until(|| b.links.is_connected(a.node)).await;
    });
}

#[test]
fn a_listener_that_is_no_node_is_not_taken_for_one() {
    run(async {
        let mut a = Node::new(1).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let public_key = PublicKey::from_bytes(*b"never asked for");
        a.links.set_peers(BTreeMap::from([(NodeId(2), Peer { address, public_key })]));
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example.org ESMTP\r\n").await.unwrap();
        until(|| a.links.status()[0].last_error.is_some()).await;
        assert!(!a.links.is_connected(NodeId(2)));
    });
}

#[test]
fn listen_errors_name_the_address() {
    run(async {
        let mut a = Node::new(1).await;
        let error = a.links.listen(&a.address.clone()).await.unwrap_err();
        assert!(matches!(&error, ListenError::Bind { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse));
        assert!(error.to_string().contains(&a.address), "{error}");
        let error = a.links.listen("no port here").await.unwrap_err();
        assert!(error.to_string().contains("\"no port here\""), "{error}");
        let error = a.links.listen("192.0.2.1:0").await.unwrap_err();
        assert!(error.to_string().contains("192.0.2.1"), "{error}");
        // More addresses may be added.
        let bound = a.links.listen("localhost:0").await.unwrap();
        assert!(bound.iter().all(|address| address.port() == bound[0].port()), "{bound:?}");
    });
}
