//! One engine by itself: everything that needs no peer.

mod cluster;

use bytes::Bytes;
use client::{Answer, Connection, Error, Origin, RefusalReason, Request, Response, Settled, Slot, Verdict};
use cluster::{propose, small, wait_until, Cluster, KIND, PATIENCE};
use node::Limits;
use std::time::Instant;

fn refusal(error: Error) -> client::Refusal {
    match error {
        Error::Refused(refusal) => *refusal,
        other => panic!("expected a refusal, got {other}"),
    }
}

#[test]
fn what_is_acknowledged_survives_a_restart() {
    let mut cluster = Cluster::group(1, Limits::default());
    // Proposals get slots, verdicts and a barrier behind them.
    let first = cluster.propose(0, "one").unwrap();
    let rejected = cluster.propose(0, "!two").unwrap();
    assert_eq!(first.verdict, Verdict::Accepted);
    assert_eq!(rejected.verdict, Verdict::Rejected(Bytes::from_static(b"begins with !")));
    assert!(rejected.slot > first.slot);
    assert!(cluster.members[0].connect().barrier(cluster.group, PATIENCE).unwrap() >= rejected.slot);
    assert_eq!(cluster.agree(&[0]), ["one"]);

    // After a restart the log brings everything back, outcomes included.
    cluster.members[0].stop();
    cluster.members[0].start();
    cluster.propose(0, "three").unwrap();
    assert_eq!(cluster.agree(&[0]), ["one", "three"]);
    let mut connection = cluster.members[0].connect();
    let settled = connection.outcome_of(cluster.group, rejected.id, PATIENCE).unwrap();
    assert_eq!(settled, Settled::Decided(rejected));
}

#[test]
fn an_undecided_id_is_closed_when_somebody_asks() {
    let cluster = Cluster::group(1, Limits::default());
    let mut connection = cluster.members[0].connect();
    let id = connection.operation_id(PATIENCE).unwrap();
    let glance = Request::LookUp { group: cluster.group, id };
    assert_eq!(connection.call(&glance, PATIENCE).unwrap(), Response::Undecided);
    let settled = connection.outcome_of(cluster.group, id, PATIENCE).unwrap();
    assert_eq!(connection.call(&glance, PATIENCE).unwrap(), Response::Settled(settled.clone()));
    let Settled::Closed { slot } = settled else {
        panic!("expected closed, got {settled:?}");
    };
    assert!(slot > Slot(0));
    // The operation comes too late, and for ever.
    let refused =
        refusal(connection.propose(cluster.group, id, Bytes::from_static(b"late"), None, PATIENCE).unwrap_err());
    assert_eq!(refused.reason, RefusalReason::Closed);
    assert_eq!(refused.certainty, client::Certainty::Definite);
    assert_eq!(cluster.agree(&[0]), Vec::<Bytes>::new());
}

#[test]
fn a_stream_covers_every_slot() {
    let cluster = Cluster::group(1, Limits::default());
    let mut stream = cluster.members[0].connect();
    let entries = Request::Entries { group: cluster.group, from: Slot(1), omit_own: false };
    stream.send(&entries).unwrap();
    let mut proposer = cluster.members[0].connect();
    let mut last = Slot(0);
    for n in 0..50 {
        let body = if n % 5 == 0 { format!("!{n}") } else { n.to_string() };
        last = propose(&mut proposer, cluster.group, &body).unwrap().slot;
    }
    let mut bodies = Vec::new();
    let mut next = Slot(1);
    while next <= last {
        let (_, response) = stream.receive(Instant::now() + PATIENCE).unwrap().expect("the stream goes on");
        let Response::Decided(batch) = response else {
            panic!("unexpected {response:?}");
        };
        assert_eq!(batch.from, next);
        next = batch.through.next();
        for entry in batch.entries {
            match entry.verdict {
                Verdict::Accepted => bodies.push(entry.body.expect("an accepted operation has a body")),
                Verdict::Rejected(_) => assert_eq!(entry.body, None),
            }
        }
    }
    assert_eq!(bodies, cluster.agree(&[0]));
    // Single entries too.
    let batch = proposer.entry(cluster.group, last, PATIENCE).unwrap();
    assert_eq!((batch.from, batch.through, batch.entries.len()), (last, last, 1));
}

