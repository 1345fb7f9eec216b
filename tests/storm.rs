//! pgbench, unmodified, on all nodes at once; a node is killed in the middle and comes back.

use anyhow::ensure;
use end_to_end::{initialize, step, Account, Cluster, Ledger, Load, LoadOptions, Report};
use std::time::{Duration, Instant};

const TABLES: [&str; 4] = ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"];

/// The whole run, the kill and the restart, as the claim words them.
const DURATION: Duration = Duration::from_secs(60);
const KILL_AT: Duration = Duration::from_secs(15);
const START_AT: Duration = Duration::from_secs(30);

const CLIENTS: usize = 4;

fn options(duration: Duration) -> LoadOptions {
    LoadOptions { clients: CLIENTS, duration, script: None, tries_max: 200 }
}

/// Lets the load run until a moment of the story. The one kind of test that waits for time: what
/// happens then is defined by it.
fn until(begin: Instant, moment: Duration) {
    std::thread::sleep((begin + moment).saturating_duration_since(Instant::now()));
}

#[test]
fn pgbench_on_three_nodes_with_one_killed_and_restarted() -> anyhow::Result<()> {
    step("three nodes share pgbench's four tables");
    let cluster = Cluster::of(3)?;
    initialize(&cluster, 1, 2)?;
    cluster.replicate("", &TABLES)?;
    Ledger::create(&cluster, "ledger", false)?;
    for node in cluster.all() {
        cluster.wait_for_service(node, "ledger")?;
    }

    step("four clients on each, and writers of unique ids beside them");
    let begin = Instant::now();
    let ledger = Ledger::start(&cluster, "ledger", &[1, 2, 3], 1, 1);
    let surviving = [Load::start(&cluster, 1, &options(DURATION))?, Load::start(&cluster, 3, &options(DURATION))?];
    let cut_off = Load::start(&cluster, 2, &options(DURATION))?;

    until(begin, KILL_AT);
    step("node 2 is killed");
    cluster.kill(2)?;
    let mut first_half = cut_off.report()?;
    // pgbench lives on for a moment after its server; the node's share counts while it lived.
    first_half.duration = KILL_AT;
    ensure!(!first_half.success, "the clients of a killed server end well");

    until(begin, START_AT);
    step("node 2 comes back, and its pgbench with it");
    cluster.start(2)?;
    cluster.wait_for_service(2, "pgbench_branches")?;
    let rest = DURATION.saturating_sub(begin.elapsed());
    let second_half = Load::start(&cluster, 2, &options(rest))?.report()?;

    step("at the end");
    let [first, third] = surviving;
    let (first, third) = (first.report()?, third.report()?);
    let account = ledger.stop();
    for report in [&first, &third, &first_half, &second_half] {
        tell(report);
    }
    check_errors(&[&first, &third, &second_half])?;
    check_history(&cluster, &[&first, &third, &first_half, &second_half])?;
    check_ledger(&cluster, &account)?;
    check_fairness(&first, &third, &first_half, &second_half)?;
    cluster.finish()
}

fn tell(report: &Report) {
    eprintln!(
        "node {}: {} acknowledged ({:.0}/s, mean {:.1?}), {} conflicts tried again, {} out of tries",
        report.node,
        report.acknowledged,
        report.rate(),
        report.latency_mean,
        report.retries,
        report.out_of_tries
    );
}

/// Clients whose server lived met nothing but conflicts, and got through all of them.
fn check_errors(reports: &[&Report]) -> anyhow::Result<()> {
    for report in reports {
        let errors = report.errors();
        ensure!(errors.is_empty(), "node {}: {errors:?}", report.node);
        ensure!(report.success, "node {}: {}", report.node, report.complaints);
        ensure!(report.out_of_tries == 0, "node {}: ran out of tries", report.node);
    }
    Ok(())
}

/// Equal tables everywhere, and in them what was acknowledged and hardly more.
fn check_history(cluster: &Cluster, reports: &[&Report]) -> anyhow::Result<()> {
    for table in TABLES {
        let checksum = cluster.equal_checksums(&[1, 2, 3], table)?;
        eprintln!("{table}: {checksum:?} on all nodes");
    }
    let acknowledged: usize = reports.iter().map(|report| report.acknowledged).sum();
    for node in cluster.all() {
        let history: i64 = cluster.value(node, "SELECT count(*) FROM pgbench_history")?;
        let history = usize::try_from(history)?;
        eprintln!("node {node}: {acknowledged} acknowledged, {history} in the history");
        ensure!(acknowledged <= history, "acknowledged transactions are lost");
        ensure!(history <= acknowledged + CLIENTS, "more than the clients cut off");
        let sums: bool = cluster.value(
            node,
            "SELECT a = t AND a = b AND a = h FROM \
             (SELECT sum(abalance) AS a FROM pgbench_accounts) AS accounts, \
             (SELECT sum(tbalance) AS t FROM pgbench_tellers) AS tellers, \
             (SELECT sum(bbalance) AS b FROM pgbench_branches) AS branches, \
             (SELECT coalesce(sum(delta), 0) AS h FROM pgbench_history) AS history",
        )?;
        ensure!(sums, "node {node}: the sums of TPC-B do not agree");
    }
    Ok(())
}

/// Every acknowledged id is there exactly once.
fn check_ledger(cluster: &Cluster, account: &Account) -> anyhow::Result<()> {
    ensure!(!account.acknowledged.is_empty(), "the writers wrote nothing");
    for node in cluster.all() {
        account.check(cluster, node, "ledger")?;
    }
    Ok(())
}

/// No node got less than a third of the busiest one's share of the time that it lived.
fn check_fairness(first: &Report, third: &Report, first_half: &Report, second_half: &Report) -> anyhow::Result<()> {
    let second = (first_half.acknowledged + second_half.acknowledged) as f64
        / (first_half.duration + second_half.duration).as_secs_f64();
    let rates = [first.rate(), second, third.rate()];
    let busiest = rates.iter().copied().fold(0.0, f64::max);
    ensure!(rates.iter().all(|rate| *rate * 3.0 >= busiest), "nodes got unequal shares: {rates:.0?} per second");
    Ok(())
}
