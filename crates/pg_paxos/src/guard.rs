//! The guard: what would make a replicated table differ between servers is refused with 0A000, and says what to do.
//!
//! Most of it is seen in `object_access_hook`, because DROP ... CASCADE and TRUNCATE ... CASCADE reach tables that
//! the statement does not name. What has no object access (VACUUM FULL, CLUSTER, REINDEX, triggers switched off) is
//! seen where utility statements start, in the one hook for them ([`crate::statement_hooks`]).
//!
//! The functions that errors of others pass through are plain and have nothing to drop: a guard there would strip
//! schema, table and constraint names from those errors.

use std::ffi::{c_void, CStr};

use pgrx::pg_sys::{self, Datum, NodeTag, Oid};
use pgrx::prelude::*;
use tables::{Key, Strength};

use crate::catalog::{self, ReplicatedTable};
use crate::{capture, list, refusal, shared};

static mut PREVIOUS_ACCESS: pg_sys::object_access_hook_type = None;

/// Sets up the hook.
///
/// # Safety
/// Called once, from `_PG_init`.
pub unsafe fn install() {
    PREVIOUS_ACCESS = pg_sys::object_access_hook;
    pg_sys::object_access_hook = Some(object_access);
}

/// Before a utility statement runs. Errors of others do not pass through here.
///
/// # Safety
/// `node` is a parse tree of PostgreSQL's.
pub unsafe fn before_utility(node: *mut pg_sys::Node) {
    if is_watched((*node).type_) {
        check_statement(node);
    }
}

/// After a utility statement has run. Errors of others do not pass through here.
///
/// # Safety
/// As [`before_utility`].
pub unsafe fn after_utility(node: *mut pg_sys::Node) {
    if (*node).type_ == NodeTag::T_LockStmt {
        record_locked_tables(node.cast());
    }
}

/// Statements that are looked at before they run.
fn is_watched(tag: NodeTag) -> bool {
    matches!(
        tag,
        NodeTag::T_AlterTableStmt
            | NodeTag::T_VacuumStmt
            | NodeTag::T_ClusterStmt
            | NodeTag::T_ReindexStmt
            | NodeTag::T_IndexStmt
            | NodeTag::T_CreateTrigStmt
            | NodeTag::T_RuleStmt
            | NodeTag::T_CreatePolicyStmt
            | NodeTag::T_AlterPolicyStmt
            | NodeTag::T_CreateStmt
            | NodeTag::T_RenameStmt
            | NodeTag::T_AlterObjectSchemaStmt
            | NodeTag::T_TruncateStmt
            | NodeTag::T_DropStmt
            | NodeTag::T_AlterEnumStmt
    )
}

#[pg_guard]
unsafe extern "C-unwind" fn check_statement(node: *mut pg_sys::Node) {
    if capture::is_bypassed() || !in_transaction() {
        return;
    }
    match (*node).type_ {
        NodeTag::T_AlterTableStmt => {
            let statement = &*node.cast::<pg_sys::AlterTableStmt>();
            match statement.objtype {
                pg_sys::ObjectType::OBJECT_TYPE => refuse_type(row_type(statement.relation)),
                _ => refuse_named(statement.relation, "ALTER TABLE"),
            }
        }
        NodeTag::T_AlterEnumStmt => {
            let name = pg_sys::makeTypeNameFromNameList((*node.cast::<pg_sys::AlterEnumStmt>()).typeName);
            refuse_type(pg_sys::LookupTypeNameOid(std::ptr::null_mut(), name, true));
        }
        NodeTag::T_IndexStmt => refuse_named((*node.cast::<pg_sys::IndexStmt>()).relation, "CREATE INDEX"),
        NodeTag::T_CreateTrigStmt => {
            refuse_named((*node.cast::<pg_sys::CreateTrigStmt>()).relation, "CREATE TRIGGER");
        }
        NodeTag::T_RuleStmt => refuse_named((*node.cast::<pg_sys::RuleStmt>()).relation, "CREATE RULE"),
        NodeTag::T_CreatePolicyStmt => {
            refuse_named((*node.cast::<pg_sys::CreatePolicyStmt>()).table, "CREATE POLICY");
        }
        NodeTag::T_AlterPolicyStmt => refuse_named((*node.cast::<pg_sys::AlterPolicyStmt>()).table, "ALTER POLICY"),
        NodeTag::T_RenameStmt => refuse_named((*node.cast::<pg_sys::RenameStmt>()).relation, "ALTER ... RENAME"),
        NodeTag::T_AlterObjectSchemaStmt => {
            refuse_named((*node.cast::<pg_sys::AlterObjectSchemaStmt>()).relation, "ALTER TABLE ... SET SCHEMA");
        }
        NodeTag::T_TruncateStmt => {
            for relation in list::pointers((*node.cast::<pg_sys::TruncateStmt>()).relations) {
                refuse_truncate(relation);
            }
        }
        NodeTag::T_CreateStmt => {
            for relation in list::pointers((*node.cast::<pg_sys::CreateStmt>()).inhRelations) {
                refuse_named(relation, "a child table (CREATE TABLE ... INHERITS)");
            }
        }
        NodeTag::T_DropStmt => check_drop(&*node.cast()),
        NodeTag::T_VacuumStmt => check_vacuum(&*node.cast()),
        NodeTag::T_ClusterStmt => check_cluster(&*node.cast()),
        NodeTag::T_ReindexStmt => check_reindex(&*node.cast()),
        _ => {}
    }
}

