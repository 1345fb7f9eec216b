//! Several stories told on one cluster: each is run, whatever became of the others.

use crate::{step, Cluster};

/// One story: its name, and what happens.
pub type Story = (&'static str, fn(&Cluster) -> anyhow::Result<()>);

/// Runs all stories and fails if any has failed, naming each of those.
pub fn tell(cluster: &Cluster, stories: &[Story]) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for (name, story) in stories {
        step(name);
        if let Err(error) = story(cluster) {
            eprintln!("FAILED: {error:#}");
            failures.push(format!("{name}: {error:#}"));
        }
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
