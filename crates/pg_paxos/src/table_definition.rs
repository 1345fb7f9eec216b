//! Tables as definitions: described, compared, created, and refused where they cannot be replicated yet.

use pgrx::prelude::*;
use pgrx::spi::SpiTupleTable;
use pgrx::{pg_sys, Spi};
use tables::{
    ColumnDefinition, ConstraintDefinition, ForeignKeyDefinition, GrantDefinition, IndexDefinition, TableDefinition,
    TableId,
};

use crate::column_codec::with_text_settings;
use crate::{catalog, refusal};

/// Why a table cannot be replicated, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What and why, as an error's message.
    pub message: String,
    /// What to do, as sentences.
    pub hint: String,
}

/// Rows of a query, made of its columns; settings pinned, so that names in texts are qualified.
fn rows<T>(query: &str, relation: pg_sys::Oid, make: impl Fn(&SpiTupleTable<'_>) -> T) -> Vec<T> {
    with_text_settings(|| {
        Spi::connect(|client| {
            let mut table = client.select(query, None, &[relation.into()]).expect("a query of the catalogs runs");
            let mut found = Vec::with_capacity(table.len());
            while table.next().is_some() {
                found.push(make(&table));
            }
            found
        })
    })
}

fn text(row: &SpiTupleTable<'_>, column: usize) -> String {
    optional(row, column).expect("the query gives no NULL here")
}

fn optional(row: &SpiTupleTable<'_>, column: usize) -> Option<String> {
    row.get::<String>(column).expect("the query gives text here")
}

fn flag(row: &SpiTupleTable<'_>, column: usize) -> bool {
    row.get::<bool>(column).expect("the query gives a boolean here").unwrap_or(false)
}

/// Describes a table.
pub fn describe(relation: pg_sys::Oid) -> TableDefinition {
    let mut tables = rows(
        "SELECT n.nspname::text, c.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        relation,
        |row| (text(row, 1), text(row, 2), text(row, 3)),
    );
    let Some((schema, name, owner)) = tables.pop() else {
        refusal::fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation with OID {} does not exist", relation.to_u32()),
            "Name an existing table.",
        )
    };
    TableDefinition {
        schema,
        name,
        owner,
        options: rows(
            "SELECT option FROM pg_class c, unnest(c.reloptions) AS option WHERE c.oid = $1",
            relation,
            |row| text(row, 1),
        ),
        columns: columns(relation),
        constraints: rows(
            "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint \
             WHERE conrelid = $1 AND contype IN ('p', 'u', 'c') ORDER BY conname COLLATE \"C\"",
            relation,
            |row| ConstraintDefinition { name: text(row, 1), definition: text(row, 2) },
        ),
        indexes: rows(
            "SELECT c.relname::text, pg_get_indexdef(i.indexrelid) \
             FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
             WHERE i.indrelid = $1 AND i.indisvalid AND NOT EXISTS \
                 (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')) \
             ORDER BY c.relname COLLATE \"C\"",
            relation,
            |row| IndexDefinition { name: text(row, 1), definition: text(row, 2) },
        ),
        foreign_keys: foreign_keys(relation),
        grants: grants(relation),
    }
}

fn columns(relation: pg_sys::Oid) -> Vec<ColumnDefinition> {
    rows(
        "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), \
                (SELECT quote_ident(n.nspname) || '.' || quote_ident(l.collname) \
                 FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace \
                 WHERE l.oid = a.attcollation AND a.attcollation <> t.typcollation), \
                a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attgenerated <> '' \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        relation,
        |row| ColumnDefinition {
            name: text(row, 1),
            type_name: text(row, 2),
            collation: optional(row, 3),
            not_null: flag(row, 4),
            default: optional(row, 5),
            generated: flag(row, 6),
        },
    )
}

fn foreign_keys(relation: pg_sys::Oid) -> Vec<ForeignKeyDefinition> {
    rows(
        "SELECT k.conname::text, pg_get_constraintdef(k.oid), n.nspname::text, c.relname::text \
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE k.conrelid = $1 AND k.contype = 'f' ORDER BY k.conname COLLATE \"C\"",
        relation,
        |row| ForeignKeyDefinition {
            name: text(row, 1),
            definition: text(row, 2),
            parent_schema: text(row, 3),
            parent_name: text(row, 4),
        },
    )
}

fn grants(relation: pg_sys::Oid) -> Vec<GrantDefinition> {
    rows(
        "SELECT r.rolname::text, string_agg(a.privilege, ', ' ORDER BY a.privilege), a.is_grantable \
         FROM (SELECT t.grantee, t.privilege_type AS privilege, t.is_grantable \
               FROM pg_class c, aclexplode(c.relacl) AS t WHERE c.oid = $1 AND t.grantee <> c.relowner \
             UNION ALL SELECT t.grantee, format('%s (%I)', t.privilege_type, k.attname), t.is_grantable \
               FROM pg_attribute k, aclexplode(k.attacl) AS t WHERE k.attrelid = $1 AND NOT k.attisdropped) AS a \
         LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE a.grantee = 0 OR r.oid IS NOT NULL \
         GROUP BY r.rolname, a.is_grantable ORDER BY r.rolname COLLATE \"C\", a.is_grantable",
        relation,
        |row| GrantDefinition { role: optional(row, 1), privileges: text(row, 2), grantable: flag(row, 3) },
    )
}

/// The relation that has a definition's name here, whatever it is.
pub fn find(definition: &TableDefinition) -> Option<pg_sys::Oid> {
    Spi::get_one_with_args::<pg_sys::Oid>(
        "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1::text AND c.relname = $2::text",
        &[definition.schema.as_str().into(), definition.name.as_str().into()],
    )
    .ok()
    .flatten()
}

/// Where an existing relation differs from a definition, or why it cannot be replicated at all: as a clause.
pub fn difference(relation: pg_sys::Oid, definition: &TableDefinition) -> Option<String> {
    if let Some(difference) = definition.first_difference(&describe(relation)) {
        return Some(difference);
    }
    let parents: Vec<pg_sys::Oid> = definition.foreign_keys.iter().filter_map(parent).collect();
    let together: Vec<pg_sys::Oid> = std::iter::once(relation).chain(parents).collect();
    refusal_of(relation, &together).map(|refusal| refusal.message)
}

fn parent(key: &ForeignKeyDefinition) -> Option<pg_sys::Oid> {
    Spi::get_one_with_args::<pg_sys::Oid>(
        "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1::text AND c.relname = $2::text",
        &[key.parent_schema.as_str().into(), key.parent_name.as_str().into()],
    )
    .ok()
    .flatten()
}

/// Creates a table, without its foreign keys, and its schema if that is missing. It belongs to its owner where that
/// role exists, else to the current user.
pub fn create(definition: &TableDefinition) -> pg_sys::Oid {
    let has_schema = exists("SELECT true FROM pg_catalog.pg_namespace WHERE nspname = $1::text", &definition.schema);
    let mut statements = Vec::new();
    if !has_schema {
        statements.push(definition.schema_statement());
    }
    statements.extend(definition.create_statements());
    if role_exists(&definition.owner) {
        statements.push(definition.owner_statement());
    }
    statements.extend(definition.grant_statements(role_exists));
    run(&statements);
    find(definition).expect("a table that was created is there")
}

/// Adds a table's foreign keys, once its parents are there.
pub fn add_foreign_keys(definition: &TableDefinition) {
    run(&definition.foreign_key_statements());
}

fn role_exists(role: &str) -> bool {
    exists("SELECT true FROM pg_catalog.pg_roles WHERE rolname = $1::text", role)
}

fn exists(query: &str, name: &str) -> bool {
    Spi::get_one_with_args::<bool>(query, &[name.into()]).ok().flatten().unwrap_or(false)
}

fn run(statements: &[String]) {
    with_text_settings(|| {
        for statement in statements {
            Spi::run(statement).expect("errors of a statement are raised, not returned");
        }
    });
}

/// Raises 0A000 for the first of these tables that cannot be replicated, though all of them be.
pub fn refuse_unsupported(relations: &[pg_sys::Oid]) {
    for relation in relations {
        if let Some(refusal) = refusal_of(*relation, relations) {
            refusal::not_supported(refusal.message, refusal.hint);
        }
    }
}

/// Why a table cannot be replicated, though those that are replicated `together` with it be; none if it can.
pub fn refusal_of(relation: pg_sys::Oid, together: &[pg_sys::Oid]) -> Option<Refusal> {
    for (query, hint) in REFUSALS {
        if let Some(message) = rows(query, relation, |row| text(row, 1)).into_iter().next() {
            return Some(Refusal { message, hint: (*hint).to_owned() });
        }
    }
    if let Some(refusal) = local_foreign_key(relation, together) {
        return Some(refusal);
    }
    // Raises an error itself if a key has no hash.
    catalog::describe_relation(relation, consensus::GroupId(0), TableId::CATALOG);
    None
}

/// Queries that give a message for a table that cannot be replicated, each with what to do.
const REFUSALS: &[(&str, &str)] = &[
    (
        "SELECT format('cannot replicate %s \"%s\"', CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN \
         'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' WHEN 'i' THEN 'index' WHEN 'p' \
         THEN 'partitioned table' ELSE 'relation' END, c.relname) FROM pg_class c WHERE c.oid = $1 AND c.relkind <> 'r'",
        "Replicate ordinary tables; views over them need no replication.",
    ),
    (
        "SELECT format('cannot replicate %s table \"%s\"', CASE c.relpersistence WHEN 't' THEN 'temporary' \
         ELSE 'unlogged' END, c.relname) FROM pg_class c WHERE c.oid = $1 AND c.relpersistence <> 'p'",
        "Its rows would not survive a crash. Make it an ordinary table, with ALTER TABLE ... SET LOGGED if it is \
         unlogged.",
    ),
    (
        "SELECT format('cannot replicate \"%s\", which belongs to the system', c.relname) FROM pg_class c \
         WHERE c.oid = $1 AND (c.oid < 16384 OR c.relnamespace IN (SELECT n.oid FROM pg_namespace n \
         WHERE n.nspname IN ('pg_catalog', 'information_schema', 'pgp_metadata')))",
        "Replicate tables of your own.",
    ),
    (
        "SELECT format('cannot replicate table \"%s\", which is part of a partitioned table or of an inheritance \
         tree', c.relname) FROM pg_class c WHERE c.oid = $1 AND (c.relispartition OR EXISTS \
         (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid))",
        "Detach it first, or use a table that stands alone.",
    ),
    (
        "SELECT format('cannot replicate table \"%s\", whose access method is not heap', c.relname) FROM pg_class c \
         JOIN pg_am m ON m.oid = c.relam WHERE c.oid = $1 AND m.amname <> 'heap'",
        "Change it with ALTER TABLE ... SET ACCESS METHOD heap.",
    ),
    (
        "SELECT format('cannot replicate table \"%s\", which is a table of a type', c.relname) FROM pg_class c \
         WHERE c.oid = $1 AND c.reloftype <> 0",
        "Use ALTER TABLE ... NOT OF.",
    ),
    (
        "SELECT format('cannot replicate column \"%s\", which is an identity column', a.attname) FROM pg_attribute a \
         WHERE a.attrelid = $1 AND a.attidentity <> '' AND NOT a.attisdropped ORDER BY a.attnum LIMIT 1",
        "Each server would give out the same numbers. Drop the identity and give values by the application, or use \
         gen_random_uuid() as default.",
    ),
    (
        "SELECT format('cannot replicate column \"%s\", whose default takes numbers from a sequence', a.attname) \
         FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         WHERE a.attrelid = $1 AND NOT a.attisdropped AND (pg_get_expr(d.adbin, d.adrelid) LIKE '%nextval(%' OR \
         EXISTS (SELECT FROM pg_depend p JOIN pg_class s ON s.oid = p.refobjid WHERE p.classid = \
         'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass AND s.relkind = 'S')) \
         ORDER BY a.attnum LIMIT 1",
        "Each server would give out the same numbers. Drop the default and give values by the application, or use \
         gen_random_uuid() as default.",
    ),
    (
        "SELECT format('cannot replicate exclusion constraint \"%s\"', k.conname) FROM pg_constraint k \
         WHERE k.conrelid = $1 AND k.contype = 'x' LIMIT 1",
        "Drop the constraint; unique and check constraints can be replicated.",
    ),
    (
        "SELECT format('cannot replicate trigger \"%s\", which fires ALWAYS or on a REPLICA', t.tgname) \
         FROM pg_trigger t WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') LIMIT 1",
        "Triggers fire where a row is changed, and their effects are replicated. Use ALTER TABLE ... ENABLE TRIGGER.",
    ),
    (
        "SELECT format('cannot replicate rule \"%s\"', r.rulename) FROM pg_rewrite r WHERE r.ev_class = $1 LIMIT 1",
        "Drop the rule; a trigger can do its work.",
    ),
    (
        "WITH RECURSIVE parts(type, column_name, is_inside) AS ( \
             SELECT a.atttypid, a.attname, false FROM pg_attribute a \
             WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
           UNION \
             SELECT inner_type.type, parts.column_name, parts.is_inside OR t.typtype <> 'd' \
             FROM parts JOIN pg_type t ON t.oid = parts.type, LATERAL ( \
                 SELECT t.typbasetype AS type WHERE t.typtype = 'd' \
                 UNION ALL SELECT t.typelem WHERE t.typelem <> 0 AND t.typcategory = 'A' \
                 UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid \
                 UNION ALL SELECT c.atttypid FROM pg_attribute c WHERE t.typtype = 'c' AND c.attrelid = t.typrelid \
                     AND c.attnum > 0 AND NOT c.attisdropped) AS inner_type) \
         SELECT format('cannot replicate column \"%s\", whose type holds %s', column_name, CASE WHEN t.typtype = 'd' \
             THEN 'a domain inside another type' ELSE 'numbers of objects of this server' END) \
         FROM parts JOIN pg_type t ON t.oid = parts.type \
         WHERE (t.typtype = 'd' AND is_inside) OR t.typname IN ('regclass', 'regproc', 'regprocedure', 'regoper', \
             'regoperator', 'regtype', 'regrole', 'regnamespace', 'regconfig', 'regdictionary', 'regcollation') \
             AND t.oid < 16384 LIMIT 1",
        "Use the base type of the domain, or names as text.",
    ),
];

