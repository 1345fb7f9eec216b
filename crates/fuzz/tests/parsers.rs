//! Every decoder of bytes from outside, on its corpus and on a bounded number of mutations. Prints its seed;
//! `SYNOD_FUZZ_SEED` runs that one again, `SYNOD_FUZZ_TIMES=100` that many times as long, `SYNOD_FUZZ_TARGET` one alone.

use fuzz::{Driver, Target, TARGETS};
use std::time::Instant;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// Whether the target held; if not, it has been said where the input is kept.
fn holds(target: &'static Target, seed: u64, times: usize) -> bool {
    let began = Instant::now();
    let tried = std::panic::catch_unwind(|| {
        let mut driver = Driver::new(target, seed);
        for _ in 0..target.executions * times {
            driver.step();
        }
        driver.executions()
    });
    match tried {
        Ok(count) => println!("{:20} {count:8} inputs in {:6.2} s", target.name, began.elapsed().as_secs_f64()),
        Err(_) => println!("{:20} BROKEN", target.name),
    }
    tried.is_ok()
}

#[test]
fn no_decoder_breaks_a_promise_whatever_the_bytes() {
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the system has random numbers");
    let seed = setting("SYNOD_FUZZ_SEED").unwrap_or(u64::from_le_bytes(random));
    let times = setting("SYNOD_FUZZ_TIMES").unwrap_or(1) as usize;
    println!("SYNOD_FUZZ_SEED={seed}");
    let alone = std::env::var("SYNOD_FUZZ_TARGET").ok();
    let chosen = TARGETS.iter().filter(|target| alone.as_ref().is_none_or(|name| name == target.name));
    let broken: Vec<&str> = chosen.filter(|target| !holds(target, seed, times)).map(|target| target.name).collect();
    assert!(broken.is_empty(), "broken: {broken:?}; SYNOD_FUZZ_SEED={seed} shows it again");
}

#[test]
fn every_target_has_a_corpus_and_every_folder_of_the_corpus_a_target() {
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).expect("the corpus is there");
    let mut folders: Vec<String> =
        folders.map(|folder| folder.expect("it can be listed").file_name().to_string_lossy().into_owned()).collect();
    let mut names: Vec<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    folders.sort();
    names.sort();
    assert_eq!(folders, names);
    for target in TARGETS {
        assert!(!fuzz::corpus_files(target).is_empty(), "{} has inputs to begin with", target.name);
    }
}
