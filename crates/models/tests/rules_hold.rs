//! The rules as designed hold in every state of the small models. `make models` searches larger ones.

use models::checker::Outcome;
use models::runs;

fn every_state_holds(model: &str) {
    let runs: Vec<_> = runs::small().into_iter().filter(|run| run.model == model).collect();
    assert!(!runs.is_empty());
    for run in runs {
        let report = run.search(&mut |_, _| {});
        println!("{model}, {}: {report}", run.bounds);
        assert_eq!(report.outcome, Outcome::Complete, "{}: {report}", run.bounds);
        assert!(run.surprises(&report).is_empty(), "{}: {:?}", run.bounds, run.surprises(&report));
    }
}

#[test]
fn one_value_per_slot_and_nothing_acknowledged_is_lost() {
    every_state_holds("log");
}

#[test]
fn a_read_returns_no_less_than_was_known_before_it_began() {
    every_state_holds("reads");
}

#[test]
fn a_change_of_members_loses_nothing_and_decides_nothing_twice() {
    every_state_holds("epochs");
}
