//! Which tables are replicated, and all that capture, apply and reads need to know of one: kept per backend, made
//! anew when PostgreSQL says that the table changed.
//!
//! The truth is `pgp_metadata.local_table`, which every member keeps for itself: OIDs differ from server to server.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;

use consensus::GroupId;
use pgrx::pg_sys::{self, Datum, Oid};
use tables::{IndexId, Key, TableId};

use crate::column_codec::ColumnCodec;
use crate::keys::{self, ForeignKey, KeyError, UniqueKey};
use crate::list;

/// A live column of a replicated table.
pub struct Column {
    /// Its number on this server.
    pub attribute: i16,
    /// Its name.
    pub name: String,
    /// How its values travel.
    pub codec: RefCell<ColumnCodec>,
    /// Whether values lie in the datum itself.
    pub by_value: bool,
    /// The width of a value, negative if it varies.
    pub width: i16,
}

/// A replicated table as this server has it.
pub struct ReplicatedTable {
    /// The group that replicates it.
    pub group: GroupId,
    /// Its number in the group's log.
    pub table: TableId,
    /// The table on this server.
    pub relation: Oid,
    /// Its schema's name.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its live columns in order: the columns of the rows that travel.
    pub columns: Vec<Column>,
    /// Its unique indexes; the primary key, if there is one, comes first.
    pub keys: Vec<UniqueKey>,
    /// Its references to other replicated tables.
    pub foreign_keys: Vec<ForeignKey>,
    /// Whether a column travels as text.
    pub has_text: bool,
}

impl ReplicatedTable {
    /// The primary key.
    pub fn primary_key(&self) -> Option<&UniqueKey> {
        self.keys.first().filter(|key| key.id == IndexId::ROW)
    }

    /// The table's name with its schema, for messages.
    pub fn qualified_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The name of one of its keys, for messages.
    pub fn key_name(&self, index: IndexId) -> String {
        match self.keys.iter().find(|key| key.id == index) {
            Some(key) => key.name.clone(),
            None if index == IndexId::TABLE => "the whole table".to_owned(),
            None => "the whole row".to_owned(),
        }
    }
}

