//! `synod local`: a cluster of real PostgreSQL servers on this machine, for playing, for the
//! demonstration, the tests and the measurements.
//!
//! A cluster is a directory. It holds `synod-local.conf` (how it was made), the Unix sockets, and
//! per node `nodeN/data` (PGDATA) and `nodeN/log`. Nothing about running processes is kept in it:
//! what runs is read from PostgreSQL's own pid file and from /proc each time, so a cluster
//! survives whatever happened to it since the last command.

mod account;
mod control;
mod directory;
mod group;
mod installation;
mod ports;
mod processes;
mod progress;
mod server;
mod status;
mod up;

use crate::failure::Failure;
use std::path::PathBuf;

/// Arguments of `synod local`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make the cluster if it is not there, start what is not running, form the group `local`.
    Up(up::Options),
    /// Add one more node, and join it to the group.
    Add(Place),
    /// Kill everything on a node at once, as `kill -9` does: a crash.
    Kill(OneNode),
    /// Stop a node in order.
    Stop(OneNode),
    /// Start a node that is not running.
    Start(OneNode),
    /// Freeze everything on a node (SIGSTOP): alive, and silent.
    Freeze(OneNode),
    /// Let a frozen node go on (SIGCONT).
    Thaw(OneNode),
    /// Say what runs and where.
    Status(Place),
    /// Stop all nodes; the data stay, and `up` brings them back.
    Down(control::Down),
}

/// Which cluster.
#[derive(clap::Args)]
struct Place {
    /// The cluster's directory.
    #[arg(long)]
    dir: PathBuf,
}

/// Which node of which cluster.
#[derive(clap::Args)]
struct OneNode {
    /// The node's number, from 1.
    node: usize,
    /// The cluster's directory.
    #[arg(long)]
    dir: PathBuf,
}

/// Does what the command line asks.
///
/// # Errors
/// Every failure says what to do about it and carries its exit code.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.action {
        Action::Up(options) => up::up(options),
        Action::Add(place) => up::add(&place.dir),
        Action::Kill(one) => control::kill(&one.dir, one.node),
        Action::Stop(one) => control::stop(&one.dir, one.node),
        Action::Start(one) => control::start(&one.dir, one.node),
        Action::Freeze(one) => control::freeze(&one.dir, one.node),
        Action::Thaw(one) => control::thaw(&one.dir, one.node),
        Action::Status(place) => status::status(&place.dir),
        Action::Down(options) => control::down(&options),
    }
}
