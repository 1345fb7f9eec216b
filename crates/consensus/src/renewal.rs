//! The bar on voting of a node that lost its promises, and the renewal that lifts it (rule 9).
//!
//! A loss is found when a node starts, before it has sent anything. The node bars itself with the number of that start. A
//! renewal names the start in which its driver heard the node; if that is the start of the loss or a later one, the change
//! was begun after the loss, whatever else the disk has lost: the number of the start stands in the node's identity, not
//! in its log. Whatever the node promised before concerns epochs older than that change. An epoch found on the disk could
//! not tell this, as the newest ones may be what is lost.

use crate::configuration::Configuration;
use crate::context::Context;
use crate::effect::Refusal;
use crate::group::Group;
use crate::ids::{Epoch, NodeId, Start};
use crate::record::Record;
use crate::recovered::RecoveredGroup;
use crate::seeded_bug::{is_planted, SeededBug};
use serde::{Deserialize, Serialize};

/// A change that lets a node vote again which had lost its promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Renewal {
    /// The joint epoch that began with it: past this epoch the node votes again.
    pub joint: Epoch,
    /// The start of the node when the change was begun, as it said itself: what it lost later is not made up for.
    pub start: Start,
}

impl Group {
    /// Names the present start of each of these members in the change; one that is not in contact cannot be asked for it.
    pub(crate) fn renew(&self, context: &Context, next: &mut Configuration, nodes: &[NodeId]) -> Result<(), Refusal> {
        for node in nodes {
            if next.index(*node).is_none() {
                return Err(Refusal::Unfit("no such member"));
            }
            let start = context.peers.start_of(*node, context.now).ok_or(Refusal::NotInContact(*node))?;
            next.renewed.insert(*node, Renewal { joint: next.epoch, start });
        }
        Ok(())
    }

    /// A node that cannot know what it promised does not vote until a change begun afterwards is final. `start` is the
    /// first whose renewal comes after all that may be lost. Until the bar is durable, a loss is found again at every start.
    pub(crate) fn bar_if_needed(&mut self, context: &mut Context, recovered: &RecoveredGroup, start: Start) {
        self.changes.barred = recovered.barred;
        if recovered.promises_lost {
            context.persist(Record::VotingBarred { group: self.scope.group, start });
            self.changes.barred = self.changes.barred.max(Some(start));
        }
        self.scope.barred = self.changes.barred.is_some();
        self.lift_bar_if_renewed(context);
    }

    /// The change that named this node was begun after the loss, and is final: what was promised before it concerns only
    /// older epochs.
    pub(crate) fn lift_bar_if_renewed(&mut self, context: &Context) {
        let Some(barred) = self.changes.barred else { return };
        let configuration = &self.scope.configuration;
        let Some(renewal) = configuration.renewed.get(&context.node) else { return };
        let begun_after = renewal.start >= barred || is_planted(SeededBug::RenewalOfBefore);
        let is_final = configuration.epoch > renewal.joint || is_planted(SeededBug::VotesFromJointEpoch);
        if begun_after && is_final {
            self.changes.barred = None;
            self.scope.barred = false;
            self.scope.renewed_in = Some(renewal.joint);
        }
    }
}
