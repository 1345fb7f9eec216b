//! Runs simulated clusters: one seed to look at, or many for as long as it takes.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use simulation::{run_seeds, Fleet, World};

/// A deterministic cluster of consensus cores under faults; one seed decides everything.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this seed only.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// Print every event of that seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Run this many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Run seeds for this many minutes instead.
    #[arg(long, conflicts_with = "seeds")]
    minutes: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this kind of world: any, crashes, members, damage, disks, quiet, stale, no-good-copy, values or files.
    #[arg(long)]
    world: Option<World>,
    /// Worlds at the same time; as many as there are processors, unless said.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        return match simulation::run_seed(seed, arguments.world, arguments.trace) {
            Ok(report) => {
                println!("seed {seed}: {report:?}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("{failure}");
                ExitCode::FAILURE
            }
        };
    }
    let threads = arguments.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let time = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let end = if time.is_some() { u64::MAX } else { arguments.from.saturating_add(arguments.seeds) };
    let fleet = Fleet { seeds: arguments.from..end, world: arguments.world, threads, time };
    let begun = Instant::now();
    let summary = run_seeds(
        &fleet,
        |failure| println!("{failure}"),
        |summary| {
            let (seeds, failed, events) = (summary.seeds, summary.failures.len(), summary.total.events);
            eprintln!("{:>6} s: {seeds} seeds, {failed} failed, {events} events", begun.elapsed().as_secs());
        },
    );
    println!("{summary}");
    println!("worlds of each kind:");
    for (world, count) in World::ALL.iter().zip(summary.worlds) {
        println!("  {world:<52}{count:>14}");
    }
    println!("faults injected:\n{}", summary.total.faults);
    if summary.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
