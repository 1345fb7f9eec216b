//! Which files of the log's directory are part of the log, in which order, and which are not.

use crate::bounds::MISSING_SEGMENTS_MAX;
use crate::disk::{Disk, DiskFile};
use crate::log_state::SegmentSequence;
use crate::recovery::RecoveryError;
use crate::segment_header::{HeaderBlock, SegmentHeader, HEADER_BLOCK_BYTES, HEADER_BYTES, VERSION};
use crate::segment_pool::{segment_number, SpareSegment};
use consensus::NodeId;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// A segment file with a header that can be used.
pub(crate) struct SegmentFile {
    pub name: String,
    pub file: Arc<dyn DiskFile>,
    pub header: SegmentHeader,
}

/// What lies in the log's directory.
#[derive(Default)]
pub(crate) struct SegmentFiles {
    /// Those of the log, without gaps but for `missing`.
    pub live: BTreeMap<SegmentSequence, SegmentFile>,
    /// Places in the log for which there is no file with a readable header.
    pub missing: Vec<SegmentSequence>,
    /// Never used, or no part of the log any more.
    pub spare: Vec<SpareSegment>,
    /// Both headers are unreadable.
    pub damaged: Vec<String>,
    /// Highest number in a file's name.
    pub highest_number: u64,
}

/// Reads the headers of all files and sorts them.
pub(crate) fn find_segments(disk: &dyn Disk, node: Option<NodeId>) -> Result<SegmentFiles, RecoveryError> {
    let mut files = SegmentFiles::default();
    let mut used: BTreeMap<u64, SegmentFile> = BTreeMap::new();
    let names = disk.list().map_err(|source| RecoveryError::io("list", &disk.path(), source))?;
    for name in names {
        let Some(number) = segment_number(&name) else {
            continue;
        };
        files.highest_number = files.highest_number.max(number);
        let path = disk.path().join(&name);
        let file = disk.open(&name).map_err(|source| RecoveryError::io("open", &path, source))?;
        let bytes = file.bytes().map_err(|source| RecoveryError::io("look at", &path, source))?;
        let blocks = read_headers(&*file, bytes).map_err(|source| RecoveryError::io("read", &path, source))?;
        let newest = blocks.iter().filter_map(|block| match block {
            HeaderBlock::Valid(header) => Some(*header),
            _ => None,
        });
        if let Some(header) = newest.max_by_key(|header| header.sequence) {
            if let Some(node) = node.filter(|node| node.0 != header.node) {
                return Err(RecoveryError::Foreign { path, found: NodeId(header.node), node });
            }
            let sequence = header.sequence;
            if let Some(other) = used.insert(sequence, SegmentFile { name, file, header }) {
                return Err(RecoveryError::Twice { path, other: other.name, sequence });
            }
            continue;
        }
        for block in &blocks {
            if let HeaderBlock::UnknownVersion(found) = block {
                return Err(RecoveryError::UnknownVersion { path, found: *found, reads: VERSION });
            }
        }
        if blocks.iter().all(|block| *block == HeaderBlock::Zero) {
            files.spare.push(SpareSegment { name, file, bytes, left_log_at: 0 });
        } else {
            files.damaged.push(name);
        }
    }
    sort_out(used, &mut files, disk)?;
    Ok(files)
}

/// The newest header says where the log begins; older segments are spare.
fn sort_out(
    mut used: BTreeMap<u64, SegmentFile>,
    files: &mut SegmentFiles,
    disk: &dyn Disk,
) -> Result<(), RecoveryError> {
    let Some((newest, file)) = used.last_key_value() else {
        return Ok(());
    };
    let (newest, oldest) = (*newest, file.header.oldest.clamp(1, *newest));
    let current = used.split_off(&oldest);
    for file in used.into_values() {
        let SegmentFile { name, file, header } = file;
        files.spare.push(SpareSegment { name, file, bytes: header.bytes, left_log_at: header.sequence });
    }
    let missing = newest - oldest + 1 - current.len() as u64;
    if missing > MISSING_SEGMENTS_MAX {
        return Err(RecoveryError::Missing { path: disk.path(), missing });
    }
    let place = |sequence: u64| SegmentSequence::try_from(sequence).unwrap_or(SegmentSequence::MAX);
    files.missing = (oldest..=newest).filter(|sequence| !current.contains_key(sequence)).map(place).collect();
    files.live = current.into_iter().map(|(sequence, file)| (place(sequence), file)).collect();
    Ok(())
}

fn read_headers(file: &dyn DiskFile, bytes: u64) -> io::Result<[HeaderBlock; 2]> {
    // A file that a crash left shorter than it was to be has no header yet.
    if bytes < 2 * HEADER_BLOCK_BYTES {
        return Ok([HeaderBlock::Zero, HeaderBlock::Zero]);
    }
    let mut blocks = [HeaderBlock::Zero, HeaderBlock::Zero];
    for (block, offset) in blocks.iter_mut().zip([0, bytes - HEADER_BLOCK_BYTES]) {
        let mut buffer = [0u8; HEADER_BYTES];
        file.read_at(offset, &mut buffer)?;
        *block = SegmentHeader::decode(&buffer);
        if matches!(block, HeaderBlock::Valid(header) if header.bytes != bytes) {
            *block = HeaderBlock::Damaged;
        }
    }
    Ok(blocks)
}
