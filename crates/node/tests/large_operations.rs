//! Operations that travel through the log in parts: whole for every reader, whatever happens between the parts.

mod cluster;

use bytes::Bytes;
use client::frame::BODY_BYTES_MAX;
use client::{Answer, Certainty, Connection, Error, OperationId, RefusalReason, Request, Response, Settled, Slot};
use cluster::{propose, small, wait_until, Cluster, PATIENCE};
use node::Limits;
use std::time::{Duration, Instant};

/// What one entry holds; one more byte needs parts.
const PIECE_BYTES: usize = consensus::bounds::PIECE_BYTES;

/// Bytes that show where they stand, behind a text that the list keeps.
fn body(text: &str, length: usize) -> Bytes {
    let mut body = text.as_bytes().to_vec();
    body.truncate(length);
    body.extend((body.len()..length).map(|at| (at / 251 + at / 65_537) as u8));
    body.into()
}

/// What the list keeps of a body.
fn kept(body: &Bytes) -> Bytes {
    body.slice(..body.len().min(64))
}

fn send(connection: &mut Connection, cluster: &Cluster, body: Bytes, wait: Duration) -> OperationId {
    let id = connection.operation_id(PATIENCE).unwrap();
    let wait_ms = wait.as_millis() as u32;
    let request = Request::Propose { group: cluster.group, id, body, origin: None, answer: Answer::Always, wait_ms };
    connection.send(&request).unwrap();
    wait_until(Instant::now() + PATIENCE, "the engine reads the request", || connection.flush().unwrap());
    id
}

fn receive(connection: &mut Connection) -> Response {
    connection.receive(Instant::now() + PATIENCE).unwrap().expect("an answer in time").1
}

/// The accepted bodies of all slots up to `last`, by a stream from slot `from` on.
fn streamed(connection: &mut Connection, cluster: &Cluster, from: Slot, last: Slot) -> Vec<Bytes> {
    connection.send(&Request::Entries { group: cluster.group, from, omit_own: false }).unwrap();
    let (mut bodies, mut next) = (Vec::new(), from);
    while next <= last {
        let response = receive(connection);
        let Response::Decided(batch) = response else { panic!("unexpected {response:?}") };
        assert_eq!(batch.from, next, "no slot is left out");
        next = batch.through.next();
        bodies.extend(batch.entries.into_iter().filter_map(|entry| entry.body));
    }
    bodies
}

#[test]
fn bodies_of_every_size_arrive_whole_on_every_member() {
    let mut cluster = Cluster::group(3, Limits::default());
    // Appliers that have not begun: everything is still to be read.
    for member in &cluster.members {
        member.list.hold_at(Slot(0));
    }
    cluster.propose(0, "first").unwrap();
    cluster.members[2].stop();
    let sizes =
        [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 3 * PIECE_BYTES + 1, BODY_BYTES_MAX];
    let mut expected = vec![Bytes::from_static(b"first")];
    let mut last = Slot(0);
    for (n, size) in sizes.into_iter().enumerate() {
        let body = body(&format!("{n} of {size} bytes"), size);
        let mut connection = cluster.members[n % 2].connect();
        let id = connection.operation_id(PATIENCE).unwrap();
        let outcome = connection.propose(cluster.group, id, body.clone(), None, PATIENCE).unwrap();
        assert!(outcome.verdict.is_accepted() && outcome.id == id && outcome.slot > last);
        last = outcome.slot;
        expected.push(body);
    }
    // One was away and reads all of it from the logs of the others.
    cluster.members[2].start();
    cluster.members[2].list.hold_at(Slot(0));
    let agreed = cluster.agree(&[0, 1, 2]);
    assert_eq!(agreed, expected.iter().map(kept).collect::<Vec<_>>());
    // The largest one is much more than any member keeps in memory: the others are read from its log.
    for member in &cluster.members {
        let first = Slot(1);
        assert!(streamed(&mut member.connect(), &cluster, first, last) == expected, "a body differs");
        let single = member.connect().entry(cluster.group, last, PATIENCE).unwrap();
        assert!(single.entries[0].body.as_ref() == expected.last(), "the largest body differs");
    }
    // One byte more is refused before anything is sent.
    let mut connection = cluster.members[0].connect();
    let id = connection.operation_id(PATIENCE).unwrap();
    let error = connection.propose(cluster.group, id, body("x", BODY_BYTES_MAX + 1), None, PATIENCE).unwrap_err();
    assert!(matches!(&error, Error::Refused(refusal) if refusal.reason == RefusalReason::TooLarge), "{error}");
}

