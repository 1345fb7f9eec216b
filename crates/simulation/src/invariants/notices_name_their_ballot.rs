//! Rule 1: a chosen notice names slots and the ballot of each, and a quorum of that ballot's epoch has them, durably, under that
//! very ballot. Members close slots on its word alone, so a notice that names another ballot is wrong even where the value
//! happens to be the chosen one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use consensus::{
    Ballot, ChosenRange, Configuration, Epoch, GroupId, GroupMessage, LogId, Message, NodeId, Record, Slot,
};

use super::{ensure, Invariant};
use crate::observation::Observation;

type Place = (GroupId, LogId, Slot);

/// Who has made which acceptance durable, ever.
#[derive(Debug, Default)]
pub struct NoticesNameTheirBallot {
    configurations: BTreeMap<(GroupId, Epoch), Arc<Configuration>>,
    accepted: BTreeMap<(Place, Ballot), BTreeSet<NodeId>>,
    /// Slots found right under a ballot, so that notices that reach back over a whole ownership are not counted again.
    checked: BTreeMap<(GroupId, LogId, Ballot), (Slot, Slot)>,
}

impl NoticesNameTheirBallot {
    fn check(&mut self, from: NodeId, (group, log): (GroupId, LogId), range: ChosenRange) -> Result<(), String> {
        let key = (group, log, range.ballot);
        let known =
            self.checked.get(&key).copied().filter(|(first, last)| *first <= range.first && range.first <= *last);
        let next = known.map_or(range.first, |(_, last)| last.next());
        for slot in (next.0..=range.last.0).map(Slot) {
            let acceptors = self.accepted.get(&((group, log, slot), range.ballot)).cloned().unwrap_or_default();
            let configuration = self.configurations.get(&(group, range.ballot.epoch));
            let is_quorum = configuration.is_some_and(|known| known.is_quorum(known.set_of(acceptors.iter().copied())));
            ensure!(
                is_quorum,
                "{from} says that slot {slot} of {log} was chosen under {}, which {acceptors:?} accepted",
                range.ballot
            );
        }
        let first = known.map_or(range.first, |(first, _)| first);
        self.checked.insert(key, (first, range.last.max(next.previous())));
        Ok(())
    }
}

impl Invariant for NoticesNameTheirBallot {
    fn name(&self) -> &'static str {
        "notices name their ballot"
    }

    fn observe(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Queued { record: Record::Configured { configuration }, .. }
            | Observation::Durable { record: Record::Configured { configuration }, .. } => {
                self.configurations.insert((configuration.group, configuration.epoch), configuration.clone());
            }
            Observation::Durable { node, record: Record::Accepted { group, log, ballot, first, entries }, .. } => {
                for slot in (first.0..).map(Slot).take(entries.len()) {
                    self.accepted.entry(((*group, *log, slot), *ballot)).or_default().insert(*node);
                }
            }
            Observation::Sent { from, message: Message::Group { group, body, .. }, .. } => match body {
                GroupMessage::Chosen { log, range } | GroupMessage::Accept { log, chosen: Some(range), .. } => {
                    self.check(*from, (*group, *log), *range)?;
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
}
