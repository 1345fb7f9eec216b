//! Clusters of engines in one process, on loopback, with a face that keeps a list.
#![allow(dead_code)] // Every test file uses its own part of this.

use bytes::Bytes;
use client::{
    Connection, Error, GroupDescription, GroupId, NewMember, NodeId, OperationId, Outcome, Request, Response, Slot,
    Status, Verdict,
};
use node::{Delivery, Engine, EngineFailure, EngineHandle, EngineOptions, Face, FaceContext, FaceFactory, Limits};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; a test that hits it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const KIND: &str = "list";

/// Groups of logs of values.
pub const VALUES: &str = "values";

/// How much of a body the list keeps.
const KEPT_BYTES: usize = 64;

/// What a list face holds: accepted bodies in log order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    pub applied: Slot,
    pub bodies: Vec<(Slot, OperationId, Bytes)>,
}

/// A list that a test can look into, and a gate that can hold its engine up.
#[derive(Clone, Default)]
pub struct SharedList {
    pub list: Arc<Mutex<List>>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    /// What the face says that its own store holds; without it, everything.
    holds: Arc<Mutex<Option<Slot>>>,
}

impl SharedList {
    pub fn bodies(&self) -> Vec<Bytes> {
        self.list.lock().unwrap().bodies.iter().map(|(_, _, body)| body.clone()).collect()
    }

    /// Stops the engine thread at its next delivery, as SIGSTOP would, until `thaw`.
    pub fn freeze(&self) {
        *self.gate.0.lock().unwrap() = true;
    }

    pub fn thaw(&self) {
        *self.gate.0.lock().unwrap() = false;
        self.gate.1.notify_all();
    }

    /// From now on the face says that its own store holds no more than this.
    pub fn hold_at(&self, slot: Slot) {
        *self.holds.lock().unwrap() = Some(slot);
    }

    fn pass_gate(&self) {
        let mut frozen = self.gate.0.lock().unwrap();
        while *frozen {
            frozen = self.gate.1.wait(frozen).unwrap();
        }
    }
}

struct ListFace {
    shared: SharedList,
    state: List,
}

impl ListFace {
    fn advance(&mut self, slot: Slot) {
        assert_eq!(slot, self.state.applied.next(), "slots come in order, each once");
        self.state.applied = slot;
        self.shared.pass_gate();
        let mut seen = self.shared.list.lock().unwrap();
        // After a restart slots come again; the list outside shows the furthest state.
        if slot > seen.applied {
            seen.applied = slot;
        }
    }
}

impl Face for ListFace {
    /// Bodies that begin with `!` are rejected.
    fn apply(&mut self, delivery: Delivery<'_>) -> Verdict {
        self.advance(delivery.slot);
        if delivery.body.starts_with(b"!") {
            return Verdict::Rejected(Bytes::from_static(b"begins with !"));
        }
        // The beginning tells bodies apart; whole ones would make a checkpoint as large as the log.
        let kept = &delivery.body[..delivery.body.len().min(KEPT_BYTES)];
        let item = (delivery.slot, delivery.id, Bytes::copy_from_slice(kept));
        self.state.bodies.push(item.clone());
        let mut seen = self.shared.list.lock().unwrap();
        if seen.bodies.last().is_none_or(|(slot, ..)| *slot < delivery.slot) {
            seen.bodies.push(item);
        }
        Verdict::Accepted
    }

    fn pass(&mut self, slot: Slot) {
        self.advance(slot);
    }

    fn admit(&mut self, body: &Bytes) -> Result<(), Bytes> {
        if body.starts_with(b"?") {
            return Err(Bytes::from_static(b"begins with ?"));
        }
        Ok(())
    }

    fn checkpoint(&self) -> Vec<u8> {
        let bodies: Vec<_> = self.state.bodies.iter().map(|(slot, id, body)| (*slot, *id, body.to_vec())).collect();
        postcard::to_stdvec(&(self.state.applied, bodies)).unwrap()
    }

    fn restore(&mut self, slot: Slot, checkpoint: &[u8]) -> Result<(), String> {
        let (applied, bodies): (Slot, Vec<(Slot, OperationId, Vec<u8>)>) =
            postcard::from_bytes(checkpoint).map_err(|error| error.to_string())?;
        assert_eq!(applied, slot);
        let bodies = bodies.into_iter().map(|(slot, id, body)| (slot, id, body.into())).collect();
        self.state = List { applied, bodies };
        let mut seen = self.shared.list.lock().unwrap();
        if seen.applied < slot {
            *seen = self.state.clone();
        }
        Ok(())
    }

