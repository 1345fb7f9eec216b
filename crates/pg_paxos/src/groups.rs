//! Making, leaving and shrinking groups from SQL.
//!
//! The engine's control log is the only record of a group and its members; nothing here keeps a second one. So these
//! functions take effect at once and ROLLBACK does not undo them, except for what they change in this database
//! (which tables are replicated), which follows the transaction.

use client::{Error, GroupDescription, MemberDescription, RefusalReason, Request, Response};
use consensus::{GroupId, NodeId};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::connection_string::ConnectionString;
use crate::shared::Area;
use crate::{capture, engine_connection, settings};

/// The kind of group that this extension serves.
pub const KIND: &str = "tables";

/// The longest connection string of a member, in bytes: the engine's bound for a member's label.
pub const LABEL_BYTES_MAX: usize = 4 << 10;

/// The longest name of a group, in bytes: that of PostgreSQL's own names.
const NAME_BYTES_MAX: usize = 63;

/// An error as psql shows it: what was refused and why, details, what to do.
pub struct Refusal {
    report: ErrorReport,
}

/// Starts an error message.
pub fn refusal(code: PgSqlErrorCode, message: impl Into<String>) -> Refusal {
    Refusal { report: ErrorReport::new(code, message.into(), "pg_paxos") }
}

impl Refusal {
    /// Adds a DETAIL, if there is something to say.
    pub fn detail(self, detail: impl Into<String>) -> Refusal {
        let detail = detail.into();
        if detail.is_empty() {
            self
        } else {
            Refusal { report: self.report.set_detail(detail) }
        }
    }

    /// Adds a HINT, if there is something to say.
    pub fn hint(self, hint: impl Into<String>) -> Refusal {
        let hint = hint.into();
        if hint.is_empty() {
            self
        } else {
            Refusal { report: self.report.set_hint(hint) }
        }
    }

    /// Raises it.
    pub fn raise(self) -> ! {
        self.report.report(PgLogLevel::ERROR);
        unreachable!("an error was reported");
    }

    /// Shows it as a warning and goes on.
    pub fn warn(self) {
        self.report.report(PgLogLevel::WARNING);
    }
}

/// A group's identity as SQL shows it.
pub fn uuid_of(identity: u128) -> pgrx::Uuid {
    pgrx::Uuid::from_bytes(identity.to_be_bytes())
}

/// The inverse of [`uuid_of`].
pub fn identity_of(uuid: pgrx::Uuid) -> u128 {
    u128::from_be_bytes(*uuid.as_bytes())
}

/// The name of the database of this session.
pub fn current_database() -> String {
    // SAFETY: runs inside a session of a database; the name is copied at once.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        assert!(!name.is_null(), "this session's database exists");
        std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// Every group of this server, from the engine.
pub fn all() -> Vec<GroupDescription> {
    match engine_connection::call(&Request::Groups, settings::barrier_timeout()) {
        Ok(Response::Groups(groups)) => groups,
        Ok(other) => unexpected("list the groups", &other),
        Err(error) => engine_connection::raise("could not list the groups", &error),
    }
}

/// The group of that name, which must belong to this database; an error that helps if there is none.
pub fn named(name: &str) -> GroupDescription {
    let groups = all();
    let names: Vec<String> = groups.iter().map(|group| format!("\"{}\"", group.name)).collect();
    let identity = pgrx::Uuid::from_slice(&hexadecimal(name)).ok().map(identity_of);
    let found = groups.into_iter().find(|group| group.name == name || Some(group.group.0) == identity);
    let Some(group) = found else {
        refusal(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("group \"{name}\" does not exist on this server"))
            .detail(if names.is_empty() {
                "This server is not a member of any group.".to_owned()
            } else {
                format!("This server is a member of {}.", names.join(", "))
            })
            .hint("Make it with paxos_create_group, or join it with paxos_join_group.")
            .raise()
    };
    if let Some(member) = own_member(&group) {
        let database = current_database();
        if member.database != database {
            refusal(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("group \"{name}\" belongs to database \"{}\" on this server", member.database),
            )
            .hint(format!("Connect to database \"{}\".", member.database))
            .raise()
        }
    }
    group
}

/// This server's own entry in a group; none if it was removed.
pub fn own_member(group: &GroupDescription) -> Option<&MemberDescription> {
    let node = Area::attached().node();
    group.members.iter().find(|member| member.node == node)
}

/// Raises that the engine gave an answer which does not fit.
pub fn unexpected(attempted: &str, response: &Response) -> ! {
    let answer: String = format!("{response:?}").chars().take(80).collect();
    refusal(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("could not {attempted}: the engine answered {answer}"))
        .raise()
}

/// A request whose answer is that it is done; the engine's steps are shown as they come.
pub fn done(attempted: &str, request: &Request) {
    let progress = |message: &str| pgrx::notice!("{message}");
    match engine_connection::call_with_progress(request, settings::commit_timeout(), progress) {
        Ok(Response::Done) => {}
        Ok(other) => unexpected(attempted, &other),
        Err(error) => engine_connection::raise(&format!("could not {attempted}"), &error),
    }
}

fn hexadecimal(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|character| *character != '-')
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
}

