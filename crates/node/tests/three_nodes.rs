//! Three engines on loopback: agreement through kills, freezes, restarts and lost logs.

mod cluster;

use bytes::Bytes;
use client::{Connection, Error, RefusalReason};
use cluster::{propose, small, wait_until, Cluster, PATIENCE};
use node::Limits;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[test]
fn all_members_propose_and_agree() {
    let cluster = Cluster::group(3, Limits::default());
    let mut expected = BTreeSet::new();
    for n in 0..30 {
        let body = format!("{n}");
        cluster.propose(n % 3, &body).unwrap();
        expected.insert(Bytes::from(body));
    }
    let agreed = cluster.agree(&[0, 1, 2]);
    assert_eq!(agreed.len(), 30);
    assert_eq!(agreed.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_read_anywhere_sees_what_was_acknowledged_anywhere() {
    let cluster = Cluster::group(3, Limits::default());
    let mut connections: Vec<Connection> = cluster.members.iter().map(|member| member.connect()).collect();
    for n in 0..60 {
        let slot = propose(&mut connections[n % 3], cluster.group, "x").unwrap().slot;
        let barrier = connections[(n + 1) % 3].barrier(cluster.group, PATIENCE).unwrap();
        assert!(barrier >= slot, "a barrier at {barrier} misses slot {slot}");
    }
}

#[test]
fn a_member_that_was_away_catches_up_from_the_log() {
    let mut cluster = Cluster::group(3, Limits::default());
    cluster.propose(0, "before").unwrap();
    cluster.members[2].stop();
    for n in 0..20 {
        cluster.propose(n % 2, &format!("{n}")).unwrap();
    }
    cluster.members[2].start();
    assert_eq!(cluster.agree(&[0, 1, 2]).len(), 21);
    cluster.propose(2, "and it proposes again").unwrap();
}

#[test]
fn losing_the_owner_delays_by_the_failure_timeout_once() {
    let mut cluster = Cluster::group(3, Limits::default());
    for n in 0..3 {
        cluster.propose(n, "warm").unwrap();
    }
    let owner = cluster.members[0].status().groups[0].log.owner.expect("somebody proposed");
    let lost = cluster.members.iter().position(|m| m.engine.as_ref().unwrap().node() == owner).unwrap();
    cluster.members[lost].stop();
    let survivor = (lost + 1) % 3;
    let began = Instant::now();
    cluster.propose(survivor, "first").unwrap();
    let first = began.elapsed();
    let began = Instant::now();
    for _ in 0..10 {
        cluster.propose(survivor, "then").unwrap();
    }
    let then = began.elapsed() / 10;
    // The time-out is half a second here; the machine may be busy.
    assert!(first < Duration::from_secs(5), "the first proposal took {first:?}");
    assert!(then < Duration::from_millis(500), "later proposals took {then:?} each");
}

#[test]
fn the_minority_side_refuses_and_names_who_answers() {
    let mut cluster = Cluster::group(3, Limits::default());
    cluster.propose(0, "with a quorum").unwrap();
    cluster.members[1].stop();
    cluster.members[2].stop();
    // Once the time-out has passed, nothing is sent any more.
    wait_until(Instant::now() + PATIENCE, "the others count as silent", || {
        cluster.members[0].status().groups[0].members.iter().filter(|member| member.live).count() == 1
    });
    let mut connection = cluster.members[0].connect();
    let id = connection.operation_id(PATIENCE).unwrap();
    let wait = Duration::from_secs(2);
    let began = Instant::now();
    for error in [
        connection.barrier(cluster.group, wait).unwrap_err(),
        connection.propose(cluster.group, id, Bytes::from_static(b"alone"), None, wait).unwrap_err(),
    ] {
        let Error::Refused(refusal) = error else {
            panic!("expected a refusal, got {error}");
        };
        assert_eq!(refusal.reason, RefusalReason::NoQuorum, "{refusal:?}");
        assert_eq!(refusal.certainty, client::Certainty::Definite);
        assert_eq!((refusal.answering.len(), refusal.silent.len()), (1, 2), "{}", refusal.contact());
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    // Any majority serves again, nothing else done.
    cluster.members[1].start();
    cluster.propose(0, "together").unwrap();
    assert_eq!(cluster.agree(&[0, 1]), ["with a quorum", "together"]);
}

#[test]
fn a_frozen_owner_is_replaced_within_the_failure_timeout() {
    let cluster = Cluster::group(3, Limits::default());
    let mut delays = Vec::new();
    for round in 0..5 {
        cluster.propose(round % 3, "warm").unwrap();
        cluster.agree(&[0, 1, 2]);
        let owner = cluster.members[0].status().groups[0].log.owner.expect("somebody proposed");
        let frozen = cluster.members.iter().position(|m| m.engine.as_ref().unwrap().node() == owner).unwrap();
        let mut connection = cluster.members[(frozen + 1) % 3].connect();
        cluster.members[frozen].list.freeze();
        // The owner freezes when it delivers the first of these, in the middle of things.
        let began = Instant::now();
        for _ in 0..3 {
            propose(&mut connection, cluster.group, "beside").unwrap();
        }
        delays.push(began.elapsed());
        cluster.members[frozen].list.thaw();
    }
    cluster.agree(&[0, 1, 2]);
    eprintln!("delays: {delays:.0?}");
    // The time-out is half a second here. A busy machine may add to it, but not every time.
    let best = delays.iter().min().unwrap();
    assert!(*best <= Duration::from_millis(500), "{delays:?}");
    assert!(delays.iter().all(|delay| *delay < Duration::from_secs(5)), "{delays:?}");
}

#[test]
fn a_frozen_member_delays_nobody_for_long() {
    let cluster = Cluster::group(3, Limits::default());
    cluster.propose(0, "warm").unwrap();
    let owner = cluster.members[0].status().groups[0].log.owner.expect("somebody proposed");
    let frozen = cluster.members.iter().position(|m| m.engine.as_ref().unwrap().node() == owner).unwrap();
    let other = (frozen + 1) % 3;
    cluster.members[frozen].list.freeze();
    let deadline = Instant::now() + PATIENCE;
    // The one that catches the freeze may end unknown; after it all is well.
    let mut done = 0;
    let mut connection = cluster.members[other].connect();
    while done < 10 {
        assert!(Instant::now() < deadline, "no progress beside a frozen member");
        let id = connection.operation_id(PATIENCE).unwrap();
        let body = Bytes::from_static(b"beside");
        if connection.propose(cluster.group, id, body, None, Duration::from_secs(3)).is_ok() {
            done += 1;
        }
    }
    cluster.members[frozen].list.thaw();
    assert!(cluster.agree(&[0, 1, 2]).len() >= 11);
}

/// Clients that propose all the time and note what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Bytes>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(cluster: &Cluster, per_member: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for (index, member) in cluster.members.iter().enumerate() {
            let socket = member.directory.join("socket").join(client::SOCKET_NAME);
            for client in 0..per_member {
                let (stop, acknowledged, socket) = (Arc::clone(&stop), Arc::clone(&acknowledged), socket.clone());
                let group = cluster.group;
                threads.push(std::thread::spawn(move || {
                    let mut connection = None;
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        if connection.is_none() {
                            connection = Connection::connect(&socket, Duration::from_millis(300)).ok();
                        }
                        let Some(open) = &mut connection else {
                            std::thread::sleep(Duration::from_millis(10));
                            continue;
                        };
                        let body = format!("{index}.{client}.{n}.{}", open.engine().start.0);
                        match propose(open, group, &body) {
                            Ok(_) => acknowledged.lock().unwrap().push(Bytes::from(body)),
                            Err(Error::Refused(_)) => {}
                            Err(_) => connection = None,
                        }
                    }
                }));
            }
        }
        Load { stop, acknowledged, threads }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    fn wait_for_more(&self, more: usize) {
        let target = self.count() + more;
        wait_until(Instant::now() + PATIENCE, "the load makes progress", || self.count() >= target);
    }

    fn finish(self) -> Vec<Bytes> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        Arc::try_unwrap(self.acknowledged).unwrap().into_inner().unwrap()
    }
}

