//! `synod local up` and `add`: from nothing, or from whatever is there, to a running cluster.

use super::account::Account;
use super::directory::{Directory, Settings};
use super::group;
use super::installation::Installation;
use super::ports;
use super::processes::State;
use super::progress::Progress;
use super::server::Server;
use crate::failure::{Failure, Reason};
use std::path::{Path, PathBuf};

/// Bounds what one mistyped command starts; each node is a whole PostgreSQL server.
const NODES_MAX: usize = 16;

const NODES_DEFAULT: usize = 3;
const PORT_BASE_DEFAULT: u16 = 55_430;

/// Options of `synod local up`.
#[derive(clap::Args)]
pub struct Options {
    /// How many nodes; 3 if not said, or as many as the cluster has.
    #[arg(long)]
    nodes: Option<usize>,
    /// The cluster's directory; made if it is not there.
    #[arg(long)]
    dir: PathBuf,
    /// Node N listens on 127.0.0.1, port BASE+N, its engine on BASE+N+10000; 55430 if not said.
    #[arg(long, value_name = "BASE")]
    port_base: Option<u16>,
    /// Directory of PostgreSQL's programs; if not said, PG_CONFIG's, then Debian's.
    #[arg(long)]
    bindir: Option<PathBuf>,
    /// A further line for every node's postgresql.conf; may be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    server_settings: Vec<String>,
    /// Load the extension, but form no group.
    #[arg(long)]
    without_group: bool,
    /// Start ordinary servers: no extension, no group.
    #[arg(long)]
    without_extension: bool,
}

/// Brings a cluster up; what runs already is left alone and named.
pub fn up(options: Options) -> Result<(), Failure> {
    let progress = Progress::begin();
    let account = Account::find()?;
    let known = Directory::open_if_any(&options.dir)?;
    let bindir = match (&options.bindir, &known) {
        (Some(given), _) => Some(given.clone()),
        (None, Some(directory)) => Some(directory.settings.bindir.clone()),
        (None, None) => None,
    };
    let installation = Installation::find(bindir.as_deref())?;
    if !options.without_extension && known.as_ref().is_none_or(|d| d.settings.with_extension) {
        installation.check_extension()?;
    }
    let (directory, _lock) = match known {
        Some(directory) => {
            let lock = Directory::lock(directory.path(), true)?;
            check_same(&directory, &options)?;
            (directory, lock)
        }
        None => create(&options, &installation, &account)?,
    };
    progress.say(format!(
        "{} in {}, servers run as {}",
        installation.version(),
        installation.bindir().display(),
        account.name()
    ));
    let servers: Vec<Server> =
        directory.nodes().map(|node| Server::new(node, &directory, &installation, &account)).collect();
    bring_up(&servers, &directory, &progress)?;
    if directory.settings.with_extension {
        group::form(&directory, &progress)?;
    }
    progress.say("ready");
    for node in directory.nodes() {
        println!("node {node}   {}", psql_line(&directory, node, &installation));
    }
    Ok(())
}

/// Adds one node to a cluster, with the next number and port.
pub fn add(path: &Path) -> Result<(), Failure> {
    let progress = Progress::begin();
    let account = Account::find()?;
    let mut directory = Directory::open(path)?;
    let _lock = Directory::lock(directory.path(), true)?;
    let installation = Installation::find(Some(&directory.settings.bindir))?;
    let node = directory.settings.nodes + 1;
    check_count(node)?;
    ports::check_range(directory.settings.port_base, node)?;
    ports::check_free(node, ports::server_port(directory.settings.port_base, node))?;
    directory.settings.nodes = node;
    directory.check_socket_paths()?;
    directory.save()?;
    let server = Server::new(node, &directory, &installation, &account);
    bring_up(std::slice::from_ref(&server), &directory, &progress)?;
    if directory.settings.with_extension {
        group::add(&directory, node, &progress)?;
    }
    println!("node {node}   {}", psql_line(&directory, node, &installation));
    Ok(())
}

fn create(
    options: &Options,
    installation: &Installation,
    account: &Account,
) -> Result<(Directory, std::fs::File), Failure> {
    let nodes = options.nodes.unwrap_or(NODES_DEFAULT);
    let port_base = options.port_base.unwrap_or(PORT_BASE_DEFAULT);
    check_count(nodes)?;
    ports::check_range(port_base, nodes)?;
    // Before anything is made, so that a refusal leaves nothing behind.
    for node in 1..=nodes {
        ports::check_free(node, ports::server_port(port_base, node))?;
    }
    for line in &options.server_settings {
        if !line.contains('=') || line.contains('\n') {
            return Err(Failure::new(
                Reason::Usage,
                format!("--set {line} is no setting"),
                "a setting is one line of the form name=value",
                "write it as in postgresql.conf, for example --set shared_buffers=256MB",
            ));
        }
    }
    let settings = Settings {
        nodes,
        port_base,
        bindir: installation.bindir().to_path_buf(),
        with_extension: !options.without_extension,
        with_group: !options.without_extension && !options.without_group,
        server_settings: options.server_settings.clone(),
    };
    let directory = Directory::create(&options.dir, settings, account)?;
    let lock = Directory::lock(directory.path(), true)?;
    Ok((directory, lock))
}

