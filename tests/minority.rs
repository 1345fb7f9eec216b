//! One node of three, alone: what needs a majority is refused within the deadline, before anything
//! is proposed, and says who answers; what does not need one goes on.

use anyhow::ensure;
use end_to_end::{describe, step, Cluster};
use std::time::{Duration, Instant};

/// Longer than the deadline that the documentation states, shorter than patience.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(15);

#[test]
fn a_minority_refuses_clearly_and_a_majority_needs_no_step() -> anyhow::Result<()> {
    let cluster = Cluster::of(3)?;
    cluster.replicate("CREATE TABLE held (id int PRIMARY KEY)", &["held"])?;
    cluster.run(1, "INSERT INTO held VALUES (1)")?;

    for (way, disturb, restore) in [
        ("killed", Cluster::kill as fn(&Cluster, usize) -> _, Cluster::start as fn(&Cluster, usize) -> _),
        ("frozen", Cluster::freeze, Cluster::thaw),
    ] {
        step(format!("nodes 2 and 3 are {way}"));
        disturb(&cluster, 2)?;
        disturb(&cluster, 3)?;
        for sql in ["SELECT * FROM held", "INSERT INTO held VALUES (2)", "UPDATE held SET id = id + 10"] {
            let begin = Instant::now();
            let (code, said) = cluster.refusal(1, sql)?;
            eprintln!("{sql}: after {:.1?}: {said}", begin.elapsed());
            // A write that was proposed before the silence was noticed is honestly unknown; a
            // refusal that comes later must be definite.
            ensure!(code == "57P03" || (code == "08007" && sql.starts_with("INSERT")), "{code}");
            ensure!(begin.elapsed() < REFUSAL_TIME_MAX, "{sql}: refused after {:?}", begin.elapsed());
        }
        step("optimistic reads go on");
        let mut client = cluster.connect(1)?;
        client.batch_execute("SET pg_paxos.consistency_model = optimistic")?;
        let count: i64 = client
            .query_one("SELECT count(*) FROM held WHERE id = 1", &[])
            .map_err(|error| anyhow::anyhow!(describe(&error)))?
            .get(0);
        ensure!(count == 1);

        step("a node that does not answer holds nobody up who asks what runs");
        if way == "frozen" {
            cluster.up_again()?;
        }

        step("one of them comes back: two of three serve, with nothing else done");
        restore(&cluster, 2)?;
        cluster.wait_for_service(1, "held")?;
        cluster.run(1, "DELETE FROM held WHERE id <> 1")?;
        cluster.equal_checksums(&[1, 2], "held")?;
        restore(&cluster, 3)?;
        cluster.wait_for_service(3, "held")?;
        cluster.equal_checksums(&[1, 2, 3], "held")?;
    }
    cluster.finish()
}
