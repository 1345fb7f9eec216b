//! The rows of a large table that is becoming replicated, on their way through the log in parts.
//!
//! A transaction has a bound. So the rows go ahead of it in
//! entries of their own, about a mebibyte each, which every member keeps aside in a table; the transaction's own entry
//! then takes them all. If the transaction ends otherwise, the parts lapse: each later part throws away those that are
//! [`LAPSE_SLOTS`] older, which is the same on every member, because it depends on the log alone.

use std::time::{Duration, Instant};

use bytes::Bytes;
use client::GroupDescription;
use consensus::{GroupId, Slot};
use pgrx::prelude::*;
use tables::{Operation, WriteSet};

use crate::groups::{refusal, uuid_of};
use crate::rounds::{propose_now, slot_for_sql};
use crate::{barrier, refusal as refuse, row_apply};

/// After how many slots parts lapse that nobody took. At 10,000 transactions a second nearly two minutes: a
/// transaction whose parts are older by half of it is refused before it is proposed.
const LAPSE_SLOTS: u64 = 1 << 20;

/// Bytes of rows in a part, which goes when it has as many: with the row that filled it, if that is an ordinary one, it fits an
/// entry of the log.
const PART_BYTES: usize = consensus::bounds::PIECE_BYTES - (64 << 10);

/// How long the sender waits for its own server to keep the last part aside; only a server that has stopped applying
/// takes longer, and the wait can be interrupted.
const APPLY_PATIENCE: Duration = Duration::from_secs(600);

/// Rows on their way, on the server that has them.
pub struct Lot<'a> {
    group: &'a GroupDescription,
    number: u128,
    parts: u32,
    first: Option<Slot>,
    last: Slot,
    waiting: Vec<Operation>,
    waiting_bytes: usize,
}

impl<'a> Lot<'a> {
    /// A lot without rows, by a number that nobody has used.
    pub fn new(group: &'a GroupDescription) -> Lot<'a> {
        let mut number = [0; 16];
        // SAFETY: fills the buffer it is given.
        let is_random = unsafe { pg_sys::pg_strong_random(number.as_mut_ptr().cast(), number.len()) };
        assert!(is_random, "the system has random numbers");
        Lot {
            group,
            number: u128::from_le_bytes(number),
            parts: 0,
            first: None,
            last: Slot(0),
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }

    /// Adds a row, and sends a part when it is full.
    pub fn push(&mut self, row: Operation) {
        self.waiting_bytes += row.encoded_bytes();
        self.waiting.push(row);
        if self.waiting_bytes >= PART_BYTES {
            self.send();
        }
    }

    fn send(&mut self) {
        let rows = WriteSet { keys: Vec::new(), operations: std::mem::take(&mut self.waiting) }.encode();
        let part = Operation::StageRows { lot: self.number, part: self.parts, rows };
        let outcome = propose_now(self.group, WriteSet { keys: Vec::new(), operations: vec![part] }.encode());
        assert!(outcome.verdict.is_accepted(), "an entry without keys conflicts with nothing");
        self.parts += 1;
        self.waiting_bytes = 0;
        self.last = outcome.slot;
        let first = *self.first.get_or_insert(outcome.slot);
        if outcome.slot.0 - first.0 > LAPSE_SLOTS / 2 {
            refusal(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "the table's rows take too long to replicate beside so many other transactions",
            )
            .hint("Replicate the table when the group is less busy, or while it is empty, and fill it afterwards.")
            .raise()
        }
    }

    /// Sends what is left and gives the operation that takes all of it. What this server keeps aside of the lot goes
    /// with the transaction, whose own tables have the rows.
    pub fn finish(mut self) -> Operation {
        if !self.waiting.is_empty() {
            self.send();
        }
        barrier::wait_applied_until(self.group.group, self.last, Instant::now() + APPLY_PATIENCE);
        forget(self.group.group, self.number);
        Operation::TakeStaged { lot: self.number, parts: self.parts }
    }
}

fn forget(group: GroupId, lot: u128) {
    Spi::run_with_args(
        "DELETE FROM pgp_metadata.staged_rows WHERE group_id = $1 AND lot = $2",
        &[uuid_of(group.0).into(), uuid_of(lot).into()],
    )
    .expect("the extension's own table can be changed");
}

/// Keeps a part aside, in the applier's transaction.
pub fn keep(group: GroupId, slot: Slot, lot: u128, part: u32, rows: &Bytes) {
    Spi::run_with_args(
        "DELETE FROM pgp_metadata.staged_rows WHERE group_id = $1 AND slot < $2",
        &[uuid_of(group.0).into(), slot_for_sql(Slot(slot.0.saturating_sub(LAPSE_SLOTS))).into()],
    )
    .expect("the extension's own table can be changed");
    Spi::run_with_args(
        "INSERT INTO pgp_metadata.staged_rows (group_id, lot, part, slot, rows) VALUES ($1, $2, $3, $4, $5)",
        &[
            uuid_of(group.0).into(),
            uuid_of(lot).into(),
            i64::from(part).into(),
            slot_for_sql(slot).into(),
            rows.to_vec().into(),
        ],
    )
    .expect("the extension's own table can be changed");
}

/// Does all parts of a lot, in the applier's transaction.
pub fn take(group: GroupId, slot: Slot, lot: u128, parts: u32) {
    for part in 0..parts {
        pgrx::check_for_interrupts!();
        let rows = Spi::get_one_with_args::<Vec<u8>>(
            "SELECT rows FROM pgp_metadata.staged_rows WHERE group_id = $1 AND lot = $2 AND part = $3",
            &[uuid_of(group.0).into(), uuid_of(lot).into(), i64::from(part).into()],
        );
        let part_of = || format!("part {part} of {parts} of the rows that slot {} brings", slot.0);
        let Some(rows) = rows.ok().flatten() else {
            refuse::fail(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                format!("{} is missing on this server", part_of()),
                "This server's state differs from the group's: leave the group and join it anew.",
            )
        };
        let write_set = WriteSet::decode(Bytes::from(rows)).unwrap_or_else(|error| {
            refuse::fail(
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                format!("{} cannot be read: {error}", part_of()),
                "All members must run the same version of pg_paxos.",
            )
        });
        row_apply::apply(group, slot, &write_set.operations);
    }
    forget(group, lot);
}

/// Whether rows can be sent ahead in this transaction: what was kept aside here must be visible to it at its end.
pub fn refuse_old_snapshot() {
    // SAFETY: a plain variable of this session.
    let is_fixed = unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32;
    if is_fixed {
        refusal(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "a table this large cannot become replicated in a transaction of REPEATABLE READ",
        )
        .hint("Use READ COMMITTED.")
        .raise()
    }
}
