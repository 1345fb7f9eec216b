//! The extension's part of PostgreSQL's shared memory: a head, the groups, and one place per process.

use std::mem::{align_of, size_of};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, AtomicU8, Ordering};

use consensus::{GroupId, NodeId, Slot, Start};
use pgrx::pg_sys;

use super::{Backend, BackendIndex, Group};
use crate::settings;

const NAME: &std::ffi::CStr = c"pg_paxos";

/// Where the area is mapped in this process; the postmaster sets it and children inherit it.
static ATTACHED: AtomicPtr<Area> = AtomicPtr::new(std::ptr::null_mut());

/// The head of the area. Groups and backends follow it in memory.
#[repr(C, align(128))]
pub struct Area {
    groups: usize,
    backends: usize,
    node_high: AtomicU64,
    node_low: AtomicU64,
    start: AtomicU64,
    /// The sequence of the next operation of this start.
    sequence: AtomicU64,
    /// Counts the engine's starts; 0 while it is not serving. Tells a backend that its connection is of an older one.
    engine: AtomicU64,
    engine_process: AtomicI32,
    engine_latch: AtomicPtr<pg_sys::Latch>,
    engine_state: AtomicU8,
}

impl Area {
    /// The area. Only for code that runs with the library preloaded, which `_PG_init` made sure of.
    pub fn attached() -> &'static Area {
        let area = ATTACHED.load(Ordering::Relaxed);
        assert!(!area.is_null(), "pg_paxos' shared memory is not there");
        // SAFETY: it points into the server's shared memory, which stays mapped as long as the process lives, and all
        // that changes there is atomic.
        unsafe { &*area }
    }

    /// Whether shared memory is there at all (it is not in a stand-alone backend before start-up is done).
    pub fn is_attached() -> bool {
        !ATTACHED.load(Ordering::Relaxed).is_null()
    }

    fn groups_offset() -> usize {
        size_of::<Area>().next_multiple_of(align_of::<Group>())
    }

    fn backends_offset(groups: usize) -> usize {
        (Self::groups_offset() + groups * size_of::<Group>()).next_multiple_of(align_of::<Backend>())
    }

    fn bytes(groups: usize, backends: usize) -> usize {
        Self::backends_offset(groups) + backends * size_of::<Backend>()
    }

    /// Every place for a group, free ones too.
    pub fn groups(&self) -> &'static [Group] {
        // SAFETY: the area was laid out by `start_up` with room for that many groups after the head.
        unsafe {
            let first = std::ptr::from_ref(self).cast::<u8>().add(Self::groups_offset());
            std::slice::from_raw_parts(first.cast::<Group>(), self.groups)
        }
    }

    /// Every place for a process, free ones too.
    pub fn backends(&self) -> &'static [Backend] {
        // SAFETY: as for the groups.
        unsafe {
            let first = std::ptr::from_ref(self).cast::<u8>().add(Self::backends_offset(self.groups));
            std::slice::from_raw_parts(first.cast::<Backend>(), self.backends)
        }
    }

    /// The place of a process.
    pub fn backend(&self, index: BackendIndex) -> &'static Backend {
        &self.backends()[index.0 as usize]
    }

    /// The place of the calling process.
    pub fn own_index() -> BackendIndex {
        // SAFETY: MyProc is set in every process that can run a query, and points into the array of all processes.
        let number = unsafe { (*pg_sys::MyProc).pgprocno };
        BackendIndex(u32::try_from(number).expect("processes are numbered from 0"))
    }

    /// The group, if this server has it.
    pub fn group(&self, group: GroupId) -> Option<&'static Group> {
        self.groups().iter().find(|place| place.identity() == Some(group))
    }

    /// The group of that name, if this server has it.
    pub fn group_named(&self, name: &str) -> Option<&'static Group> {
        self.groups().iter().find(|place| place.identity().is_some() && place.name() == name)
    }

    /// Which place a group has.
    pub fn place_of(&self, group: &Group) -> usize {
        let first = self.groups().as_ptr();
        let place = (std::ptr::from_ref(group) as usize - first as usize) / size_of::<Group>();
        assert!(place < self.groups, "the group lies in the area");
        place
    }

    /// Gives a group a place, or finds the one that it has. `None` if `pg_paxos.max_groups` are taken.
    /// Only the engine worker calls this.
    pub fn add_group(&self, group: GroupId, name: &str, database: &str, applied: Slot) -> Option<&'static Group> {
        if let Some(place) = self.group(group) {
            return Some(place);
        }
        let place = self.groups().iter().find(|place| place.identity().is_none())?;
        place.occupy(group, name, database, applied);
        Some(place)
    }

    /// Publishes which node this is, once the engine serves.
    pub fn set_engine(&self, node: NodeId, start: Start) {
        self.node_high.store((node.0 >> 64) as u64, Ordering::SeqCst);
        self.node_low.store(node.0 as u64, Ordering::SeqCst);
        self.start.store(start.0, Ordering::SeqCst);
        self.engine.store(start.0 + 1, Ordering::SeqCst);
    }

    /// Notes that the engine does not serve.
    pub fn clear_engine(&self) {
        self.engine.store(0, Ordering::SeqCst);
    }

    /// A number that changes with every start of the engine; `None` while it does not serve.
    pub fn engine_incarnation(&self) -> Option<u64> {
        Some(self.engine.load(Ordering::SeqCst)).filter(|&number| number != 0)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        let high = self.node_high.load(Ordering::SeqCst);
        let low = self.node_low.load(Ordering::SeqCst);
        NodeId((u128::from(high) << 64) | u128::from(low))
    }

    /// The engine's current start.
    pub fn start(&self) -> Start {
        Start(self.start.load(Ordering::SeqCst))
    }

    /// The highest sequence that an operation of this start has.
    pub fn last_sequence(&self) -> u64 {
        self.sequence.load(Ordering::SeqCst)
    }

    /// The next sequence of an operation of this start.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Notes the process of the engine worker.
    pub fn set_engine_process(&self, process: i32, latch: *mut pg_sys::Latch) {
        self.engine_latch.store(latch, Ordering::SeqCst);
        self.engine_process.store(process, Ordering::SeqCst);
    }

    /// Wakes the main thread of the engine worker. May be called from any thread.
    pub fn wake_engine(&self) {
        let latch = self.engine_latch.load(Ordering::SeqCst);
        if !latch.is_null() {
            // SAFETY: only the latch of the worker's PGPROC entry is stored, which is in shared memory.
            unsafe { super::set_latch(latch) };
        }
    }
}