/// A foreign key between the table and one that its group does not replicate.
fn local_foreign_key(relation: pg_sys::Oid, together: &[pg_sys::Oid]) -> Option<Refusal> {
    let keys = rows(
        "SELECT k.conname::text, CASE WHEN k.conrelid = $1 THEN k.confrelid ELSE k.conrelid END, \
                (CASE WHEN k.conrelid = $1 THEN k.confrelid ELSE k.conrelid END)::regclass::text \
         FROM pg_constraint k WHERE k.contype = 'f' AND (k.conrelid = $1 OR k.confrelid = $1) \
             AND NOT EXISTS (SELECT FROM pgp_metadata.local_table l WHERE l.relation::oid = \
                 CASE WHEN k.conrelid = $1 THEN k.confrelid ELSE k.conrelid END AND l.group_id = coalesce( \
                 (SELECT o.group_id FROM pgp_metadata.local_table o WHERE o.relation::oid = $1), l.group_id)) \
         ORDER BY k.conname COLLATE \"C\"",
        relation,
        |row| {
            let other = row.get::<pg_sys::Oid>(2).expect("the query gives an OID here");
            (text(row, 1), other.expect("a foreign key binds two tables"), text(row, 3))
        },
    );
    let (name, _, table) = keys.into_iter().find(|(_, other, _)| !together.contains(other))?;
    Some(Refusal {
        message: format!("cannot replicate foreign key \"{name}\", which binds the table to local table {table}"),
        hint: "Replicate both tables in one transaction, or drop the foreign key.".to_owned(),
    })
}
