//! What this crate asks of a file system: one flat directory of files, positioned reads and writes, and two kinds of
//! sync. Everything that storage writes goes through these two traits, so that a test can stand in a disk that tells
//! the live image from the durable one, drops or tears what was not synced, runs full, or fails (the design, section 9,
//! "crash matrix of the log at every write boundary").

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Zeroes are written in pieces of this size: large enough that the number of calls does not matter (16 for a segment
/// of the default size), small enough to stay in a processor's second-level cache.
const ZERO_PIECE_BYTES: usize = 1 << 20;

/// One directory. Names are plain file names, never paths.
pub trait Disk: Send + Sync + 'static {
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a new file of exactly `bytes` zero bytes, written out and synced with its name, so that later writes inside
    /// it change no metadata and fdatasync has only data to flush. Fails if the name is taken.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Replaces `to` by `from` in one step; durable only after [`Disk::sync`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; durable only after [`Disk::sync`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the directory itself durable: names, renames and removals.
    fn sync(&self) -> io::Result<()>;

    /// Where it is, for messages to people.
    fn path(&self) -> PathBuf;

    /// A number for a new file that no other file has: it seeds every checksum in it, so that nothing an earlier use of the
    /// same blocks left there is taken for part of it. Random, unless a test must see the same twice.
    fn new_file_id(&self) -> io::Result<u64> {
        let mut bytes = [0u8; 8];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// One open file.
pub trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset`; an end of file on the way is an error.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// The same, from the disk itself where the file system lets us: what its cache still holds says nothing about damage.
    fn read_from_medium(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buffer)
    }

    /// Writes all slices, one after the other, from `offset`. On an error any part may have been written.
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()>;

    /// Makes every write so far durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the real file system.
#[derive(Debug, Clone)]
pub struct RealDisk {
    directory: PathBuf,
    read_only: bool,
}

impl RealDisk {
    /// Makes the directory if it is missing, readable by its owner only: it holds users' data.
    pub fn open(directory: &Path) -> io::Result<RealDisk> {
        make_private_directory(directory)?;
        Ok(RealDisk { directory: directory.to_path_buf(), read_only: false })
    }

    /// A directory that must exist already, whose files are only read: for inspection.
    pub fn read_only(directory: &Path) -> RealDisk {
        RealDisk { directory: directory.to_path_buf(), read_only: true }
    }

    fn join(&self, name: &str) -> PathBuf {
        assert!(
            !name.is_empty() && !name.contains('/') && name != "." && name != "..",
            "a file name, not a path: {name:?}"
        );
        self.directory.join(name)
    }
}

/// Makes `directory` with mode 0700 and makes its name durable in its parent.
fn make_private_directory(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if directory.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(!self.read_only).open(self.join(name))?;
        Ok(Arc::new(RealFile { file }))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.join(name))?;
        let zeroes = vec![0u8; ZERO_PIECE_BYTES.min(usize::try_from(bytes).unwrap_or(ZERO_PIECE_BYTES))];
        let mut offset = 0;
        while offset < bytes {
            let piece = zeroes.len().min(usize::try_from(bytes - offset).unwrap_or(usize::MAX));
            file.write_all_at(&zeroes[..piece], offset)?;
            offset += piece as u64;
        }
        // The full fsync, once: it makes the length durable, which fdatasync later relies on.
        file.sync_all()?;
        self.sync()?;
        Ok(Arc::new(RealFile { file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is not UTF-8 cannot be one of ours.
                if let Ok(name) = entry.file_name().into_string() {
                    names.push(name);
                }
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.join(from), self.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn path(&self) -> PathBuf {
        self.directory.clone()
    }
}

struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_from_medium(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        // Clean pages are dropped, so the read that follows fetches them anew. Advice: where it is not taken, no harm.
        let length = std::num::NonZeroU64::new(buffer.len() as u64);
        let _ = rustix::fs::fadvise(&self.file, offset, length, rustix::fs::Advice::DontNeed);
        self.read_at(offset, buffer)
    }

    fn write_at(&self, mut offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        if let [slice] = slices {
            return self.file.write_all_at(slice, offset);
        }
        // Linux takes at most 1024 slices per call (IOV_MAX).
        for group in slices.chunks(1024) {
            let wanted: usize = group.iter().map(|slice| slice.len()).sum();
            let mut written = rustix::io::pwritev(&self.file, group, offset)?;
            if written < wanted {
                // A short write is rare (a signal, a nearly full disk): finish it slice by slice.
                let mut start = offset;
                for slice in group {
                    let skip = written.min(slice.len());
                    written -= skip;
                    self.file.write_all_at(&slice[skip..], start + skip as u64)?;
                    start += slice.len() as u64;
                }
            }
            offset += wanted as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
