//! What stops an engine or keeps it from starting, and what its host is told.

mod cluster;

use client::{Error, RefusalReason};
use cluster::{propose, small, wait_until, Cluster, KIND, PATIENCE};
use node::{Engine, EngineFailure, EngineOptions, FaceContext, FaceFactory, Limits};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

struct NoFaces;

impl FaceFactory for NoFaces {
    fn knows(&self, _kind: &str) -> bool {
        false
    }

    fn make(&mut self, _context: FaceContext<'_>) -> Result<Box<dyn node::Face>, String> {
        Err("this host serves nothing".into())
    }
}

fn options(root: &Path, environment: &str) -> EngineOptions {
    EngineOptions {
        data_directory: root.join("data"),
        socket_directory: root.join("socket"),
        listen_address: "127.0.0.1:1".into(),
        advertise_address: "127.0.0.1:1".into(),
        failure_timeout: Duration::from_millis(500),
        environment: environment.into(),
        faces: Box::new(NoFaces),
        sequence: None,
        on_failure: None,
        limits: Limits::default(),
    }
}

#[test]
fn a_failing_disk_stops_the_engine_and_its_host_hears_of_it() {
    let mut cluster = Cluster::group(1, small());
    let member = &mut cluster.members[0];
    member.engine.take().unwrap().stop();
    // Checkpoints cannot be written any more: a file stands where their directory was.
    let checkpoints = member.directory.join("data/checkpoints");
    let (heard, failures) = mpsc::channel();
    member.start_with(move |options| {
        options.on_failure = Some(Box::new(move |failure: &EngineFailure| heard.send(failure.clone()).unwrap()));
    });
    std::fs::remove_dir_all(&checkpoints).unwrap();
    std::fs::write(&checkpoints, b"").unwrap();
    let mut connection = cluster.members[0].connect();
    let body = "x".repeat(256 << 10);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the engine goes on without its checkpoints");
        match propose(&mut connection, cluster.group, &body) {
            Ok(_) => {}
            // Whether the last one took effect cannot be known.
            Err(error) => {
                assert!(matches!(error, Error::Lost { .. }), "{error}");
                assert_eq!(error.certainty(), client::Certainty::Unknown);
                break;
            }
        }
    }
    let failure = failures.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(failure, EngineFailure::Storage(_)), "{failure}");
    wait_until(deadline, "the handle tells too", || cluster.members[0].engine.as_ref().unwrap().failure().is_some());
    // Nobody is answered any more.
    assert!(client::Connection::connect(
        &cluster.members[0].directory.join("socket").join(client::SOCKET_NAME),
        Duration::from_millis(200)
    )
    .is_err());
}

#[test]
fn a_second_engine_in_the_same_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let first = Engine::start(options(root.path(), "one")).unwrap();
    let refused = Engine::start(options(root.path(), "one")).err().expect("the directory is in use");
    assert!(matches!(refused, EngineFailure::Setup { .. }), "{refused}");
    // The first one is none the worse for it.
    client::Connection::connect(first.socket(), PATIENCE).unwrap().status(PATIENCE).unwrap();
}

#[test]
fn a_directory_of_another_host_is_refused() {
    let root = tempfile::tempdir().unwrap();
    Engine::start(options(root.path(), "system 1 timeline 1")).unwrap().stop();
    let refused = Engine::start(options(root.path(), "system 1 timeline 2")).err().expect("it belongs to another host");
    assert!(refused.to_string().contains("timeline"), "{refused}");
    Engine::start(options(root.path(), "system 1 timeline 1")).unwrap().stop();
}

#[test]
fn a_taken_port_is_told_when_the_first_group_needs_it() {
    let mut cluster = Cluster::engines(1, Limits::default());
    let taken = TcpListener::bind(("127.0.0.1", cluster.members[0].port)).unwrap();
    let error = cluster.members[0].connect().create_group("g", KIND, "", "", PATIENCE).unwrap_err();
    let Error::Refused(refusal) = error else { panic!("{error}") };
    assert!(refusal.message.contains(&cluster.members[0].port.to_string()), "{refusal}");
    assert!(!refusal.hint.is_empty());
    assert_ne!(refusal.reason, RefusalReason::GroupExists);
    drop(taken);
    // Nothing of the failed attempt is left.
    cluster.members[0].connect().create_group("g", KIND, "", "", PATIENCE).unwrap();
    cluster.members[0].stop();

    // A node that has groups does not start silently deaf.
    let taken = TcpListener::bind(("127.0.0.1", cluster.members[0].port)).unwrap();
    let member = &mut cluster.members[0];
    let failure = member.try_start(|_| {}).expect_err("its port is taken");
    assert!(matches!(failure, EngineFailure::Setup { .. }), "{failure}");
    drop(taken);
    member.start();
}
