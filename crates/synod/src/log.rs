//! `synod log`: what a node keeps on its disk, in readable lines. Reads only, so it may be used beside a running node.

use crate::failure::{Failure, Reason};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use storage::DescribeError;

/// Show what a node keeps on its disk: identity, log records, damage, checkpoints.
#[derive(clap::Args)]
pub struct Arguments {
    /// The engine's directory: pg_paxos.data_directory, by default pg_paxos under the server's data directory.
    directory: PathBuf,
}

/// Writes the lines to standard output.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let shown = arguments.directory.display();
    let failed = |why: String| {
        Failure::new(
            Reason::Directory,
            format!("cannot show the node's directory {shown}"),
            why,
            "name the engine's directory (SHOW pg_paxos.data_directory) and run it as its owner or as root",
        )
    };
    if !arguments.directory.is_dir() {
        return Err(failed("it is no directory".to_string()));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let described =
        storage::describe(&arguments.directory, &mut out).and_then(|()| out.flush().map_err(DescribeError::from));
    match described {
        Ok(()) => Ok(()),
        // Whoever reads, as `head` does, has seen enough.
        Err(DescribeError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(failed(error.to_string())),
    }
}