/// Refuses what cannot be a group's name.
pub fn check_name(name: &str) {
    let reason = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("it has {} bytes, and {NAME_BYTES_MAX} are allowed", name.len())
    } else if name.chars().any(char::is_control) {
        "it holds a control character".to_owned()
    } else {
        return;
    };
    refusal(PgSqlErrorCode::ERRCODE_INVALID_NAME, format!("invalid group name \"{name}\": {reason}"))
        .hint("Use a short name without control characters.")
        .raise()
}

/// Parses a connection string given by a person; `whose` says which, for the message.
pub fn connection_string(whose: &str, text: &str) -> ConnectionString {
    match ConnectionString::parse(text) {
        Ok(string) => string,
        Err(reason) => refusal(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("invalid {whose} connection string: {reason}"),
        )
        .hint("Give a libpq connection string, for instance 'host=10.0.0.1 port=5432 dbname=app'.")
        .raise(),
    }
}

/// A connection string as the group may know it: without secrets, told to its owner where there were some.
pub fn public_label(string: &ConnectionString) -> String {
    if string.has_secret() {
        refusal(PgSqlErrorCode::ERRCODE_WARNING, "the password of this server's connection string is not stored")
            .detail("Groups never keep passwords: what they keep is on every member and shown in views.")
            .hint("Let the other members' servers find it in a password file (.pgpass of the server's user) or use certificates.")
            .warn();
    }
    string.to_string()
}

#[pg_extern]
fn paxos_create_group(current_group_id: &str, founder_connection_string: &str) {
    create(current_group_id, &connection_string("founder", founder_connection_string));
}

#[pg_extern]
fn paxos_create_group_host(current_group_id: &str, own_host: &str, own_port: i32) {
    create(current_group_id, &ConnectionString::of_host(own_host, own_port));
}

fn create(name: &str, own: &ConnectionString) {
    check_name(name);
    let text = own.to_string();
    if text.len() > LABEL_BYTES_MAX {
        refusal(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "connection string is too long")
            .hint(format!("At most {LABEL_BYTES_MAX} bytes are taken."))
            .raise()
    }
    if all().iter().any(|group| group.name == name) {
        refusal(PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, format!("group \"{name}\" already exists on this server"))
            .hint("Choose another name, or leave that group first, with paxos_leave_group.")
            .raise()
    }
    let request = Request::CreateGroup {
        name: name.to_owned(),
        kind: KIND.to_owned(),
        label: public_label(own),
        database: current_database(),
    };
    let group = match engine_connection::call(&request, settings::commit_timeout()) {
        Ok(Response::Group(group)) => group,
        Ok(other) => unexpected("create the group", &other),
        Err(error) => engine_connection::raise(&format!("could not create group \"{name}\""), &error),
    };
    await_place(group.group, name);
}

/// Waits until this server's shared memory knows a group that its engine has, so that the next statement can use it.
pub fn await_place(group: GroupId, name: &str) {
    let deadline = std::time::Instant::now() + settings::commit_timeout();
    while Area::attached().group(group).is_none() {
        if std::time::Instant::now() >= deadline {
            refusal(
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("group \"{name}\" has no place in this server's shared memory"),
            )
            .hint("Raise pg_paxos.max_groups and restart the server.")
            .raise()
        }
        engine_connection::pause(std::time::Duration::from_millis(2));
    }
}

#[pg_extern]
fn paxos_leave_group(current_group_id: &str) {
    let left_behind = left_behind();
    let identity = pgrx::Uuid::from_slice(&hexadecimal(current_group_id)).ok();
    if let Some(lost) = left_behind.iter().find(|lost| Some(**lost) == identity) {
        return make_tables_local(GroupId(identity_of(*lost)));
    }
    if !left_behind.is_empty() && all().iter().all(|group| group.name != current_group_id) {
        let lost: Vec<String> = left_behind.iter().map(|lost| format!("'{lost}'")).collect();
        refusal(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("group \"{current_group_id}\" does not exist on this server"),
        )
        .detail(format!(
            "Tables of this database belong to a group that this server's engine has lost, and whose name it does not know: {}.",
            lost.join(", ")
        ))
        .hint(format!("SELECT paxos_leave_group({}) makes them ordinary tables, as they are.", lost[0]))
        .raise()
    }
    leave(&named(current_group_id));
}

/// The groups that tables of this database belong to and that the engine does not know: its directory was lost.
fn left_behind() -> Vec<pgrx::Uuid> {
    let known = all();
    Spi::connect(|spi| {
        let rows = spi
            .select("SELECT DISTINCT group_id FROM pgp_metadata.local_table ORDER BY 1", None, &[])
            .expect("the extension's own table can be read");
        rows.filter_map(|row| row.get::<pgrx::Uuid>(1).ok().flatten())
            .filter(|group| known.iter().all(|one| one.group.0 != identity_of(*group)))
            .collect()
    })
}