    fn held(&mut self) -> Slot {
        self.shared.holds.lock().unwrap().unwrap_or(Slot(u64::MAX))
    }
}

struct ListFactory(SharedList);

impl FaceFactory for ListFactory {
    fn knows(&self, kind: &str) -> bool {
        kind == KIND || kind == VALUES
    }

    fn discipline(&self, kind: &str) -> consensus::Discipline {
        if kind == VALUES {
            consensus::Discipline::Values
        } else {
            consensus::Discipline::Sequences
        }
    }

    fn make(&mut self, _context: FaceContext<'_>) -> Result<Box<dyn Face>, String> {
        Ok(Box::new(ListFace { shared: self.0.clone(), state: List::default() }))
    }
}

/// One member of a cluster.
pub struct Member {
    pub directory: PathBuf,
    pub port: u16,
    pub limits: Limits,
    pub engine: Option<EngineHandle>,
    /// What this life of the engine has applied.
    pub list: SharedList,
}

impl Member {
    pub fn start(&mut self) {
        self.start_with(|_| {});
    }

    pub fn start_with(&mut self, adjust: impl FnOnce(&mut EngineOptions)) {
        self.try_start(adjust).expect("the engine starts");
    }

    pub fn try_start(&mut self, adjust: impl FnOnce(&mut EngineOptions)) -> Result<(), EngineFailure> {
        assert!(self.engine.is_none());
        self.list = SharedList::default();
        let address = format!("127.0.0.1:{}", self.port);
        let mut options = EngineOptions {
            data_directory: self.directory.join("data"),
            socket_directory: self.directory.join("socket"),
            listen_address: address.clone(),
            advertise_address: address,
            failure_timeout: Duration::from_millis(500),
            environment: "test".into(),
            faces: Box::new(ListFactory(self.list.clone())),
            sequence: None,
            on_failure: None,
            limits: self.limits,
        };
        adjust(&mut options);
        self.engine = Some(Engine::start(options)?);
        Ok(())
    }

    pub fn stop(&mut self) {
        self.list.thaw();
        self.engine.take().expect("it runs").stop();
    }

    pub fn connect(&self) -> Connection {
        let engine = self.engine.as_ref().expect("it runs");
        Connection::connect(engine.socket(), PATIENCE).expect("the engine answers")
    }

    pub fn new_member(&self) -> NewMember {
        let connection = self.connect();
        let engine = connection.engine();
        NewMember {
            node: engine.node,
            address: engine.address.clone(),
            public_key: engine.public_key.clone(),
            label: format!("port={}", self.port),
            database: "test".into(),
            witness: false,
        }
    }

    pub fn status(&self) -> Status {
        self.connect().status(PATIENCE).unwrap()
    }

    pub fn bytes_on_disk(&self) -> u64 {
        fn size(path: &std::path::Path) -> u64 {
            std::fs::read_dir(path)
                .unwrap()
                .flatten()
                .map(|entry| match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => size(&entry.path()),
                    Ok(metadata) => metadata.len(),
                    Err(_) => 0,
                })
                .sum()
        }
        size(&self.directory.join("data"))
    }
}

/// A cluster. Its directories go when it is dropped.
pub struct Cluster {
    pub members: Vec<Member>,
    pub group: GroupId,
    root: tempfile::TempDir,
}

impl Cluster {
    /// Engines without a group.
    pub fn engines(count: usize, limits: Limits) -> Cluster {
        let root = tempfile::Builder::new().prefix("syn").tempdir_in("/tmp").unwrap();
        let mut cluster = Cluster { members: Vec::new(), group: GroupId(0), root };
        for _ in 0..count {
            cluster.add_engine(limits);
        }
        cluster
    }

    /// A group of that many voters that joined one after the other.
    pub fn group(count: usize, limits: Limits) -> Cluster {
        let mut cluster = Cluster::engines(count, limits);
        let group = cluster.members[0].connect().create_group("g", KIND, "first", "test", PATIENCE).unwrap();
        cluster.group = group.group;
        for index in 1..count {
            cluster.join_by_log(index, 0);
        }
        cluster
    }

    pub fn add_engine(&mut self, limits: Limits) -> usize {
        let index = self.members.len();
        let mut member = Member {
            directory: self.root.path().join(index.to_string()),
            port: free_port(),
            limits,
            engine: None,
            list: SharedList::default(),
        };
        member.start();
        self.members.push(member);
        index
    }

