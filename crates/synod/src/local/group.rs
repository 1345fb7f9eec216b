//! The group of a local cluster: made on its first node, joined by the others.

use super::directory::Directory;
use super::processes::{Processes, State};
use super::progress::Progress;
use crate::failure::{Failure, Reason};
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use std::time::{Duration, Instant};

/// The name of every local cluster's group.
pub const GROUP: &str = "local";

/// How long a connection may take: the server has said that it accepts them.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// How long to ask again while the answer is "not yet": after a start the members first find
/// each other, which takes a few failure time-outs.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(30);

/// How often to ask again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Connects to a node's database; notices of the server go to `notice`.
pub fn connect(
    directory: &Directory,
    node: usize,
    notice: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Client, Failure> {
    let connection_string = directory.connection_string(node);
    let mut config: Config = connection_string.parse().expect("our own connection strings are well-formed");
    config
        .connect_timeout(CONNECT_TIME_MAX)
        .application_name("synod local")
        .notice_callback(move |said| notice(said.message()));
    config.connect(NoTls).map_err(|error| {
        Failure::new(
            Reason::Server,
            format!("cannot connect to node {node}"),
            describe(&error),
            format!("look into {}", directory.log(node).display()),
        )
    })
}

/// Makes sure that the extension exists on every node, and that all of them are members of one
/// group. What is there already is left as it is, so an interrupted run can be repeated.
pub fn form(directory: &Directory, progress: &Progress) -> Result<(), Failure> {
    let mut outside = Vec::new();
    let mut member = None;
    // A frozen server takes connections and never answers; whoever froze it wants it left alone.
    for node in directory.nodes().filter(|node| !is_frozen(directory, *node)) {
        let mut client = prepare(directory, node)?;
        if !directory.settings.with_group {
            continue;
        }
        match is_member(&mut client).map_err(|error| refused(directory, node, "reading its groups", &error))? {
            true => member = member.or(Some(node)),
            false => outside.push((node, client)),
        }
    }
    for (node, mut client) in outside {
        match member {
            Some(member) => join(directory, node, &mut client, member, progress)?,
            None => {
                let own = directory.connection_string(node);
                repeat_until_settled(|| client.execute("SELECT paxos_create_group($1, $2)", &[&GROUP, &own]))
                    .map_err(|error| refused(directory, node, "paxos_create_group", &error))?;
                progress.say(format!("group {GROUP}: made on node {node}"));
                member = Some(node);
            }
        }
    }
    Ok(())
}

/// Makes a node that was added later a member, through the first running member.
pub fn add(directory: &Directory, node: usize, progress: &Progress) -> Result<(), Failure> {
    let mut client = prepare(directory, node)?;
    if !directory.settings.with_group {
        return Ok(());
    }
    let member = directory
        .nodes()
        .filter(|other| *other != node && !is_frozen(directory, *other))
        .find(|other| {
            connect(directory, *other, |_| ()).is_ok_and(|mut client| is_member(&mut client).unwrap_or(false))
        })
        .ok_or_else(|| {
            Failure::new(
                Reason::Group,
                format!("node {node} cannot join"),
                "no node that is a member of the group answers",
                "start the members with `synod local up`, then run this again",
            )
        })?;
    join(directory, node, &mut client, member, progress)
}

fn is_frozen(directory: &Directory, node: usize) -> bool {
    matches!(Processes::of(&directory.data(node)).state(), State::Frozen { .. })
}

/// Connects to a node and makes sure that it has the extension.
fn prepare(directory: &Directory, node: usize) -> Result<Client, Failure> {
    let mut client = connect(directory, node, move |said| {
        println!("          node {node}: {said}");
    })?;
    repeat_until_settled(|| {
        client.batch_execute(
            "SET client_min_messages = warning; \
             CREATE EXTENSION IF NOT EXISTS pg_paxos; \
             RESET client_min_messages",
        )
    })
    .map_err(|error| refused(directory, node, "CREATE EXTENSION pg_paxos", &error))?;
    Ok(client)
}

fn join(
    directory: &Directory,
    node: usize,
    client: &mut Client,
    member: usize,
    progress: &Progress,
) -> Result<(), Failure> {
    let existing = directory.connection_string(member);
    let own = directory.connection_string(node);
    repeat_until_settled(|| client.execute("SELECT paxos_join_group($1, $2, $3)", &[&GROUP, &existing, &own]))
        .map_err(|error| refused(directory, node, "paxos_join_group", &error))?;
    progress.say(format!("group {GROUP}: node {node} has joined"));
    Ok(())
}

/// Whether the node belongs to the group.
pub fn is_member(client: &mut Client) -> Result<bool, postgres::Error> {
    client
        .query_one("SELECT EXISTS (SELECT FROM pgp_metadata.\"group\" WHERE group_id = $1)", &[&GROUP])
        .map(|row| row.get(0))
}

/// How a node sees itself in the group, in words; none if it is no member.
pub fn describe_self(client: &mut Client) -> Result<Option<String>, postgres::Error> {
    let row = client.query_opt(
        "SELECT role, is_owner, state, applied, lag, apply_error FROM pg_stat_paxos \
         WHERE is_self AND group_name = $1",
        &[&GROUP],
    )?;
    Ok(row.map(|row| {
        let (role, state): (String, String) = (row.get(0), row.get(2));
        let owner = match row.get::<_, Option<bool>>(1) {
            Some(true) => ", owner of the log",
            _ => "",
        };
        let applied: Option<i64> = row.get(3);
        let lag: Option<i64> = row.get(4);
        let error: Option<String> = row.get(5);
        format!(
            "{role}{owner}, {state}, applied {}, {} behind{}",
            applied.map_or("-".to_owned(), |slot| slot.to_string()),
            lag.map_or("-".to_owned(), |slots| slots.to_string()),
            error.map(|error| format!("; {error}")).unwrap_or_default()
        )
    }))
}

/// Repeats what a node says it cannot do *yet*, for a while.
fn repeat_until_settled<T>(mut action: impl FnMut() -> Result<T, postgres::Error>) -> Result<T, postgres::Error> {
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    loop {
        match action() {
            Err(error) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) && Instant::now() < deadline => {
                std::thread::sleep(ASK_AGAIN);
            }
            result => return result,
        }
    }
}

fn refused(directory: &Directory, node: usize, what: &str, error: &postgres::Error) -> Failure {
    let hint = error.as_db_error().and_then(|said| said.hint()).map(|hint| format!("{hint}\n")).unwrap_or_default();
    Failure::new(
        Reason::Group,
        format!("node {node} refused: {what}"),
        describe(error),
        format!(
            "{hint}the servers are running: look into {}, then run the same command again",
            directory.log(node).display()
        ),
    )
}

/// What the server said, with its code and detail; the client library's own text is terse.
pub fn describe(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => {
            let detail = said.detail().map(|detail| format!("\n{detail}")).unwrap_or_default();
            format!("{} (SQLSTATE {}){detail}", said.message(), said.code().code())
        }
        None => {
            let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
            format!("{error}{source}")
        }
    }
}
