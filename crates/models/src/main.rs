//! Searches the models, says how far it is, and ends with a table.

use clap::Parser;
use models::checker::{Outcome, Report};
use models::runs::{self, Run};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Searches the models of the consensus rules to their ends.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this model: log, reads or epochs.
    #[arg(long)]
    model: Option<String>,
    /// Only searches whose bounds contain this.
    #[arg(long, default_value = "")]
    bounds: String,
    /// The bounds of every test run instead of the larger ones.
    #[arg(long)]
    small: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runs = if arguments.small { runs::small() } else { runs::large() };
    let wanted = |run: &Run| {
        arguments.model.as_ref().is_none_or(|model| model == run.model) && run.bounds.contains(&arguments.bounds)
    };
    let runs: Vec<Run> = runs.into_iter().filter(wanted).collect();
    let mut rows = Vec::new();
    let mut held = !runs.is_empty();
    for run in &runs {
        eprintln!("{}: {}", run.model, run.bounds);
        let report = search(run);
        held &= report.outcome == Outcome::Complete && run.surprises(&report).is_empty();
        if report.outcome != Outcome::Complete {
            println!("{}: {}: {report}", run.model, run.bounds);
        }
        rows.push(row(run, &report));
        eprintln!("{}", row(run, &report));
    }
    println!("| model | bounds | states | depth | seconds | result |");
    println!("|---|---|---:|---:|---:|---|");
    rows.iter().for_each(|row| println!("{row}"));
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn search(run: &Run) -> Report {
    let begun = Instant::now();
    let mut told = begun;
    run.search(&mut |depth, states| {
        if told.elapsed() >= Duration::from_secs(5) {
            told = Instant::now();
            eprintln!("  {:>4} s: depth {depth}, {states} states", begun.elapsed().as_secs());
        }
    })
}

fn row(run: &Run, report: &Report) -> String {
    let result = match &report.outcome {
        Outcome::Complete if run.surprises(report).is_empty() => "complete, holds".to_owned(),
        Outcome::Complete => format!("complete, but not seen as expected: {}", run.surprises(report).join("; ")),
        Outcome::Stopped => "stopped at the limit of states".to_owned(),
        Outcome::Broken { promise, .. } => format!("BROKEN: {promise}"),
    };
    let seconds = report.elapsed.as_secs_f64();
    format!("| {} | {} | {} | {} | {seconds:.0} | {result} |", run.model, run.bounds, report.states, report.depth)
}
