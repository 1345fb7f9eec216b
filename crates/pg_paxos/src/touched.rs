//! What a statement touches: which groups' tables it reads or may read, and whether it writes what no group holds.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::CStr;
use std::rc::Rc;
use std::time::Instant;

use consensus::GroupId;
use pgrx::prelude::*;

use crate::settings::{self, ConsistencyModel};
use crate::shared::Area;
use crate::{barrier, catalog, engine_connection, list};

/// What a plan touches.
pub struct Touched {
    /// The groups whose tables it reads or writes.
    pub groups: Vec<GroupId>,
    /// Whether a replicated table is named, and not only possibly used by a function.
    pub is_direct: bool,
    /// Whether it writes tables that are not replicated.
    pub writes_local: bool,
}

impl Touched {
    /// Looks through a plan. One at the top is also asked for the functions that it calls.
    pub fn of(statement: &pg_sys::PlannedStmt, is_at_top: bool) -> Touched {
        let mut touched = Touched { groups: Vec::new(), is_direct: false, writes_local: false };
        // SAFETY: lists of a plan, which stays as it is while it runs.
        unsafe {
            for entry in list::pointers::<pg_sys::RangeTblEntry>(statement.rtable) {
                if (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION {
                    if let Some(table) = catalog::of_relation((*entry).relid) {
                        touched.is_direct = true;
                        touched.add(table.group);
                    } else if (*entry).requiredPerms & (pg_sys::ACL_INSERT | pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE)
                        != 0
                    {
                        touched.writes_local = true;
                    }
                }
            }
            if !touched.is_direct && is_at_top && calls_user_function(statement) {
                for group in groups_of_database() {
                    touched.add(group);
                }
            }
        }
        touched
    }

    fn add(&mut self, group: GroupId) {
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
    }
}

/// Whether the plan depends on a function that is neither PostgreSQL's nor this extension's own: those of ours wait by
/// themselves where they must, and status is shown without a majority too.
unsafe fn calls_user_function(statement: &pg_sys::PlannedStmt) -> bool {
    // SAFETY: a list of a plan.
    let mut called = unsafe {
        list::pointers::<pg_sys::PlanInvalItem>(statement.invalItems)
            .filter(|item| (**item).cacheId == pg_sys::SysCacheIdentifier::PROCOID as i32)
            .map(|item| (*item).hashValue)
            .peekable()
    };
    if called.peek().is_none() {
        return false;
    }
    let own = own_functions();
    called.any(|function| !own.contains(&function))
}

/// The functions of this extension in this database, by the hash under which plans name them.
fn own_functions() -> Rc<HashSet<u32>> {
    thread_local! {
        static OWN: RefCell<Option<(pg_sys::Oid, Rc<HashSet<u32>>)>> = const { RefCell::new(None) };
    }
    // SAFETY: in a transaction, on the main thread.
    let extension = unsafe { pg_sys::get_extension_oid(c"pg_paxos".as_ptr(), true) };
    if let Some((known, functions)) = OWN.with_borrow(Clone::clone) {
        if known == extension {
            return functions;
        }
    }
    let functions = Spi::connect(|spi| {
        let rows = spi.select(
            "SELECT objid FROM pg_catalog.pg_depend
             WHERE classid = 'pg_catalog.pg_proc'::regclass AND deptype = 'e'
               AND refclassid = 'pg_catalog.pg_extension'::regclass AND refobjid = $1",
            None,
            &[extension.into()],
        );
        let rows = rows.expect("a catalog can be read");
        rows.filter_map(|row| row.get::<pg_sys::Oid>(1).ok().flatten())
            // SAFETY: computes a hash.
            .map(|function| unsafe {
                let zero = pg_sys::Datum::from(0usize);
                pg_sys::GetSysCacheHashValue(
                    pg_sys::SysCacheIdentifier::PROCOID as i32,
                    pg_sys::Datum::from(function),
                    zero,
                    zero,
                    zero,
                )
            })
            .collect()
    });
    let functions = Rc::new(functions);
    OWN.set(Some((extension, Rc::clone(&functions))));
    functions
}

/// The groups whose tables are in this database, once the engine has told which there are.
pub fn groups_of_database() -> Vec<GroupId> {
    if settings::consistency_model() == ConsistencyModel::Optimistic {
        return Vec::new();
    }
    if Area::attached().engine_incarnation().is_none() && catalog::has_tables() {
        let deadline = Instant::now() + settings::barrier_timeout();
        if let Err(error) = engine_connection::await_engine(deadline) {
            barrier::raise_unreadable(&error);
        }
    }
    thread_local! {
        static DATABASE: std::cell::OnceCell<String> = const { std::cell::OnceCell::new() };
    }
    DATABASE.with(|name| {
        let name = name.get_or_init(|| {
            // SAFETY: in a transaction; the name is a copy in the current context.
            unsafe {
                let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
                if name.is_null() {
                    String::new()
                } else {
                    CStr::from_ptr(name).to_string_lossy().into_owned()
                }
            }
        });
        Area::attached()
            .groups()
            .iter()
            .filter_map(|group| group.identity().filter(|_| group.database() == *name))
            .collect()
    })
}

/// Whether a utility statement may change what the group's log does not hold. Those that cannot are listed.
pub fn changes_catalogs(tag: pg_sys::NodeTag) -> bool {
    !matches!(
        tag,
        pg_sys::NodeTag::T_VariableSetStmt
            | pg_sys::NodeTag::T_VariableShowStmt
            | pg_sys::NodeTag::T_PrepareStmt
            | pg_sys::NodeTag::T_ExecuteStmt
            | pg_sys::NodeTag::T_DeallocateStmt
            | pg_sys::NodeTag::T_ExplainStmt
            | pg_sys::NodeTag::T_DeclareCursorStmt
            | pg_sys::NodeTag::T_FetchStmt
            | pg_sys::NodeTag::T_ClosePortalStmt
            | pg_sys::NodeTag::T_DoStmt
            | pg_sys::NodeTag::T_CallStmt
            | pg_sys::NodeTag::T_LockStmt
            | pg_sys::NodeTag::T_DiscardStmt
            | pg_sys::NodeTag::T_ConstraintsSetStmt
    )
}

/// The group of the table that COPY reads or writes.
///
/// # Safety
/// A parse tree in a transaction.
pub unsafe fn groups_of_copy(statement: *mut pg_sys::CopyStmt) -> Vec<GroupId> {
    // SAFETY: a parse tree of a COPY.
    unsafe {
        if (*statement).relation.is_null() {
            return Vec::new();
        }
        group_of_range((*statement).relation).into_iter().collect()
    }
}

/// The groups of the tables that LOCK TABLE names.
///
/// # Safety
/// A parse tree in a transaction.
pub unsafe fn groups_of_lock(statement: *mut pg_sys::LockStmt) -> Vec<GroupId> {
    // SAFETY: a parse tree of a LOCK TABLE.
    unsafe {
        let mut groups: Vec<GroupId> = list::pointers::<pg_sys::RangeVar>((*statement).relations)
            .filter_map(|range| group_of_range(range))
            .collect();
        groups.dedup();
        groups
    }
}

unsafe fn group_of_range(range: *mut pg_sys::RangeVar) -> Option<GroupId> {
    // SAFETY: in a transaction; looks the name up without locking anything.
    let relation = unsafe {
        pg_sys::RangeVarGetRelidExtended(
            range,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    };
    catalog::of_relation(relation).map(|table| table.group)
}