#[test]
fn small_operations_find_their_places_among_the_parts_of_a_large_one() {
    let cluster = Cluster::group(3, Limits::default());
    for member in 0..3 {
        cluster.propose(member, "warm").unwrap();
    }
    for sender in 0..3 {
        let mut large = cluster.members[sender].connect();
        let before = cluster.propose(sender, "before").unwrap().slot;
        send(&mut large, &cluster, body("large", BODY_BYTES_MAX), PATIENCE);
        // Its first part stands in the log.
        let mut small = cluster.members[(sender + 1) % 3].connect();
        let deadline = Instant::now() + PATIENCE;
        wait_until(deadline, "a part is chosen", || small.barrier(cluster.group, PATIENCE).unwrap() > before);
        let beside: Vec<Slot> = (0..5).map(|_| propose(&mut small, cluster.group, "beside").unwrap().slot).collect();
        let response = receive(&mut large);
        let Response::Outcome(outcome) = response else { panic!("unexpected {response:?}") };
        assert!(beside.iter().all(|slot| *slot < outcome.slot), "{beside:?} came before {}", outcome.slot);
    }
    assert_eq!(cluster.agree(&[0, 1, 2]).len(), 3 + 3 * 7);
}

#[test]
fn a_proposer_that_dies_between_the_parts_leaves_nothing() {
    let mut cluster = Cluster::group(3, Limits::default());
    cluster.propose(0, "first").unwrap();
    for victim in 0..3 {
        let other = (victim + 1) % 3;
        let before = cluster.propose(other, "before").unwrap().slot;
        let mut connection = cluster.members[victim].connect();
        let id = send(&mut connection, &cluster, body("large", BODY_BYTES_MAX), PATIENCE);
        let mut watcher = cluster.members[other].connect();
        wait_until(Instant::now() + PATIENCE, "a few parts are chosen", || {
            watcher.barrier(cluster.group, PATIENCE).unwrap() > before.plus(3)
        });
        cluster.members[victim].stop();
        cluster.propose(other, "others go on").unwrap();
        // Asking is final, and the parts are gone; the node comes back and proposes again.
        let settled = watcher.outcome_of(cluster.group, id, PATIENCE).unwrap();
        assert!(matches!(settled, Settled::Closed { .. }), "{settled:?}");
        cluster.members[victim].start();
        let mut connection = cluster.members[victim].connect();
        let again = connection.operation_id(PATIENCE).unwrap();
        let body = body("again", 5 * PIECE_BYTES);
        assert!(connection.propose(cluster.group, again, body, None, PATIENCE).unwrap().verdict.is_accepted());
    }
    let agreed = cluster.agree(&[0, 1, 2]);
    assert!(agreed.iter().all(|body| !body.starts_with(b"large")), "an unfinished operation took effect");
    assert_eq!(agreed.iter().filter(|body| body.starts_with(b"again")).count(), 3);
}

#[test]
fn the_loss_of_the_owner_between_the_parts_costs_only_time() {
    let mut cluster = Cluster::group(3, Limits::default());
    cluster.propose(0, "first").unwrap();
    for round in 0..3 {
        let before = cluster.propose(round, "before").unwrap().slot;
        let owner = cluster.members[round].status().groups[0].log.owner.expect("somebody proposed");
        let owner = cluster.members.iter().position(|m| m.engine.as_ref().unwrap().node() == owner).unwrap();
        let sender = (owner + 1) % 3;
        let large = body(&format!("large {round}"), BODY_BYTES_MAX);
        let mut connection = cluster.members[sender].connect();
        send(&mut connection, &cluster, large.clone(), PATIENCE);
        let mut watcher = cluster.members[sender].connect();
        wait_until(Instant::now() + PATIENCE, "a few parts are chosen", || {
            watcher.barrier(cluster.group, PATIENCE).unwrap() > before.plus(3)
        });
        cluster.members[owner].stop();
        let response = receive(&mut connection);
        let Response::Outcome(outcome) = response else { panic!("unexpected {response:?}") };
        assert!(outcome.verdict.is_accepted());
        let read = watcher.entry(cluster.group, outcome.slot, PATIENCE).unwrap();
        assert!(read.entries[0].body.as_ref() == Some(&large), "the body differs");
        cluster.members[owner].start();
        cluster.agree(&[0, 1, 2]);
    }
    let agreed = cluster.agree(&[0, 1, 2]);
    assert_eq!(agreed.iter().filter(|body| body.starts_with(b"large")).count(), 3);
}

