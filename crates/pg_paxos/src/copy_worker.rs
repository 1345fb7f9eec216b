//! The background worker that joins a group, or copies a group's state anew, and the session that waits for it.
//!
//! Copying needs transactions of its own, one of which must commit before the engine hears of it, so it cannot run
//! inside the session's. The worker's messages come back through a queue in shared memory, in PostgreSQL's own
//! protocol, so the session shows them as if they were its own: progress as notices, a failure with all its fields.
//! Cancelling the session ends the worker; what was admitted stays, and joining again goes on from there.
//!
//! A worker without a session copies the state of a group whose log no longer reaches back; it tries the other members
//! one after the other.

use std::cell::Cell;
use std::ffi::CString;
use std::sync::atomic::{AtomicU32, Ordering};

use consensus::GroupId;
use pgrx::prelude::*;
use serde::{Deserialize, Serialize};

use crate::groups::refusal;
use crate::shared::Area;
use crate::{barrier, join};

/// Room for messages on their way: a notice has some hundred bytes, so many fit while the session is busy.
const QUEUE_BYTES: usize = 64 << 10;

/// Room for the request: two connection strings and names.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Where the request stands in the segment: after a head with the outcome and the request's length.
const REQUEST_OFFSET: usize = QUEUE_BYTES + 64;

/// In the head: how it went, and how long the request is.
#[repr(C)]
struct Head {
    finished: AtomicU32,
    request_bytes: AtomicU32,
}

/// What a session asks its worker to do. Holds passwords, so it stands in memory of the two processes alone.
#[derive(Serialize, Deserialize)]
pub struct JoinRequest {
    /// The group's name.
    pub group: String,
    /// How to reach an existing member, with secrets.
    pub existing: String,
    /// How others reach this server, without secrets.
    pub own: String,
    /// The database of this server that takes the tables.
    pub database: String,
    /// Whether the existing member must have asked for a password.
    pub password_required: bool,
}

// Not among pgrx' bindings, or bound in a way that cannot be a signal handler.
unsafe extern "C-unwind" {
    fn die(signal: std::ffi::c_int);
    fn pq_redirect_to_shm_mq(segment: *mut pg_sys::dsm_segment, queue: *mut pg_sys::shm_mq_handle);
    fn pq_parse_errornotice(message: pg_sys::StringInfo, data: *mut pg_sys::ErrorData);
}

/// Ends the worker when the session stops waiting for it, for whatever reason: the segment goes with the transaction or
/// with the process, also where no destructor runs.
unsafe extern "C-unwind" fn end_worker(_segment: *mut pg_sys::dsm_segment, handle: pg_sys::Datum) {
    // SAFETY: the transaction's memory outlives its segments; this only asks the postmaster to signal the worker, if it
    // is still the same.
    unsafe { pg_sys::TerminateBackgroundWorker(handle.cast_mut_ptr()) };
}

/// Runs a join in a worker, shows its messages, and returns when it is done. Raises its error if it fails.
pub fn run(request: &JoinRequest) {
    let encoded = postcard::to_stdvec(request).expect("a request always encodes");
    assert!(encoded.len() <= REQUEST_BYTES_MAX, "the caller bounds connection strings");
    // SAFETY: the documented frame of a segment with a message queue and a worker that is told its handle. Everything
    // is released by the transaction's end if an error leaves this function.
    unsafe {
        let segment = pg_sys::dsm_create(REQUEST_OFFSET + REQUEST_BYTES_MAX, 0);
        let base = pg_sys::dsm_segment_address(segment).cast::<u8>();
        let queue = pg_sys::shm_mq_create(base.cast(), QUEUE_BYTES);
        pg_sys::shm_mq_set_receiver(queue, pg_sys::MyProc);
        let head = &*base.add(QUEUE_BYTES).cast::<Head>();
        std::ptr::copy_nonoverlapping(encoded.as_ptr(), base.add(REQUEST_OFFSET), encoded.len());
        head.finished.store(0, Ordering::SeqCst);
        head.request_bytes.store(encoded.len() as u32, Ordering::SeqCst);

        let handle = launch(pg_sys::Datum::from(pg_sys::dsm_segment_handle(segment)), &[]);
        pg_sys::on_dsm_detach(segment, Some(end_worker), pg_sys::Datum::from(handle));
        let queue = pg_sys::shm_mq_attach(queue, segment, handle);
        while let Some(message) = receive(queue) {
            show(message);
        }
        let finished = head.finished.load(Ordering::SeqCst) != 0;
        pg_sys::dsm_detach(segment);
        if !finished {
            refusal(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("joining group \"{}\" ended before it was done", request.group),
            )
            .hint("The server's log says why. Joining again goes on from where it stopped.")
            .raise()
        }
    }
}

