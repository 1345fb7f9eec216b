//! Reading PostgreSQL's errors: the distinctions on which the tests' accounts rest.

use postgres::error::SqlState;
use postgres::Error;

/// The SQLSTATE, or "connection" where the server did not answer at all.
pub fn sqlstate(error: &Error) -> &str {
    error.code().map_or("connection", SqlState::code)
}

/// Rolled back for a conflict: certainly not committed, and worth trying again.
pub fn is_serialization_failure(error: &Error) -> bool {
    matches!(sqlstate(error), "40001" | "40P01")
}

/// Whether the transaction may have been committed: the server said so (08007), or nobody
/// answered. Any other error of a server says that it was not.
pub fn is_unknown_outcome(error: &Error) -> bool {
    match error.as_db_error() {
        None => true,
        // A server that is told to stop cuts its clients off in the middle of whatever they do.
        Some(said) => matches!(said.code().code(), "08007" | "57P01" | "57P02" | "08006"),
    }
}

/// All that the server said, in one line.
pub fn describe(error: &Error) -> String {
    match error.as_db_error() {
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
        Some(said) => {
            let mut text = format!("{}: {}", said.code().code(), said.message());
            for (label, part) in [("DETAIL", said.detail()), ("HINT", said.hint())] {
                if let Some(part) = part {
                    text.push_str(&format!(" {label}: {part}"));
                }
            }
            text
        }
    }
}
