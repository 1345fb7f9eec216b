//! `synod local` as a user meets it: what it says, what it refuses, with which exit code. On
//! ordinary servers, so that the extension need not be installed.

use rustix::fs::{flock, FlockOperation};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Where ranges of ports for these tests begin: with their engines' ports below those that the system hands out, and
/// apart from those of the end-to-end tests.
const PORT_BASE: u16 = 19_000;

/// Ports of one run of these tests.
const RANGE: u16 = 100;

/// How many such ranges there are: runs of several checkouts on one machine never meet.
const RANGES: u16 = 19;

/// A directory for a cluster; everything in it dies with it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        Place(PathBuf::from(format!("/tmp/synod-cli-{}-{name}", std::process::id())))
    }

    fn run(&self, action: &str, arguments: &[&str]) -> Output {
        local(action, &self.0, arguments)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.join("synod-local.conf").exists() {
            self.run("down", &["--kill", "--remove"]);
        }
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn local(action: &str, directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_synod"))
        .args(["local", action, "--dir"])
        .arg(directory)
        .args(arguments)
        .output()
        .expect("the binary under test runs")
}

/// What it said, if it ended with that code.
fn said(output: &Output, code: i32) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let text = text.concat();
    assert_eq!(output.status.code(), Some(code), "{text}");
    if code != 0 {
        for label in ["synod: ", "  why: ", "  what to do: "] {
            assert!(text.contains(label), "no {label:?} in {text}");
        }
    }
    text
}

/// The first port of this run's range, taken from the first range that nobody holds and nobody listens in.
fn first_port() -> u16 {
    static TAKEN: OnceLock<(u16, File)> = OnceLock::new();
    let take = || {
        (0..RANGES).map(|number| PORT_BASE + number * RANGE).find_map(|first| {
            let path = format!("/tmp/synod-test-ports-{first}.lock");
            let lock = File::options().create(true).append(true).open(path).ok()?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
            let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            (first..first + RANGE).all(|port| is_free(port) && is_free(port + 10_000)).then_some((first, lock))
        })
    };
    TAKEN.get_or_init(|| take().expect("a free range of ports")).0
}

fn base(offset: u16) -> String {
    (first_port() + offset).to_string()
}

#[test]
fn a_cluster_lives_through_all_that_can_be_done_to_it() {
    let place = Place::new("life");
    let up = ["--nodes", "2", "--port-base", &base(0), "--without-extension"];
    let text = said(&place.run("up", &up), 0);
    assert!(text.contains(&format!("node 2   psql -h 127.0.0.1 -p {}", base(2))), "{text}");

    // Twice: it says what is already running.
    let text = said(&place.run("up", &up), 0);
    assert!(text.contains("node 1: already running (process "), "{text}");

    assert!(said(&place.run("kill", &["2"]), 0).contains("node 2: killed ("));
    assert!(said(&place.run("kill", &["2"]), 0).contains("node 2: was not running"));
    let status = said(&place.run("status", &[]), 0);
    assert!(status.contains("running") && status.contains("stopped"), "{status}");
    assert!(said(&place.run("start", &["2"]), 0).contains("node 2: listening on 127.0.0.1"));
    assert!(said(&place.run("start", &["2"]), 0).contains("node 2: is already running"));

    assert!(said(&place.run("freeze", &["1"]), 0).contains("node 1: frozen ("));
    assert!(said(&place.run("status", &[]), 0).contains("frozen"));
    assert!(said(&place.run("start", &["1"]), 0).contains("node 1: is running, but frozen"));
    assert!(said(&place.run("thaw", &["1"]), 0).contains("node 1: goes on ("));

    assert!(said(&place.run("stop", &["1"]), 0).contains("node 1: stopped"));
    assert!(said(&place.run("add", &[]), 0).contains("node 3: listening on"));
    let text = said(&place.run("start", &["7"]), 9);
    assert!(text.contains("the nodes 1 to 3"), "{text}");

    // Another shape than the one it has.
    assert!(said(&place.run("up", &["--nodes", "5"]), 3).contains("number of nodes is 3"));
    assert!(said(&place.run("up", &["--port-base", "1500"]), 3).contains("port base"));

    let text = said(&place.run("down", &[]), 0);
    assert!(text.contains("node 1: was not running") && text.contains("node 3: stopped"), "{text}");
    assert!(said(&place.run("up", &[]), 0).contains("ready"), "the data stay");
    said(&place.run("down", &["--remove"]), 0);
    assert!(!place.0.exists());
}

#[test]
fn a_taken_port_is_named_and_nothing_is_left_behind() {
    let place = Place::new("port");
    let port = first_port() + 42;
    let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a test's own port");
    let text = said(&place.run("up", &["--port-base", &base(41), "--without-extension"]), 5);
    assert!(text.contains(&format!("port {port} is taken")), "{text}");
    assert!(!place.0.exists());
}

#[test]
fn what_is_missing_or_unusable_is_named() {
    let place = Place::new("missing");
    let text = said(&place.run("up", &["--bindir", "/nowhere"]), 4);
    assert!(text.contains("/nowhere"), "{text}");
    assert!(said(&place.run("status", &[]), 3).contains("is no local cluster"));
    assert!(said(&place.run("up", &["--nodes", "0", "--without-extension"]), 2).contains("0 nodes"));
    let high = ["--port-base", "60000", "--without-extension"];
    assert!(said(&place.run("up", &high), 2).contains("60000"));
    let no_setting = ["--port-base", &base(50), "--without-extension", "--set", "fast"];
    assert!(said(&place.run("up", &no_setting), 2).contains("--set fast is no setting"));
    assert!(!place.0.exists());

    let long = Place(PathBuf::from(format!("/tmp/{}", "x".repeat(100))));
    let text = said(&long.run("up", &["--port-base", &base(60), "--without-extension"]), 6);
    assert!(text.contains("too long"), "{text}");
    assert!(!long.0.exists());

    let foreign = tempfile::tempdir().expect("a directory");
    std::fs::write(foreign.path().join("letter.txt"), "dear").expect("a file");
    let text = said(&local("up", foreign.path(), &["--without-extension"]), 3);
    assert!(text.contains("it holds files"), "{text}");
    let text = said(&local("status", foreign.path(), &[]), 3);
    assert!(text.contains("it has no file"), "{text}");
    let text = said(&local("up", &foreign.path().join("letter.txt"), &["--without-extension"]), 3);
    assert!(text.contains("is no directory"), "{text}");
}

#[test]
fn a_server_that_does_not_start_shows_its_log() {
    let place = Place::new("broken");
    let broken = ["--nodes", "1", "--port-base", &base(70), "--without-extension", "--set", "work_mem=lots"];
    let text = said(&place.run("up", &broken), 7);
    assert!(text.contains("invalid value for parameter \"work_mem\""), "{text}");
    let text = said(&place.run("up", &["--set", "work_mem=1MB"]), 3);
    assert!(text.contains("work_mem=lots"), "{text}");
    // The directory is whole: with the setting mended, the same cluster comes up.
    let settings = place.0.join("node1/data/postgresql.conf");
    let text = std::fs::read_to_string(&settings).expect("made by the first run");
    std::fs::write(&settings, text.replace("work_mem=lots", "work_mem=1MB")).expect("ours");
    said(&place.run("up", &[]), 0);
}