fn each_exactly_once(agreed: &[Bytes], acknowledged: &[Bytes]) {
    let set: BTreeSet<&Bytes> = agreed.iter().collect();
    assert_eq!(set.len(), agreed.len(), "an operation took effect twice");
    let lost: Vec<_> = acknowledged.iter().filter(|body| !set.contains(body)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged are lost, first {:?}", lost.len(), acknowledged.len(), lost[0]);
}

#[test]
fn kills_and_restarts_under_load_lose_nothing() {
    let mut cluster = Cluster::group(3, Limits::default());
    let load = Load::start(&cluster, 2);
    for round in 0..6 {
        load.wait_for_more(50);
        let victim = round % 3;
        cluster.members[victim].stop();
        load.wait_for_more(50);
        cluster.members[victim].start();
    }
    load.wait_for_more(50);
    let acknowledged = load.finish();
    each_exactly_once(&cluster.agree(&[0, 1, 2]), &acknowledged);
}

#[test]
fn all_restarted_at_once_keep_every_acknowledged_operation() {
    let mut cluster = Cluster::group(3, Limits::default());
    let load = Load::start(&cluster, 2);
    for _ in 0..3 {
        load.wait_for_more(50);
        for member in &mut cluster.members {
            member.stop();
        }
        for member in &mut cluster.members {
            member.start();
        }
    }
    load.wait_for_more(50);
    let acknowledged = load.finish();
    each_exactly_once(&cluster.agree(&[0, 1, 2]), &acknowledged);
}

#[test]
fn a_laggard_beyond_the_log_needs_state_and_gets_it_by_copy() {
    let mut cluster = Cluster::group(3, small());
    cluster.propose(0, "first").unwrap();
    cluster.agree(&[0, 1, 2]);
    cluster.members[2].stop();
    let laggard_at = cluster.members[2].list.list.lock().unwrap().applied;
    // Far more than the others keep for it.
    let mut connection = cluster.members[0].connect();
    let body = "x".repeat(64 << 10);
    for _ in 0..320 {
        propose(&mut connection, cluster.group, &body).unwrap();
    }
    for index in [0, 1] {
        wait_until(Instant::now() + PATIENCE, "the others trim past the laggard", || {
            cluster.members[index].status().groups[0].log.trimmed > laggard_at
        });
    }
    cluster.members[2].start();
    wait_until(Instant::now() + PATIENCE, "the laggard says that it needs state", || {
        cluster.members[2].status().groups[0].needs_state.is_some()
    });
    let refused = cluster.members[2].connect().barrier(cluster.group, PATIENCE).unwrap_err();
    assert!(matches!(refused, Error::Refused(refusal) if refusal.reason == RefusalReason::NoState));
    cluster.copy_state(2, 0);
    cluster.propose(2, "last").unwrap();
    assert_eq!(cluster.agree(&[0, 1, 2]).len(), 322);
    // The copy is durable.
    cluster.members[2].stop();
    cluster.members[2].start();
    assert_eq!(cluster.agree(&[0, 1, 2]).len(), 322);
}

#[test]
fn the_directory_stays_bounded_while_a_member_is_away() {
    let mut cluster = Cluster::group(3, small());
    cluster.members[2].stop();
    let mut connection = cluster.members[0].connect();
    let body = "x".repeat(512 << 10);
    let mut sizes = Vec::new();
    for _ in 0..28 {
        for _ in 0..20 {
            propose(&mut connection, cluster.group, &body).unwrap();
        }
        std::thread::sleep(Duration::from_millis(250));
        sizes.push(cluster.members[0].status().metrics.log_bytes_on_disk);
    }
    // 280 MiB went through logs that keep 1 MiB for the one who is away. The control log's entries stay in the oldest
    // segment until the log is 128 MiB larger than what is in use; then they are copied forward and it is recycled.
    assert!(*sizes.last().unwrap() <= 200 << 20, "{sizes:?}");
    eprintln!("bytes of the log on disk after each 10 MiB: {sizes:?}");
    cluster.members[2].start();
}

#[test]
fn a_large_operation_goes_through_and_one_beyond_the_limit_is_refused() {
    let cluster = Cluster::group(3, Limits::default());
    cluster.propose(0, "before").unwrap();
    let mut connection = cluster.members[1].connect();
    let id = connection.operation_id(PATIENCE).unwrap();
    let large = Bytes::from(vec![b'x'; 16 << 20]);
    let outcome = connection.propose(cluster.group, id, large, None, PATIENCE).unwrap();
    assert!(outcome.verdict.is_accepted());
    let id = connection.operation_id(PATIENCE).unwrap();
    let larger = Bytes::from(vec![b'x'; client::frame::BODY_BYTES_MAX + 1]);
    let error = connection.propose(cluster.group, id, larger, None, PATIENCE).unwrap_err();
    assert!(matches!(&error, Error::Refused(refusal) if refusal.reason == RefusalReason::TooLarge), "{error}");
    cluster.propose(2, "after").unwrap();
    assert_eq!(cluster.agree(&[0, 1, 2]).len(), 3);
}
