//! What `pgp_metadata.round` shows: values given by hand, and of a group of tables what the newest slots did.
//!
//! A slot of a group of tables is shown by how many rows it changed in which tables, never by their contents, which are
//! for those who may read the tables. Slots are read from this server's own log, so those that were trimmed are gone.

use std::collections::BTreeMap;

use client::{DecidedEntry, GroupDescription, Request, Response, Slot};
use consensus::GroupId;
use pgrx::prelude::*;
use tables::{Operation, Reason, TableId, Verdict, WriteSet};

use crate::groups::{self, current_database, uuid_of};
use crate::rounds::slot_for_sql;
use crate::{catalog, engine_connection, settings, shared};

/// How many of a group's newest slots are shown: each is asked of the engine, a tenth of a millisecond.
const SLOTS_SHOWN: u64 = 100;

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
    let database = current_database();
    let is_here = |group: &GroupDescription| groups::own_member(group).is_some_and(|own| own.database == database);
    let rows: Vec<RoundRow> = groups::all()
        .iter()
        .filter(|group| is_here(group))
        .flat_map(|group| {
            let mut rows = values(group);
            if rows.is_empty() {
                rows = slots(group);
            }
            rows
        })
        .collect();
    TableIterator::new(rows)
}

/// The rounds of a group that holds values.
fn values(group: &GroupDescription) -> Vec<RoundRow> {
    let values_shown = may_see_values();
    Spi::connect(|spi| {
        let table = spi
            .select(
                "SELECT round_num, proposer_id, slot, value FROM pgp_metadata.raw_round WHERE group_id = $1
                 ORDER BY round_num",
                None,
                &[uuid_of(group.group.0).into()],
            )
            .expect("the extension's own table can be read");
        table
            .filter_map(|row| {
                let round = row.get::<i64>(1).ok().flatten()?;
                let proposer = row.get::<String>(2).ok().flatten()?;
                let slot = row.get::<i64>(3).ok().flatten()?;
                let value = row.get::<String>(4).ok().flatten().filter(|_| values_shown);
                Some((group.name.clone(), round, proposer, slot.to_string(), value, true, None))
            })
            .collect()
    })
}

/// The newest slots of a group of tables.
fn slots(group: &GroupDescription) -> Vec<RoundRow> {
    let applied = shared::applied(group.group).0;
    let first = applied.saturating_sub(SLOTS_SHOWN - 1).max(1);
    (first..=applied).filter_map(|slot| slot_row(group, Slot(slot))).collect()
}

fn slot_row(group: &GroupDescription, slot: Slot) -> Option<RoundRow> {
    let request = Request::Entry { group: group.group, slot };
    let Ok(Response::Decided(batch)) = engine_connection::call(&request, settings::barrier_timeout()) else {
        return None;
    };
    let name = group.name.clone();
    let Some(entry) = batch.entries.into_iter().find(|entry| entry.slot == slot) else {
        // Nothing was proposed there, or nothing that has an effect.
        return Some((name, slot_for_sql(slot), String::new(), String::new(), Some(String::new()), true, None));
    };
    let proposer = groups::label_of(group, entry.id.node);
    let error = error_of(&entry);
    let value = if entry.mark { Some("snapshot mark".to_owned()) } else { summary(group.group, &entry) };
    Some((name, slot_for_sql(slot), proposer, entry.id.to_string(), value, true, error))
}

/// Why an entry has no effect.
fn error_of(entry: &DecidedEntry) -> Option<String> {
    let client::Verdict::Rejected(detail) = &entry.verdict else { return None };
    let Ok(Verdict::Rejected(conflict)) = Verdict::decode(detail) else { return Some("rejected".to_owned()) };
    Some(match conflict.reason {
        Reason::Touched { slot, .. } => format!("conflict with slot {slot}"),
        Reason::BelowFloor { floor } => format!("older than slot {floor}, which is as far as conflicts are remembered"),
        _ => "conflict".to_owned(),
    })
}

/// What an entry did, without what it wrote.
fn summary(group: GroupId, entry: &DecidedEntry) -> Option<String> {
    let write_set = WriteSet::decode(entry.body.clone()?).ok()?;
    let mut counts: BTreeMap<(TableId, &str), usize> = BTreeMap::new();
    let mut parts = Vec::new();
    for operation in &write_set.operations {
        let (table, verb) = match operation {
            Operation::Insert { table, .. } => (*table, "inserted into"),
            Operation::Update { table, .. } => (*table, "updated in"),
            Operation::Delete { table, .. } => (*table, "deleted from"),
            Operation::ReplicateTable { definition, .. } => {
                parts.push(format!("table {} replicated", definition.qualified_name()));
                continue;
            }
            Operation::UnreplicateTable { .. } => {
                parts.push("a table no longer replicated".to_owned());
                continue;
            }
            Operation::StageRows { part, .. } => {
                parts.push(format!("part {part} of a table's rows"));
                continue;
            }
            Operation::TakeStaged { parts: number, .. } => {
                parts.push(format!("rows in {number} parts"));
                continue;
            }
            _ => continue,
        };
        *counts.entry((table, verb)).or_default() += 1;
    }
    parts.extend(counts.into_iter().map(|((table, verb), count)| {
        let name = catalog::of_table(group, table)
            .map_or_else(|| format!("table {}", table.0), |known| known.qualified_name());
        format!("{count} {verb} {name}")
    }));
    Some(parts.join(", "))
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
            || pg_sys::pg_class_aclcheck(table, caller, pg_sys::ACL_SELECT) == pg_sys::AclResult::ACLCHECK_OK
    }
}
