//! A record as it came back from the disk, with its meaning, and as frames to be written again.

use crate::frame::{EntryPlace, Frame, FrameContent, FrameKind};
use crate::record_identity::RecordIdentity;
use consensus::{Ballot, Configuration, Entry, Epoch, GroupId, LogId, NodeId, Sequence, Slot, Start};
use std::sync::Arc;

/// A record with its meaning.
pub(crate) struct StoredRecord {
    pub kind: FrameKind,
    pub group: GroupId,
    pub log: LogId,
    pub slot: Slot,
    pub ballot: Ballot,
    pub configuration: Option<Arc<Configuration>>,
    /// Per slot; what is `None` is damaged.
    pub entries: Vec<Option<(EntryPlace, Option<Entry>)>>,
}

impl StoredRecord {
    pub(crate) fn of(kind: FrameKind, identity: &RecordIdentity, content: FrameContent) -> StoredRecord {
        let (configuration, entries) = match content {
            FrameContent::Configuration(configuration) => (Some(configuration), Vec::new()),
            FrameContent::Entries(entries) => (None, entries),
            FrameContent::Bare | FrameContent::Damaged => (None, Vec::new()),
        };
        StoredRecord {
            kind,
            group: GroupId(identity.group),
            log: LogId(identity.log),
            slot: Slot(identity.slot),
            ballot: Ballot {
                epoch: Epoch(identity.epoch),
                round: identity.round,
                node: NodeId(identity.node),
                start: Start(identity.start),
            },
            configuration,
            entries,
        }
    }

    /// The same, to be written again.
    pub(crate) fn frames(&self, position: Sequence) -> Vec<Frame> {
        let bare = |kind, slot| Frame::bare(kind, position, self.group, self.log, slot, self.ballot);
        match self.kind {
            FrameKind::Configured => match &self.configuration {
                Some(configuration) => vec![Frame::configured(position, configuration)],
                None => vec![bare(FrameKind::PromisesLost, Slot::ZERO)],
            },
            FrameKind::Accepted | FrameKind::Learnt | FrameKind::Lost => {
                let mut frames = Vec::new();
                if self.kind == FrameKind::Accepted {
                    // An acceptance is a promise too, even where its content is lost.
                    frames.push(bare(FrameKind::Promised, Slot::ZERO));
                }
                let place = (self.group, self.log);
                for (distance, entry) in (0..).zip(&self.entries) {
                    let at = (self.slot.plus(distance), self.ballot);
                    frames.push(match entry {
                        Some((row, Some(entry))) => {
                            let mut one = std::iter::once((entry.bytes().clone(), row.checksum));
                            Frame::entries((self.kind, position), place, at, &mut one)
                        }
                        _ => Frame::lost(position, place, at),
                    });
                }
                frames
            }
            kind => vec![bare(kind, self.slot)],
        }
    }
}
