//! Reading the extension's own tables as they are now, whatever the transaction's snapshot.
//!
//! What the log has decided is true for everybody; a function that returns it must see it even in a transaction of
//! REPEATABLE READ that began before.

use consensus::GroupId;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::groups::uuid_of;

/// The first column of the first row of a query with a group ($1) and a number ($2).
pub fn number(query: &str, group: GroupId, argument: i64) -> Option<i64> {
    // SAFETY: the column has the type bigint, by the queries of this crate.
    read(query, group, argument, |datum, null| unsafe { i64::from_datum(datum, null) })
}

/// As [`number`], for a column of type text.
pub fn text(query: &str, group: GroupId, argument: i64) -> Option<String> {
    // SAFETY: the column has the type text, by the queries of this crate; the value is copied.
    read(query, group, argument, |datum, null| unsafe { String::from_datum(datum, null) })
}

fn read<T>(
    query: &str,
    group: GroupId,
    argument: i64,
    convert: impl FnOnce(pg_sys::Datum, bool) -> Option<T>,
) -> Option<T> {
    let query = std::ffi::CString::new(query).expect("queries hold no zero byte");
    let mut types = [pg_sys::UUIDOID, pg_sys::INT8OID];
    let mut values = [uuid_of(group.0).into_datum().expect("not null"), argument.into_datum().expect("not null")];
    // SAFETY: the usual frame of SPI with a snapshot of our own on the stack, all released before returning; after an
    // error the transaction's end releases both. The result is converted, hence copied, before SPI is left.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let connected = pg_sys::SPI_connect();
        assert!(connected == pg_sys::SPI_OK_CONNECT as i32, "SPI connects");
        let code = pg_sys::SPI_execute_with_args(
            query.as_ptr(),
            types.len() as i32,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            std::ptr::null(),
            true,
            1,
        );
        assert!(code == pg_sys::SPI_OK_SELECT as i32, "a query of this crate selects");
        let result = (pg_sys::SPI_processed > 0)
            .then(|| {
                let table = pg_sys::SPI_tuptable;
                let mut null = false;
                let row = *(*table).vals;
                let datum = pg_sys::SPI_getbinval(row, (*table).tupdesc, 1, &mut null);
                convert(datum, null)
            })
            .flatten();
        pg_sys::SPI_finish();
        pg_sys::PopActiveSnapshot();
        result
    }
}
