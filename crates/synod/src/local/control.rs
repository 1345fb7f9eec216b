//! What is done to a cluster once it is there: a node is stopped, killed, frozen, started again;
//! all of them are brought down.

use super::account::Account;
use super::directory::Directory;
use super::installation::Installation;
use super::processes::{Processes, State};
use super::progress::Progress;
use super::server::{Server, Stopped};
use crate::failure::Failure;
use std::path::{Path, PathBuf};

/// Options of `synod local down`.
#[derive(clap::Args)]
pub struct Down {
    /// The cluster's directory.
    #[arg(long)]
    dir: PathBuf,
    /// Kill the servers instead of stopping them in order.
    #[arg(long)]
    kill: bool,
    /// Remove the directory with everything in it afterwards.
    #[arg(long)]
    remove: bool,
}

/// Opens the cluster, checks the node, and takes the lock shared for as long as `act` runs.
fn with_node(path: &Path, node: usize, act: impl FnOnce(&Directory) -> Result<(), Failure>) -> Result<(), Failure> {
    let directory = Directory::open(path)?;
    directory.check_node(node)?;
    let _lock = Directory::lock(directory.path(), false)?;
    act(&directory)
}

/// As `kill -9` of everything on the node.
pub fn kill(path: &Path, node: usize) -> Result<(), Failure> {
    with_node(path, node, |directory| {
        match Processes::of(&directory.data(node)).kill_all()? {
            0 => println!("node {node}: was not running"),
            count => println!("node {node}: killed ({count} processes)"),
        }
        Ok(())
    })
}

/// Stops the node in order.
pub fn stop(path: &Path, node: usize) -> Result<(), Failure> {
    with_node(path, node, |directory| {
        let account = Account::find()?;
        let installation = Installation::find(Some(&directory.settings.bindir))?;
        let stopped = Server::new(node, directory, &installation, &account).stop()?;
        println!("node {node}: {}", told(stopped));
        Ok(())
    })
}

/// Starts the node if it does not run.
pub fn start(path: &Path, node: usize) -> Result<(), Failure> {
    with_node(path, node, |directory| {
        let progress = Progress::begin();
        let account = Account::find()?;
        let installation = Installation::find(Some(&directory.settings.bindir))?;
        let server = Server::new(node, directory, &installation, &account);
        match server.processes().state() {
            State::Running { postmaster } => {
                println!("node {node}: is already running (process {postmaster})");
                return Ok(());
            }
            State::Frozen { postmaster } => {
                println!("node {node}: is running, but frozen (process {postmaster}); `synod local thaw {node}` lets it go on");
                return Ok(());
            }
            State::Stopped | State::Dying => {}
        }
        if !server.is_initialized() {
            server.initialize()?;
        }
        server.start()?;
        progress.say(format!("node {node}: listening on 127.0.0.1, port {}", directory.port(node)));
        Ok(())
    })
}

/// Freezes everything on the node.
pub fn freeze(path: &Path, node: usize) -> Result<(), Failure> {
    with_node(path, node, |directory| {
        match Processes::of(&directory.data(node)).freeze()? {
            0 => println!("node {node}: is not running"),
            count => println!("node {node}: frozen ({count} processes)"),
        }
        Ok(())
    })
}

/// Lets a frozen node go on.
pub fn thaw(path: &Path, node: usize) -> Result<(), Failure> {
    with_node(path, node, |directory| {
        match Processes::of(&directory.data(node)).thaw()? {
            0 => println!("node {node}: is not running"),
            count => println!("node {node}: goes on ({count} processes)"),
        }
        Ok(())
    })
}

/// Ends all nodes, side by side.
pub fn down(options: &Down) -> Result<(), Failure> {
    let directory = Directory::open(&options.dir)?;
    let lock = Directory::lock(directory.path(), true)?;
    let results: Vec<Result<Stopped, Failure>> = match options.kill {
        true => directory
            .nodes()
            .map(|node| match Processes::of(&directory.data(node)).kill_all()? {
                0 => Ok(Stopped::Already),
                _ => Ok(Stopped::Killed),
            })
            .collect(),
        false => {
            let account = Account::find()?;
            let installation = Installation::find(Some(&directory.settings.bindir))?;
            stop_all(&directory, &installation, &account)
        }
    };
    for (node, result) in directory.nodes().zip(results) {
        println!("node {node}: {}", told(result?));
    }
    match options.remove {
        true => {
            std::fs::remove_dir_all(directory.path())
                .map_err(|error| Failure::system(format!("cannot remove {}", directory.path().display()), error))?;
            println!("{} is removed", directory.path().display());
        }
        false => println!(
            "the data stay in {}; `synod local up` brings them back, `synod local down --remove` removes them",
            directory.path().display()
        ),
    }
    drop(lock);
    Ok(())
}

fn stop_all(directory: &Directory, installation: &Installation, account: &Account) -> Vec<Result<Stopped, Failure>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = directory
            .nodes()
            .map(|node| scope.spawn(move || Server::new(node, directory, installation, account).stop()))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a server's thread does not panic")).collect()
    })
}

fn told(stopped: Stopped) -> &'static str {
    match stopped {
        Stopped::Already => "was not running",
        Stopped::InOrder => "stopped",
        Stopped::Killed => "killed",
    }
}
