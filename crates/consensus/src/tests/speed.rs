//! How many entries one core handles. Run with `cargo test --release -p consensus speed -- --ignored --nocapture`.

use crate::cluster::Cluster;

#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn speed_of_one_owner_and_two_followers() {
    let mut cluster = Cluster::of(3);
    cluster.propose(1, "warm");
    cluster.settle();
    cluster.quiet = true;
    let body = "x".repeat(200);
    let (rounds, batch) = (2000_u32, 64);
    let began = std::time::Instant::now();
    for _ in 0..rounds {
        for _ in 0..batch {
            cluster.propose(1, &body);
        }
        cluster.settle();
        cluster.nodes.values_mut().for_each(|state| {
            state.disk.clear();
            state.delivered.truncate(0);
            state.applied = state.core.status(crate::Time(0)).groups[0].logs[0].delivered;
            state.outcomes.clear();
        });
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{:.0} entries/s through three cores on one thread, messages encoded and decoded",
        f64::from(rounds * batch) / seconds
    );
}
