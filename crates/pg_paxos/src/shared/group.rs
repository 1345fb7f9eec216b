//! A group as the processes of one server share it: how far it is decided and applied, and whose turn comes next.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use consensus::{GroupId, Slot};
use pgrx::pg_sys;

use super::{Area, BackendIndex, TableName, Text, Turn, TurnRing, RING_SLOTS};

/// What the group's applier is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ApplierState {
    /// It has not started yet, or is being restarted.
    Starting = 0,
    /// It applies what the log brings.
    Running = 1,
    /// An entry could not be applied for a reason that lies in the entry: nothing is applied until a person helps.
    Stopped = 2,
    /// The tables are being copied from another member.
    Copying = 3,
    /// The group left this node; the applier ends.
    Leaving = 4,
    /// The other members removed this node: the applier turns its tables into ordinary ones, and leaves.
    Removed = 5,
}

/// One group. A place is free when its identity is zero; it is taken and freed only by the engine worker.
#[repr(C, align(128))]
pub struct Group {
    identity_high: AtomicU64,
    identity_low: AtomicU64,
    /// Every transaction at or below it is visible to new snapshots.
    applied: AtomicU64,
    /// Every slot at or below it was published by the engine.
    decided: AtomicU64,
    /// The last slot given to the applier: what others changed, as far as this node knows.
    foreign: AtomicU64,
    /// Until when, by the system's monotonic clock in milliseconds, this node may take itself for the log's owner.
    owner_until_ms: AtomicU64,
    /// Every transaction at or below it is durable in PostgreSQL.
    held: AtomicU64,
    /// How many processes wait for a position: spares looking at every backend when there are none.
    waiters: AtomicU32,
    applier: AtomicU32,
    /// The number of the process of the applier, plus one; 0 if there is none.
    applier_process: AtomicU32,
    origin: AtomicU32,
    /// How long this node's backends hold a proposal back for the sake of the others, in microseconds.
    hold_us: AtomicU32,
    /// The slot whose turn the applier waits for; 0 if it does not. Spares waking it when it is busy.
    applier_waits: AtomicU64,
    /// The entry that the applier changes rows for, and the table: whom it waits for is told.
    changing_for: AtomicU64,
    changing: TableName,
    database: Text<8>,
    name: Text<8>,
    /// Why the applier stopped; empty unless it has.
    failure: Text<64>,
    ring: TurnRing,
    /// The PostgreSQL transaction that committed each recent slot; 0 for none. Tells whether a snapshot covers a slot.
    transactions: [AtomicU32; RING_SLOTS],
}

impl Group {
    /// The group in this place.
    pub fn identity(&self) -> Option<GroupId> {
        let high = self.identity_high.load(Ordering::SeqCst);
        let low = self.identity_low.load(Ordering::SeqCst);
        match (u128::from(high) << 64) | u128::from(low) {
            0 => None,
            identity => Some(GroupId(identity)),
        }
    }

    /// Takes a free place. `applied` is what PostgreSQL's own tables hold of the group.
    pub(super) fn occupy(&self, group: GroupId, name: &str, database: &str, applied: Slot) {
        assert!(self.identity().is_none(), "the place is free");
        self.ring.clear();
        self.forget_transactions();
        self.applied.store(applied.0, Ordering::SeqCst);
        self.decided.store(applied.0, Ordering::SeqCst);
        self.held.store(applied.0, Ordering::SeqCst);
        self.foreign.store(0, Ordering::SeqCst);
        self.owner_until_ms.store(0, Ordering::SeqCst);
        self.origin.store(0, Ordering::SeqCst);
        self.waiters.store(0, Ordering::SeqCst);
        self.hold_us.store(0, Ordering::SeqCst);
        self.applier.store(ApplierState::Starting as u32, Ordering::SeqCst);
        self.applier_waits.store(0, Ordering::SeqCst);
        self.changing_for.store(0, Ordering::SeqCst);
        self.changing.set("");
        self.failure.set("");
        self.database.set(database);
        self.name.set(name);
        self.identity_high.store((group.0 >> 64) as u64, Ordering::SeqCst);
        self.identity_low.store(group.0 as u64, Ordering::SeqCst);
    }

    /// Frees the place, once its applier is gone.
    pub fn vacate(&self) {
        self.identity_high.store(0, Ordering::SeqCst);
        self.identity_low.store(0, Ordering::SeqCst);
    }

    /// The group's name.
    pub fn name(&self) -> String {
        self.name.text()
    }

    /// The database that holds the group's tables on this server.
    pub fn database(&self) -> String {
        self.database.text()
    }

    /// Every transaction at or below it is visible to new snapshots.
    pub fn applied(&self) -> Slot {
        Slot(self.applied.load(Ordering::SeqCst))
    }

    /// Every slot at or below it was published by the engine.
    pub fn decided(&self) -> Slot {
        Slot(self.decided.load(Ordering::SeqCst))
    }

