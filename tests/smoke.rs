//! The harness itself, on ordinary servers: what it starts runs, what it kills is dead, and what
//! it leaves behind is nothing.

use end_to_end::{step, wait_until, Shape};
use std::time::Duration;

#[test]
fn servers_start_die_freeze_and_leave_nothing() -> anyhow::Result<()> {
    step("two ordinary servers start");
    let cluster = Shape::of(2).without_extension().set("work_mem = '5MB'").up()?;
    let directory = cluster.directory().to_path_buf();
    for node in 1..=2 {
        assert_eq!(cluster.value::<String>(node, "SHOW work_mem")?, "5MB");
    }

    step("a killed server answers nobody, and comes back with its data");
    cluster.run(1, "CREATE TABLE kept (x int); INSERT INTO kept VALUES (1)")?;
    cluster.kill(1)?;
    assert!(cluster.connect(1).is_err());
    cluster.start(1)?;
    assert_eq!(cluster.value::<i64>(1, "SELECT count(*) FROM kept")?, 1);

    step("a frozen server is silent until it is thawed");
    let connection = cluster.connect(2)?;
    cluster.freeze(2)?;
    let query = std::thread::spawn(move || {
        let mut connection = connection;
        connection.batch_execute("SELECT 1").map(|()| connection)
    });
    // It cannot be proven that nothing will ever come; a quarter of a second is long for SELECT 1.
    wait_until("a quarter of a second", Duration::from_secs(5), || Ok(std::time::Instant::now()), {
        let until = std::time::Instant::now() + Duration::from_millis(250);
        move |now| *now > until
    })?;
    assert!(!query.is_finished(), "a frozen server answered");
    cluster.thaw(2)?;
    query.join().expect("the query's thread does not panic")?;

    step("equal and unequal tables are told apart");
    cluster.run(2, "CREATE TABLE kept (x int)")?;
    assert!(cluster.equal_checksums(&[1, 2], "kept").is_err());
    cluster.run(2, "INSERT INTO kept VALUES (1)")?;
    assert_eq!(cluster.equal_checksums(&[1, 2], "kept")?.rows, 1);

    step("nothing is left");
    cluster.finish()?;
    assert!(!directory.exists());
    Ok(())
}