fn leave(group: &GroupDescription) {
    make_tables_local(group.group);
    if let Some(own) = own_member(group) {
        if group.members.len() > 1 {
            let wait = settings::commit_timeout();
            let request = Request::Remove { group: group.group, node: own.node, wait_ms: milliseconds(wait) };
            match engine_connection::call_with_progress(&request, wait, |message| pgrx::notice!("{message}")) {
                Ok(Response::Done) => {}
                Ok(other) => unexpected("leave the group", &other),
                // It was removed meanwhile, or by the same request asked twice: there is nothing left to do.
                Err(Error::Refused(refused))
                    if matches!(refused.reason, RefusalReason::NotAMember | RefusalReason::UnknownMember) => {}
                Err(error) => engine_connection::raise(&format!("could not leave group \"{}\"", group.name), &error),
            }
        }
    }
    done(&format!("forget group \"{}\"", group.name), &Request::Forget { group: group.group });
}

/// Turns the tables that a group replicates into ordinary ones, in this transaction; their rows stay.
pub fn make_tables_local(group: GroupId) {
    let _quiet = capture::bypass();
    let relations: Vec<pg_sys::Oid> = Spi::connect_mut(|spi| {
        let rows = spi
            .update(
                "DELETE FROM pgp_metadata.local_table WHERE group_id = $1 RETURNING relation::oid",
                None,
                &[uuid_of(group.0).into()],
            )
            .expect("the extension's own table can be changed");
        rows.filter_map(|row| row.get::<pg_sys::Oid>(1).ok().flatten()).collect()
    });
    for relation in relations {
        capture::detach(relation);
        // SAFETY: only queues an invalidation.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
    }
    for table in ["raw_round", "staged_rows"] {
        let command = format!("DELETE FROM pgp_metadata.{table} WHERE group_id = $1");
        Spi::run_with_args(&command, &[uuid_of(group.0).into()]).expect("the extension's own table can be changed");
    }
}

#[pg_extern]
fn paxos_remove_host(current_group_id: &str, connection_string: &str) {
    remove(current_group_id, connection_string);
}

#[pg_extern]
fn paxos_remove_host_proposer(current_proposer_id: &str, current_group_id: &str, connection_string: &str) -> i64 {
    let _ = current_proposer_id;
    remove(current_group_id, connection_string)
}

/// Removes the member that `host` names; the epoch afterwards.
fn remove(name: &str, host: &str) -> i64 {
    let group = named(name);
    let node = member_named(&group, host).node;
    if node == Area::attached().node() {
        leave(&group);
        return epoch_for_sql(group.epoch + 1);
    }
    let wait_ms = milliseconds(settings::commit_timeout());
    done(&format!("remove \"{host}\" from group \"{name}\""), &Request::Remove { group: group.group, node, wait_ms });
    all().iter().find(|other| other.group == group.group).map_or(0, |after| epoch_for_sql(after.epoch))
}

/// The member that a person means: by node id, engine address, or connection string.
fn member_named<'a>(group: &'a GroupDescription, host: &str) -> &'a MemberDescription {
    let wanted = ConnectionString::parse(host).ok();
    let fits = |member: &&MemberDescription| {
        let same_string = || {
            let (Some(wanted), Ok(own)) = (&wanted, ConnectionString::parse(&member.label)) else { return false };
            wanted.without_secrets() == own.without_secrets()
        };
        uuid_of(member.node.0).to_string() == host || member.address == host || member.label == host || same_string()
    };
    let found: Vec<&MemberDescription> = group.members.iter().filter(fits).collect();
    match found.as_slice() {
        [member] => member,
        many => {
            let labels: Vec<String> = group
                .members
                .iter()
                .map(|member| format!("\"{}\" (node {})", member.label, uuid_of(member.node.0)))
                .collect();
            let problem = if many.is_empty() { "has no member" } else { "has more than one member" };
            refusal(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("group \"{}\" {problem} \"{host}\"", group.name))
                .detail(format!("Its members are {}.", labels.join(", ")))
                .hint("Name a member by its connection string, its engine address or its node id.")
                .raise()
        }
    }
}

/// A duration as requests carry it.
pub fn milliseconds(wait: std::time::Duration) -> u32 {
    wait.as_millis().min(u128::from(u32::MAX)) as u32
}

/// An epoch as SQL shows it.
pub fn epoch_for_sql(epoch: u64) -> i64 {
    i64::try_from(epoch).expect("epochs are far fewer")
}

/// A node as messages name it: by its label where the group knows one.
pub fn label_of(group: &GroupDescription, node: NodeId) -> String {
    group
        .members
        .iter()
        .find(|member| member.node == node)
        .map_or_else(|| uuid_of(node.0).to_string(), |member| member.label.clone())
}