/// Look-ups need a transaction that has not failed; what runs outside of one changes no table.
unsafe fn in_transaction() -> bool {
    pg_sys::IsTransactionState()
}

/// The replicated table that a name stands for, or whose index it is.
unsafe fn named(name: *const pg_sys::RangeVar) -> Option<std::rc::Rc<ReplicatedTable>> {
    if name.is_null() {
        return None;
    }
    let relation = pg_sys::RangeVarGetRelidExtended(
        name,
        pg_sys::NoLock as i32,
        pg_sys::RVROption::RVR_MISSING_OK,
        None,
        std::ptr::null_mut(),
    );
    (relation != Oid::INVALID).then(|| of_table_or_index(relation)).flatten()
}

/// The replicated table that a relation is, or whose index it is.
unsafe fn of_table_or_index(relation: Oid) -> Option<std::rc::Rc<ReplicatedTable>> {
    if relation.to_u32() < pg_sys::FirstNormalObjectId {
        return None;
    }
    match pg_sys::get_rel_relkind(relation) as u8 {
        pg_sys::RELKIND_INDEX => catalog::of_relation(pg_sys::IndexGetRelation(relation, true)),
        pg_sys::RELKIND_RELATION => catalog::of_relation(relation),
        _ => None,
    }
}

const HINT_DDL: &str = "Changes of a replicated table's definition are not replicated yet. Make a new table and \
    replicate that, or let the group's members leave the group first.";

unsafe fn refuse_named(name: *const pg_sys::RangeVar, what: &str) {
    if let Some(table) = named(name) {
        refuse(&table, what, HINT_DDL);
    }
}

/// The type of the rows of a composite type.
unsafe fn row_type(name: *const pg_sys::RangeVar) -> Oid {
    let relation = pg_sys::RangeVarGetRelidExtended(
        name,
        pg_sys::NoLock as i32,
        pg_sys::RVROption::RVR_MISSING_OK,
        None,
        std::ptr::null_mut(),
    );
    match relation {
        Oid::INVALID => Oid::INVALID,
        relation => pg_sys::get_rel_type_id(relation),
    }
}

/// Refuses to change a type whose values a replicated table holds: the other servers could not read new ones.
fn refuse_type(changed: Oid) {
    if changed == Oid::INVALID || !catalog::has_tables() {
        return;
    }
    // The type may stand in arrays, domains, ranges and composites, and those in others.
    let user = Spi::get_one_with_args::<String>(
        "WITH RECURSIVE used (type) AS (
             SELECT $1::pg_catalog.oid
             UNION
             SELECT t.oid FROM used JOIN pg_catalog.pg_type t ON t.typelem = used.type OR t.typbasetype = used.type
                 OR EXISTS (SELECT FROM pg_catalog.pg_range r
                            WHERE r.rngsubtype = used.type AND t.oid IN (r.rngtypid, r.rngmultitypid))
                 OR EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
                            WHERE c.reltype = t.oid AND c.relkind = 'c' AND a.atttypid = used.type AND NOT a.attisdropped))
         SELECT local_table.relation::pg_catalog.text
         FROM pgp_metadata.local_table JOIN pg_catalog.pg_attribute a ON a.attrelid = local_table.relation
         WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid IN (SELECT type FROM used)
         ORDER BY 1 LIMIT 1",
        &[changed.into()],
    );
    if let Some(table) = user.ok().flatten() {
        refusal::not_supported(
            format!("ALTER TYPE is not supported on a type of a column of replicated table \"{table}\""),
            "Changes of a type are not replicated yet, and the other members could not read its new values. Make a new \
             type and a new table and replicate that, or let the group's members leave the group first.",
        );
    }
}