    /// The last decided slot that the applier commits: nothing after it was changed by others, as far as this node
    /// knows.
    pub fn foreign(&self) -> Slot {
        Slot(self.foreign.load(Ordering::SeqCst))
    }

    /// Whether this node is the log's owner, whom every entry passes: what it does not know is not acknowledged. A
    /// matter of courtesy, never of safety: another node may have taken the log over a moment ago.
    pub fn is_owned(&self) -> bool {
        monotonic_ms() < self.owner_until_ms.load(Ordering::Relaxed)
    }

    /// Notes that this node is the log's owner and will hold that to be so for a while; or that it is not.
    pub fn note_owned(&self, for_a_while: Option<Duration>) {
        let until_ms = for_a_while.map_or(0, |time| monotonic_ms() + u64::try_from(time.as_millis()).unwrap_or(0));
        self.owner_until_ms.store(until_ms, Ordering::Relaxed);
    }

    /// Every transaction at or below it is durable in PostgreSQL.
    pub fn held(&self) -> Slot {
        Slot(self.held.load(Ordering::SeqCst))
    }

    /// Notes what PostgreSQL has made durable.
    pub fn set_held(&self, slot: Slot) {
        self.held.fetch_max(slot.0, Ordering::SeqCst);
    }

    /// PostgreSQL's number of the group's replication origin; 0 until its applier has made it.
    pub fn origin(&self) -> u16 {
        self.origin.load(Ordering::SeqCst) as u16
    }

    /// Notes the replication origin.
    pub fn set_origin(&self, origin: u16) {
        self.origin.store(u32::from(origin), Ordering::SeqCst);
    }

    /// How long a backend holds its proposal back for the sake of the other nodes.
    pub fn hold(&self) -> Duration {
        Duration::from_micros(u64::from(self.hold_us.load(Ordering::Relaxed)))
    }

    /// Notes how long backends hold their proposals back.
    pub fn set_hold(&self, hold: Duration) {
        let microseconds = u32::try_from(hold.as_micros()).expect("it is a few milliseconds");
        self.hold_us.store(microseconds, Ordering::Relaxed);
    }

    /// What the applier is doing.
    pub fn applier_state(&self) -> ApplierState {
        match self.applier.load(Ordering::SeqCst) {
            1 => ApplierState::Running,
            2 => ApplierState::Stopped,
            3 => ApplierState::Copying,
            4 => ApplierState::Leaving,
            5 => ApplierState::Removed,
            _ => ApplierState::Starting,
        }
    }

    /// Notes what the applier is doing.
    pub fn set_applier_state(&self, state: ApplierState) {
        self.applier.store(state as u32, Ordering::SeqCst);
    }

    /// Why the applier stopped.
    pub fn failure(&self) -> Option<String> {
        Some(self.failure.text()).filter(|text| !text.is_empty())
    }

    /// Notes why the applier stopped; empty if it goes on.
    pub fn set_failure(&self, text: &str) {
        self.failure.set(text);
    }

    /// Notes which slot's turn the applier waits for; slot 0: none.
    pub fn set_applier_waits(&self, slot: Slot) {
        self.applier_waits.store(slot.0, Ordering::SeqCst);
    }

    /// Notes for which entry the applier is about to change a row, and of which table.
    pub fn set_changing(&self, slot: Slot, table: &str) {
        self.changing_for.store(slot.0, Ordering::SeqCst);
        self.changing.set(table);
    }

    /// The entry that the applier changes rows for or changed them last, and the table.
    pub fn changing(&self) -> (Slot, &TableName) {
        (Slot(self.changing_for.load(Ordering::SeqCst)), &self.changing)
    }

    /// The process of the applier.
    pub fn applier_process(&self) -> Option<BackendIndex> {
        self.applier_process.load(Ordering::SeqCst).checked_sub(1).map(BackendIndex)
    }

