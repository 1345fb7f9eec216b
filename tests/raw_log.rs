//! The log used by hand, as pg_paxos users know it: opaque values, rounds of their own numbering.

use anyhow::ensure;
use end_to_end::{step, Cluster, Shape};

const GROUP: &str = "raw";

fn group_of_three() -> anyhow::Result<Cluster> {
    let cluster = Shape::of(3).without_group().up()?;
    let founder = cluster.connection_string(1);
    cluster.run(1, &format!("SELECT paxos_create_group('{GROUP}', '{founder}')"))?;
    for node in [2, 3] {
        let own = cluster.connection_string(node);
        cluster.run(node, &format!("SELECT paxos_join_group('{GROUP}', '{founder}', '{own}')"))?;
    }
    Ok(cluster)
}

#[test]
fn rounds_are_decided_once_and_read_everywhere() -> anyhow::Result<()> {
    let cluster = group_of_three()?;

    step("values appended on different nodes get rounds of their own");
    let first: i64 = cluster.value(1, "SELECT paxos_append('n1', 'raw', 'DROP TABLE nothing')")?;
    let second: i64 = cluster.value(2, "SELECT paxos_append('n2', 'raw', 'second')")?;
    ensure!(second > first, "{first}, then {second}");
    for node in cluster.all() {
        let last: i64 = cluster.value(node, "SELECT paxos_max_group_round('raw')")?;
        ensure!(last == second, "node {node} knows {last}");
    }

    step("the first value for a round wins, wherever the second is proposed");
    let far = second + 1_000;
    for (node, proposed, changed) in [(3, "mine", false), (1, "yours", true), (2, "mine", false)] {
        let mut client = cluster.connect(node)?;
        let row = client.query_one(
            "SELECT accepted_value, value_changed FROM paxos($1, 'raw', $2, $3)",
            &[&format!("n{node}"), &far, &proposed],
        )?;
        let (value, was_changed): (String, bool) = (row.get(0), row.get(1));
        ensure!(value == "mine", "node {node} got {value}");
        ensure!(was_changed == changed, "node {node}: value_changed is {was_changed}");
    }

    step("a far round leaves no gap to wait for, and values are never executed");
    for node in cluster.all() {
        let applied: i64 = cluster.value(node, &format!("SELECT paxos_apply_log('n', 'raw', {far})"))?;
        ensure!(applied >= far, "node {node} applied {applied}");
        let values: String = cluster.value(
            node,
            "SELECT string_agg(value, ', ' ORDER BY round_num) FROM pgp_metadata.round WHERE group_id = 'raw'",
        )?;
        ensure!(values.ends_with("DROP TABLE nothing, second, mine"), "node {node}: {values}");
    }
    let next: i64 = cluster.value(3, "SELECT paxos_apply_and_append('n3', 'raw', 'last')")?;
    ensure!(next > far, "{next}");

    step("a node that was away has them all when it is back");
    cluster.kill(2)?;
    let missed: i64 = cluster.value(1, "SELECT paxos_append('n1', 'raw', 'missed')")?;
    cluster.start(2)?;
    end_to_end::wait_until(
        "node 2 knows the last round",
        end_to_end::RECOVERY_TIME_MAX,
        || cluster.value::<i64>(2, "SELECT paxos_max_group_round('raw')"),
        |last| *last == missed,
    )?;
    cluster.finish()
}
