//! Opens a log: finds its segments, reads every record, tells a torn end from damage, and continues in a fresh segment.
//!
//! What counts as what (the design, section 4): a batch is written only after the one before it was synced, so whatever is
//! not whole before the last batch is *damage*. In the last batch a record of which one identity is left is damage too;
//! one of which neither is left was never finished: *torn*, and nobody was told of it. The cut is recorded in the header
//! of the fresh segment, which is synced before anything is sent.
//!
//! A process that ends leaves what it wrote in the system's cache, where the next one reads it, whether it is on the disk or
//! not. So whatever the last sync may not have covered, and the names of files, is made durable before it counts: the last
//! batch is written again in the fresh segment, the newest header where it stands.

use crate::cold_moves::SharedStore;
use crate::cold_store::{number_in, number_value, ColdStore, ColdStoreError, DISTRUSTED, MOVES};
use crate::disk::Disk;
use crate::laggards_file::UNFINISHED;
use crate::laggards_recovery::find_laggards;
use crate::log::LogOptions;
use crate::log_state::{LogState, SegmentSequence, SharedState};
use crate::repair::write_header;
use crate::replay::Replay;
use crate::segment_files::find_segments;
use crate::segment_pool::SegmentPool;
use crate::segmented_log::{SegmentedLog, WriteError};
use consensus::{GroupId, LogId, NodeId, Recovered, Start};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// The file system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The fresh segment could not be written.
    #[error("cannot start a new log segment: {0}")]
    Write(String),
    /// The store of cold logs cannot be used, for another reason than damage.
    #[error("cannot use the store of cold logs: {0}")]
    ColdStore(String),
    /// Written by another version.
    #[error(
        "{path} has format version {found}, this program reads {reads} and converts nothing: start the program that wrote it; \
         or remove the node from its groups on another node, move its directory away, start it and join anew"
    )]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The version that is read.
        reads: u32,
    },
    /// A record of a kind that this version does not know.
    #[error("file {path} of the log holds a record of kind {kind}, which this version does not know; start the version that wrote it")]
    UnknownKind {
        /// The segment.
        path: PathBuf,
        /// The kind found.
        kind: u8,
    },
    /// Another node's log.
    #[error(
        "file {path} of the log belongs to node {found}, not to this node {node}; it was copied here and must not be used"
    )]
    Foreign {
        /// The segment.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who we are.
        node: NodeId,
    },
    /// Two files claim the same place in the log.
    #[error("files {path} and {other} of the log claim the same place {sequence}; one was copied by hand and must be moved away")]
    Twice {
        /// One segment.
        path: PathBuf,
        /// The other.
        other: String,
        /// The place.
        sequence: u64,
    },
    /// There was a log and it is gone.
    #[error(
        "the log in {path} was begun and no segment of it can be found: what this node promised is lost; \
         remove the node from its groups on another node, move its directory away, start it and join anew"
    )]
    Gone {
        /// The log's directory.
        path: PathBuf,
    },
    /// Most of the log is gone.
    #[error(
        "{missing} segments of the log in {path} cannot be found: what this node promised is lost; \
         remove the node from its groups on another node, move its directory away, start it and join anew"
    )]
    Missing {
        /// The log's directory.
        path: PathBuf,
        /// How many.
        missing: u64,
    },
    /// The options make no sense.
    #[error("log segments of {0} bytes: must be a multiple of 4096 from {min} to {max}", min = crate::bounds::SEGMENT_BYTES_MIN, max = crate::bounds::SEGMENT_BYTES_MAX)]
    SegmentBytes(u64),
}

impl RecoveryError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> RecoveryError {
        RecoveryError::Io { what, path: path.to_path_buf(), source }
    }
}

impl From<WriteError> for RecoveryError {
    fn from(error: WriteError) -> RecoveryError {
        RecoveryError::Write(error.to_string())
    }
}

/// An empty file that stands beside the segments once there is a log, so that a log that vanished is not taken for one
/// that never was.
const BEGUN: &str = "begun";

/// What was found of the store of cold logs.
#[derive(Default)]
struct FoundStore {
    /// It lacks changes that the log knows of.
    lost: bool,
    moves: u64,
    distrusted: SegmentSequence,
}

/// The newest segment's header may never have been synced either. It is written again, as the last batch is: where a sync had
/// failed, another one alone would say that all is well and write nothing.
fn prove_newest(state: &LogState) -> io::Result<()> {
    let Some((_, newest)) = state.segments.last_key_value() else { return Ok(()) };
    write_header(&*newest.file, &newest.header)?;
    newest.file.sync()
}