fn refuse(table: &ReplicatedTable, what: &str, hint: &str) -> ! {
    refusal::not_supported(format!("{what} is not supported on replicated table \"{}\"", table.name), hint)
}

const HINT_TRUNCATE: &str = "Use DELETE, which is replicated.";

unsafe fn refuse_truncate(name: *const pg_sys::RangeVar) {
    if let Some(table) = named(name) {
        refuse(&table, "TRUNCATE", HINT_TRUNCATE);
    }
}

/// Names what is to be dropped. What a DROP reaches without naming it is seen when it is accessed.
unsafe fn check_drop(statement: &pg_sys::DropStmt) {
    for object in list::pointers::<pg_sys::List>(statement.objects) {
        match statement.removeType {
            pg_sys::ObjectType::OBJECT_TABLE => refuse_named(pg_sys::makeRangeVarFromNameList(object), "DROP TABLE"),
            pg_sys::ObjectType::OBJECT_INDEX => refuse_named(pg_sys::makeRangeVarFromNameList(object), "DROP INDEX"),
            pg_sys::ObjectType::OBJECT_EXTENSION => {
                let name = CStr::from_ptr((*object.cast::<pg_sys::String>()).sval);
                refuse_extension(name);
            }
            _ => {}
        }
    }
}

unsafe fn option_is_on(options: *const pg_sys::List, name: &CStr) -> bool {
    list::pointers::<pg_sys::DefElem>(options)
        .any(|option| CStr::from_ptr((*option).defname) == name && pg_sys::defGetBoolean(option))
}

const HINT_LOCKS: &str = "It would block what the other members commit. Plain VACUUM, ANALYZE and REINDEX ... \
    CONCURRENTLY are fine.";

unsafe fn check_vacuum(statement: &pg_sys::VacuumStmt) {
    if !statement.is_vacuumcmd || !option_is_on(statement.options, c"full") {
        return;
    }
    if statement.rels.is_null() {
        refuse_everywhere("VACUUM FULL");
    }
    for relation in list::pointers::<pg_sys::VacuumRelation>(statement.rels) {
        if let Some(table) = named((*relation).relation) {
            refuse(&table, "VACUUM FULL", HINT_LOCKS);
        }
    }
}

unsafe fn check_cluster(statement: &pg_sys::ClusterStmt) {
    if statement.relation.is_null() {
        refuse_everywhere("CLUSTER");
    } else if let Some(table) = named(statement.relation) {
        refuse(&table, "CLUSTER", HINT_LOCKS);
    }
}

unsafe fn check_reindex(statement: &pg_sys::ReindexStmt) {
    if option_is_on(statement.params, c"concurrently") {
        return;
    }
    match statement.kind {
        pg_sys::ReindexObjectType::REINDEX_OBJECT_SYSTEM => {}
        pg_sys::ReindexObjectType::REINDEX_OBJECT_SCHEMA | pg_sys::ReindexObjectType::REINDEX_OBJECT_DATABASE => {
            refuse_everywhere("REINDEX");
        }
        _ => {
            if let Some(table) = named(statement.relation) {
                refuse(&table, "REINDEX without CONCURRENTLY", HINT_LOCKS);
            }
        }
    }
}

/// Refuses a statement that reaches every table of a database which holds replicated ones.
fn refuse_everywhere(what: &str) {
    if catalog::has_tables() {
        refusal::not_supported(
            format!("{what} of everything is not supported in a database with replicated tables"),
            "Name the tables that are not replicated. Plain VACUUM, ANALYZE and REINDEX ... CONCURRENTLY are fine.",
        );
    }
}

