//! The extension's SQL file is written by hand; here it is held against what the library exports.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The extension's SQL file.
fn sql_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/pg_paxos/sql/pg_paxos--0.1.0.sql")
}

/// The library of this build, beside the test programs.
fn library() -> PathBuf {
    let program = std::env::current_exe().expect("the system knows which program runs");
    let mut directory = program.parent().expect("a program has a directory");
    if directory.ends_with("deps") {
        directory = directory.parent().expect("deps is in a directory");
    }
    let library = directory.join("libpg_paxos.so");
    assert!(library.is_file(), "{} is missing: build the workspace first (make build)", library.display());
    library
}

/// The symbols that the SQL file binds functions to.
fn named_in_sql() -> BTreeSet<String> {
    let text = std::fs::read_to_string(sql_file()).expect("the SQL file can be read");
    text.split("AS 'MODULE_PATHNAME', '")
        .skip(1)
        .map(|rest| rest.split('\'').next().expect("the name is quoted").to_owned())
        .collect()
}

/// The functions that the library offers to SQL: PostgreSQL asks for each one's calling convention by this symbol.
fn offered_by_library() -> BTreeSet<String> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(library()).output().expect("nm runs");
    assert!(output.status.success(), "nm: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .filter_map(|symbol| symbol.strip_prefix("pg_finfo_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_function_of_the_sql_file_is_in_the_library_and_the_other_way_round() {
    let (named, offered) = (named_in_sql(), offered_by_library());
    assert!(named.len() > 10, "the SQL file names only {named:?}");
    let missing: Vec<_> = named.difference(&offered).collect();
    assert!(missing.is_empty(), "named in the SQL file, not in the library: {missing:?}");
    let unused: Vec<_> = offered.difference(&named).collect();
    assert!(unused.is_empty(), "in the library, not in the SQL file: {unused:?}");
}

#[test]
fn what_changes_groups_is_not_for_everyone() {
    let text = std::fs::read_to_string(sql_file()).expect("the SQL file can be read");
    let (_, listed) = text.split_once("FOREACH administration IN ARRAY").expect("there is one list of such functions");
    let (listed, loop_body) = listed.split_once("LOOP").expect("the list ends");
    assert!(loop_body.contains("REVOKE ALL ON FUNCTION %s FROM PUBLIC"), "the list is for taking rights from everyone");
    // What everyone may call: it shows state.
    let open = [
        "paxos_transaction_status",
        "paxos_last_transaction_id",
        "paxos_groups",
        "paxos_status",
        "pgp_metadata.rounds",
    ];
    let functions = text.split("\nCREATE FUNCTION ").skip(1);
    for function in functions.map(|rest| rest.split('(').next().expect("a function has arguments").trim()) {
        let is_revoked = listed.contains(&format!("'{function}("))
            || text.contains(&format!("REVOKE ALL ON FUNCTION {function}() FROM PUBLIC"));
        assert_ne!(is_revoked, open.contains(&function), "{function}: revoked from PUBLIC: {is_revoked}");
    }
}