#[test]
fn giving_up_between_the_parts_is_definite() {
    let cluster = Cluster::group(3, Limits::default());
    cluster.propose(0, "first").unwrap();
    let mut connection = cluster.members[0].connect();
    // The client takes it back.
    let id = send(&mut connection, &cluster, body("withdrawn", BODY_BYTES_MAX), PATIENCE);
    connection.send(&Request::Withdraw { id }).unwrap();
    let refused = receive(&mut connection);
    let Response::Refused(refusal) = refused else { panic!("unexpected {refused:?}") };
    assert_eq!((refusal.reason, refusal.certainty), (RefusalReason::Withdrawn, Certainty::Definite));
    assert_eq!(receive(&mut connection), Response::Withdrawn(true));
    // Its patience is too short.
    send(&mut connection, &cluster, body("late", BODY_BYTES_MAX), Duration::from_millis(20));
    let refused = receive(&mut connection);
    let Response::Refused(refusal) = refused else { panic!("unexpected {refused:?}") };
    assert_eq!((refusal.reason, refusal.certainty), (RefusalReason::Deadline, Certainty::Definite));
    // It goes away; another one closes the id.
    let mut asker = cluster.members[1].connect();
    let before = asker.barrier(cluster.group, PATIENCE).unwrap();
    let mut gone = cluster.members[0].connect();
    let left = send(&mut gone, &cluster, body("left", BODY_BYTES_MAX), PATIENCE);
    wait_until(Instant::now() + PATIENCE, "a part is chosen", || {
        asker.barrier(cluster.group, PATIENCE).unwrap() > before
    });
    drop(gone);
    assert!(matches!(asker.outcome_of(cluster.group, left, PATIENCE).unwrap(), Settled::Closed { .. }));
    let closed = send(&mut connection, &cluster, body("closed", BODY_BYTES_MAX), PATIENCE);
    let before = asker.barrier(cluster.group, PATIENCE).unwrap();
    wait_until(Instant::now() + PATIENCE, "a part is chosen", || {
        asker.barrier(cluster.group, PATIENCE).unwrap() > before
    });
    assert!(matches!(asker.outcome_of(cluster.group, closed, PATIENCE).unwrap(), Settled::Closed { .. }));
    let refused = receive(&mut connection);
    let Response::Refused(refusal) = refused else { panic!("unexpected {refused:?}") };
    assert_eq!((refusal.reason, refusal.certainty), (RefusalReason::Closed, Certainty::Definite));
    // None of them comes back, and the next one goes through.
    let id = connection.operation_id(PATIENCE).unwrap();
    connection.propose(cluster.group, id, body("last", BODY_BYTES_MAX), None, PATIENCE).unwrap();
    assert_eq!(cluster.agree(&[0, 1, 2]), [Bytes::from_static(b"first"), kept(&body("last", 100))]);
}

#[test]
fn full_is_a_prompt_refusal() {
    let mut cluster = Cluster::group(3, Limits::default());
    cluster.propose(0, "first").unwrap();
    // Without a quorum nothing leaves.
    for member in [1, 2] {
        cluster.members[member].stop();
    }
    let mut connection = cluster.members[0].connect();
    for _ in 0..5 {
        send(&mut connection, &cluster, body("large", BODY_BYTES_MAX), 3 * PATIENCE);
    }
    // Four of the largest wait; the fifth is refused long before their time is up.
    let refused = receive(&mut connection);
    let Response::Refused(refusal) = refused else { panic!("unexpected {refused:?}") };
    assert_eq!((refusal.reason, refusal.certainty), (RefusalReason::Full, Certainty::Definite));
    // With their client they go, before a quorum is back.
    drop(connection);
    wait_until(Instant::now() + PATIENCE, "the engine forgets them", || {
        cluster.members[0].status().metrics.proposals_pending == 0
    });
    cluster.members[1].start();
    cluster.propose(0, "together").unwrap();
    assert_eq!(cluster.agree(&[0, 1]), ["first", "together"]);
}