/// Compares the store with what the log knows of it. One that cannot be read, or has lost something, is set aside.
fn look_at_store(cold: Option<&dyn ColdStore>, replay: &Replay) -> Result<FoundStore, RecoveryError> {
    let noted = replay.state.cold.moves.map_or(0, |kept| kept.value);
    let Some(cold) = cold else { return Ok(FoundStore { lost: noted > 0, ..FoundStore::default() }) };
    let both = number_in(cold, MOVES).and_then(|moves| Ok((moves, number_in(cold, DISTRUSTED)?)));
    let (moves, distrusted) = match both {
        Ok((moves, distrusted)) if moves >= noted => (moves, distrusted),
        Err(error @ ColdStoreError::Io(_)) => return Err(store_failed(error)),
        lost => {
            let why =
                lost.map_or_else(|error| error.to_string(), |(moves, _)| format!("it has {moves} of {noted} changes"));
            tracing::error!(%why, "the store of cold logs is set aside; groups whose promises stood in it are told");
            cold.set_aside().map_err(|error| store_failed(error.into()))?;
            return Ok(FoundStore { lost: noted > 0, ..FoundStore::default() });
        }
    };
    let known = SegmentSequence::try_from(distrusted).unwrap_or(SegmentSequence::MAX);
    let distrusted = replay.last_hole().unwrap_or(0).max(known);
    if distrusted > known && moves > 0 {
        // The gap leaves the log some day; what stands in the store may not have been written again by then.
        let value = number_value(DISTRUSTED, u64::from(distrusted));
        cold.change(&[(DISTRUSTED.to_vec(), Some(value))]).map_err(store_failed)?;
    }
    Ok(FoundStore { lost: false, moves, distrusted })
}

fn store_failed(error: ColdStoreError) -> RecoveryError {
    RecoveryError::ColdStore(error.to_string())
}

/// Opens the log and continues it in a fresh segment.
#[cfg(test)]
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    node: NodeId,
    start: Start,
    options: LogOptions,
) -> Result<(SegmentedLog, Recovered), RecoveryError> {
    open_with(disk, None, (node, start), options)
}

/// The same, with a store for cold logs.
pub(crate) fn open_with(
    disk: Arc<dyn Disk>,
    cold: SharedStore,
    (node, start): (NodeId, Start),
    options: LogOptions,
) -> Result<(SegmentedLog, Recovered), RecoveryError> {
    let sizes = crate::bounds::SEGMENT_BYTES_MIN..=crate::bounds::SEGMENT_BYTES_MAX;
    if !sizes.contains(&options.segment_bytes) || !options.segment_bytes.is_multiple_of(4096) {
        return Err(RecoveryError::SegmentBytes(options.segment_bytes));
    }
    // Names too may stand in the cache only.
    disk.sync().map_err(|source| RecoveryError::io("sync", &disk.path(), source))?;
    let mut files = find_segments(&*disk, Some(node))?;
    let pool = Arc::new(SegmentPool::new(disk.clone(), options.segment_bytes, files.highest_number));
    let begun =
        disk.list().map_err(|source| RecoveryError::io("list", &disk.path(), source))?.iter().any(|name| name == BEGUN);
    if begun && files.live.is_empty() {
        return Err(RecoveryError::Gone { path: disk.path() });
    }
    let damaged = std::mem::take(&mut files.damaged);
    let spare = std::mem::take(&mut files.spare);
    let laggards = find_laggards(&*disk, Some(node))?;
    let mut replay = Replay::new(node);
    replay.read_laggards(&disk, &laggards)?;
    replay.read_all(&*disk, files, !damaged.is_empty())?;
    let store = look_at_store(cold.as_deref(), &replay)?;
    let (continuation, mut state, mut recovered) = replay.finish(store.lost, store.moves);
    state.cold.present = cold.is_some();
    state.cold.distrusted = store.distrusted;
    state.mark_cold();
    let noted = state.cold.moves.map_or(0, |kept| kept.value);
    let shared = (SharedState::new(state), cold.clone());
    let state = shared.0.clone();
    prove_newest(&state.lock())
        .map_err(|source| RecoveryError::io("write the newest header in", &disk.path(), source))?;
    let mut log = SegmentedLog::continue_after(&disk, (node, start), options, pool.clone(), shared, continuation)?;
    if let (true, Some(cold)) = (store.lost, &cold) {
        // Told durably by now: from here on the two agree again.
        cold.change(&[(MOVES.to_vec(), Some(number_value(MOVES, noted)))]).map_err(store_failed)?;
    }
    if !begun {
        disk.create(BEGUN, 0).map_err(|source| RecoveryError::io("create", &disk.path().join(BEGUN), source))?;
    }
    // What the fresh segment took in counts from now on.
    let lost: Vec<GroupId> = {
        let state = state.lock();
        state.groups.iter().filter(|(_, group)| group.promises_lost.is_some()).map(|(id, _)| *id).collect()
    };
    for group in lost {
        recovered.groups.entry(group).or_default().promises_lost = true;
    }
    // Data logs of groups of values are loaded when they are used. The first log is every group's own.
    for group in recovered.groups.values_mut() {
        if group.configuration.as_deref().is_some_and(crate::discipline::is_of_values) {
            group.logs.retain(|log, _| matches!(*log, LogId::CONTROL | LogId::MAIN));
        }
    }
    // Only now does a durable header say that these are no part of the log.
    for file in spare {
        let path = disk.path().join(&file.name);
        pool.give_back(file).map_err(|source| RecoveryError::io("remove", &path, source))?;
    }
    log.remove_emptied()?;
    log.wipe_forgotten()?;
    if laggards.unfinished {
        let path = disk.path().join(UNFINISHED);
        disk.remove(UNFINISHED).map_err(|source| RecoveryError::io("remove", &path, source))?;
    }
    for name in damaged.into_iter().chain(laggards.damaged) {
        tracing::error!(%name, "a file of the log has two unreadable headers: kept aside");
        let path = disk.path().join(&name);
        disk.rename(&name, &format!("damaged-{name}")).map_err(|source| RecoveryError::io("rename", &path, source))?;
    }
    Ok((log, recovered))
}
