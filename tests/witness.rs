//! Two servers and a witness, which is a process without PostgreSQL: either server may be lost, or the witness, and
//! nobody who waits for the others notices.

use anyhow::ensure;
use end_to_end::{step, Account, Cluster, Ledger, Size, Witness, FAREWELL};
use std::time::Duration;

/// How long the load runs around each event.
const WHILE: Duration = Duration::from_secs(2);

/// Writers on the nodes that are left meet nothing but conflicts, and all that was ever written is there.
fn write_for_a_while(cluster: &Cluster, nodes: &[usize], run: u32, total: &mut Account) -> anyhow::Result<()> {
    let ledger = Ledger::start(cluster, "ledger", nodes, 2, run);
    std::thread::sleep(WHILE);
    let account = ledger.stop();
    ensure!(!account.acknowledged.is_empty(), "nothing was written on {nodes:?}");
    ensure!(account.errors.is_empty(), "writers met errors: {:?}", account.errors);
    total.add(account);
    for node in nodes {
        total.check(cluster, *node, "ledger")?;
    }
    Ok(())
}

#[test]
fn two_servers_and_a_witness_survive_the_loss_of_any_one() -> anyhow::Result<()> {
    let cluster = Cluster::of(2)?;
    step("a witness joins the group of two");
    let mut witness = Witness::of(&cluster)?;
    Ledger::create(&cluster, "ledger", true)?;
    let total = &mut Account::default();
    write_for_a_while(&cluster, &[1, 2], 1, total)?;

    for (number, (lost, left)) in [(2, 1), (1, 2)].into_iter().enumerate() {
        step(format!("server {lost} is killed: writes and strong reads go on at server {left}"));
        cluster.kill(lost)?;
        cluster.wait_for_service(left, "ledger")?;
        let run = 2 + u32::try_from(number).expect("two of them");
        write_for_a_while(&cluster, &[left], run, total)?;
        step("it comes back, and has everything");
        cluster.start(lost)?;
        cluster.wait_for_service(lost, "ledger")?;
        cluster.equal_checksums(&[1, 2], "ledger")?;
    }

    step("the witness is killed: the two servers go on");
    witness.kill()?;
    write_for_a_while(&cluster, &[1, 2], 4, total)?;
    cluster.equal_checksums(&[1, 2], "ledger")?;

    step("it comes back, with what it had promised: a server may be lost again");
    witness.start()?;
    witness.await_role(&cluster, 2)?;
    cluster.kill(1)?;
    cluster.wait_for_service(2, "ledger")?;
    write_for_a_while(&cluster, &[2], 5, total)?;
    cluster.start(1)?;
    cluster.wait_for_service(1, "ledger")?;
    cluster.equal_checksums(&[1, 2], "ledger")?;

    step("it is removed, and ends by itself");
    cluster.run(1, &format!("SELECT paxos_remove_host('local', '{}')", witness.address()))?;
    let ended = witness.await_end()?;
    ensure!(ended.success(), "{ended}");
    write_for_a_while(&cluster, &[1, 2], 6, total)?;
    cluster.finish()
}

#[test]
fn a_witness_that_was_removed_while_it_was_away_ends_by_itself() -> anyhow::Result<()> {
    let cluster = Cluster::of(2)?;
    let mut witness = Witness::of(&cluster)?;
    cluster.replicate("CREATE TABLE t (id bigint PRIMARY KEY)", &["t"])?;

    step("the witness is killed, and removed");
    witness.kill()?;
    cluster.run(1, &format!("SELECT paxos_remove_host('local', '{}')", witness.address()))?;

    step("it comes back when nobody keeps a link for it any more, finds out, and ends");
    std::thread::sleep(FAREWELL);
    witness.start()?;
    let ended = witness.await_end()?;
    ensure!(ended.success(), "{ended}");

    step("the two servers go on");
    cluster.run(2, "INSERT INTO t VALUES (1)")?;
    cluster.equal_checksums(&[1, 2], "t")?;
    cluster.finish()
}

#[test]
fn a_witness_keeps_no_more_than_the_servers_may_lack() -> anyhow::Result<()> {
    let cluster = Cluster::of(2)?;
    let witness = Witness::of(&cluster)?;
    cluster.replicate("CREATE TABLE bulk (id bigint PRIMARY KEY, filling text)", &["bulk"])?;

    step("far more is written than the servers keep between two checkpoints");
    let transactions = Size { quick: 30, full: 300 }.now();
    for number in 0..transactions {
        // About 12 MB of log each, not counting what goes away again.
        cluster.run(
            1,
            &format!(
                "INSERT INTO bulk SELECT {number} * 10000 + i, repeat(md5(i::text), 36) FROM generate_series(1, 10000) AS i; \
                 DELETE FROM bulk WHERE id < {number} * 10000"
            ),
        )?;
    }
    let written = (transactions * 12) << 20;
    let kept = witness.bytes_on_disk()?;
    step(format!("of {} MB the witness keeps {} MB", written >> 20, kept >> 20));
    ensure!(kept < 256 << 20, "the witness keeps {kept} bytes");
    cluster.finish()
}
