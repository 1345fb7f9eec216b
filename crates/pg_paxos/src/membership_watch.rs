//! What the engine worker does about the node's own part in a group: a copy of the state where the log no longer reaches
//! back, the end of a group that the other members removed this node from, and word for the backends of whether this
//! node owns the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client::{Connection, GroupStatus, MemberRole};
use consensus::GroupId;
use pgrx::PgTryBuilder;

use crate::copy_worker;
use crate::engine_connection;
use crate::engine_worker::groups_in_use;
use crate::settings;
use crate::shared::{ApplierState, Area};

/// How often the engine is asked whether it owns a group's log: several times within [`owned_for`].
const OWNER_EVERY: Duration = Duration::from_millis(100);

/// How often the node's membership is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the main thread waits for the engine, which answers at once.
const ANSWER_WAIT: Duration = Duration::from_millis(200);

/// For how long a node must have found itself removed before its tables become ordinary ones: a function that leaves
/// the group on request does that by itself meanwhile.
const REMOVED_FOR: Duration = Duration::from_secs(5);

/// How long after a copy was started another one may be.
const COPY_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Looks after the groups that this node is, or was, a member of.
#[derive(Default)]
pub struct MembershipWatch {
    connection: Option<Connection>,
    asked: Option<Instant>,
    looked: Option<Instant>,
    removed: BTreeMap<GroupId, Instant>,
    copied: BTreeMap<GroupId, Instant>,
}

impl MembershipWatch {
    /// Looks, if it is time. On the main thread of the engine worker.
    pub fn look(&mut self, area: &'static Area) {
        if self.asked.is_some_and(|asked| asked.elapsed() < OWNER_EVERY) || groups_in_use(area).next().is_none() {
            return;
        }
        let now = Instant::now();
        self.asked = Some(now);
        let Some(groups) = self.ask() else { return };
        for group in &groups {
            note_owner(area, group, now);
        }
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(now);
        for group in &groups {
            self.look_at(area, group);
        }
    }

    fn ask(&mut self) -> Option<Vec<GroupStatus>> {
        if self.connection.is_none() {
            self.connection = Connection::connect(&engine_connection::socket_path(), ANSWER_WAIT).ok();
        }
        let status = self.connection.as_mut()?.status(ANSWER_WAIT);
        if status.is_err() {
            self.connection = None;
        }
        Some(status.ok()?.groups)
    }

    fn look_at(&mut self, area: &'static Area, status: &GroupStatus) {
        let Some(group) = area.group(status.group) else { return };
        if status.role.is_some() {
            self.removed.remove(&status.group);
            // A learner's copy belongs to the join that made it one: whoever interrupted that calls it again.
            let is_voter = matches!(status.role, Some(MemberRole::Voter | MemberRole::Away));
            let is_half_done = group.applier_state() == ApplierState::Copying && group.applier_process().is_none();
            if is_voter
                && (status.needs_state.is_some() || is_half_done)
                && !is_recent(&self.copied, status.group, COPY_AGAIN_AFTER)
            {
                self.copied.insert(status.group, Instant::now());
                launch_copy(status.group);
            }
            return;
        }
        let since = *self.removed.entry(status.group).or_insert_with(Instant::now);
        let serves =
            matches!(group.applier_state(), ApplierState::Running | ApplierState::Stopped | ApplierState::Starting);
        if since.elapsed() >= REMOVED_FOR && serves {
            group.set_applier_state(ApplierState::Removed);
            group.wake_applier();
        }
    }
}

/// For how long after the engine was asked this node may take itself for the owner. Nobody takes a log over sooner than
/// after four fifths of the failure time-out, so a server that stood still finds that it no longer knows.
fn owned_for() -> Duration {
    settings::failure_timeout() / 2
}

fn note_owner(area: &'static Area, status: &GroupStatus, asked: Instant) {
    if let Some(group) = area.group(status.group) {
        let is_owner = status.log.owner == Some(area.node());
        group.note_owned(is_owner.then(|| owned_for().saturating_sub(asked.elapsed())));
    }
}

/// Starts a copy. Without room for a worker it is tried again later: an error must not end the engine.
fn launch_copy(group: GroupId) {
    let launched = PgTryBuilder::new(|| {
        copy_worker::launch_automatic(group);
        true
    })
    .catch_others(|_| false)
    .execute();
    if !launched {
        pgrx::log!("could not start a worker for a state copy: raise max_worker_processes");
    }
}

fn is_recent(times: &BTreeMap<GroupId, Instant>, group: GroupId, within: Duration) -> bool {
    times.get(&group).is_some_and(|time| time.elapsed() < within)
}
