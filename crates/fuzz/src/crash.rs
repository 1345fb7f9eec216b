//! Inputs that broke something are kept as files, by their content, ready to go into the corpus.

use std::path::{Path, PathBuf};

/// The repository's own inputs of a target.
pub(crate) fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Writes an input below `target/fuzz` of the repository, and says where.
pub(crate) fn keep(target: &str, input: &[u8]) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz").join(target);
    let path = directory.join(format!("crash-{:08x}", crc32c::crc32c(input)));
    if let Err(error) = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, input)) {
        eprintln!("{target}: the input cannot be kept in {}: {error}; it is {input:02x?}", path.display());
    }
    path
}