    /// Adds a learner by way of `through`, without making it a voter; it replays the log from the beginning.
    pub fn learn(&self, index: usize, through: usize, await_state: bool) -> GroupDescription {
        let request = Request::JoinRequest {
            group: self.group,
            member: self.members[index].new_member(),
            wait_ms: PATIENCE.as_millis() as u32,
        };
        let group = match self.members[through].connect().call(&request, PATIENCE).unwrap() {
            Response::Group(group) => group,
            other => panic!("unexpected {other:?}"),
        };
        let learn = Request::LearnGroup { group: group.clone(), await_state };
        self.members[index].connect().done(&learn, PATIENCE).unwrap();
        group
    }

    pub fn promote(&self, index: usize, through: usize) {
        let request = Request::Promote {
            group: self.group,
            node: self.members[index].engine.as_ref().unwrap().node(),
            wait_ms: PATIENCE.as_millis() as u32,
        };
        self.members[through].connect().done(&request, PATIENCE).unwrap();
    }

    pub fn remove(&self, node: NodeId, through: usize) {
        let request = Request::Remove { group: self.group, node, wait_ms: PATIENCE.as_millis() as u32 };
        self.members[through].connect().done(&request, PATIENCE).unwrap();
    }

    pub fn join_by_log(&self, index: usize, through: usize) {
        self.learn(index, through, false);
        self.promote(index, through);
    }

    /// Copies the engine's part of the state at a fresh mark from `donor` to `index`, then makes it a voter.
    pub fn join_by_copy(&self, index: usize, donor: usize) -> Slot {
        self.learn(index, donor, true);
        let slot = self.copy_state(index, donor);
        self.promote(index, donor);
        slot
    }

    /// Copies the state as of a fresh mark.
    pub fn copy_state(&self, index: usize, donor: usize) -> Slot {
        let mut donor = self.members[donor].connect();
        let id = donor.operation_id(PATIENCE).unwrap();
        let mark = Request::Mark { group: self.group, id, origin: None, wait_ms: PATIENCE.as_millis() as u32 };
        let slot = match donor.call(&mark, PATIENCE).unwrap() {
            Response::Outcome(outcome) => outcome.slot,
            other => panic!("unexpected {other:?}"),
        };
        let checkpoint = donor.checkpoint(self.group, slot, PATIENCE).unwrap();
        self.members[index].connect().install_checkpoint(self.group, slot, &checkpoint, PATIENCE).unwrap();
        donor.done(&Request::ReleaseMark { group: self.group, slot }, PATIENCE).unwrap();
        slot
    }

    /// Proposes through one member and waits for the outcome.
    pub fn propose(&self, index: usize, body: &str) -> Result<Outcome, Error> {
        propose(&mut self.members[index].connect(), self.group, body)
    }

    /// Waits until all running members named hold the same list, and returns it.
    pub fn agree(&self, members: &[usize]) -> Vec<Bytes> {
        let deadline = Instant::now() + PATIENCE;
        let highest = {
            let mut connection = self.members[members[0]].connect();
            connection.barrier(self.group, PATIENCE).unwrap()
        };
        for &index in members {
            wait_until(deadline, &format!("member {index} applies slot {highest}"), || {
                self.members[index].list.list.lock().unwrap().applied >= highest
            });
        }
        let upto = |index: usize| -> Vec<_> {
            let list = self.members[index].list.list.lock().unwrap();
            list.bodies.iter().filter(|(slot, ..)| *slot <= highest).cloned().collect()
        };
        let first = upto(members[0]);
        for &index in members {
            assert_eq!(upto(index), first, "members {} and {index} differ", members[0]);
        }
        first.into_iter().map(|(_, _, body)| body).collect()
    }
}

pub fn propose(connection: &mut Connection, group: GroupId, body: &str) -> Result<Outcome, Error> {
    let id = connection.operation_id(PATIENCE)?;
    connection.propose(group, id, Bytes::copy_from_slice(body.as_bytes()), None, PATIENCE)
}

pub fn wait_until(deadline: Instant, what: &str, mut condition: impl FnMut() -> bool) {
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that was free a moment ago, below those that the system gives to outgoing connections: one of the links'
/// own connections could take such a port before its engine listens.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 15_000 + (std::process::id() % 1_000) as u16 * 16;
    let candidates = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 1_024);
    let mut free = candidates.take(1_024).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("a port is free")
}

/// Small bounds, so that checkpoints, trimming and copies happen within a test.
pub fn small() -> Limits {
    Limits { log_keep_bytes: 1 << 20, checkpoint_every_bytes: 1 << 20, ..Limits::default() }
}
