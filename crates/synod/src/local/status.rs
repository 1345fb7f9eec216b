//! `synod local status`: a row per node, from the processes and, where a server answers, from
//! its own views.

use super::directory::Directory;
use super::group;
use super::ports::ENGINE_PORT_DISTANCE;
use super::processes::{Processes, State};
use crate::failure::Failure;
use std::path::Path;

/// Prints the table.
pub fn status(path: &Path) -> Result<(), Failure> {
    let directory = Directory::open(path)?;
    let settings = &directory.settings;
    println!("cluster in {}, PostgreSQL of {}", directory.path().display(), settings.bindir.display());
    println!("{:<5} {:<9} {:>8} {:>6} {:>7}  group {}", "node", "state", "process", "port", "engine", group::GROUP);
    for node in directory.nodes() {
        let (state, process) = match Processes::of(&directory.data(node)).state() {
            State::Running { postmaster } => ("running", Some(postmaster)),
            State::Frozen { postmaster } => ("frozen", Some(postmaster)),
            State::Stopped => ("stopped", None),
            State::Dying => ("dying", None),
        };
        let membership = match state {
            "running" if settings.with_extension => membership(&directory, node),
            _ => "-".to_owned(),
        };
        println!(
            "{:<5} {:<9} {:>8} {:>6} {:>7}  {}",
            node,
            state,
            process.map_or("-".to_owned(), |pid| pid.to_string()),
            directory.port(node),
            directory.port(node) + ENGINE_PORT_DISTANCE,
            membership
        );
    }
    Ok(())
}

fn membership(directory: &Directory, node: usize) -> String {
    match group::connect(directory, node, |_| ()) {
        Err(_) => "does not answer".to_owned(),
        Ok(mut client) => match group::describe_self(&mut client) {
            Ok(Some(said)) => said,
            Ok(None) => "no member".to_owned(),
            Err(error) => group::describe(&error).lines().next().unwrap_or_default().to_owned(),
        },
    }
}
