//! Joining a group.
//!
//! In order: the existing member admits this server as a learner, so that its key is known before it dials; the own
//! engine learns of the group; the state is copied at a mark in the log (`state_copy.rs`); the applier catches up from
//! there; the learner is made a voter. Each step can be repeated, so an interrupted join is called again and goes on.
//! The group serves all the while, and until the last step this server counts in no quorum.

use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Engine, GroupDescription, MemberRole, NewMember, NodeId, Request, Response};
use consensus::GroupId;
use pgrx::prelude::*;
use tables::TableDefinition;

use crate::connection_string::ConnectionString;
use crate::copy_worker::{self, tell, JoinRequest};
use crate::groups::{self, current_database, refusal, uuid_of, LABEL_BYTES_MAX};
use crate::remote::{Remote, RemoteError};
use crate::shared::{self, ApplierState, Area};
use crate::{engine_connection, settings, state_copy};

/// How often a joiner looks how far it is.
const POLL: Duration = Duration::from_millis(50);

/// How often a joiner says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How long a joiner waits for a change of members that somebody else has under way.
const CHANGE_PATIENCE: Duration = Duration::from_secs(120);

/// How long a member that lags waits before it tries the other members again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Its log is this near to the end: the rest comes in less time than the change of members takes.
const NEAR_SLOTS: u64 = 1_000;

#[pg_extern]
fn paxos_join_group(current_group_id: &str, existing_connection_string: &str, own_connection_string: &str) {
    let existing = groups::connection_string("existing", existing_connection_string);
    let own = groups::connection_string("own", own_connection_string);
    join(current_group_id, &existing, existing_connection_string, &own);
}

#[pg_extern]
fn paxos_join_group_host(
    current_group_id: &str,
    existing_host: &str,
    existing_port: i32,
    own_host: &str,
    own_port: i32,
) {
    let existing = ConnectionString::of_host(existing_host, existing_port);
    join(current_group_id, &existing, &existing.to_string(), &ConnectionString::of_host(own_host, own_port));
}

fn join(name: &str, existing: &ConnectionString, existing_text: &str, own: &ConnectionString) {
    // SAFETY: reads the session's own state.
    if unsafe { pg_sys::IsTransactionBlock() } {
        refusal(
            PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            "paxos_join_group cannot run inside a transaction block",
        )
        .hint("Call it by itself: joining takes effect in steps that ROLLBACK could not undo.")
        .raise()
    }
    groups::check_name(name);
    if existing_text.len() > LABEL_BYTES_MAX || own.to_string().len() > LABEL_BYTES_MAX {
        refusal(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "connection string is too long")
            .hint(format!("At most {LABEL_BYTES_MAX} bytes are taken."))
            .raise()
    }
    // SAFETY: reads who called, before any change of role.
    let superuser = unsafe { pg_sys::superuser_arg(pg_sys::GetOuterUserId()) };
    if !superuser && !existing.has_password() {
        refusal(PgSqlErrorCode::ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED, "password is required")
            .detail("Roles other than superusers must give a password in the connection string, or they would connect as this server's own user.")
            .hint("Add password=... to the existing member's connection string, or join as superuser.")
            .raise()
    }
    if !existing.is_local() && !existing.is_verified() {
        refusal(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("the connection to {} does not prove whom it reaches", existing.server()),
        )
        .detail("Whoever answers there gives this server its tables and the keys of the group's members.")
        .hint("Set sslmode=verify-full and sslrootcert in the existing member's connection string.")
        .warn();
    }
    copy_worker::run(&JoinRequest {
        group: name.to_owned(),
        existing: existing_text.to_owned(),
        own: groups::public_label(own),
        database: current_database(),
        password_required: !superuser,
    });
}

/// Raises what another server answered, as an error that names it.
pub fn raise_remote(error: &RemoteError) -> ! {
    let code = match error.sqlstate.as_deref() {
        None => PgSqlErrorCode::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
        Some("42704") => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        Some("42501") => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        Some("57P03") => PgSqlErrorCode::ERRCODE_CANNOT_CONNECT_NOW,
        Some(_) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
    };
    let mut report = refusal(code, error.to_string());
    if let Some(detail) = &error.detail {
        report = report.detail(detail.clone());
    }
    match (&error.hint, &error.sqlstate) {
        (Some(hint), _) => report = report.hint(hint.clone()),
        (None, None) => {
            report = report.hint("Check that the server runs, listens there and lets this one in (pg_hba.conf).")
        }
        _ => {}
    }
    report.raise()
}

