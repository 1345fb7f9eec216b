//! What the processes of one server share: groups, the order of their commits, and what every backend is doing.
//!
//! All of it is plain memory changed by atomic operations, never under a lock: the engine's threads (which must not
//! call PostgreSQL) and backends that are about to die use the same words. Nothing in it outlives the server: after a
//! crash of any backend PostgreSQL makes it anew, and the engine worker fills it from its files.

mod area;
mod backend;
mod group;
mod latch;
mod ring;
mod text;

pub use area::{request, Area};
pub use backend::{Backend, BackendIndex, State, Word};
pub use group::{ApplierState, Group};
pub use latch::set_latch;
pub use ring::{Turn, TurnRing, RING_SLOTS};
pub use text::Text;

use consensus::{GroupId, Slot};

/// A table's name with its schema: room for two names of PostgreSQL's and the dot.
pub type TableName = Text<16>;

/// The applied position of a group: every transaction at or below it is visible to a snapshot taken now.
/// `Slot::ZERO` for a group that this server does not have.
///
/// It is one atomic load once the group was looked up, so a trigger may call it for every row.
pub fn applied(group: GroupId) -> Slot {
    match Area::attached().group(group) {
        Some(group) => group.applied(),
        None => Slot(0),
    }
}
