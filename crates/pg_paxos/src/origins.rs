//! Which replication origin of PostgreSQL holds each group's progress.
//!
//! The progress itself is in PostgreSQL's shared memory under the origin's number; the name that says which group it
//! is stands in a catalog, which only a process connected to a database can read, and the engine worker is connected
//! to none, so as not to stand in the way of CREATE and DROP DATABASE. Hence one small file per group in the engine's
//! directory, synced before the first commit under that origin.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use consensus::{GroupId, Slot};
use pgrx::pg_sys;

use crate::settings;
use crate::tables_face::Progress;

fn directory() -> PathBuf {
    settings::data_directory().join("origins")
}

/// The name of a group's replication origin.
fn name(group: GroupId) -> String {
    format!("pg_paxos_{:032x}", group.0)
}

/// The group's replication origin, made if it is missing, and noted for the engine worker. In a transaction; the
/// caller commits it before it uses the origin, or together with its first use.
pub fn origin_of(group: GroupId) -> io::Result<pg_sys::RepOriginId> {
    let name = std::ffi::CString::new(name(group)).expect("the name has no NUL");
    // SAFETY: in a transaction, on the main thread.
    let origin = unsafe {
        match pg_sys::replorigin_by_name(name.as_ptr(), true) {
            0 => pg_sys::replorigin_create(name.as_ptr()),
            origin => origin,
        }
    };
    note(group, origin)?;
    Ok(origin)
}

fn note(group: GroupId, origin: pg_sys::RepOriginId) -> io::Result<()> {
    let directory = directory();
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{:032x}", group.0));
    if fs::read_to_string(&path).is_ok_and(|text| text.trim() == origin.to_string()) {
        return Ok(());
    }
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    writeln!(file, "{origin}")?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(&directory)?.sync_all()
}

/// How far PostgreSQL's tables hold each group, as its origins say.
pub fn progress() -> io::Result<Progress> {
    let mut progress = Progress::new();
    let entries = match fs::read_dir(directory()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(progress),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let group = path.file_name().and_then(|name| u128::from_str_radix(name.to_str()?, 16).ok());
        let Some(group) = group else { continue };
        let text = fs::read_to_string(&path)?;
        let origin = text
            .trim()
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no number", path.display())))?;
        // SAFETY: reads shared memory only.
        let position = unsafe { pg_sys::replorigin_get_progress(origin, false) };
        progress.insert(GroupId(group), Slot(position));
    }
    Ok(progress)
}

/// Forgets the origin of a group that has left.
pub fn forget(group: GroupId) {
    // What cannot be removed is harmless: a group's identity does not come again.
    let _ = fs::remove_file(directory().join(format!("{:032x}", group.0)));
}