fn ask<T>(answer: Result<T, RemoteError>) -> T {
    answer.unwrap_or_else(|error| raise_remote(&error))
}

/// This server's engine.
fn own_engine() -> Engine {
    match engine_connection::call(&Request::Status, settings::barrier_timeout()) {
        Ok(Response::Status(status)) => status.engine,
        Ok(other) => groups::unexpected("ask the engine who it is", &other),
        Err(error) => engine_connection::raise("could not ask the engine who it is", &error),
    }
}

/// The whole join, in the worker.
pub fn run(request: &JoinRequest) {
    let existing = groups::connection_string("existing", &request.existing).with_default("dbname", &request.database);
    let mut remote = ask(Remote::connect(&existing));
    if request.password_required && !remote.used_password() {
        refusal(PgSqlErrorCode::ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED, "password is required")
            .detail(format!("{} did not ask for the password.", remote.server()))
            .hint("Have it ask for one (pg_hba.conf), or join as superuser.")
            .raise()
    }
    check_compatible(&mut remote);
    let engine = own_engine();
    check_reachable(&engine, &existing);
    check_room(&mut remote, &request.group);
    let group = admit(&mut remote, request, &engine);
    copy_worker::transaction(|| state_copy::lock(group.group));
    learn(&group);
    // Once as a rule; again if the others' logs no longer reach back to it by the time it is done.
    while !catch_up(group.group, &request.group) {
        state_copy::copy(group.group, &existing, &mut remote);
    }
    promote(&mut remote, &group, engine.node);
    tell(format!("this server is a voting member of group \"{}\"", request.group));
}

/// Copies the state of a group that this server is already a member of, from whichever member answers.
pub fn copy_again(group: GroupId) {
    if !copy_worker::transaction(|| state_copy::try_lock(group)) {
        return;
    }
    let own = Area::attached().node();
    while state_copy::is_needed(group) || is_half_done(group) {
        let Some(description) = groups::all().into_iter().find(|other| other.group == group) else { return };
        let mut others: Vec<_> =
            description.members.iter().filter(|member| member.node != own && !member.role.is_witness()).collect();
        // Another one first each time: the one asked last may be the reason why this is tried again.
        let first = std::process::id() as usize % others.len().max(1);
        others.rotate_left(first);
        for member in others {
            let Ok(string) = ConnectionString::parse(&member.label) else { continue };
            let string = string.with_default("dbname", &member.database);
            match Remote::connect(&string) {
                Ok(mut remote) => {
                    state_copy::copy(group, &string, &mut remote);
                    return;
                }
                Err(error) => pgrx::log!("pg_paxos: no state copy for group \"{}\": {error}", description.name),
            }
        }
        engine_connection::pause(RETRY_PAUSE);
    }
}

/// Whether a copy was committed here whose checkpoint the engine did not get.
fn is_half_done(group: GroupId) -> bool {
    Area::attached().group(group).is_some_and(|place| place.applier_state() == ApplierState::Copying)
}

fn check_compatible(remote: &mut Remote) {
    let rows = ask(remote.query(
        "look for pg_paxos",
        "SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'pg_paxos'),
                current_setting('server_version_num')::integer / 10000,
                (SELECT pg_catalog.pg_encoding_to_char(encoding) FROM pg_catalog.pg_database WHERE datname = current_database()),
                current_database()",
        &[],
    ));
    let database = rows.value(0, 3).unwrap_or_default().to_owned();
    let Some(version) = rows.value(0, 0) else {
        refusal(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("database \"{database}\" at {} has no extension pg_paxos", remote.server()),
        )
        .hint("Name the group's database there (dbname=...), or create the extension and the group there first.")
        .raise()
    };
    let own = env!("CARGO_PKG_VERSION");
    let own_server = pg_sys::PG_VERSION_NUM / 10000;
    let encoding = copy_worker::transaction(|| {
        Spi::get_one::<String>("SELECT current_setting('server_encoding')").ok().flatten().unwrap_or_default()
    });
    let differences = [
        ("pg_paxos", version, own),
        ("PostgreSQL", rows.value(0, 1).unwrap_or_default(), &own_server.to_string()),
        ("the database's encoding", rows.value(0, 2).unwrap_or_default(), &encoding),
    ];
    for (what, theirs, ours) in differences {
        if theirs != ours {
            refusal(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{what} is {theirs} at {} and {ours} here", remote.server()),
            )
            .hint("Members of a group must agree in it.")
            .raise()
        }
    }
}

