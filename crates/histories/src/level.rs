//! What a history is held against.

/// What transactions that overlap may see of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Every statement sees what is committed, and nothing else: PostgreSQL's READ COMMITTED. Forbids G0 and G1.
    ReadCommitted,
    /// Every transaction sees one state, and of two that write the same key and overlap only one commits: PostgreSQL's
    /// REPEATABLE READ. Forbids every cycle in which no two anti-dependencies follow each other (Cerone and Gotsman):
    /// G0, G1, lost update, G-single, long fork; allows write skew (G2 with two of them in a row).
    Snapshot,
    /// As if one after another. Forbids every cycle.
    Serializable,
}

/// What transactions that come after each other must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Everything that was acknowledged to anybody before they began: `pg_paxos.consistency_model = strong`.
    RealTime,
    /// Everything that was acknowledged to the same client: `session`.
    Session,
    /// Nothing in particular, only a consistent past: `optimistic`.
    Any,
}

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Between transactions that overlap.
    pub isolation: Isolation,
    /// Between those that do not.
    pub order: Order,
}

impl Level {
    /// READ COMMITTED, in real time.
    pub const STRONG_READ_COMMITTED: Level = Level { isolation: Isolation::ReadCommitted, order: Order::RealTime };
    /// Strong snapshot isolation: REPEATABLE READ with strong consistency.
    pub const STRONG_SNAPSHOT: Level = Level { isolation: Isolation::Snapshot, order: Order::RealTime };
    /// Strict serializability.
    pub const STRICT_SERIALIZABLE: Level = Level { isolation: Isolation::Serializable, order: Order::RealTime };
}