fn check_count(nodes: usize) -> Result<(), Failure> {
    if (1..=NODES_MAX).contains(&nodes) {
        return Ok(());
    }
    Err(Failure::new(
        Reason::Usage,
        format!("a local cluster cannot have {nodes} nodes"),
        format!("it has from 1 to {NODES_MAX}, each of them a whole server"),
        "choose a number in between: 3 survives the loss of one node, 5 of two",
    ))
}

/// An existing cluster keeps the shape that it was made with.
fn check_same(directory: &Directory, options: &Options) -> Result<(), Failure> {
    let settings = &directory.settings;
    let differs = |what: &str, has: String, asked: String, remedy: &str| {
        Err(Failure::new(
            Reason::Directory,
            format!("{} holds another cluster", directory.path().display()),
            format!("its {what} is {has}, and {asked} was asked for"),
            remedy,
        ))
    };
    let elsewhere = "leave that option out, or choose another directory";
    if let Some(nodes) = options.nodes.filter(|nodes| *nodes != settings.nodes) {
        return differs(
            "number of nodes",
            settings.nodes.to_string(),
            nodes.to_string(),
            "leave that option out, choose another directory, or add nodes with `synod local add`",
        );
    }
    if let Some(base) = options.port_base.filter(|base| *base != settings.port_base) {
        let (has, asked) = (settings.port_base.to_string(), base.to_string());
        return differs("port base", has, asked, elsewhere);
    }
    if let Some(bindir) = options.bindir.as_ref().filter(|dir| **dir != settings.bindir) {
        let (has, asked) = (settings.bindir.display().to_string(), bindir.display().to_string());
        return differs("directory of programs", has, asked, elsewhere);
    }
    let asked = &options.server_settings;
    if !asked.is_empty() && *asked != settings.server_settings {
        let has = format!("'{}'", settings.server_settings.join("', '"));
        let remedy = "change its servers with ALTER SYSTEM, or choose another directory";
        return differs("list of settings", has, format!("'{}'", asked.join("', '")), remedy);
    }
    if options.without_extension && settings.with_extension {
        return differs("extension", "loaded".to_owned(), "none".to_owned(), elsewhere);
    }
    if options.without_group && settings.with_group {
        return differs("group", group::GROUP.to_owned(), "none".to_owned(), elsewhere);
    }
    Ok(())
}

/// Makes the data directories that are missing and starts the servers that do not run, all nodes
/// side by side.
fn bring_up(servers: &[Server], directory: &Directory, progress: &Progress) -> Result<(), Failure> {
    let mut waiting = Vec::new();
    for server in servers {
        let node = server.node();
        match server.processes().state() {
            State::Running { postmaster } => progress.say(format!(
                "node {node}: already running (process {postmaster}, port {})",
                directory.port(node)
            )),
            State::Frozen { postmaster } => progress.say(format!(
                "node {node}: already running, but frozen (process {postmaster}); `synod local thaw {node}` lets it go on"
            )),
            State::Stopped | State::Dying => waiting.push(server),
        }
    }
    for server in &waiting {
        ports::check_free(server.node(), directory.port(server.node()))?;
    }
    let fresh = waiting.iter().filter(|server| !server.is_initialized()).count();
    if fresh > 0 {
        progress.say(format!("making {fresh} data directories"));
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = waiting
            .iter()
            .map(|server| {
                scope.spawn(move || {
                    if !server.is_initialized() {
                        server.initialize()?;
                    }
                    server.start()?;
                    progress.say(format!(
                        "node {}: listening on 127.0.0.1, port {}",
                        server.node(),
                        directory.port(server.node())
                    ));
                    Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a server's thread does not panic"))
            // All are waited for; the first failure, in the order of the nodes, is told.
            .fold(Ok(()), Result::and)
    })
}

/// What to type to talk to a node.
pub fn psql_line(directory: &Directory, node: usize, installation: &Installation) -> String {
    let program = match is_on_path("psql") {
        true => "psql".to_owned(),
        false => installation.bindir().join("psql").display().to_string(),
    };
    let port = directory.port(node);
    format!("{program} -h 127.0.0.1 -p {port} -U postgres postgres")
}

fn is_on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|place| place.join(program).is_file()))
}