/// Refuses to join other machines with an engine that only this machine can reach.
fn check_reachable(engine: &Engine, existing: &ConnectionString) {
    let host = engine.address.rsplit_once(':').map_or(engine.address.as_str(), |(host, _)| host);
    let own_is_local = ConnectionString::of_host(host.trim_matches(['[', ']']), 1).is_local();
    if own_is_local && !existing.is_local() {
        refusal(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("other machines cannot reach this server's engine at {}", engine.address),
        )
        .hint("Set pg_paxos.listen_addresses and pg_paxos.advertise_address to an address that the other members reach, and restart the server.")
        .raise()
    }
}

/// Refuses before anything is changed if a table of this server stands in the way of one of the group's.
fn check_room(remote: &mut Remote, group: &str) {
    let rows = ask(remote.query(
        &format!("join group \"{group}\""),
        "SELECT group_id, definition FROM pgp_metadata.group_tables($1)",
        &[group],
    ));
    copy_worker::transaction(|| {
        for row in 0..rows.len() {
            let identity = rows.value(row, 0).unwrap_or_default();
            let Some(definition) = rows.bytes(row, 1).and_then(|bytes| TableDefinition::decode(&bytes).ok()) else {
                continue;
            };
            state_copy::refuse_obstacle(identity, &definition);
        }
    });
}

fn admit(remote: &mut Remote, request: &JoinRequest, engine: &Engine) -> GroupDescription {
    let digits: String = engine.public_key.iter().map(|byte| format!("{byte:02x}")).collect();
    let rows = ask(remote.query(
        &format!("join group \"{}\"", request.group),
        "SELECT admission FROM pgp_metadata.admit_member($1, $2::uuid, $3, $4::bytea, $5, $6)",
        &[
            &request.group,
            &uuid_of(engine.node.0).to_string(),
            &engine.address,
            &format!("\\x{digits}"),
            &request.own,
            &request.database,
        ],
    ));
    let description = rows.bytes(0, 0).and_then(|bytes| postcard::from_bytes(&bytes).ok());
    description.unwrap_or_else(|| {
        refusal(
            PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
            format!("{} gave an admission that makes no sense", remote.server()),
        )
        .raise()
    })
}

/// Tells the own engine of the group, unless it knows.
fn learn(group: &GroupDescription) {
    if let Some(known) = groups::all().iter().find(|known| known.name == group.name) {
        if known.group != group.group {
            refusal(
                PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
                format!("this server is a member of another group named \"{}\"", group.name),
            )
            .hint("Leave that group first, with paxos_leave_group.")
            .raise()
        }
    } else {
        let request = Request::LearnGroup { group: group.clone(), await_state: true };
        groups::done("learn of the group", &request);
    }
    groups::await_place(group.group, &group.name);
}

/// Waits until the applier has almost reached the end of the log. False if the state must be copied first.
fn catch_up(group: GroupId, name: &str) -> bool {
    let mut reported = Instant::now();
    loop {
        let Some(status) = state_copy::status(group) else {
            refusal(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("this server was removed from group \"{name}\""),
            )
            .hint("Call paxos_leave_group here, then join again.")
            .raise()
        };
        if let Some(reason) = status.stopped.clone().or_else(|| crate::applier::error_of(group)) {
            refusal(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("this server cannot apply the log of group \"{name}\""),
            )
            .detail(reason)
            .hint("Remove what is in the way; then join again.")
            .raise()
        }
        if status.needs_state.is_some() {
            return false;
        }
        let applied = shared::applied(group);
        let known = status.members.iter().map(|member| member.chosen).max().unwrap_or(status.log.chosen);
        let behind = known.0.max(status.log.chosen.0).saturating_sub(applied.0);
        if behind <= NEAR_SLOTS {
            return true;
        }
        if reported.elapsed() >= REPORT_EVERY {
            tell(format!("catching up: at {}, {behind} behind", applied.0));
            reported = Instant::now();
        }
        engine_connection::pause(POLL);
    }
}

