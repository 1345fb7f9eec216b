//! A node's directory as readable lines, for operators: `synod log`.
//!
//! Takes no lock and writes nothing, so it may be used beside a running node; what the node writes meanwhile may then
//! show as an unfinished end.

use crate::checkpoints;
use crate::disk::{Disk, RealDisk};
use crate::frame::{read_content, FrameContent, FrameKind};
use crate::laggards_file::LaggardsHeader;
use crate::laggards_recovery::{find_laggards, read_records};
use crate::node_directory::{self, DirectoryError};
use crate::record_identity::RecordIdentity;
use crate::recovery::RecoveryError;
use crate::segment_files::{find_segments, SegmentFile};
use crate::segment_scan::{scan, FoundRecord};
use crate::CheckpointError;
use bytes::Bytes;
use consensus::{Ballot, Epoch, GroupId, LogId, NodeId, Sequence, Start};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// Why a directory cannot be described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescribeError {
    /// Nothing of a node is there.
    #[error("there is no identity file in it: it was never used by a node")]
    NoIdentity,
    /// The identity cannot be read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log's files cannot be read.
    #[error(transparent)]
    Log(#[from] RecoveryError),
    /// The checkpoints cannot be read.
    #[error(transparent)]
    Checkpoints(#[from] CheckpointError),
    /// The output cannot be written, or a segment not read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes what a node's directory holds: identity, segments with every record and all damage, checkpoints.
///
/// # Errors
/// Something cannot be read, or is of an unknown version; damage is no error, it is described.
pub fn describe(path: &Path, out: &mut dyn Write) -> Result<(), DescribeError> {
    let (node, line) = node_directory::inspect(path)?.ok_or(DescribeError::NoIdentity)?;
    writeln!(out, "{line}")?;
    if path.join("log").is_dir() {
        describe_log(&RealDisk::read_only(&path.join("log")), out)?;
    }
    if path.join("checkpoints").is_dir() {
        let disk = Arc::new(RealDisk::read_only(&path.join("checkpoints")));
        for line in checkpoints::inspect(disk, node)? {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

pub(crate) fn describe_log(disk: &dyn Disk, out: &mut dyn Write) -> Result<(), DescribeError> {
    let files = find_segments(disk, None)?;
    for missing in &files.missing {
        writeln!(out, "segment {missing}: MISSING")?;
    }
    for name in &files.damaged {
        writeln!(out, "{name}: DAMAGED, both headers are unreadable")?;
    }
    for (sequence, file) in &files.live {
        let SegmentFile { name, header, .. } = file;
        write!(
            out,
            "segment {sequence} in {name}: {} bytes, from start {}, batch {}",
            header.bytes, header.start, header.first_batch
        )?;
        if header.opened_at_start && header.cut_segment > 0 {
            write!(out, "; segment {} ends before batch {}", header.cut_segment, header.cut_batch)?;
        }
        writeln!(out)?;
        let mut buffer = vec![0u8; usize::try_from(header.bytes).unwrap_or(0)];
        file.file.read_at(0, &mut buffer)?;
        let mut expected = 0;
        for record in scan(&Bytes::from(buffer), header.id) {
            if record.identity.number != expected {
                writeln!(out, "  MISSING: records {expected} to {} before the next", record.identity.number - 1)?;
            }
            expected = record.identity.number + 1;
            writeln!(out, "  {}", line(&record))?;
        }
    }
    describe_laggards(disk, out)?;
    for spare in &files.spare {
        writeln!(out, "{}: spare, {} bytes", spare.name, spare.bytes)?;
    }
    Ok(())
}

fn describe_laggards(disk: &dyn Disk, out: &mut dyn Write) -> Result<(), DescribeError> {
    let files = find_laggards(disk, None)?;
    for name in &files.damaged {
        writeln!(out, "{name}: DAMAGED, both headers are unreadable")?;
    }
    for (number, (name, header)) in &files.whole {
        let LaggardsHeader { bytes, start, written_in, records, .. } = header;
        let of = format!("from start {start}, written during segment {written_in}, {records} records");
        writeln!(out, "entries for laggards {number} in {name}: {bytes} bytes, {of}")?;
        let found = read_records(disk, name, header)?;
        for record in &found {
            writeln!(out, "  {}", line(record))?;
        }
        if found.len() < *records as usize {
            writeln!(out, "  MISSING: {} records", *records as usize - found.len())?;
        }
    }
    Ok(())
}

fn line(record: &FoundRecord) -> String {
    let identity = &record.identity;
    let RecordIdentity { number, batch, position, slot, .. } = *identity;
    let start = format!("{number} at {} batch {batch} {}: ", identity.offset(), Sequence(position));
    let (group, log) = (GroupId(identity.group), LogId(identity.log));
    let (epoch, round) = (Epoch(identity.epoch), identity.round);
    let ballot = Ballot { epoch, round, node: NodeId(identity.node), start: Start(identity.start) };
    let Some(kind) = FrameKind::of(identity.kind) else {
        return format!("{start}UNKNOWN KIND {}", identity.kind);
    };
    let content = read_content(kind, identity, &record.value);
    let what = match kind {
        FrameKind::Configured => format!("{group} configured, epoch {epoch}"),
        FrameKind::Promised => format!("{group} {log} promised {ballot}"),
        FrameKind::Accepted => format!("{group} {log} accepted from slot {slot} under {ballot}"),
        FrameKind::Learnt => {
            format!("{group} {log} learnt from slot {slot}, accepted somewhere under {ballot}")
        }
        FrameKind::Chosen => format!("{group} {log} chosen up to slot {slot}"),
        FrameKind::Installed => format!("{group} {log} state installed at slot {slot}"),
        FrameKind::Trimmed => format!("{group} {log} trimmed up to slot {slot}"),
        FrameKind::PeerSeen => format!("{} seen in start {} at {}", ballot.node, ballot.start, Sequence(slot)),
        FrameKind::VotingBarred => format!("{group} barred from voting, a loss found in start {}", ballot.start),
        FrameKind::Forgotten => format!("{group} forgotten"),
        FrameKind::Lost => format!("{group} {log} slot {slot} under {ballot} was damaged"),
        FrameKind::PromisesLost => format!("{group} promises may be lost"),
        FrameKind::DamageNoted => format!("damage in segment {slot} is accounted for"),
        FrameKind::ColdMoved => format!("the store of cold logs has had {slot} changes"),
        FrameKind::Confirmed => "the batch before is durable".to_string(),
    };
    let extent = match content {
        FrameContent::Entries(entries) if kind != FrameKind::Lost => {
            let damaged = entries.iter().filter(|entry| !matches!(entry, Some((_, Some(_))))).count();
            let bytes = identity.value_bytes;
            let note = if damaged > 0 { format!(", {damaged} DAMAGED") } else { String::new() };
            format!(", {} entries, {bytes} bytes{note}", entries.len())
        }
        FrameContent::Configuration(configuration) => format!(" {configuration:?}"),
        FrameContent::Damaged => ", DAMAGED".to_string(),
        _ => String::new(),
    };
    format!("{start}{what}{extent}")
}
