//! Checkpoint files: per group, at a slot, what replay needs and the face's own store lacks (the design, section 4).
//!
//! A checkpoint is written beside the others, synced, renamed into place, and the directory is synced; a crash leaves
//! the old files or the new one. The last two are kept: the older one is of use only while the log still reaches back
//! to it, so a group's log must be trimmed no further than [`Checkpoints::oldest_kept`]. Falling back to it is reported
//! to the caller, never done in silence.

use crate::bounds;
use crate::bytes_reader::{put, BytesReader};
use crate::disk::{Disk, RealDisk};
use crate::node_directory::NodeDirectory;
use consensus::{GroupId, NodeId, Slot};
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

const MAGIC: [u8; 8] = *b"SYNODCKP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const SUFFIX: &str = ".checkpoint";
const TEMPORARY_SUFFIX: &str = ".checkpoint-new";

/// Checkpoints kept per group: the newest, and one to fall back to if the disk damages it.
const KEPT: usize = 2;

/// Largest content: certification state (256 MiB of keys, the tables design, section 4) and id window, with as much room
/// again. A header that claims more is damaged, so that it never makes us ask for absurd memory.
pub const CHECKPOINT_BYTES_MAX: u64 = 1 << 30;

/// The checkpoint files of a node. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Checkpoints {
    disk: Arc<dyn Disk>,
    node: NodeId,
    // One writer at a time: two writers of one group would race for which file is the newest.
    writing: Arc<Mutex<()>>,
}

/// One checkpoint, read and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last slot whose effects it contains.
    pub slot: Slot,
    /// What was written.
    pub bytes: Vec<u8>,
    /// Set if a newer checkpoint was there but is damaged; says which and how. The caller must check that the log
    /// still reaches back to `slot`, and tell the operator.
    pub fallen_back: Option<String>,
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file system refused.
    #[error("cannot {what} checkpoint {name} in {directory}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Which file.
        name: String,
        /// Where.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Every checkpoint of the group is damaged.
    #[error(
        "every checkpoint of group {group} in {directory} is damaged ({details}); \
         its state must be copied from another member: remove this member from the group and join it again"
    )]
    Damaged {
        /// The group.
        group: GroupId,
        /// Where.
        directory: PathBuf,
        /// Each file with what is wrong.
        details: String,
    },
    /// Written by another version.
    #[error("checkpoint {name} in {directory} has format version {found}, this version reads {VERSION}; start the version that wrote it")]
    UnknownVersion {
        /// Which file.
        name: String,
        /// Where.
        directory: PathBuf,
        /// The version found.
        found: u32,
    },
    /// Older than the newest one that is there.
    #[error("group {group} already has a checkpoint at slot {newest}; one at slot {slot} would be hidden behind it")]
    Older {
        /// The group.
        group: GroupId,
        /// What was to be written.
        slot: Slot,
        /// What is there.
        newest: Slot,
    },
    /// Larger than any checkpoint may be.
    #[error("a checkpoint of {0} bytes is larger than {CHECKPOINT_BYTES_MAX}")]
    TooLarge(u64),
}

impl Checkpoints {
    /// Opens the node's checkpoints and removes what a crash left half written.
    ///
    /// # Errors
    /// The directory cannot be made, listed or cleaned.
    pub fn open(directory: &NodeDirectory) -> Result<Checkpoints, CheckpointError> {
        let path = directory.path().join("checkpoints");
        let disk = RealDisk::open(&path).map_err(|source| CheckpointError::Io {
            what: "make the directory for",
            name: "*".to_string(),
            directory: path,
            source,
        })?;
        Checkpoints::open_on(Arc::new(disk), directory.node())
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, node: NodeId) -> Result<Checkpoints, CheckpointError> {
        let checkpoints = Checkpoints { disk, node, writing: Arc::new(Mutex::new(())) };
        for name in checkpoints.names()? {
            if name.ends_with(TEMPORARY_SUFFIX) {
                checkpoints.disk.remove(&name).map_err(checkpoints.failed("remove unfinished", &name))?;
            }
        }
        Ok(checkpoints)
    }

