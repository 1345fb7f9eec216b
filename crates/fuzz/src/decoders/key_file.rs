//! A node's key pair in its file.

use crate::{Bound, Target};
use arbitrary::{Result, Unstructured};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The file is read whole; a certificate is made of the key.
const MEMORY: Bound = Bound { fixed: 256 << 10, per_byte: 16 };

/// [`network::Identity::load_or_create`].
pub const TARGET: Target = Target { name: "key_file", run, encode, memory: MEMORY, executions: 1_500 };

fn run(bytes: &[u8]) {
    super::identity_file::in_a_directory(|directory| {
        write(&directory.join("key.pem"), bytes);
        let Ok(identity) = network::Identity::load_or_create(directory) else { return };
        let again = network::Identity::load_or_create(directory).expect("what was taken is taken again");
        assert_eq!(again.public_key(), identity.public_key());
        assert_eq!(std::fs::read(directory.join("key.pem")).expect("it is there"), bytes, "the file is left alone");
    });
}

fn write(path: &Path, bytes: &[u8]) {
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(path).expect("a file of our own is opened");
    file.write_all(bytes).expect("a file of our own is written");
}

/// Any pair will do: what is wrong in a file is found by mutation.
fn encode(_choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let directory = super::identity_file::temporary();
    network::Identity::load_or_create(directory.path()).expect("a key pair is made");
    Ok(std::fs::read(directory.path().join("key.pem")).expect("it was just written"))
}