/// Sends a large operation through the first member and waits until a few of its parts are chosen.
fn begin_large(cluster: &Cluster, body: &Bytes) -> Connection {
    let mut watcher = cluster.members[0].connect();
    let before = watcher.barrier(cluster.group, PATIENCE).unwrap();
    let mut sender = cluster.members[0].connect();
    send(&mut sender, cluster, body.clone(), PATIENCE);
    wait_until(Instant::now() + PATIENCE, "a few parts are chosen", || {
        watcher.barrier(cluster.group, PATIENCE).unwrap() > before.plus(3)
    });
    sender
}

fn accepted(sender: &mut Connection) -> Slot {
    match receive(sender) {
        Response::Outcome(outcome) if outcome.verdict.is_accepted() => outcome.slot,
        other => panic!("unexpected {other:?}"),
    }
}

/// Checkpoints are taken among the parts, the log is trimmed behind them, and members are started again from there.
#[test]
fn members_restarted_between_the_parts_have_it_whole() {
    // Enough is kept for the one that is stopped for a moment, and no more.
    let mut cluster = Cluster::group(3, Limits { log_keep_bytes: 128 << 20, ..small() });
    for round in 0..3 {
        let mut sender = begin_large(&cluster, &body(&format!("large {round}"), BODY_BYTES_MAX));
        cluster.members[1].stop();
        // Enough beside them that a checkpoint is taken before the last one.
        let mut beside = cluster.members[2].connect();
        for _ in 0..24 {
            let id = beside.operation_id(PATIENCE).unwrap();
            beside.propose(cluster.group, id, body("beside", PIECE_BYTES), None, PATIENCE).unwrap();
        }
        cluster.members[1].start();
        accepted(&mut sender);
        cluster.propose(2, "after").unwrap();
    }
    let agreed = cluster.agree(&[0, 1, 2]);
    assert_eq!(agreed.iter().filter(|body| body.starts_with(b"large")).count(), 3);
    let status = cluster.members[0].status();
    assert!(status.metrics.checkpoints > 1 && status.groups[0].log.trimmed > Slot(100), "{status:?}");
    for member in &mut cluster.members {
        member.stop();
        member.start();
    }
    assert_eq!(cluster.agree(&[0, 1, 2]), agreed);
}

#[test]
fn a_copy_of_the_state_between_the_parts_brings_those_before_it() {
    let limits = Limits { log_keep_bytes: 256 << 20, checkpoint_every_bytes: 8 << 20, ..Limits::default() };
    let mut cluster = Cluster::group(3, limits);
    cluster.propose(0, "first").unwrap();
    let joiner = cluster.add_engine(limits);
    cluster.learn(joiner, 0, true);
    cluster.members[joiner].list.hold_at(Slot(0));
    let large = body("large", BODY_BYTES_MAX);
    let mut sender = begin_large(&cluster, &large);
    let copied = cluster.copy_state(joiner, 0);
    let slot = accepted(&mut sender);
    assert!(copied < slot, "the copy at {copied} came before the last part");
    wait_until(Instant::now() + PATIENCE, "the joiner holds it", || {
        cluster.members[joiner].list.list.lock().unwrap().applied >= slot
    });
    // It lacks the log of the parts before the copy; others that came since have pushed the body out of its memory.
    for n in 0..40 {
        let mut connection = cluster.members[n % 3].connect();
        let id = connection.operation_id(PATIENCE).unwrap();
        connection.propose(cluster.group, id, body("beside", PIECE_BYTES), None, PATIENCE).unwrap();
    }
    let agreed = cluster.agree(&[0, 1, 2, joiner]);
    let read = |cluster: &Cluster| {
        let batch = cluster.members[joiner].connect().entry(cluster.group, slot, PATIENCE).unwrap();
        batch.entries.into_iter().next().and_then(|entry| entry.body)
    };
    assert!(read(&cluster) == Some(large.clone()), "the body differs");
    // So it is when its engine has been started again.
    cluster.members[joiner].stop();
    cluster.members[joiner].start();
    cluster.members[joiner].list.hold_at(Slot(0));
    assert_eq!(cluster.agree(&[0, joiner]), agreed);
    assert!(read(&cluster) == Some(large), "the body differs");
}