thread_local! {
    static BY_RELATION: RefCell<HashMap<Oid, Option<Rc<ReplicatedTable>>>> = RefCell::new(HashMap::new());
    static BY_TABLE: RefCell<HashMap<(GroupId, TableId), Oid>> = RefCell::new(HashMap::new());
    /// An invalidation that came while the caches were in use.
    static STALE: Cell<bool> = const { Cell::new(false) };
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// The replicated table that a relation is; none if it is an ordinary one.
pub fn of_relation(relation: Oid) -> Option<Rc<ReplicatedTable>> {
    if relation.to_u32() < pg_sys::FirstNormalObjectId {
        return None;
    }
    freshen();
    if let Some(found) = BY_RELATION.with_borrow(|cache| cache.get(&relation).cloned()) {
        return found;
    }
    let loaded = row_of_relation(relation).map(|(group, table)| Rc::new(describe_relation(relation, group, table)));
    BY_RELATION.with_borrow_mut(|cache| cache.insert(relation, loaded.clone()));
    loaded
}

/// The group that replicates a relation; none if it is an ordinary one. Cheap once it was asked.
pub fn group_of(relation: Oid) -> Option<GroupId> {
    of_relation(relation).map(|table| table.group)
}

/// The table with a number in a group's log, as this server has it.
pub fn of_table(group: GroupId, table: TableId) -> Option<Rc<ReplicatedTable>> {
    freshen();
    let known = BY_TABLE.with_borrow(|cache| cache.get(&(group, table)).copied());
    let relation = match known {
        Some(relation) => relation,
        None => {
            let relation = relation_of_table(group, table)?;
            BY_TABLE.with_borrow_mut(|cache| cache.insert((group, table), relation));
            relation
        }
    };
    of_relation(relation).filter(|found| found.group == group && found.table == table)
}

/// Whether this database has any replicated table.
pub fn has_tables() -> bool {
    let mut found = false;
    scan_local_tables(|_, _, _| {
        found = true;
        false
    });
    found
}

/// A key's table and name, for messages.
pub fn describe_key(group: GroupId, key: &Key) -> (String, String) {
    if key.table == TableId::CATALOG {
        return ("the group's tables".to_owned(), "their list".to_owned());
    }
    match of_table(group, key.table) {
        Some(table) => (table.qualified_name(), table.key_name(key.index)),
        None => (format!("table {}", key.table.0), format!("key {}", key.index.0)),
    }
}

/// Describes a relation as the table that it is, or is about to be, in a group. Raises 0A000 if it has keys that
/// cannot be hashed.
pub fn describe_relation(relation: Oid, group: GroupId, table: TableId) -> ReplicatedTable {
    // SAFETY: the relation is opened, and kept locked to the end of the transaction.
    unsafe {
        let open = pg_sys::relation_open(relation, pg_sys::AccessShareLock as i32);
        let columns = columns(open);
        let described = ReplicatedTable {
            group,
            table,
            relation,
            schema: name_of_schema((*(*open).rd_rel).relnamespace),
            name: text_of_name(&(*(*open).rd_rel).relname),
            has_text: columns.iter().any(|column| column.codec.borrow().is_text()),
            columns,
            keys: keys::unique_keys(open).unwrap_or_else(|error| refuse_key(&error)),
            foreign_keys: foreign_keys(open, group, table).unwrap_or_else(|error| refuse_key(&error)),
        };
        pg_sys::relation_close(open, pg_sys::NoLock as i32);
        described
    }
}

fn refuse_key(error: &KeyError) -> ! {
    crate::refusal::not_supported(
        format!("cannot replicate: {error}"),
        "Use a type with a hash operator class in unique indexes and foreign keys.",
    )
}

unsafe fn name_of_schema(schema: Oid) -> String {
    let name = pg_sys::get_namespace_name(schema);
    assert!(!name.is_null(), "an open table's schema exists");
    CStr::from_ptr(name).to_string_lossy().into_owned()
}

fn text_of_name(name: &pg_sys::NameData) -> String {
    // SAFETY: names in catalogs are terminated.
    unsafe { CStr::from_ptr(name.data.as_ptr()).to_string_lossy().into_owned() }
}

unsafe fn columns(relation: pg_sys::Relation) -> Vec<Column> {
    let descriptor = (*relation).rd_att;
    let count = usize::try_from((*descriptor).natts).expect("a table has a number of columns");
    let attributes = std::slice::from_raw_parts((*descriptor).attrs.as_ptr(), count);
    let live = attributes.iter().filter(|attribute| !attribute.attisdropped);
    live.map(|attribute| Column {
        attribute: attribute.attnum,
        name: text_of_name(&attribute.attname),
        codec: RefCell::new(ColumnCodec::of(attribute.atttypid, attribute.atttypmod)),
        by_value: attribute.attbyval,
        width: attribute.attlen,
    })
    .collect()
}

unsafe fn foreign_keys(relation: pg_sys::Relation, group: GroupId, own: TableId) -> Result<Vec<ForeignKey>, KeyError> {
    let mut found = Vec::new();
    // A copy: the list in the cache may go while other relations are opened.
    let copied = pg_sys::copyObjectImpl(pg_sys::RelationGetFKeyList(relation).cast());
    for reference in list::pointers::<pg_sys::ForeignKeyCacheInfo>(copied.cast()) {
        let parent_oid = (*reference).confrelid;
        let parent_table = match parent_oid == (*relation).rd_id {
            true => Some(own),
            false => row_of_relation(parent_oid).filter(|(of, _)| *of == group).map(|(_, table)| table),
        };
        let Some(parent_table) = parent_table else { continue };
        let parent = pg_sys::relation_open(parent_oid, pg_sys::AccessShareLock as i32);
        let parent_index = index_of_constraint((*reference).conoid);
        let parent_keys = keys::unique_keys(parent)?;
        let parent_key = parent_keys.iter().find(|key| key.index == parent_index);
        let parent_key = parent_key.expect("a foreign key refers to a valid unique index");
        let count = usize::try_from((*reference).nkeys).expect("a foreign key has columns");
        let columns: Vec<(i16, i16)> =
            (0..count).map(|place| ((*reference).conkey[place], (*reference).confkey[place])).collect();
        found.push(keys::foreign_key(relation, parent, parent_table, parent_key, &columns)?);
        pg_sys::relation_close(parent, pg_sys::NoLock as i32);
    }
    Ok(found)
}

/// The parent's index on which a foreign key relies.
unsafe fn index_of_constraint(constraint: Oid) -> Oid {
    /// `conindid`'s place in `pg_constraint`, which is not among the generated bindings.
    const INDEX_COLUMN: i16 = 10;
    let cache = pg_sys::SysCacheIdentifier::CONSTROID as i32;
    let tuple = pg_sys::SearchSysCache1(cache, Datum::from(constraint));
    assert!(!tuple.is_null(), "an open table's constraint exists");
    let mut is_null = false;
    let index = pg_sys::SysCacheGetAttr(cache, tuple, INDEX_COLUMN, &mut is_null);
    let index = Oid::from(index.value() as u32);
    pg_sys::ReleaseSysCache(tuple);
    index
}

/// A group's id as PostgreSQL's uuid has its bytes.
fn group_of_uuid(uuid: Datum) -> GroupId {
    // SAFETY: a uuid is 16 bytes by reference.
    GroupId(u128::from_be_bytes(unsafe { *uuid.cast_mut_ptr::<[u8; 16]>() }))
}

fn row_of_relation(relation: Oid) -> Option<(GroupId, TableId)> {
    let mut found = None;
    scan_local_tables(|group, table, of| {
        if of == relation {
            found = Some((group, table));
        }
        found.is_none()
    });
    found
}

fn relation_of_table(group: GroupId, table: TableId) -> Option<Oid> {
    let mut found = None;
    scan_local_tables(|of_group, of_table, relation| {
        if of_group == group && of_table == table {
            found = Some(relation);
        }
        found.is_none()
    });
    found
}

/// Walks `pgp_metadata.local_table` as it is now, own changes included, until `visit` says false.
fn scan_local_tables(mut visit: impl FnMut(GroupId, TableId, Oid) -> bool) {
    // SAFETY: look-ups by name, then a scan that is ended below; an error inside ends it with its transaction.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"pgp_metadata".as_ptr(), true);
        if schema == Oid::INVALID {
            return;
        }
        let oid = pg_sys::get_relname_relid(c"local_table".as_ptr(), schema);
        if oid == Oid::INVALID {
            return;
        }
        let relation = pg_sys::table_open(oid, pg_sys::AccessShareLock as i32);
        // Without a snapshot of ours it takes a new one, as for a catalog.
        let scan =
            pg_sys::systable_beginscan(relation, Oid::INVALID, false, std::ptr::null_mut(), 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let column = |number: i32| {
                let mut is_null = false;
                let value = pg_sys::heap_getattr(tuple, number, (*relation).rd_att, &mut is_null);
                assert!(!is_null, "the columns of local_table are NOT NULL");
                value
            };
            let table = u32::try_from(column(2).value()).expect("a table's number fits 32 bits");
            let relation = Oid::from(column(3).value() as u32);
            if !visit(group_of_uuid(column(1)), TableId(table), relation) {
                break;
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
}

/// Drops what was invalidated while in use, and asks PostgreSQL, once per backend, to be told of changes.
fn freshen() {
    if !IS_REGISTERED.get() {
        // SAFETY: registers a function that lives as long as the library.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), Datum::null()) };
        IS_REGISTERED.set(true);
    }
    if STALE.replace(false) {
        forget_all();
    }
}

fn forget_all() {
    BY_RELATION.with_borrow_mut(HashMap::clear);
    BY_TABLE.with_borrow_mut(HashMap::clear);
}

/// PostgreSQL tells that a relation changed, or (`Oid::INVALID`) any. It may do so at almost any moment, hence nothing
/// here can fail or calls back.
unsafe extern "C-unwind" fn relation_changed(_argument: Datum, relation: Oid) {
    // Other tables may refer to this one, or may come to: all are made anew.
    let is_ours = BY_RELATION.with(|cache| match cache.try_borrow() {
        Ok(cache) => relation == Oid::INVALID || cache.contains_key(&relation),
        Err(_) => true,
    });
    if is_ours {
        STALE.set(true);
    }
}
