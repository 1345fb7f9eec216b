//! Rule 11: everything is bounded. What a core holds for its users is what they wait for and no more; what it has in
//! flight, sends and remembers keeps the bounds of the core.

use consensus::{bounds, Discipline, GroupMessage, GroupStatus, Message};

use super::{ensure, Invariant};
use crate::observation::Observation;

/// Needs no memory of its own.
#[derive(Debug, Default)]
pub struct Bounded;

impl Invariant for Bounded {
    fn name(&self) -> &'static str {
        "everything is bounded"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Rested { node, status, open, ids, resident } => {
                for group in status.groups.iter().filter(|group| group.configuration.discipline == Discipline::Values) {
                    // Some wait for their log to be loaded; what peers ask has as much room again.
                    let pending: usize = group.logs.iter().map(|log| log.pending).sum();
                    ensure!(pending <= *open, "{node} holds {pending} operations, its users wait for {open}");
                    let (loaded, most) = (group.logs.len(), 2 * resident);
                    ensure!(loaded <= most, "{node} has {loaded} logs in memory, {most} are allowed");
                }
                let sequences = |group: &&GroupStatus| group.configuration.discipline == Discipline::Sequences;
                for log in status.groups.iter().filter(sequences).flat_map(|group| &group.logs) {
                    ensure!(log.pending == *open, "{node} holds {} operations, its users wait for {open}", log.pending);
                }
                for log in status.groups.iter().flat_map(|group| &group.logs) {
                    ensure!(
                        log.in_flight <= bounds::IN_FLIGHT_SLOTS_MAX,
                        "{node} has {} slots in flight",
                        log.in_flight
                    );
                    ensure!(log.delivered <= log.closed || log.held >= log.delivered, "{node} delivered past {log:?}");
                }
                for (remembered, most) in *ids {
                    ensure!(remembered <= most, "{node} remembers {remembered} ids of {most}");
                }
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
                ensure!(count <= bounds::BATCH_ENTRIES_MAX, "{from} sends {count} entries at once");
            }
            _ => {}
        }
        Ok(())
    }
}
