//! Certification as every node must see it: what may commit beside what, and that all nodes agree for ever.

use consensus::{NodeId, Slot};
use proptest::prelude::*;
use tables::{
    Certifier, CheckpointError, Conflict, DecodeError, IndexId, Key, KeyHash, Reason, Strength, TableId, Verdict,
    WINDOW_BYTES_DEFAULT,
};

const NODE: NodeId = NodeId(7);

fn key(hash: u64, strength: Strength, position: u64) -> Key {
    Key { table: TableId(1), index: IndexId::ROW, hash: KeyHash(hash), strength, position: Slot(position) }
}

#[test]
fn the_first_in_log_order_wins_and_the_loser_learns_against_whom() {
    let mut certifier = Certifier::new(WINDOW_BYTES_DEFAULT);
    // Two nodes change one row, neither having seen the other's change.
    assert!(certifier.certify(Slot(1), NODE, &[key(5, Strength::Update, 0)]).is_accepted());
    let late = key(5, Strength::Update, 0);
    assert_eq!(
        certifier.certify(Slot(2), NodeId(8), &[late]),
        Verdict::Rejected(Conflict {
            key: late,
            reason: Reason::Touched { slot: Slot(1), origin: NODE, strength: Strength::Update }
        })
    );
    // Tried again after it saw the first one, it commits: the rejected try left nothing behind.
    assert!(certifier.certify(Slot(3), NodeId(8), &[key(5, Strength::Update, 1)]).is_accepted());
}

#[test]
fn a_parent_cannot_go_while_a_child_comes_but_its_other_columns_may_change() {
    let mut certifier = Certifier::new(WINDOW_BYTES_DEFAULT);
    assert!(certifier.certify(Slot(1), NODE, &[key(5, Strength::Reference, 0)]).is_accepted());
    assert!(certifier.certify(Slot(2), NODE, &[key(5, Strength::Reference, 0)]).is_accepted());
    assert!(certifier.certify(Slot(3), NODE, &[key(5, Strength::Update, 0)]).is_accepted());
    assert!(!certifier.certify(Slot(4), NODE, &[key(5, Strength::Exclusive, 0)]).is_accepted());
    // An earlier, weaker touch that was seen does not hide a stronger one that was not.
    assert!(certifier.certify(Slot(5), NODE, &[key(5, Strength::Exclusive, 3)]).is_accepted());
    assert!(certifier.certify(Slot(6), NODE, &[key(5, Strength::Reference, 5)]).is_accepted());
    assert!(!certifier.certify(Slot(7), NODE, &[key(5, Strength::Reference, 4)]).is_accepted());
}

#[test]
fn equal_hashes_of_different_indexes_or_tables_do_not_meet() {
    let mut certifier = Certifier::new(WINDOW_BYTES_DEFAULT);
    let row = key(5, Strength::Exclusive, 0);
    assert!(certifier.certify(Slot(1), NODE, &[row]).is_accepted());
    assert!(certifier.certify(Slot(2), NODE, &[Key { index: IndexId::FIRST_UNIQUE, ..row }]).is_accepted());
    assert!(certifier.certify(Slot(3), NODE, &[Key { table: TableId(2), ..row }]).is_accepted());
}

#[test]
fn what_was_read_below_the_floor_is_rejected() {
    // A window that holds two entries of one key each.
    let mut certifier = Certifier::new(2 * (64 + 96));
    for slot in 1..=3 {
        assert!(certifier.certify(Slot(slot), NODE, &[key(slot, Strength::Update, slot - 1)]).is_accepted());
    }
    assert_eq!(certifier.floor(), Slot(1));
    let old = key(99, Strength::Update, 0);
    assert_eq!(
        certifier.certify(Slot(4), NODE, &[old]),
        Verdict::Rejected(Conflict { key: old, reason: Reason::BelowFloor { floor: Slot(1) } })
    );
    assert!(certifier.certify(Slot(5), NODE, &[key(99, Strength::Update, 1)]).is_accepted());
}

#[test]
fn an_entry_larger_than_the_window_commits_and_closes_everything_before_it() {
    let mut certifier = Certifier::new(200);
    let keys: Vec<Key> = (0..10).map(|hash| key(hash, Strength::Exclusive, 0)).collect();
    assert!(certifier.certify(Slot(1), NODE, &keys).is_accepted());
    assert_eq!(certifier.floor(), Slot(1));
    assert!(!certifier.certify(Slot(2), NODE, &[key(3, Strength::Update, 0)]).is_accepted());
    assert!(certifier.certify(Slot(3), NODE, &[key(3, Strength::Update, 1)]).is_accepted());
}

