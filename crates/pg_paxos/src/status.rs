//! What the views show: groups, members, positions and rounds, as this server's engine knows them.

use std::collections::BTreeMap;

use client::{GroupStatus, MemberStatus, NodeId, Request, Response, Slot, Status};
use pgrx::prelude::*;

use crate::groups::{self, epoch_for_sql, uuid_of};
use crate::rounds::slot_for_sql;
use crate::shared::{self, ApplierState, Area};
use crate::{applier, engine_connection, settings};

fn engine_status() -> Status {
    match engine_connection::call(&Request::Status, settings::barrier_timeout()) {
        Ok(Response::Status(status)) => *status,
        Ok(other) => groups::unexpected("ask the engine for its status", &other),
        Err(error) => engine_connection::raise("could not ask the engine for its status", &error),
    }
}

#[pg_extern]
fn paxos_groups() -> TableIterator<
    'static,
    (
        name!(group_name, String),
        name!(group_id, pgrx::Uuid),
        name!(database_name, String),
        name!(node_id, pgrx::Uuid),
        name!(own_connection_string, Option<String>),
        name!(epoch, i64),
        name!(applied, i64),
    ),
> {
    let status = engine_status();
    let node = status.engine.node;
    let rows: Vec<_> = status
        .groups
        .into_iter()
        .map(|group| {
            let own = group.members.iter().find(|member| member.node == node).map(|member| member.label.clone());
            let applied = slot_for_sql(shared::applied(group.group));
            (
                group.name,
                uuid_of(group.group.0),
                group.database,
                uuid_of(node.0),
                own,
                epoch_for_sql(group.epoch),
                applied,
            )
        })
        .collect();
    TableIterator::new(rows)
}

type StatusRow = (
    String,
    pgrx::Uuid,
    String,
    String,
    String,
    String,
    bool,
    bool,
    bool,
    i64,
    i64,
    Option<i64>,
    i64,
    String,
    Option<String>,
);

#[pg_extern]
fn paxos_status() -> TableIterator<
    'static,
    (
        name!(group_name, String),
        name!(node_id, pgrx::Uuid),
        name!(connection_string, String),
        name!(address, String),
        name!(database_name, String),
        name!(role, String),
        name!(is_self, bool),
        name!(is_live, bool),
        name!(is_owner, bool),
        name!(epoch, i64),
        name!(chosen, i64),
        name!(applied, Option<i64>),
        name!(lag, i64),
        name!(state, String),
        name!(apply_error, Option<String>),
    ),
> {
    let status = engine_status();
    let node = status.engine.node;
    let rows: Vec<StatusRow> = status
        .groups
        .iter()
        .flat_map(|group| group.members.iter().map(move |member| status_row(node, group, member)))
        .collect();
    TableIterator::new(rows)
}

fn status_row(node: NodeId, group: &GroupStatus, member: &MemberStatus) -> StatusRow {
    let is_self = member.node == node;
    let (chosen, applied) = if is_self {
        (group.log.chosen, Some(shared::applied(group.group)))
    } else {
        // What another server has applied only it knows; what it has learnt it tells.
        (member.chosen, None)
    };
    let lag = group.log.chosen.0.saturating_sub(applied.unwrap_or(chosen).0);
    let (state, apply_error) = if is_self { own_state(group, lag) } else { (other_state(member), None) };
    (
        group.name.clone(),
        uuid_of(member.node.0),
        member.label.clone(),
        member.address.clone(),
        member.database.clone(),
        member.role.to_string(),
        is_self,
        member.live,
        group.log.owner == Some(member.node),
        epoch_for_sql(group.epoch),
        slot_for_sql(chosen),
        applied.map(slot_for_sql),
        slot_for_sql(Slot(lag)),
        state,
        apply_error,
    )
}

/// What this server is doing in the group, and why it stopped, if it did.
fn own_state(group: &GroupStatus, lag: u64) -> (String, Option<String>) {
    let place = Area::attached().group(group.group);
    let applier = place.map(|place| place.applier_state());
    let error = group.stopped.clone().or_else(|| applier::error_of(group.group));
    let state = if group.role.is_none() {
        "removed"
    } else if error.is_some() || applier == Some(ApplierState::Stopped) {
        "stopped"
    } else if applier == Some(ApplierState::Copying) {
        "copying"
    } else if group.needs_state.is_some() {
        "needs copy"
    } else if group.changing {
        "changing members"
    } else if lag > 0 {
        "applying"
    } else {
        "serving"
    };
    (state.to_owned(), error)
}

fn other_state(member: &MemberStatus) -> String {
    if member.live { "answering" } else { "silent" }.to_owned()
}

type RoundRow = (String, i64, String, String, Option<String>, bool, Option<String>);

#[pg_extern]
fn paxos_rounds() -> TableIterator<
    'static,
    (
        name!(group_name, String),
        name!(round_num, i64),
        name!(proposer_id, String),
        name!(value_id, String),
        name!(value, Option<String>),
        name!(consensus, bool),
        name!(error, Option<String>),
    ),
> {
    let names: BTreeMap<u128, String> =
        groups::all().into_iter().map(|group| (group.group.0, group.name)).collect();
    let values_shown = may_see_values();
    let rows: Vec<RoundRow> = Spi::connect(|spi| {
        let table = spi
            .select(
                "SELECT group_id, round_num, proposer_id, slot, value FROM pgp_metadata.raw_round
                 ORDER BY group_id, round_num",
                None,
                &[],
            )
            .expect("the extension's own table can be read");
        table
            .filter_map(|row| {
                let group = row.get::<pgrx::Uuid>(1).ok().flatten()?;
                let name = names.get(&groups::identity_of(group))?.clone();
                let round = row.get::<i64>(2).ok().flatten()?;
                let proposer = row.get::<String>(3).ok().flatten()?;
                let slot = row.get::<i64>(4).ok().flatten()?;
                let value = row.get::<String>(5).ok().flatten().filter(|_| values_shown);
                Some((name, round, proposer, slot.to_string(), value, true, None))
            })
            .collect()
    });
    TableIterator::new(rows)
}

/// Whether the caller may read values given by hand: who may propose them, or was granted SELECT on their table.
fn may_see_values() -> bool {
    // SAFETY: catalog look-ups for the role that called, not for this function's owner.
    unsafe {
        let caller = pg_sys::GetOuterUserId();
        let schema = pg_sys::get_namespace_oid(c"pgp_metadata".as_ptr(), false);
        let table = pg_sys::get_relname_relid(c"raw_round".as_ptr(), schema);
        let admin = pg_sys::get_role_oid(c"pg_paxos_admin".as_ptr(), true);
        (admin != pg_sys::InvalidOid && pg_sys::has_privs_of_role(caller, admin))
            || pg_sys::pg_class_aclcheck(table, caller, pg_sys::ACL_SELECT.into())
                == pg_sys::AclResult::ACLCHECK_OK
    }
}
