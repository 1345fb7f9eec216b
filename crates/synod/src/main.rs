//! `synod`: the one program of the project, each of its jobs a subcommand.
//!
//! Every failure names what failed, why, and what to do, and ends with an exit code that
//! `docs/operations.md` documents; `failure.rs` holds both.

mod failure;
mod local;
mod log;
mod node;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;

/// PostgreSQL that stays strictly consistent on many servers at once, through Paxos.
#[derive(Parser)]
#[command(name = "synod", version, about, subcommand_required = true)]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Run a whole cluster on this machine, to play with or to test against.
    Local(local::Arguments),
    Log(log::Arguments),
    Node(node::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result: Result<(), Failure> = match arguments.job {
        Job::Local(arguments) => local::run(arguments),
        Job::Log(arguments) => log::run(&arguments),
        Job::Node(arguments) => node::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{failure}");
            ExitCode::from(failure.reason.exit_code())
        }
    }
}