/// Starts a worker that copies the state of a group anew, unless one is at it already.
pub fn launch_automatic(group: GroupId) {
    // SAFETY: registers a worker; nobody waits for it.
    unsafe { launch(pg_sys::Datum::from(0), &group.0.to_be_bytes()) };
}

/// Registers the worker; raises an error if there is no room for one.
unsafe fn launch(argument: pg_sys::Datum, extra: &[u8]) -> *mut pg_sys::BackgroundWorkerHandle {
    let mut worker = pg_sys::BackgroundWorker::default();
    copy_text(&mut worker.bgw_name, "pg_paxos state copy");
    copy_text(&mut worker.bgw_type, "pg_paxos state copy");
    copy_text(&mut worker.bgw_library_name, "pg_paxos");
    copy_text(&mut worker.bgw_function_name, "pg_paxos_copy_main");
    worker.bgw_flags = (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32;
    worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = pg_sys::BGW_NEVER_RESTART;
    worker.bgw_main_arg = argument;
    for (place, byte) in worker.bgw_extra.iter_mut().zip(extra) {
        *place = *byte as std::ffi::c_char;
    }
    // SAFETY: as the caller promises; MyProcPid is this process, which wants to hear of start and end.
    unsafe {
        worker.bgw_notify_pid = pg_sys::MyProcPid;
        let mut handle = std::ptr::null_mut();
        if !pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle) {
            refusal(PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, "no room for another background worker")
                .hint("Raise max_worker_processes and restart the server.")
                .raise()
        }
        handle
    }
}

fn copy_text(place: &mut [std::ffi::c_char], text: &str) {
    assert!(text.len() < place.len(), "names of workers are short");
    for (byte, from) in place.iter_mut().zip(text.bytes()) {
        *byte = from as std::ffi::c_char;
    }
}

