//! A table's content as one value, the same for the same rows in whatever order.

use crate::describe;
use postgres::Client;

/// Rows and their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// How many rows.
    pub rows: i64,
    digest: Option<String>,
}

/// Reads a table's checksum in one statement, hence in one snapshot.
pub fn checksum(client: &mut Client, table: &str) -> anyhow::Result<Checksum> {
    // Summed, not sorted and joined: a million rows need no gigabyte. Equal rows count each.
    let sql = format!(
        "SELECT count(*), (sum(('x' || left(hash, 16))::bit(64)::bigint::numeric) \
                           || '/' || sum(('x' || right(hash, 16))::bit(64)::bigint::numeric)) \
         FROM (SELECT md5(entire::text) AS hash FROM {table} AS entire) AS hashed"
    );
    let row = client.query_one(&sql, &[]).map_err(|error| anyhow::anyhow!("{table}: {}", describe(&error)))?;
    Ok(Checksum { rows: row.get(0), digest: row.get(1) })
}