    /// Becomes the group's applier. Whether there was none.
    pub fn claim_applier(&self, process: BackendIndex) -> bool {
        self.applier_process.compare_exchange(0, process.0 + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Ends being the group's applier.
    pub fn release_applier(&self, process: BackendIndex) {
        let _ = self.applier_process.compare_exchange(process.0 + 1, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Sets all positions of a group whose tables were just copied at `slot`. Nothing may be in flight.
    pub fn install(&self, slot: Slot) {
        self.ring.clear();
        self.forget_transactions();
        self.decided.store(slot.0, Ordering::SeqCst);
        self.held.store(slot.0, Ordering::SeqCst);
        self.applied.store(slot.0, Ordering::SeqCst);
    }

    /// Publishes a decided slot. Slots come in order; one that was published before (the engine was restarted) is
    /// left as it is. Called by the engine only, from any of its threads.
    pub fn publish(&self, slot: Slot, turn: Turn) {
        let decided = self.decided();
        if slot <= decided {
            return;
        }
        assert!(slot.0 == decided.0 + 1, "slot {} published after {}", slot.0, decided.0);
        if turn == Turn::Applier {
            self.foreign.store(slot.0, Ordering::SeqCst);
        }
        let has_room = slot.0.saturating_sub(self.applied().0) < RING_SLOTS as u64;
        if has_room {
            self.transactions[slot.0 as usize % RING_SLOTS].store(0, Ordering::SeqCst);
            self.ring.publish(slot, turn);
        }
        self.decided.store(slot.0, Ordering::SeqCst);
        if self.applied().0 + 1 >= slot.0 {
            self.advance();
        }
    }

    /// Whether the ring has room for one more slot; if not, the slot will be the applier's.
    pub fn has_room(&self) -> bool {
        (self.decided().0 + 1).saturating_sub(self.applied().0) < RING_SLOTS as u64
    }

    /// Whose turn a decided slot is; `None` if it is not decided.
    pub fn turn(&self, slot: Slot) -> Option<Turn> {
        if slot > self.decided() {
            return None;
        }
        Some(self.ring.turn(slot).unwrap_or(Turn::Applier))
    }

    /// Whether it is the turn of `slot`: all before it is applied.
    pub fn is_turn(&self, slot: Slot) -> bool {
        self.applied().0 + 1 == slot.0
    }

    /// Ends the turn of every slot up to `slot`, whose owner the caller is, and starts the next.
    pub fn pass_turn(&self, slot: Slot) {
        let before = self.applied.swap(slot.0, Ordering::SeqCst);
        assert!(before < slot.0, "the turn of slot {} was ended after that of {before}", slot.0);
        self.advance();
    }

    /// Gives a backend's granted slot to the applier. Whether it was that backend's.
    pub fn hand_over(&self, slot: Slot, from: BackendIndex) -> bool {
        let moved = self.ring.hand_over(slot, from);
        if moved {
            self.wake_applier();
        }
        moved
    }

    /// Passes slots without effect and wakes the owner of the next one, and readers whose position is reached.
    pub fn advance(&self) {
        loop {
            let applied = self.applied();
            let next = Slot(applied.0 + 1);
            match self.turn(next) {
                None => break,
                Some(Turn::Nothing) => {
                    // Whoever wins goes on; the loser sees the new position and goes on from there.
                    let _ = self.applied.compare_exchange(applied.0, next.0, Ordering::SeqCst, Ordering::SeqCst);
                }
                Some(Turn::Applier) => {
                    // Else it is busy, or will see the entry arrive.
                    if self.applier_waits.load(Ordering::SeqCst) != 0 {
                        self.wake_applier();
                    }
                    break;
                }
                Some(Turn::Backend(index)) => {
                    Area::attached().backend(index).wake();
                    break;
                }
            }
        }
        self.wake_readers();
    }

    /// Wakes the applier.
    pub fn wake_applier(&self) {
        if let Some(index) = self.applier_process() {
            Area::attached().backend(index).wake();
        }
    }

    /// Notes, before the turn is passed, which PostgreSQL transaction committed the slots from `first` to `last`.
    pub fn note_transaction(&self, first: Slot, last: Slot, transaction: pg_sys::TransactionId) {
        assert!(first <= last, "slots {first} to {last} are no range");
        let first = first.0.max(last.0.saturating_sub(RING_SLOTS as u64 - 1));
        for slot in first..=last.0 {
            self.transactions[slot as usize % RING_SLOTS].store(transaction.into_inner(), Ordering::SeqCst);
        }
    }

    /// The PostgreSQL transaction that committed the last slot with an effect at or below `slot`, which must be
    /// applied. `None` if that is too long ago to be known.
    pub fn transaction_at(&self, slot: Slot) -> Option<pg_sys::TransactionId> {
        let oldest = self.decided().0.saturating_sub(RING_SLOTS as u64);
        let mut position = slot.0;
        while position > oldest && position > 0 {
            let transaction = self.transactions[position as usize % RING_SLOTS].load(Ordering::SeqCst);
            if transaction != 0 {
                return Some(pg_sys::TransactionId::from_inner(transaction));
            }
            position -= 1;
        }
        None
    }

    fn forget_transactions(&self) {
        for transaction in &self.transactions {
            transaction.store(0, Ordering::SeqCst);
        }
    }

    /// Registers that a process begins to wait for a position.
    pub fn add_waiter(&self) {
        self.waiters.fetch_add(1, Ordering::SeqCst);
    }

    /// Registers that a process no longer waits.
    pub fn remove_waiter(&self) {
        let before = self.waiters.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "more processes ended waiting than began");
    }

    fn wake_readers(&self) {
        if self.waiters.load(Ordering::SeqCst) == 0 {
            return;
        }
        let area = Area::attached();
        let (place, applied) = (area.place_of(self), self.applied());
        for backend in area.backends() {
            if backend.is_satisfied(place, applied) {
                backend.wake();
            }
        }
    }
}

/// The system's monotonic clock, which all processes of the server read alike.
fn monotonic_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into a variable of this frame.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    assert!(read == 0, "the system has a monotonic clock");
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