#[test]
fn a_verdict_survives_its_encoding() {
    let rejected = Verdict::Rejected(Conflict {
        key: key(1, Strength::Update, 3),
        reason: Reason::Touched { slot: Slot(4), origin: NODE, strength: Strength::Exclusive },
    });
    for verdict in [Verdict::Accepted, rejected] {
        assert_eq!(Verdict::decode(&verdict.encode()), Ok(verdict));
    }
    assert!(Verdict::decode(&[9]).is_err());
}

fn strengths() -> impl Strategy<Value = Strength> {
    prop_oneof![Just(Strength::Reference), Just(Strength::Update), Just(Strength::Exclusive)]
}

/// A proposed entry: its node, and its keys with how far behind its slot each was read.
type Proposed = (u128, Vec<(u64, Strength, u64)>);

fn entries() -> impl Strategy<Value = Vec<Proposed>> {
    let key = (0..12_u64, strengths(), 0..12_u64);
    prop::collection::vec((0..3_u128, prop::collection::vec(key, 0..4)), 1..60)
}

fn keys_at(slot: u64, keys: &[(u64, Strength, u64)]) -> Vec<Key> {
    keys.iter().map(|(hash, strength, behind)| key(*hash, *strength, (slot - 1).saturating_sub(*behind))).collect()
}

/// The rule itself, with no index and no window: look at every accepted entry since the position.
fn verdict_by_hand(accepted: &[(u64, Vec<Key>)], floor: u64, keys: &[Key]) -> bool {
    keys.iter().all(|key| {
        key.position.0 >= floor
            && accepted.iter().filter(|(slot, _)| *slot > key.position.0).all(|(_, earlier)| {
                earlier
                    .iter()
                    .filter(|earlier| earlier.hash == key.hash)
                    .all(|earlier| tables::relation(earlier.strength, key.strength) != tables::Relation::Conflict)
            })
    })
}

proptest! {
    #[test]
    fn two_nodes_agree_and_so_does_one_restored_at_any_slot(entries in entries(), window in 0..3000_u64) {
        let mut one = Certifier::new(window);
        let mut other = Certifier::new(window);
        let mut restored: Vec<Certifier> = Vec::new();
        for (slot, (node, keys)) in (1..).zip(&entries) {
            let keys = keys_at(slot, keys);
            let verdict = one.certify(Slot(slot), NodeId(*node), &keys);
            prop_assert_eq!(&verdict, &other.certify(Slot(slot), NodeId(*node), &keys));
            for certifier in &mut restored {
                prop_assert_eq!(&verdict, &certifier.certify(Slot(slot), NodeId(*node), &keys));
            }
            let bytes = one.checkpoint();
            let again = Certifier::restore(&bytes).expect("a checkpoint restores");
            prop_assert_eq!(&bytes, &again.checkpoint());
            for certifier in &restored {
                prop_assert_eq!(&bytes, &certifier.checkpoint());
            }
            restored.push(again);
        }
    }

    #[test]
    fn the_index_says_what_the_rule_says(entries in entries(), window in 0..3000_u64) {
        let mut certifier = Certifier::new(window);
        let mut accepted: Vec<(u64, Vec<Key>)> = Vec::new();
        for (slot, (node, keys)) in (1..).zip(&entries) {
            let keys = keys_at(slot, keys);
            let by_hand = verdict_by_hand(&accepted, certifier.floor().0, &keys);
            prop_assert_eq!(certifier.conflict(&keys).is_none(), by_hand);
            let verdict = certifier.certify(Slot(slot), NodeId(*node), &keys);
            prop_assert_eq!(verdict.is_accepted(), by_hand);
            if by_hand {
                accepted.push((slot, keys));
            }
        }
    }

    #[test]
    fn hostile_checkpoints_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Certifier::restore(&bytes);
        let mut versioned = vec![1];
        versioned.extend(bytes);
        let _ = Certifier::restore(&versioned);
    }

    #[test]
    fn a_damaged_checkpoint_is_refused_or_is_a_state_of_its_own(entries in entries(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut certifier = Certifier::new(3000);
        for (slot, (node, keys)) in (1..).zip(&entries) {
            certifier.certify(Slot(slot), NodeId(*node), &keys_at(slot, keys));
        }
        let mut bytes = certifier.checkpoint();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(restored) = Certifier::restore(&bytes) {
            prop_assert_eq!(restored.checkpoint(), bytes);
        }
    }
}

#[test]
fn an_unknown_version_is_named() {
    assert_eq!(Certifier::restore(&[2]).err(), Some(CheckpointError::Bytes(DecodeError::Version(2))));
}