/// How many processes can have a place: everything PostgreSQL keeps a PGPROC for, prepared transactions excepted.
fn process_count() -> usize {
    // SAFETY: both are final when shared memory is requested.
    let backends = unsafe { pg_sys::MaxBackends };
    usize::try_from(backends).expect("MaxBackends is positive") + pg_sys::NUM_AUXILIARY_PROCS as usize
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Asks for the area when the postmaster sizes its shared memory. Called once, from `_PG_init`.
pub fn request() {
    // SAFETY: _PG_init runs alone in the postmaster.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request_hook);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup_hook);
    }
}

unsafe extern "C-unwind" fn request_hook() {
    // SAFETY: called by the postmaster, after our own _PG_init.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(Area::bytes(settings::max_groups(), process_count()) + align_of::<Area>());
    }
}

unsafe extern "C-unwind" fn startup_hook() {
    // SAFETY: called by the postmaster when shared memory is there; the lock is the one meant for this.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let (groups, backends) = (settings::max_groups(), process_count());
        let size = Area::bytes(groups, backends) + align_of::<Area>();
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(NAME.as_ptr(), size, &mut found);
        let area = memory.cast::<u8>().add(memory.align_offset(align_of::<Area>())).cast::<Area>();
        if !found {
            // All zero is the empty state of every part: no engine, no group, idle backends.
            std::ptr::write_bytes(memory.cast::<u8>(), 0, size);
            (*area).groups = groups;
            (*area).backends = backends;
        }
        ATTACHED.store(area, Ordering::SeqCst);
    }
}
