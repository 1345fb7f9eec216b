//! What the views show: groups, members, positions and rounds, as this server's engine knows them.

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
        .flat_map(|group| {
            // One that was away when it was removed has a list with itself in it.
            let members = group.members.iter().filter(move |member| group.role.is_some() || member.node != node);
            let members = members.map(move |member| status_row(node, group, member));
            members.chain(group.role.is_none().then(|| removed_row(&status, group)))
        })
        .collect();
    TableIterator::new(rows)
}

/// This server's own row in a group that it was removed from.
fn removed_row(status: &Status, group: &GroupStatus) -> StatusRow {
    let applied = slot_for_sql(shared::applied(group.group));
    (
        group.name.clone(),
        uuid_of(status.engine.node.0),
        String::new(),
        status.engine.address.clone(),
        group.database.clone(),
        "none".to_owned(),
        true,
        true,
        false,
        epoch_for_sql(group.epoch),
        applied,
        Some(applied),
        0,
        "removed".to_owned(),
        Some("The other members removed this server from the group; its tables become ordinary ones.".to_owned()),
    )
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
    let state = if error.is_some() || applier == Some(ApplierState::Stopped) {
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
