//! Statements that need no barrier because certification proves what they read (design of tables, section 7). On the
//! owner of the log, that is: elsewhere they would be safe as well, but a client that has just written on another server
//! would be told 40001 though it is alone (docs/decisions/0005).
//!
//! Two kinds. An UPDATE or DELETE of the one row that a full unique key names: if the row it found was not current,
//! certification rejects the transaction. And an INSERT of rows that come from no replicated table: what stands in its
//! way elsewhere rejects it too. Whatever else such a statement may do (call a user's function, fire a user's trigger,
//! compute a generated column by one) takes it out of these kinds.
//!
//! If it finds no row, or raises an error, nothing is certified: then the barrier is asked for afterwards, and if this
//! server turns out to have been behind, the statement ends with 40001 instead.

use pgrx::pg_sys;

use crate::catalog::{self, ReplicatedTable};
use crate::list;

/// PostgreSQL's number for equality among the operators of a B-tree, the only access method with unique indexes.
const BTREE_EQUALITY: i32 = pg_sys::BTEqualStrategyNumber as i32;

/// Whether all that the statement reads of replicated tables is certified if it changes a row.
///
/// # Safety
/// `statement` is a plan that is about to be executed.
pub unsafe fn is_certified(statement: &pg_sys::PlannedStmt) -> bool {
    // SAFETY: nodes of a plan, told apart by their tags.
    unsafe {
        let root = statement.planTree;
        if root.is_null() || (*root.cast::<pg_sys::Node>()).type_ != pg_sys::NodeTag::T_ModifyTable {
            return false;
        }
        if !statement.subplans.is_null() || statement.hasModifyingCTE {
            return false;
        }
        let modify = &*root.cast::<pg_sys::ModifyTable>();
        let mut results = list::integers(modify.resultRelations);
        let (Some(result), None) = (results.next(), results.next()) else { return false };
        let Some(relation) = relation_of(statement, result) else { return false };
        let Some(table) = catalog::of_relation(relation) else { return false };
        if reads_another_replicated_table(statement, result) || has_user_code(statement, relation) {
            return false;
        }
        match modify.operation {
            pg_sys::CmdType::CMD_INSERT => modify.onConflictAction == pg_sys::OnConflictAction::ONCONFLICT_NONE,
            pg_sys::CmdType::CMD_UPDATE | pg_sys::CmdType::CMD_DELETE => {
                is_full_key_scan((*root).lefttree, result, &table)
            }
            _ => false,
        }
    }
}

/// Whether a statement of such a kind changes rows that were there: if it finds none, nothing proves that there is none.
///
/// # Safety
/// As [`is_certified`], which said yes.
pub unsafe fn needs_a_row(statement: &pg_sys::PlannedStmt) -> bool {
    statement.commandType != pg_sys::CmdType::CMD_INSERT
}

/// The relation at a place of the range table, counted from 1.
unsafe fn relation_of(statement: &pg_sys::PlannedStmt, place: i32) -> Option<pg_sys::Oid> {
    // SAFETY: the range table of a plan.
    unsafe {
        let entry = list::pointers::<pg_sys::RangeTblEntry>(statement.rtable).nth(usize::try_from(place - 1).ok()?)?;
        ((*entry).rtekind == pg_sys::RTEKind::RTE_RELATION).then_some((*entry).relid)
    }
}

unsafe fn reads_another_replicated_table(statement: &pg_sys::PlannedStmt, result: i32) -> bool {
    // SAFETY: as above.
    unsafe {
        list::pointers::<pg_sys::RangeTblEntry>(statement.rtable).zip(1..).any(|(entry, place)| {
            place != result
                && (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
                && catalog::of_relation((*entry).relid).is_some()
        })
    }
}

/// Whether a function or a trigger of a user's can run: it could read whatever it likes.
unsafe fn has_user_code(statement: &pg_sys::PlannedStmt, relation: pg_sys::Oid) -> bool {
    // SAFETY: lists of a plan; the relation is locked by the statement and closed again.
    unsafe {
        let calls = list::pointers::<pg_sys::PlanInvalItem>(statement.invalItems)
            .any(|item| (*item).cacheId == pg_sys::SysCacheIdentifier::PROCOID as i32);
        if calls {
            return true;
        }
        let opened = pg_sys::RelationIdGetRelation(relation);
        if opened.is_null() {
            return true;
        }
        let triggers = (*opened).trigdesc;
        let has_trigger = !triggers.is_null()
            && (0..(*triggers).numtriggers).any(|place| !(*(*triggers).triggers.add(place as usize)).tgisinternal);
        pg_sys::RelationClose(opened);
        has_trigger
    }
}

/// Whether the plan fetches rows of the result relation by equality on every column of one of its unique indexes.
unsafe fn is_full_key_scan(plan: *mut pg_sys::Plan, result: i32, table: &ReplicatedTable) -> bool {
    // SAFETY: nodes of a plan, told apart by their tags.
    unsafe {
        if plan.is_null() || (*plan.cast::<pg_sys::Node>()).type_ != pg_sys::NodeTag::T_IndexScan {
            return false;
        }
        let scan = &*plan.cast::<pg_sys::IndexScan>();
        if scan.scan.scanrelid as i32 != result {
            return false;
        }
        let Some(key) = table.keys.iter().find(|key| key.index == scan.indexid && !key.is_computed) else {
            return false;
        };
        let mut bound = vec![false; key.attributes.len()];
        for condition in list::pointers::<pg_sys::Node>(scan.indexqual) {
            if let Some(column) = equality_column(condition, scan.indexid) {
                if let Some(place) = bound.get_mut(column) {
                    *place = true;
                }
            }
        }
        bound.into_iter().all(|bound| bound)
    }
}

/// The index column, from 0, that an index condition compares for equality with one value.
unsafe fn equality_column(condition: *mut pg_sys::Node, index: pg_sys::Oid) -> Option<usize> {
    // SAFETY: as above; the condition of an index scan has the index column on its left.
    unsafe {
        if (*condition).type_ != pg_sys::NodeTag::T_OpExpr {
            return None;
        }
        let comparison = &*condition.cast::<pg_sys::OpExpr>();
        let left = list::pointers::<pg_sys::Node>(comparison.args).next()?;
        if (*left).type_ != pg_sys::NodeTag::T_Var {
            return None;
        }
        let column = usize::try_from((*left.cast::<pg_sys::Var>()).varattno - 1).ok()?;
        let opened = pg_sys::RelationIdGetRelation(index);
        if opened.is_null() {
            return None;
        }
        let columns = usize::try_from((*(*opened).rd_index).indnkeyatts).unwrap_or(0);
        let family = (column < columns).then(|| *(*opened).rd_opfamily.add(column));
        pg_sys::RelationClose(opened);
        let strategy = pg_sys::get_op_opfamily_strategy(comparison.opno, family?);
        (strategy == BTREE_EQUALITY).then_some(column)
    }
}