#[test]
fn answers_can_be_left_to_the_face() {
    let cluster = Cluster::group(1, Limits::default());
    let mut connection = cluster.members[0].connect();
    let mut numbers = Vec::new();
    for body in ["quiet", "!loud"] {
        let request = Request::Propose {
            group: cluster.group,
            id: connection.operation_id(PATIENCE).unwrap(),
            body: Bytes::from_static(body.as_bytes()),
            origin: Some(Origin(7)),
            answer: Answer::OnRefusal,
            wait_ms: 10_000,
        };
        numbers.push(connection.send(&request).unwrap());
    }
    let (number, response) = connection.receive(Instant::now() + PATIENCE).unwrap().unwrap();
    assert_eq!(number, numbers[1]);
    assert!(matches!(response, Response::Outcome(outcome) if !outcome.verdict.is_accepted()));
    assert_eq!(cluster.agree(&[0]), ["quiet"]);
}

#[test]
fn refusals_are_prompt_and_clear() {
    let cluster = Cluster::group(1, Limits::default());
    let mut connection = cluster.members[0].connect();
    let id = connection.operation_id(PATIENCE).unwrap();

    let unknown = client::GroupId(1);
    let refused = refusal(connection.propose(unknown, id, Bytes::new(), None, PATIENCE).unwrap_err());
    assert_eq!(refused.reason, RefusalReason::UnknownGroup);

    let early = refusal(connection.propose(cluster.group, id, Bytes::from_static(b"?"), None, PATIENCE).unwrap_err());
    assert_eq!((early.reason, &early.detail[..]), (RefusalReason::Conflict, &b"begins with ?"[..]));

    let foreign = client::OperationId { node: client::NodeId(1), ..id };
    let refused = refusal(connection.propose(cluster.group, foreign, Bytes::new(), None, PATIENCE).unwrap_err());
    assert_eq!(refused.reason, RefusalReason::Invalid);

    let refused = refusal(connection.create_group("g", KIND, "", "", PATIENCE).unwrap_err());
    assert_eq!(refused.reason, RefusalReason::GroupExists);
    let refused = refusal(connection.create_group("h", "unheard of", "", "", PATIENCE).unwrap_err());
    assert_eq!(refused.reason, RefusalReason::Invalid);

    let node = connection.engine().node;
    let remove = Request::Remove { group: cluster.group, node, wait_ms: 1000 };
    let refused = refusal(connection.done(&remove, PATIENCE).unwrap_err());
    assert_eq!(refused.reason, RefusalReason::Change);

    let gone = Request::Checkpoint { group: cluster.group, slot: Slot(1), offset: 0 };
    assert_eq!(refusal(connection.call(&gone, PATIENCE).unwrap_err()).reason, RefusalReason::Gone);
}

#[test]
fn a_client_that_talks_nonsense_loses_only_its_connection() {
    use std::io::{Read, Write};
    let cluster = Cluster::group(1, Limits::default());
    let socket = cluster.members[0].engine.as_ref().unwrap().socket().to_path_buf();
    for nonsense in [&[0xff; 64][..], &[4, 0, 0, 0, 1, 2, 3, 4]] {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(nonsense).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    }
    // A request before the hello is refused, with the reason.
    let mut bytes = Vec::new();
    client::frame::encode(client::RequestNumber(1), &Request::Status, &mut bytes).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut decoder = client::frame::Decoder::default();
    let mut buffer = [0; 1024];
    let response = loop {
        let count = stream.read(&mut buffer).unwrap();
        decoder.push(&buffer[..count]);
        if let Some((_, response)) = decoder.next_frame::<Response>().unwrap() {
            break response;
        }
    };
    assert!(matches!(response, Response::Refused(refusal) if refusal.reason == RefusalReason::Invalid));
    cluster.propose(0, "still here").unwrap();
}