/// After LOCK TABLE: from now on a writer elsewhere is in the way of this transaction, if it writes.
#[pg_guard]
unsafe extern "C-unwind" fn record_locked_tables(statement: *mut pg_sys::LockStmt) {
    // Weaker modes let writers through.
    if capture::is_bypassed() || (*statement).mode < pg_sys::ShareLock as i32 {
        return;
    }
    for relation in list::pointers((*statement).relations) {
        if let Some(table) = named(relation) {
            let position = shared::applied(table.group);
            capture::push_locked(table.group, Key::of_table(table.table, Strength::Exclusive, position));
        }
    }
}

unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: Oid,
    object: Oid,
    part: i32,
    argument: *mut c_void,
) {
    if let Some(previous) = PREVIOUS_ACCESS {
        previous(access, class, object, part, argument);
    }
    let is_watched = class == pg_sys::RelationRelationId
        || class == pg_sys::TriggerRelationId
        || class == RULES.catalog
        || class == CONSTRAINTS.catalog
        || class == INHERITANCE
        || class == pg_sys::ExtensionRelationId;
    if is_watched && access != pg_sys::ObjectAccessType::OAT_NAMESPACE_SEARCH {
        check_access(access, class, object, argument);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_access(
    access: pg_sys::ObjectAccessType::Type,
    class: Oid,
    object: Oid,
    argument: *mut c_void,
) {
    if capture::is_bypassed() || !in_transaction() {
        return;
    }
    if class == pg_sys::RelationRelationId {
        check_relation_access(access, object, argument);
    } else if class == TRIGGERS.catalog {
        check_part(access, table_of(&TRIGGERS, object), trigger_kind(access, argument));
    } else if class == INHERITANCE {
        check_inheritance(object, argument);
    } else if class == RULES.catalog {
        check_part(access, table_of(&RULES, object), "rule");
    } else if class == CONSTRAINTS.catalog {
        check_part(access, table_of(&CONSTRAINTS, object), "constraint");
    } else {
        check_extension_access(access, object);
    }
}

unsafe fn check_relation_access(access: pg_sys::ObjectAccessType::Type, object: Oid, argument: *mut c_void) {
    if access == pg_sys::ObjectAccessType::OAT_POST_CREATE {
        return check_new_relation(object, argument);
    }
    let Some(table) = of_table_or_index(object) else { return };
    match access {
        pg_sys::ObjectAccessType::OAT_TRUNCATE => refuse(&table, "TRUNCATE", HINT_TRUNCATE),
        pg_sys::ObjectAccessType::OAT_DROP => {
            let flags = (*argument.cast::<pg_sys::ObjectAccessDrop>()).dropflags;
            // REINDEX CONCURRENTLY drops the index that it replaced.
            if flags & pg_sys::PERFORM_DELETION_INTERNAL as i32 == 0 {
                refuse(&table, "DROP", HINT_DDL);
            }
        }
        pg_sys::ObjectAccessType::OAT_POST_ALTER => {
            let is_internal = !argument.is_null() && (*argument.cast::<pg_sys::ObjectAccessPostAlter>()).is_internal;
            if !is_internal {
                refuse(&table, "ALTER", HINT_DDL);
            }
        }
        _ => {}
    }
}

/// An index or a column that was just made.
unsafe fn check_new_relation(object: Oid, argument: *mut c_void) {
    let is_internal = !argument.is_null() && (*argument.cast::<pg_sys::ObjectAccessPostCreate>()).is_internal;
    if is_internal {
        return;
    }
    // A new relation's row is not visible yet, and no look-up needs it: then it is not replicated.
    if let Some(table) = of_table_or_index(object) {
        refuse(&table, "CREATE INDEX or ADD COLUMN", HINT_DDL);
    }
}

/// A trigger, rule or constraint that comes, changes or goes.
unsafe fn check_part(access: pg_sys::ObjectAccessType::Type, relation: Oid, what: &str) {
    let verb = match access {
        pg_sys::ObjectAccessType::OAT_POST_CREATE => "adding",
        pg_sys::ObjectAccessType::OAT_POST_ALTER => "changing",
        pg_sys::ObjectAccessType::OAT_DROP => "dropping",
        _ => return,
    };
    if relation == Oid::INVALID {
        return;
    }
    if let Some(table) = catalog::of_relation(relation) {
        refuse(&table, &format!("{verb} a {what}"), HINT_DDL);
    }
}

unsafe fn check_extension_access(access: pg_sys::ObjectAccessType::Type, object: Oid) {
    if access != pg_sys::ObjectAccessType::OAT_DROP {
        return;
    }
    let name = pg_sys::get_extension_name(object);
    if !name.is_null() {
        refuse_extension(CStr::from_ptr(name));
    }
}

fn refuse_extension(name: &CStr) {
    if name == c"pg_paxos" && catalog::has_tables() {
        refusal::not_supported(
            "cannot drop extension pg_paxos while it replicates tables",
            "Call paxos_leave_group first.",
        );
    }
}

/// The triggers of a foreign key are internal, and so is that of capture, which is made with the guard off.
unsafe fn trigger_kind(access: pg_sys::ObjectAccessType::Type, argument: *mut c_void) -> &'static str {
    let is_new = access == pg_sys::ObjectAccessType::OAT_POST_CREATE && !argument.is_null();
    match is_new && (*argument.cast::<pg_sys::ObjectAccessPostCreate>()).is_internal {
        true => "foreign key to another table",
        false => "trigger",
    }
}

/// A table becomes the child of another: its rows would show in the parent, on this server only.
unsafe fn check_inheritance(child: Oid, argument: *mut c_void) {
    if argument.is_null() {
        return;
    }
    let parent = (*argument.cast::<pg_sys::ObjectAccessPostAlter>()).auxiliary_id;
    for relation in [child, parent] {
        if let Some(table) = of_table_or_index(relation) {
            refuse(&table, "inheritance", HINT_DDL);
        }
    }
}

/// A catalog, its index on the OID, and which of its columns names the table that a row of it belongs to.
struct PartCatalog {
    catalog: Oid,
    index: Oid,
    table_column: i32,
}

const TRIGGERS: PartCatalog = PartCatalog {
    catalog: pg_sys::TriggerRelationId,
    index: Oid::from_u32(pg_sys::TriggerOidIndexId),
    table_column: 2,
};
/// `pg_rewrite`, whose numbers are fixed (`catalog/pg_rewrite.h`) but not among the generated bindings.
const RULES: PartCatalog = PartCatalog { catalog: Oid::from_u32(2618), index: Oid::from_u32(2692), table_column: 3 };
/// `pg_constraint`, likewise (`catalog/pg_constraint.h`).
const CONSTRAINTS: PartCatalog =
    PartCatalog { catalog: Oid::from_u32(2606), index: Oid::from_u32(2667), table_column: 8 };

/// `pg_inherits`, whose accesses name the child and, beside it, the parent.
const INHERITANCE: Oid = Oid::from_u32(2611);

/// The table that a trigger, rule or constraint belongs to, seen even if it was made a moment ago.
unsafe fn table_of(part: &PartCatalog, object: Oid) -> Oid {
    let relation = pg_sys::table_open(part.catalog, pg_sys::AccessShareLock as i32);
    let mut key = pg_sys::ScanKeyData::default();
    // The OID is the first column of every catalog.
    pg_sys::ScanKeyInit(
        &mut key,
        1,
        pg_sys::BTEqualStrategyNumber as u16,
        pg_sys::Oid::from(pg_sys::F_OIDEQ),
        Datum::from(object),
    );
    let now = std::ptr::addr_of_mut!(pg_sys::SnapshotSelfData);
    let scan = pg_sys::systable_beginscan(relation, part.index, true, now, 1, &mut key);
    let tuple = pg_sys::systable_getnext(scan);
    let mut is_null = true;
    let found = match tuple.is_null() {
        true => Oid::INVALID,
        false => {
            let table = pg_sys::heap_getattr(tuple, part.table_column, (*relation).rd_att, &mut is_null);
            Oid::from(table.value() as u32)
        }
    };
    pg_sys::systable_endscan(scan);
    pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    found
}
