//! `synod node`: an engine without PostgreSQL. It serves as a witness, which votes and keeps entries and holds no tables, so
//! that a group of two servers survives the loss of either one (`docs/decisions/0008-witnesses.md`).
//!
//! It may be ended at any moment: what it said it has on its disk.

mod admission;
mod witness_face;

use crate::failure::{Failure, Reason};
use ::node::{Engine, EngineFailure, EngineHandle, EngineOptions, Limits};
use admission::Admission;
use client::{Connection, GroupStatus};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use witness_face::WitnessFaces;

/// How long the engine beside this thread may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// How often it is looked at whether the group still wants this node.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Run a node without PostgreSQL: a witness, which votes in a group and holds none of its tables.
#[derive(clap::Args)]
pub struct Arguments {
    /// The node's own directory, made if it is missing: identity, key, log.
    #[arg(long)]
    dir: PathBuf,
    /// Where other nodes reach this one, host:port; several are separated by commas.
    #[arg(long)]
    listen: String,
    /// The address that the other nodes are told, host:port, if it is not the one listened on.
    #[arg(long)]
    advertise: Option<String>,
    /// The group to be a witness of. Once it is, the members are not asked again.
    #[arg(long, value_name = "GROUP", requires = "member")]
    join_as_witness: Option<String>,
    /// How to connect to a server that is a member of it, for instance 'host=10.0.0.1 user=postgres dbname=app'.
    #[arg(long, value_name = "CONNECTION", requires = "join_as_witness")]
    member: Option<String>,
    /// As pg_paxos.failure_timeout on the group's servers, in milliseconds.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    failure_timeout_ms: u64,
    /// Megabytes of entries kept per group for a server that is away, before it is set aside.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(256..=1 << 20))]
    keep_mb: u64,
}

/// Runs the node until it fails, or until the group has removed it.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
    let (failed, failures) = mpsc::channel();
    let engine = start(&arguments, failed)?;
    println!("node {} listens on {}", engine.node(), arguments.listen);
    if let (Some(group), Some(member)) = (&arguments.join_as_witness, &arguments.member) {
        Admission { engine: &engine, group, member }.complete()?;
        println!("it is a witness of group \"{group}\"");
    }
    loop {
        match failures.recv_timeout(LOOK_EVERY) {
            Ok(failure) => return Err(engine_failed(&failure)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(engine_failed(&EngineFailure::Panic("it is gone".into())))
            }
        }
        if let Some(group) = groups(&engine)?.into_iter().find(|group| group.role.is_none()) {
            println!("group \"{}\" has removed this node; its directory can be deleted", group.name);
            return Ok(());
        }
    }
}

fn start(arguments: &Arguments, failed: mpsc::Sender<EngineFailure>) -> Result<EngineHandle, Failure> {
    let first = arguments.listen.split(',').next().unwrap_or_default().trim().to_owned();
    let options = EngineOptions {
        data_directory: arguments.dir.clone(),
        socket_directory: arguments.dir.join("socket"),
        listen_address: arguments.listen.clone(),
        advertise_address: arguments.advertise.clone().unwrap_or(first),
        failure_timeout: Duration::from_millis(arguments.failure_timeout_ms),
        environment: "witness".to_owned(),
        faces: Box::new(WitnessFaces),
        sequence: None,
        on_failure: Some(Box::new(move |failure| {
            // The main thread may be gone already.
            let _ = failed.send(failure.clone());
        })),
        limits: Limits { witness_keep_bytes: arguments.keep_mb << 20, ..Limits::default() },
    };
    Engine::start(options).map_err(|failure| engine_failed(&failure))
}

fn engine_failed(failure: &EngineFailure) -> Failure {
    let remedy = match failure {
        EngineFailure::Setup { hint, .. } if !hint.is_empty() => hint.clone(),
        EngineFailure::Storage(_) => "see to its disk, and start it again".to_owned(),
        _ => "see what it said before, and start it again".to_owned(),
    };
    Failure::new(Reason::Server, "the node cannot run", failure.to_string(), remedy)
}

/// What the engine says of its groups.
fn groups(engine: &EngineHandle) -> Result<Vec<GroupStatus>, Failure> {
    let status = Connection::connect(engine.socket(), ANSWER_WAIT).and_then(|mut engine| engine.status(ANSWER_WAIT));
    status.map(|status| status.groups).map_err(|error| not_answering(&error))
}

fn not_answering(error: &client::Error) -> Failure {
    Failure::new(Reason::Server, "the node's engine does not do what it is asked", error.to_string(), "start it again")
}