#[test]
fn many_clients_at_once_see_their_own_outcomes() {
    let cluster = Cluster::group(1, Limits::default());
    let socket = cluster.members[0].engine.as_ref().unwrap().socket().to_path_buf();
    let group = cluster.group;
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let socket = socket.clone();
            std::thread::spawn(move || {
                let mut connection = Connection::connect(&socket, PATIENCE).unwrap();
                (0..50)
                    .map(|n| {
                        let body = format!("{thread}/{n}");
                        (propose(&mut connection, group, &body).unwrap().slot, Bytes::from(body))
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut acknowledged: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    acknowledged.sort();
    let bodies: Vec<Bytes> = acknowledged.into_iter().map(|(_, body)| body).collect();
    assert_eq!(cluster.agree(&[0]), bodies);
}

#[test]
fn a_checkpoint_bounds_what_a_restart_replays_and_what_the_log_takes() {
    let mut cluster = Cluster::group(1, cluster::small());
    let mut connection = cluster.members[0].connect();
    let body = "x".repeat(64 << 10);
    let mut highest_on_disk = 0;
    for round in 0..16 {
        for _ in 0..64 {
            propose(&mut connection, cluster.group, &body).unwrap();
        }
        let _ = round;
        highest_on_disk = highest_on_disk.max(cluster.members[0].status().metrics.log_bytes_on_disk);
    }
    wait_until(Instant::now() + PATIENCE, "a checkpoint is written and the log trimmed", || {
        let status = cluster.members[0].status();
        status.metrics.checkpoints > 0 && status.groups[0].log.trimmed > Slot(0)
    });
    let delivered = cluster.members[0].status().groups[0].log.delivered;
    cluster.members[0].stop();
    cluster.members[0].start();
    wait_until(Instant::now() + PATIENCE, "everything is there again", || {
        cluster.members[0].list.list.lock().unwrap().applied >= delivered
    });
    assert_eq!(cluster.agree(&[0]).len(), 16 * 64);
}

#[test]
fn a_burst_is_checkpointed_though_nothing_follows_it() {
    let cluster = Cluster::group(1, small());
    let checkpoints = cluster.members[0].directory.join("data").join("checkpoints");
    let mut connection = cluster.members[0].connect();
    let body = Bytes::from(vec![b'x'; 64 << 10]);
    // 4 MiB in one go: several times what a checkpoint is due for arrives while the first one is on its way.
    for _ in 0..64 {
        let request = Request::Propose {
            group: cluster.group,
            id: connection.operation_id(PATIENCE).unwrap(),
            body: body.clone(),
            origin: None,
            answer: Answer::Always,
            wait_ms: 20_000,
        };
        connection.send(&request).unwrap();
    }
    let mut last = Slot(0);
    for _ in 0..64 {
        match connection.receive(Instant::now() + PATIENCE).unwrap().unwrap() {
            (_, Response::Outcome(outcome)) => last = last.max(outcome.slot),
            (_, other) => panic!("unexpected {other:?}"),
        }
    }
    // A checkpoint is named after its group and slot, in hexadecimal.
    let newest = || {
        let names = std::fs::read_dir(&checkpoints).unwrap().map(|file| file.unwrap().file_name());
        let slots = names.filter_map(|name| {
            let name = name.into_string().ok()?;
            u64::from_str_radix(name.strip_suffix(".checkpoint")?.split_once('-')?.1, 16).ok()
        });
        slots.max().unwrap_or(0)
    };
    wait_until(Instant::now() + PATIENCE, "less than is due for a checkpoint follows the last one", || {
        newest() + 16 >= last.0
    });
}

#[test]
fn a_withdrawal_is_answered_after_the_proposal_itself() {
    let cluster = Cluster::group(1, Limits::default());
    let mut connection = cluster.members[0].connect();
    // Nothing of that id is under way: it cannot be taken back.
    let unknown = connection.operation_id(PATIENCE).unwrap();
    let withdrawn = connection.call(&Request::Withdraw { id: unknown }, PATIENCE).unwrap();
    assert_eq!(withdrawn, Response::Withdrawn(false));
    for _ in 0..20 {
        let id = connection.operation_id(PATIENCE).unwrap();
        let request = Request::Propose {
            group: cluster.group,
            id,
            body: Bytes::from_static(b"wavering"),
            origin: None,
            answer: Answer::Always,
            wait_ms: 10_000,
        };
        let proposal = connection.send(&request).unwrap();
        let withdrawal = connection.send(&Request::Withdraw { id }).unwrap();
        let mut receive = || connection.receive(Instant::now() + PATIENCE).unwrap().expect("both are answered");
        let (first, own) = receive();
        let (second, answer) = receive();
        assert_eq!((first, second), (proposal, withdrawal));
        let decided = connection.outcome_of(cluster.group, id, PATIENCE).unwrap();
        match (own, answer) {
            (Response::Refused(refusal), Response::Withdrawn(true)) => {
                assert_eq!(refusal.reason, RefusalReason::Withdrawn);
                assert!(matches!(decided, Settled::Closed { .. }), "{decided:?}");
            }
            (Response::Refused(refusal), Response::Withdrawn(false)) => {
                assert_eq!(refusal.certainty, client::Certainty::Unknown);
            }
            (Response::Outcome(outcome), Response::Withdrawn(false)) => {
                assert_eq!(decided, Settled::Decided(outcome));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}
