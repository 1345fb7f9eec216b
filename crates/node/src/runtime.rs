//! Starts the engine thread and takes its end.

use crate::clients;
use crate::inbox::Inbox;
use crate::node::{Node, Parts};
use crate::replica::Replica;
use crate::{node, EngineFailure, EngineHandle, EngineOptions, SequenceSource};
use client::{GroupId, SOCKET_NAME};
use consensus::{Core, CoreOptions, LogId, Recovered, Time};
use network::{Identity, Links};
use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;
use storage::{Checkpoints, Log, LogOptions, NodeDirectory};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tracing::warn;

/// What the handle shares with the engine thread.
#[derive(Debug)]
pub(crate) struct Shared {
    failure: Arc<Mutex<Option<EngineFailure>>>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    pub(crate) fn failure(&self) -> Option<EngineFailure> {
        self.failure.lock().expect("nothing panics while holding it").clone()
    }

    /// Tells the engine thread to stop and waits for it.
    pub(crate) fn stop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic was recorded by the thread itself.
            let _ = thread.join();
        }
    }
}

/// What the engine thread reports once it serves.
struct Started {
    node: client::NodeId,
    start: client::Start,
    socket: PathBuf,
    public_key: Vec<u8>,
}

pub(crate) fn start(mut options: EngineOptions) -> Result<EngineHandle, EngineFailure> {
    let failure = Arc::new(Mutex::new(None));
    let stop = Arc::new(Notify::new());
    let (report, started) = mpsc::sync_channel(1);
    let on_failure = options.on_failure.take();
    let thread = {
        let (failure, stop) = (Arc::clone(&failure), Arc::clone(&stop));
        let body = move || {
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(options, stop, &report)));
            let failed = match ran {
                Ok(Ok(())) => return,
                Ok(Err(failed)) => failed,
                Err(panic) => EngineFailure::Panic(panic_text(&*panic)),
            };
            *failure.lock().expect("nothing panics while holding it") = Some(failed.clone());
            // Before it served, the failure is the answer of `start`.
            if report.try_send(Err(failed.clone())).is_err() {
                if let Some(on_failure) = on_failure {
                    on_failure(&failed);
                }
            }
        };
        std::thread::Builder::new().name("synod engine".into()).spawn(body).map_err(|error| EngineFailure::Setup {
            what: format!("cannot start the engine thread: {error}"),
            hint: String::new(),
        })?
    };
    let mut shared = Shared { failure, stop, thread: Some(thread) };
    match started.recv() {
        Ok(Ok(started)) => Ok(EngineHandle {
            node: started.node,
            start: started.start,
            socket: started.socket,
            public_key: started.public_key,
            shared,
        }),
        Ok(Err(failed)) => {
            shared.stop();
            Err(failed)
        }
        Err(_) => Err(EngineFailure::Panic("the engine thread ended without a word".into())),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_string())
}

fn run(
    options: EngineOptions,
    stop: Arc<Notify>,
    report: &mpsc::SyncSender<Result<Started, EngineFailure>>,
) -> Result<(), EngineFailure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .thread_name("synod work")
        .build()
        .map_err(|error| setup(format!("cannot make the engine's runtime: {error}")))?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, async move {
        let opened = Opened::open(options)?;
        let inbox = Rc::clone(&opened.parts.inbox);
        let listener = bind(&opened.socket)?;
        tokio::task::spawn_local(clients::listen(listener, inbox));
        let started = Started {
            node: opened.parts.node,
            start: opened.parts.start,
            socket: opened.socket.clone(),
            public_key: opened.parts.public_key.to_vec(),
        };
        let node = Node::new(opened.parts);
        let result = node
            .run(stop, || {
                // The host waits for it.
                let _ = report.send(Ok(started));
            })
            .await;
        let _ = std::fs::remove_file(&opened.socket);
        drop(opened.directory);
        result
    });
    // Tasks end here, before the runtime goes.
    drop(local);
    result
}

/// Everything that is opened before the loop begins.
struct Opened {
    /// Kept for its lock.
    directory: NodeDirectory,
    socket: PathBuf,
    parts: Parts,
}

