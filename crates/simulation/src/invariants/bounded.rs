//! Rule 11: everything is bounded. What a core holds for its users is what they wait for and no more; what it has in
//! flight, sends and remembers keeps the bounds of the core, and the smaller sizes of its world.

use std::collections::BTreeMap;

use consensus::{bounds, GroupId, GroupMessage, LogId, LogQueues, Message, NodeId, Slot, Windows};

use super::{ensure, Invariant};
use crate::observation::Observation;
use crate::plan::Plan;

/// What users of a node wait for.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    proposals: usize,
    readers: usize,
}

/// Counts what users wait for along with them, so that a look costs no more than the look.
#[derive(Debug)]
pub struct Bounded {
    windows: Windows,
    id_window: usize,
    /// Logs of values that may be in memory for new work; none in a group of sequences.
    resident: Option<usize>,
    open: BTreeMap<NodeId, Open>,
    /// The highest closed-up-to that any node ever had.
    closed: BTreeMap<(GroupId, LogId), Slot>,
}

impl Bounded {
    /// With the sizes of this plan.
    pub fn new(plan: &Plan) -> Bounded {
        let resident = (plan.values > 0).then_some(plan.resident_logs_max);
        Bounded {
            windows: plan.windows,
            id_window: plan.id_window,
            resident,
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
        }
    }

    fn check_sizes(&mut self, node: NodeId, queues: &LogQueues) -> Result<(), String> {
        let LogQueues { group, log, in_flight, queued, healing, closed, delivered, held, .. } = *queues;
        let known = self.closed.entry((group, log)).or_default();
        *known = (*known).max(closed);
        // What an owner carries over was accepted by somebody, within the window from what that one knew closed then; a crash
        // may have made it forget that.
        let forgotten = known.0 - closed.0;
        let most = usize::try_from(self.windows.accept_slots() + forgotten).expect("it is small");
        ensure!(in_flight <= most, "{node} has {in_flight} slots in flight, {most} at most");
        ensure!(queued <= bounds::PENDING_ENTRIES_MAX, "{node} has {queued} entries to propose");
        ensure!(healing <= bounds::HEALING_SLOTS_MAX, "{node} heals {healing} slots");
        ensure!(delivered <= closed || held >= delivered, "{node} delivered past {queues:?}");
        Ok(())
    }
}

/// Readers that a log may have beyond those of users: it reads for itself, too, once per round, to have open slots finished.
const OWN_READERS: usize = bounds::READ_ROUNDS_MAX + 1;

/// All that users wait for is in the one log.
fn check_sequence(node: NodeId, queues: &LogQueues, open: Open) -> Result<(), String> {
    let LogQueues { pending, readers, .. } = *queues;
    ensure!(pending == open.proposals, "{node} holds {pending} operations, its users wait for {}", open.proposals);
    ensure!(
        (open.readers..=open.readers + OWN_READERS).contains(&readers),
        "{node} holds {readers} readers, its users wait for {}",
        open.readers
    );
    Ok(())
}

/// Some of what users wait for waits itself, for its log to be loaded.
fn check_values(node: NodeId, queues: &[LogQueues], open: Open, resident: usize) -> Result<(), String> {
    let pending: usize = queues.iter().map(|log| log.pending).sum();
    ensure!(pending <= open.proposals, "{node} holds {pending} operations, its users wait for {}", open.proposals);
    let readers: usize = queues.iter().map(|log| log.readers).sum();
    let most = open.readers + OWN_READERS * queues.len();
    ensure!(readers <= most, "{node} holds {readers} readers, its users wait for {}", open.readers);
    // What peers ask has as much room again, and the log that has the turn a place of its own.
    let most = 2 * resident + 1;
    ensure!(queues.len() <= most, "{node} has {} logs in memory, {most} are allowed", queues.len());
    Ok(())
}

impl Invariant for Bounded {
    fn name(&self) -> &'static str {
        "everything is bounded"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        let mut count = |node: &NodeId, change: fn(&mut Open)| change(self.open.entry(*node).or_default());
        match observation {
            Observation::Proposing { node, .. } => count(node, |open| open.proposals += 1),
            Observation::Proposed { node, .. } => count(node, |open| open.proposals = open.proposals.saturating_sub(1)),
            Observation::Reading { node, .. } => count(node, |open| open.readers += 1),
            Observation::Barrier { node, .. } => count(node, |open| open.readers = open.readers.saturating_sub(1)),
            Observation::Crashed { node } => count(node, |open| *open = Open::default()),
            Observation::Rested { node, queues, remembered } => {
                let open = self.open.get(node).copied().unwrap_or_default();
                match self.resident {
                    None => queues.iter().try_for_each(|log| check_sequence(*node, log, open))?,
                    Some(resident) => check_values(*node, queues, open, resident)?,
                }
                queues.iter().try_for_each(|log| self.check_sizes(*node, log))?;
                let most = self.id_window;
                ensure!(*remembered <= most, "{node} remembers {remembered} ids of {most}");
            }
            Observation::Sent { from, message: Message::Group { body, .. }, .. } => {
                let count = match body {
                    GroupMessage::Accept { entries, .. } => entries.len(),
                    GroupMessage::Forward { entries, .. } => entries.len(),
                    GroupMessage::Fetched { entries, .. } => entries.len(),
                    GroupMessage::Promise { accepted, .. } | GroupMessage::HasAccepted { accepted, .. } => {
                        accepted.len()
                    }
                    _ => 0,
                };
                let most = self.windows.batch_entries;
                ensure!(count <= most, "{from} sends {count} entries at once, {most} at most");
            }
            _ => {}
        }
        Ok(())
    }
}