    /// Writes and syncs a checkpoint of `group` at `slot`, then removes all but the last two. On return it is durable.
    ///
    /// # Errors
    /// The file system refused; or a newer checkpoint is there. The earlier checkpoints are still whole then.
    pub fn write(&self, group: GroupId, slot: Slot, content: &[u8]) -> Result<(), CheckpointError> {
        if content.len() as u64 > CHECKPOINT_BYTES_MAX {
            return Err(CheckpointError::TooLarge(content.len() as u64));
        }
        let _one_at_a_time = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let slots = self.slots(group)?;
        if let Some(newest) = slots.last().filter(|newest| **newest > slot) {
            return Err(CheckpointError::Older { group, slot, newest: *newest });
        }
        let name = name(group, slot);
        let temporary = name.replace(SUFFIX, TEMPORARY_SUFFIX);
        let header = self.header(group, slot, content.len() as u64);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&header), content).to_le_bytes();
        match self.disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed("remove unfinished", &temporary)(error));
            }
            _ => {}
        }
        // Not zero-filled: it is written once, and twice the bytes would be in the way of the log.
        let file = self.disk.create(&temporary, 0).map_err(self.failed("create", &temporary))?;
        let pieces = content.chunks(bounds::CHECKPOINT_PIECE_BYTES);
        let mut offset = 0u64;
        for piece in std::iter::once(&header[..]).chain(pieces).chain([&checksum[..]]) {
            let began = Instant::now();
            file.write_at(offset, &[IoSlice::new(piece)]).map_err(self.failed("write", &temporary))?;
            offset += piece.len() as u64;
            if piece.len() == bounds::CHECKPOINT_PIECE_BYTES {
                // The log shares the disk and its syncs must not wait behind ours.
                file.sync().map_err(self.failed("sync", &temporary))?;
                std::thread::sleep(began.elapsed().min(bounds::CHECKPOINT_PAUSE_MAX));
            }
        }
        file.sync().map_err(self.failed("sync", &temporary))?;
        self.disk.rename(&temporary, &name).map_err(self.failed("rename", &temporary))?;
        self.disk.sync().map_err(self.failed("sync the directory of", &name))?;
        let mut kept = slots;
        kept.insert(slot);
        while kept.len() > KEPT {
            let oldest = kept.pop_first().expect("more than two are there");
            let old = self::name(group, oldest);
            self.disk.remove(&old).map_err(self.failed("remove old", &old))?;
        }
        Ok(())
    }

    /// Reads the newest whole checkpoint of `group`; `None` if it never had one.
    ///
    /// # Errors
    /// All of them are damaged, one is of an unknown version, or the file system refused. A read error is an error,
    /// not a reason to fall back.
    pub fn newest(&self, group: GroupId) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut damaged: Vec<String> = Vec::new();
        for slot in self.slots(group)?.into_iter().rev() {
            let name = name(group, slot);
            match self.read(group, slot, &name)? {
                Ok(bytes) => {
                    let fallen_back = (!damaged.is_empty()).then(|| damaged.join("; "));
                    if let Some(why) = &fallen_back {
                        tracing::error!(%group, %slot, %why, "newest checkpoint is damaged; falling back to the one before");
                    }
                    return Ok(Some(Checkpoint { slot, bytes, fallen_back }));
                }
                Err(why) => damaged.push(format!("{name}: {why}")),
            }
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        Err(CheckpointError::Damaged { group, directory: self.disk.path(), details: damaged.join("; ") })
    }

    /// The slot of the older of the two kept checkpoints (of the only one, if there is one): the log must still reach
    /// back to here, so the group's log may be trimmed up to this slot and no further. `None` without any checkpoint.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn oldest_kept(&self, group: GroupId) -> Result<Option<Slot>, CheckpointError> {
        Ok(self.slots(group)?.first().copied())
    }

    /// Groups that have a checkpoint.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn groups(&self) -> Result<Vec<GroupId>, CheckpointError> {
        let groups: BTreeSet<GroupId> =
            self.names()?.iter().filter_map(|name| parse(name)).map(|(group, _)| group).collect();
        Ok(groups.into_iter().collect())
    }

    /// Removes every checkpoint of a group that this node has left.
    ///
    /// # Errors
    /// The file system refused.
    pub fn remove_group(&self, group: GroupId) -> Result<(), CheckpointError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for slot in self.slots(group)? {
            let name = name(group, slot);
            self.disk.remove(&name).map_err(self.failed("remove", &name))?;
        }
        self.disk.sync().map_err(self.failed("sync the directory of", "*"))
    }

    /// Removes a checkpoint that is damaged while a newer one is whole.
    ///
    /// # Errors
    /// The file system refused.
    pub fn remove_damaged(&self, group: GroupId, slot: Slot) -> Result<(), CheckpointError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !self.slots(group)?.contains(&slot) {
            return Ok(());
        }
        let name = name(group, slot);
        self.disk.remove(&name).map_err(self.failed("remove damaged", &name))?;
        self.disk.sync().map_err(self.failed("sync the directory of", &name))
    }

    /// Reads every checkpoint in pieces and says which are damaged. `pace` is told the bytes of each piece and ends it by
    /// saying no.
    pub(crate) fn scrub(&self, pace: &mut dyn FnMut(u64) -> bool) -> Result<Vec<(GroupId, Slot)>, CheckpointError> {
        let mut damaged = Vec::new();
        for name in self.names()? {
            let Some((group, slot)) = parse(&name) else { continue };
            // It may have been removed for a newer one meanwhile.
            let Ok(file) = self.disk.open(&name) else { continue };
            let bytes = file.bytes().unwrap_or(0);
            let mut checksum = 0;
            // The last four bytes are not under the checksum: they are it.
            let mut held: Vec<u8> = Vec::new();
            let mut from = 0;
            while from < bytes {
                let length = (bytes - from).min(bounds::SCRUB_PIECE_BYTES);
                let mut piece = vec![0u8; usize::try_from(length).expect("bounded")];
                crate::scrub::read_piece(&*file, from, &mut piece);
                held.extend(piece);
                let covered = held.len().saturating_sub(4);
                checksum = crc32c::crc32c_append(checksum, &held[..covered]);
                held.drain(..covered);
                from += length;
                if !pace(length) {
                    return Ok(damaged);
                }
            }
            if bytes < HEADER_BYTES as u64 + 4 || held != checksum.to_le_bytes() {
                damaged.push((group, slot));
            }
        }
        Ok(damaged)
    }

    fn slots(&self, group: GroupId) -> Result<BTreeSet<Slot>, CheckpointError> {
        let files = self.names()?;
        let parsed = files.iter().filter_map(|name| parse(name));
        Ok(parsed.filter(|(of, _)| *of == group).map(|(_, slot)| slot).collect())
    }

    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        self.disk.list().map_err(self.failed("list", "*"))
    }

    fn header(&self, group: GroupId, slot: Slot, bytes: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0u8; HEADER_BYTES];
        put(&mut header, 0, &MAGIC);
        put(&mut header, 8, &VERSION.to_le_bytes());
        // 12..16 is zero.
        put(&mut header, 16, &self.node.0.to_le_bytes());
        put(&mut header, 32, &group.0.to_le_bytes());
        put(&mut header, 48, &slot.0.to_le_bytes());
        put(&mut header, 56, &bytes.to_le_bytes());
        header
    }

    /// The outer error stops everything, the inner one is damage of this file.
    fn read(&self, group: GroupId, slot: Slot, name: &str) -> Result<Result<Vec<u8>, &'static str>, CheckpointError> {
        let file = self.disk.open(name).map_err(self.failed("open", name))?;
        let file_bytes = file.bytes().map_err(self.failed("look at", name))?;
        let content_bytes = match file_bytes.checked_sub(HEADER_BYTES as u64 + 4) {
            Some(bytes) if bytes <= CHECKPOINT_BYTES_MAX => bytes,
            _ => return Ok(Err("its length is impossible")),
        };
        let mut bytes = vec![0u8; usize::try_from(file_bytes).expect("bounded above")];
        file.read_at(0, &mut bytes).map_err(self.failed("read", name))?;
        let checksum = BytesReader::new(&bytes[bytes.len() - 4..]).u32();
        bytes.truncate(bytes.len() - 4);
        if crc32c::crc32c(&bytes) != checksum {
            return Ok(Err("its checksum does not fit"));
        }
        if bytes[..8] != MAGIC {
            return Ok(Err("it does not start as a checkpoint does"));
        }
        let found = BytesReader::new(&bytes[8..12]).u32();
        if found != VERSION {
            return Err(CheckpointError::UnknownVersion { name: name.to_string(), directory: self.disk.path(), found });
        }
        if bytes[..HEADER_BYTES] != self.header(group, slot, content_bytes) {
            return Ok(Err("it is another node's, group's or slot's"));
        }
        bytes.drain(..HEADER_BYTES);
        Ok(Ok(bytes))
    }

    fn failed(&self, what: &'static str, name: &str) -> impl FnOnce(io::Error) -> CheckpointError {
        let (name, directory) = (name.to_string(), self.disk.path());
        move |source| CheckpointError::Io { what, name, directory, source }
    }
}

fn name(group: GroupId, slot: Slot) -> String {
    format!("{:032x}-{:016x}{SUFFIX}", group.0, slot.0)
}

fn parse(name: &str) -> Option<(GroupId, Slot)> {
    let (group, slot) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    if group.len() != 32 || slot.len() != 16 {
        return None;
    }
    Some((GroupId(u128::from_str_radix(group, 16).ok()?), Slot(u64::from_str_radix(slot, 16).ok()?)))
}

/// One line per file, for `describe`. Contents are verified too.
pub(crate) fn inspect(disk: Arc<dyn Disk>, node: NodeId) -> Result<Vec<String>, CheckpointError> {
    let checkpoints = Checkpoints { disk, node, writing: Arc::new(Mutex::new(())) };
    let mut lines = Vec::new();
    for name in checkpoints.names()? {
        let Some((group, slot)) = parse(&name) else {
            continue;
        };
        let state = match checkpoints.read(group, slot, &name)? {
            Ok(bytes) => format!("{} bytes, whole", bytes.len()),
            Err(why) => format!("damaged: {why}"),
        };
        lines.push(format!("checkpoint of group {group} at slot {slot}: {state}"));
    }
    lines.sort();
    Ok(lines)
}