/// The worker's next message, or none once it has gone. Can be interrupted.
unsafe fn receive<'a>(queue: *mut pg_sys::shm_mq_handle) -> Option<&'a [u8]> {
    loop {
        pgrx::check_for_interrupts!();
        let (mut length, mut data) = (0, std::ptr::null_mut());
        // SAFETY: the queue is attached; the data stay until the next call.
        unsafe {
            match pg_sys::shm_mq_receive(queue, &mut length, &mut data, true) {
                pg_sys::shm_mq_result::SHM_MQ_SUCCESS => {
                    return Some(std::slice::from_raw_parts(data.cast::<u8>(), length));
                }
                pg_sys::shm_mq_result::SHM_MQ_DETACHED => return None,
                _ => {}
            }
            pg_sys::WaitLatch(
                pg_sys::MyLatch,
                (pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
                0,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}

/// Shows a message as this session's own: a notice, or the error that ends the wait.
unsafe fn show(message: &[u8]) {
    let Some((kind, body)) = message.split_first() else { return };
    if !matches!(kind, b'E' | b'N') {
        return;
    }
    // SAFETY: the worker's message is in the protocol's format; the buffer is copied for the parser, which moves in it.
    unsafe {
        let mut buffer = pg_sys::StringInfoData::default();
        pg_sys::initStringInfo(&mut buffer);
        pg_sys::appendBinaryStringInfo(&mut buffer, body.as_ptr().cast(), body.len() as i32);
        let mut data = pg_sys::ErrorData::default();
        pg_sys::ffi::pg_guard_ffi_boundary(|| pq_parse_errornotice(&mut buffer, &mut data));
        // The worker's death is not this session's.
        data.elevel = data.elevel.min(PgLogLevel::ERROR as i32);
        pg_sys::ThrowErrorData(&mut data);
    }
}

/// The worker's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_paxos_copy_main(argument: pg_sys::Datum) {
    // SAFETY: the usual beginning of a background worker. `die` makes a request to end an error at the next point
    // where interrupts are served, so that locks and files are left in order.
    unsafe {
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(die));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    if argument.value() == 0 {
        automatic();
    } else {
        // SAFETY: the argument is the handle of the session's segment.
        unsafe { for_session(argument.value() as pg_sys::dsm_handle) };
    }
}

unsafe fn for_session(handle: pg_sys::dsm_handle) {
    // SAFETY: the session laid the segment out as `run` does, and keeps it until this worker has gone.
    unsafe {
        let segment = pg_sys::dsm_attach(handle);
        if segment.is_null() {
            // The session was cancelled before this worker came up.
            return;
        }
        let base = pg_sys::dsm_segment_address(segment).cast::<u8>();
        let queue = base.cast::<pg_sys::shm_mq>();
        pg_sys::shm_mq_set_sender(queue, pg_sys::MyProc);
        pq_redirect_to_shm_mq(segment, pg_sys::shm_mq_attach(queue, segment, std::ptr::null_mut()));

        let head = &*base.add(QUEUE_BYTES).cast::<Head>();
        let length = head.request_bytes.load(Ordering::SeqCst) as usize;
        assert!(length <= REQUEST_BYTES_MAX, "the session bounds its request");
        let place = std::slice::from_raw_parts_mut(base.add(REQUEST_OFFSET), length);
        let request: JoinRequest = postcard::from_bytes(place).expect("the session encoded it");
        // Passwords need not lie about longer than they are used.
        place.fill(0);

        connect(&request.database);
        join::run(&request);
        head.finished.store(1, Ordering::SeqCst);
    }
}

fn automatic() {
    IS_AUTOMATIC.set(true);
    // SAFETY: set for every background worker; sixteen bytes of it were filled by `launch_automatic`.
    let extra = unsafe { (*pg_sys::MyBgworkerEntry).bgw_extra };
    let mut identity = [0; 16];
    for (byte, from) in identity.iter_mut().zip(extra) {
        *byte = from as u8;
    }
    let group = GroupId(u128::from_be_bytes(identity));
    let Some(place) = Area::attached().group(group) else { return };
    connect(&place.database());
    join::copy_again(group);
}

fn connect(database: &str) {
    let database = CString::new(database).expect("names hold no zero byte");
    // SAFETY: a worker connects once, as the bootstrap superuser.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(database.as_ptr(), std::ptr::null(), 0) };
    // What it reads of the tables that it copies (to check a foreign key) is not for anybody to wait for.
    barrier::exempt_process();
}

thread_local! {
    /// Whether nobody waits for this worker.
    static IS_AUTOMATIC: Cell<bool> = const { Cell::new(false) };
}

/// Says how far this worker is: to the session that waits for it, or else to the server's log.
pub fn tell(message: String) {
    if IS_AUTOMATIC.get() {
        pgrx::log!("{message}");
    } else {
        pgrx::notice!("{message}");
    }
}

/// Runs a part of the worker's work in a transaction of its own.
pub fn transaction<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the usual frame of a worker's transaction; an error ends the worker.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        if pg_sys::ActiveSnapshotSet() {
            pg_sys::PopActiveSnapshot();
        }
        pg_sys::CommitTransactionCommand();
        result
    }
}

/// The head has room before the request.
const _: () = assert!(std::mem::size_of::<Head>() <= REQUEST_OFFSET - QUEUE_BYTES);