impl Opened {
    fn open(options: EngineOptions) -> Result<Opened, EngineFailure> {
        let mut faces = options.faces;
        let directory = NodeDirectory::open(&options.data_directory, &options.environment)
            .map_err(|error| setup(error.to_string()))?;
        let identity = Identity::load_or_create(directory.path()).map_err(|error| setup(error.to_string()))?;
        let (node, start) = (directory.node(), directory.start());
        let (sender, completions) = tokio::sync::mpsc::unbounded_channel();
        let completed = Box::new(move |completion| {
            // The engine thread may be gone already.
            let _ = sender.send(completion);
        });
        let (mut log, mut recovered) = Log::open(&directory, LogOptions::default(), completed)
            .map_err(|error| EngineFailure::Storage(error.to_string()))?;
        let checkpoints = Checkpoints::open(&directory).map_err(|error| EngineFailure::Storage(error.to_string()))?;
        log.start_scrub(Some(checkpoints.clone()), options.limits.scrub)
            .map_err(|error| setup(format!("cannot start the scrub thread: {error}")))?;
        let replicas = recover(&mut *faces, node, start, &mut recovered, &checkpoints)?;
        let origin = Instant::now();
        let core_options = CoreOptions {
            failure_timeout: options.failure_timeout,
            log_keep_bytes: options.limits.log_keep_bytes,
            witness_keep_bytes: options.limits.witness_keep_bytes,
            resident_logs_max: options.limits.values_in_memory,
            ..CoreOptions::default()
        };
        let core = Core::new(core_options, node, start, recovered, seed()?, Time(0));
        let public_key = identity.public_key().as_bytes().to_vec().into();
        let (links, link_events) = Links::new(network::Options { node, start, identity });
        let socket = prepare_socket(&options.socket_directory)?;
        let parts = Parts {
            node,
            start,
            public_key,
            listen_address: options.listen_address,
            advertise_address: options.advertise_address,
            limits: options.limits,
            origin,
            core,
            log,
            checkpoints,
            completions,
            links,
            link_events,
            inbox: Rc::new(Inbox::default()),
            faces,
            replicas,
            sequence: options.sequence.unwrap_or_else(own_sequence),
        };
        Ok(Opened { directory, socket, parts })
    }
}

/// Makes the replicas of the groups that the log knows, from their checkpoints, and tells the core where delivery
/// begins.
fn recover(
    faces: &mut dyn crate::FaceFactory,
    node: client::NodeId,
    start: client::Start,
    recovered: &mut Recovered,
    checkpoints: &Checkpoints,
) -> Result<BTreeMap<GroupId, Replica>, EngineFailure> {
    let storage = |error: storage::CheckpointError| EngineFailure::Storage(error.to_string());
    let mut replicas = BTreeMap::new();
    for (group, of_log) in &mut recovered.groups {
        let Some(configuration) = &of_log.configuration else {
            warn!("group {group} has lost its configuration to damage; it waits until another member tells it");
            continue;
        };
        let mut replica = node::new_replica(faces, node, start, configuration)
            .map_err(|why| setup(format!("group \"{}\" cannot be served: {why}", configuration.name)))?;
        if let Some(checkpoint) = checkpoints.newest(*group).map_err(storage)? {
            if let Some(why) = checkpoint.fallen_back {
                warn!("group \"{}\": using an older checkpoint: {why}", configuration.name);
            }
            let slot = replica.restore(&checkpoint.bytes).map_err(EngineFailure::Storage)?;
            replica.durable = slot;
            replica.oldest_durable = checkpoints.oldest_kept(*group).map_err(storage)?.unwrap_or(slot);
            of_log.log(LogId::MAIN).applied = slot;
        }
        replicas.insert(*group, replica);
    }
    // What an interrupted state copy left of a group that this node never came to know.
    for group in checkpoints.groups().map_err(storage)? {
        if !recovered.groups.contains_key(&group) {
            checkpoints.remove_group(group).map_err(storage)?;
        }
    }
    Ok(replicas)
}

fn prepare_socket(directory: &Path) -> Result<PathBuf, EngineFailure> {
    let shown = directory.display();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| setup(format!("cannot create the socket directory {shown}: {error}")))?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
        .map_err(|error| setup(format!("cannot close the socket directory {shown} to others: {error}")))?;
    Ok(directory.join(SOCKET_NAME))
}

/// Binds the local API's socket. A socket file left by a crash is replaced: the lock on the node's directory says that
/// no other engine uses it.
fn bind(socket: &Path) -> Result<UnixListener, EngineFailure> {
    match std::fs::remove_file(socket) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(setup(format!("cannot replace the socket {}: {error}", socket.display()))),
    }
    UnixListener::bind(socket).map_err(|error| EngineFailure::Setup {
        what: format!("cannot listen on the socket {}: {error}", socket.display()),
        hint: "A socket's path may have at most 107 bytes; choose a shorter directory.".into(),
    })
}

/// Feeds the core's jitter; tells this process from another one of the same node and start.
fn seed() -> Result<u64, EngineFailure> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| setup(format!("cannot draw a seed: {error}")))?;
    Ok(u64::from_le_bytes(random))
}

/// A counter for engines whose host has none.
fn own_sequence() -> SequenceSource {
    let counter = AtomicU64::new(0);
    Box::new(move || counter.fetch_add(1, Ordering::Relaxed) + 1)
}

fn setup(what: String) -> EngineFailure {
    EngineFailure::Setup { what, hint: String::new() }
}