/// Has the existing member make this server a voter, and waits until its own engine has heard of it.
fn promote(remote: &mut Remote, group: &GroupDescription, node: NodeId) {
    let deadline = Instant::now() + CHANGE_PATIENCE;
    while !is_voter(group.group, node) {
        let answer = remote.query(
            "become a voting member",
            "SELECT pgp_metadata.promote_member($1::uuid, $2::uuid)",
            &[&uuid_of(group.group.0).to_string(), &uuid_of(node.0).to_string()],
        );
        match answer {
            Ok(_) => {}
            // Another change is under way, or the log's end has moved on; both pass.
            Err(error) if error.sqlstate.is_some() && Instant::now() < deadline => {
                pgrx::debug1!("pg_paxos: not promoted yet: {error}");
            }
            Err(error) => raise_remote(&error),
        }
        engine_connection::pause(POLL);
    }
}

fn is_voter(group: GroupId, node: NodeId) -> bool {
    groups::all()
        .iter()
        .filter(|known| known.group == group)
        .flat_map(|known| &known.members)
        .any(|member| member.node == node && member.role == MemberRole::Voter)
}

/// Asked by a joiner: makes it a learner, and tells it all that its engine must know of the group.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn paxos_admit_member(
    group_name: &str,
    node_id: pgrx::Uuid,
    address: &str,
    public_key: &[u8],
    connection_string: &str,
    database_name: &str,
) -> TableIterator<'static, (name!(group_id, pgrx::Uuid), name!(admission, Vec<u8>))> {
    let group = groups::named(group_name);
    let node = NodeId(groups::identity_of(node_id));
    if group.members.iter().any(|member| member.node == node && member.role == MemberRole::Voter) {
        refusal(
            PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            format!("that server is already a member of group \"{group_name}\""),
        )
        .hint("A server joins a group once; pgp_metadata.host shows the members.")
        .raise()
    }
    let label = groups::connection_string("own", connection_string);
    let request = Request::JoinRequest {
        group: group.group,
        member: NewMember {
            node,
            address: address.to_owned(),
            public_key: Bytes::copy_from_slice(public_key),
            label: label.to_string(),
            database: database_name.to_owned(),
            witness: false,
        },
        wait_ms: groups::milliseconds(settings::commit_timeout()),
    };
    match engine_connection::call(&request, settings::commit_timeout()) {
        Ok(Response::Group(admitted)) => {
            let admission = postcard::to_stdvec(&admitted).expect("a description always encodes");
            TableIterator::once((uuid_of(group.group.0), admission))
        }
        Ok(other) => groups::unexpected("admit a member", &other),
        Err(error) => engine_connection::raise(&format!("could not admit a member to group \"{group_name}\""), &error),
    }
}

/// Asked by `synod node`, or by a person on its behalf: adds it as a witness without a vote yet, and tells it all that its
/// engine must know of the group.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn paxos_admit_witness(
    group_name: &str,
    node_id: pgrx::Uuid,
    address: &str,
    public_key: &[u8],
) -> TableIterator<'static, (name!(group_id, pgrx::Uuid), name!(admission, Vec<u8>))> {
    let group = groups::named(group_name);
    let request = Request::JoinRequest {
        group: group.group,
        member: NewMember {
            node: NodeId(groups::identity_of(node_id)),
            address: address.to_owned(),
            public_key: Bytes::copy_from_slice(public_key),
            // It has no server to connect to.
            label: format!("witness at {address}"),
            database: String::new(),
            witness: true,
        },
        wait_ms: groups::milliseconds(settings::commit_timeout()),
    };
    match engine_connection::call(&request, settings::commit_timeout()) {
        Ok(Response::Group(admitted)) => {
            let admission = postcard::to_stdvec(&admitted).expect("a description always encodes");
            TableIterator::once((uuid_of(group.group.0), admission))
        }
        Ok(other) => groups::unexpected("admit a witness", &other),
        Err(error) => engine_connection::raise(&format!("could not admit a witness to group \"{group_name}\""), &error),
    }
}

/// Asked by a joiner that has caught up: makes it a voter.
#[pg_extern]
fn paxos_promote_member(group_id: pgrx::Uuid, node_id: pgrx::Uuid) {
    let request = Request::Promote {
        group: GroupId(groups::identity_of(group_id)),
        node: NodeId(groups::identity_of(node_id)),
        wait_ms: groups::milliseconds(settings::commit_timeout()),
    };
    groups::done("make a learner a voter", &request);
}
