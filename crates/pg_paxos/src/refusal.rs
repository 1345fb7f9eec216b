//! Refusing what is not replicated: SQLSTATE 0A000, with what to do instead.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Raises 0A000 with a hint.
pub fn not_supported(message: impl Into<String>, hint: impl Into<String>) -> ! {
    fail(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message, hint)
}

/// Raises an error with a hint.
pub fn fail(code: PgSqlErrorCode, message: impl Into<String>, hint: impl Into<String>) -> ! {
    ErrorReport::new(code, message.into(), "pg_paxos").set_hint(hint.into()).report(PgLogLevel::ERROR);
    unreachable!("an error does not return")
}

/// Raises an error with a detail.
pub fn fail_with_detail(code: PgSqlErrorCode, message: impl Into<String>, detail: impl Into<String>) -> ! {
    ErrorReport::new(code, message.into(), "pg_paxos").set_detail(detail.into()).report(PgLogLevel::ERROR);
    unreachable!("an error does not return")
}
