//! Rows out of slots: what of a row is sent for each kind of change.

use pgrx::pg_sys::{self, Datum};
use tables::{Row, RowBuilder};

use crate::catalog::{Column, ReplicatedTable};
use crate::column_codec::{with_database_encoding, with_text_settings};
use crate::keys::SlotValues;

/// A whole row.
///
/// # Safety
/// `slot` holds a row of the table.
pub unsafe fn whole_row(table: &ReplicatedTable, slot: SlotValues) -> Row {
    encoding(table, || {
        let mut row = RowBuilder::with_capacity(16 * table.columns.len());
        for column in &table.columns {
            put(column, slot, &mut row);
        }
        row.finish()
    })
}

/// What finds a row again: the columns of its primary key, or the whole row.
///
/// # Safety
/// `slot` holds a row of the table.
pub unsafe fn identity(table: &ReplicatedTable, slot: SlotValues) -> Row {
    let Some(key) = table.primary_key() else { return whole_row(table, slot) };
    encoding(table, || {
        let mut row = RowBuilder::default();
        for column in &table.columns {
            if key.attributes.contains(&column.attribute) {
                put(column, slot, &mut row);
            } else {
                row.unchanged();
            }
        }
        row.finish()
    })
}

/// The columns in which `new` differs from `old`, and their numbers.
///
/// # Safety
/// Both slots hold rows of the table.
pub unsafe fn changed_columns(table: &ReplicatedTable, old: SlotValues, new: SlotValues) -> (Row, Vec<i16>) {
    let mut changed = Vec::new();
    let row = encoding(table, || {
        let mut row = RowBuilder::with_capacity(16 * table.columns.len());
        for column in &table.columns {
            if is_same(column, old.value(column.attribute), new.value(column.attribute)) {
                row.unchanged();
            } else {
                put(column, new, &mut row);
                changed.push(column.attribute);
            }
        }
        row.finish()
    });
    (row, changed)
}

fn encoding<T>(table: &ReplicatedTable, within: impl FnOnce() -> T) -> T {
    match table.has_text {
        true => with_text_settings(|| with_database_encoding(within)),
        false => with_database_encoding(within),
    }
}

unsafe fn put(column: &Column, slot: SlotValues, row: &mut RowBuilder) {
    match slot.value(column.attribute) {
        None => row.null(),
        Some(datum) => column.codec.borrow_mut().put(datum, row),
    }
}

/// Whether two values are the same image: equal bytes, not merely equal by some operator.
unsafe fn is_same(column: &Column, old: Option<Datum>, new: Option<Datum>) -> bool {
    let (old, new) = match (old, new) {
        (None, None) => return true,
        (Some(old), Some(new)) => (old, new),
        _ => return false,
    };
    if column.by_value {
        return old.value() == new.value();
    }
    if column.width == -1 && same_stored_bytes(old, new) {
        // The common case of a large value that was left alone: the same TOAST pointer.
        return true;
    }
    datum_image_eq(old, new, column.by_value, i32::from(column.width))
}

unsafe fn same_stored_bytes(old: Datum, new: Datum) -> bool {
    let (old, new) = (old.cast_mut_ptr::<pg_sys::varlena>(), new.cast_mut_ptr::<pg_sys::varlena>());
    let (old_bytes, new_bytes) = (pgrx::varsize_any(old), pgrx::varsize_any(new));
    old_bytes == new_bytes
        && std::slice::from_raw_parts(old.cast::<u8>(), old_bytes)
            == std::slice::from_raw_parts(new.cast::<u8>(), new_bytes)
}

unsafe fn datum_image_eq(one: Datum, other: Datum, by_value: bool, width: i32) -> bool {
    mod c {
        use pgrx::pg_sys::Datum;
        extern "C-unwind" {
            /// `utils/datum.h`; not among the generated bindings.
            pub fn datum_image_eq(one: Datum, other: Datum, by_value: bool, width: i32) -> bool;
        }
    }
    pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| c::datum_image_eq(one, other, by_value, width))
}
