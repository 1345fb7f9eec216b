//! `pg_paxos`: ordinary PostgreSQL tables, written on any node, the same on every node.
//!
//! Loaded by `shared_preload_libraries`: it needs a part of shared memory, a background worker that hosts the engine,
//! and hooks in every process. What each module does is said at its head; the design is in `docs/`.

use pgrx::prelude::*;

pgrx::pg_module_magic!();

pub mod applier;
pub mod barrier;
pub mod capture;
pub mod catalog;
pub mod column_codec;
pub mod commit;
pub mod conflict;
pub mod connection_string;
pub mod copy_worker;
pub mod decision;
pub mod engine_connection;
pub mod engine_log;
pub mod engine_worker;
pub mod error_rewrite;
pub mod groups;
pub mod guard;
pub mod heap_routine;
pub mod join;
pub mod key_access;
pub mod keys;
pub mod latest;
pub mod libpq;
pub mod list;
pub mod made_elsewhere;
pub mod membership_watch;
pub mod origins;
pub mod refusal;
pub mod remote;
pub mod replicate_table;
pub mod round_view;
pub mod rounds;
pub mod row_apply;
pub mod row_codec;
pub mod row_locks;
pub mod settings;
pub mod shared;
pub mod snapshot_mark;
pub mod staged_rows;
pub mod state_copy;
pub mod statement_hooks;
pub mod status;
pub mod table_definition;
pub mod tables_face;
pub mod target;
pub mod touched;
pub mod transaction_status;
pub mod write_set;

/// Called by PostgreSQL when the library is loaded.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: a plain flag of the postmaster.
    if !unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        pgrx::pg_sys::panic::ErrorReport::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pg_paxos must be loaded when the server starts",
            "pg_paxos",
        )
        .set_hint("Add pg_paxos to shared_preload_libraries in postgresql.conf and restart the server.")
        .report(PgLogLevel::ERROR);
    }
    // With RUST_BACKTRACE in the server's environment pgrx would append a backtrace to the DETAIL of every error.
    std::env::set_var("RUST_LIB_BACKTRACE", "0");
    settings::register();
    shared::request();
    commit::register();
    made_elsewhere::register();
    statement_hooks::register();
    error_rewrite::register();
    engine_worker::register();
    // SAFETY: once, while the postmaster loads the library.
    unsafe {
        capture::install();
        guard::install();
    }
}
