//! A table is replicated while a member is away that has another table of that name: the member says what is wrong when
//! it comes back, harms nobody, and goes on by itself once the table is gone.

use anyhow::ensure;
use end_to_end::{step, wait_until, Cluster, RECOVERY_TIME_MAX};

#[test]
fn a_server_with_a_table_in_the_way_says_so_and_goes_on_when_it_is_gone() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate("CREATE TABLE other (id int PRIMARY KEY)", &["other"])?;

    step("node 2 has a table of its own and is away while another one of that name is replicated");
    cluster.run(2, "CREATE TABLE clash (id int, remark text); INSERT INTO clash VALUES (1, 'mine')")?;
    cluster.kill(2)?;
    cluster.run(1, "CREATE TABLE clash (id int PRIMARY KEY)")?;
    cluster.run(1, "SELECT paxos_replicate_table('local', 'clash')")?;
    cluster.run(1, "INSERT INTO clash VALUES (7)")?;

    step("when it comes back it says what is in the way, and the others go on");
    cluster.start(2)?;
    let status = "SELECT state || ': ' || coalesce(apply_error, '') FROM pg_stat_paxos WHERE is_self";
    let is_told = |said: &String| said.starts_with("stopped: ") && said.contains("clash");
    let said = wait_until("node 2 tells that it stopped", RECOVERY_TIME_MAX, || cluster.value(2, status), is_told)?;
    eprintln!("node 2: {said}");
    cluster.run(3, "INSERT INTO other VALUES (1)")?;
    let (code, said) = cluster.refusal(2, "SELECT * FROM other")?;
    ensure!(code == "57P03", "node 2 is behind, and a strong read there says {code}: {said}");

    step("the table is dropped: node 2 catches up with no other step");
    cluster.run(2, "DROP TABLE clash")?;
    wait_until("node 2 goes on", RECOVERY_TIME_MAX, || cluster.value(2, status), |said: &String| said == "serving: ")?;
    let seen = cluster.equal_checksums(&[1, 2, 3], "clash")?;
    ensure!(seen.rows == 1);
    cluster.equal_checksums(&[1, 2, 3], "other")?;
    cluster.finish()
}
