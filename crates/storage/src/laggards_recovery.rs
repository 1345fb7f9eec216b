//! Reading the laggards' files at a start, before the log: whatever the log says of a slot is newer than what stands there.
//!
//! An entry got there because it was closed, so a file also proves closed-up-to of each of its logs. Damage costs the entry
//! it hits, which is told by slot and ballot; where both copies of an identity, or both headers, are gone, nobody can say
//! which slots are missing: they are not in the index, and are fetched from another member when they are wanted, as all
//! closed slots are that this node does not have.

use crate::disk::Disk;
use crate::frame::{read_content, FrameKind};
use crate::laggards::{LaggardsEntry, LaggardsFile};
use crate::laggards_file::{
    number_in, LaggardsBlock, LaggardsHeader, LaggardsNumber, OpenedOnUse, UNFINISHED, VERSION,
};
use crate::live_entries::LiveEntries;
use crate::log_state::LandedEntry;
use crate::recovery::RecoveryError;
use crate::replay::Replay;
use crate::scrub::read_piece;
use crate::segment_header::HEADER_BLOCK_BYTES;
use crate::segment_scan::{scan, FoundRecord};
use crate::stored_record::StoredRecord;
use bytes::Bytes;
use consensus::{GroupId, LogId, NodeId, Slot};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What lies beside the segments for members that lag.
#[derive(Default)]
pub(crate) struct LaggardsFiles {
    pub whole: BTreeMap<LaggardsNumber, (String, LaggardsHeader)>,
    /// Both headers are unreadable.
    pub damaged: Vec<String>,
    /// A crash left it.
    pub unfinished: bool,
}

/// Reads the headers of all of them.
pub(crate) fn find_laggards(disk: &dyn Disk, node: Option<NodeId>) -> Result<LaggardsFiles, RecoveryError> {
    let mut files = LaggardsFiles::default();
    for name in disk.list().map_err(|source| RecoveryError::io("list", &disk.path(), source))? {
        files.unfinished |= name == UNFINISHED;
        if number_in(&name).is_none() {
            continue;
        }
        let path = disk.path().join(&name);
        let file = disk.open(&name).map_err(|source| RecoveryError::io("open", &path, source))?;
        let length = file.bytes().map_err(|source| RecoveryError::io("look at", &path, source))?;
        let mut header = None;
        for at in [Some(0), length.checked_sub(HEADER_BLOCK_BYTES)].into_iter().flatten() {
            let mut block = vec![0u8; HEADER_BLOCK_BYTES.min(length) as usize];
            read_piece(&*file, at, &mut block);
            match LaggardsHeader::decode(&block) {
                LaggardsBlock::Valid(found) if found.bytes == length => header = Some(found),
                LaggardsBlock::UnknownVersion(found) => {
                    return Err(RecoveryError::UnknownVersion { path, found, reads: VERSION });
                }
                LaggardsBlock::Valid(_) | LaggardsBlock::Damaged => {}
            }
        }
        let Some(header) = header else {
            files.damaged.push(name);
            continue;
        };
        if let Some(node) = node.filter(|node| node.0 != header.node) {
            return Err(RecoveryError::Foreign { path, found: NodeId(header.node), node });
        }
        if let Some((other, _)) = files.whole.insert(header.number, (name, header)) {
            return Err(RecoveryError::Twice { path, other, sequence: u64::from(header.number) });
        }
    }
    Ok(files)
}

/// Every record that can be found in a file.
pub(crate) fn read_records(
    disk: &dyn Disk,
    name: &str,
    header: &LaggardsHeader,
) -> Result<Vec<FoundRecord>, RecoveryError> {
    let path = disk.path().join(name);
    let file = disk.open(name).map_err(|source| RecoveryError::io("open", &path, source))?;
    let mut bytes = vec![0u8; usize::try_from(header.bytes).expect("64-bit machines only")];
    read_piece(&*file, 0, &mut bytes);
    let mut found = scan(&Bytes::from(bytes), header.id);
    found.retain(|record| record.identity.number < header.records && record.identity.group == header.group);
    for record in &found {
        let kind = record.identity.kind;
        if !matches!(FrameKind::of(kind), Some(FrameKind::Accepted | FrameKind::Learnt | FrameKind::Lost)) {
            return Err(RecoveryError::UnknownKind { path, kind });
        }
    }
    Ok(found)
}

impl Replay {
    /// Takes in all laggards' files, in the order in which they were written.
    pub(crate) fn read_laggards(&mut self, disk: &Arc<dyn Disk>, files: &LaggardsFiles) -> Result<(), RecoveryError> {
        for (number, (name, header)) in &files.whole {
            let found = read_records(&**disk, name, header)?;
            if found.len() < header.records as usize {
                let missing = header.records as usize - found.len();
                tracing::error!(%name, missing, "records of a laggards' file are lost; their slots must be fetched from other members");
            }
            let file = Arc::new(OpenedOnUse { disk: disk.clone(), name: name.clone() });
            let live = LiveEntries::default();
            self.state.laggards.add(LaggardsFile { file, name: name.clone(), header: *header, live, leaving: false });
            let records: Vec<StoredRecord> = found
                .iter()
                .map(|record| {
                    let kind = FrameKind::of(record.identity.kind).expect("the kinds were looked at");
                    StoredRecord::of(kind, &record.identity, read_content(kind, &record.identity, &record.value))
                })
                .collect();
            self.close_for_laggards(GroupId(header.group), &records);
            for (record, found) in records.iter().zip(&found) {
                self.take_for_laggards(*number, record, found);
            }
        }
        Ok(())
    }

    /// What stands for laggards was closed.
    fn close_for_laggards(&mut self, group: GroupId, records: &[StoredRecord]) {
        let mut highest: BTreeMap<LogId, Slot> = BTreeMap::new();
        for record in records {
            let last = Slot(record.slot.0 + (record.entries.len() as u64).saturating_sub(1));
            let known = highest.entry(record.log).or_default();
            *known = last.max(*known);
        }
        for (log, slot) in highest {
            self.prove_closed(group, log, slot);
        }
    }

    fn take_for_laggards(&mut self, number: LaggardsNumber, record: &StoredRecord, found: &FoundRecord) {
        for (distance, entry) in (0..).zip(&record.entries) {
            let slot = record.slot.plus(distance);
            let landed = match entry {
                Some((place, Some(_))) => Some(LandedEntry::at(found.identity.offset(), place)),
                _ => None,
            };
            let (kind, log, ballot) = (record.kind, record.log, record.ballot);
            self.state.put_for_laggards(record.group, number, &LaggardsEntry { kind, log, slot, ballot, landed });
        }
        self.fold_entries(record);
    }
}
