//! The conflict matrix: which pairs of strengths on one key cannot both commit when neither saw the other.
//!
//! After Galera 4 (`key_set.hpp`), which has the same strengths; they stand for PostgreSQL's row locks FOR KEY SHARE,
//! FOR NO KEY UPDATE and FOR UPDATE. *Follows* is a pair that may both commit, but only in log order, which here every
//! pair does anyway.

use crate::key::Strength;

/// What a later transaction's touch of a key means, given an earlier one that it has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// They do not disturb each other.
    Free,
    /// Both may commit, in log order.
    Follows,
    /// The later one is rejected.
    Conflict,
}

use Relation::{Conflict, Follows, Free};

/// Rows: the earlier touch; columns: the later one; both in the order Reference, Update, Exclusive.
const MATRIX: [[Relation; 3]; 3] = [
    // later:   Reference  Update    Exclusive
    /* Reference */ [Free, Follows, Conflict],
    /* Update    */ [Follows, Conflict, Conflict],
    /* Exclusive */ [Conflict, Conflict, Conflict],
];

/// The relation of a `later` touch of a key to an `earlier` one, first in log order, that it has not seen.
pub fn relation(earlier: Strength, later: Strength) -> Relation {
    MATRIX[earlier as usize][later as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Strength::{Exclusive, Reference, Update};

    #[test]
    fn two_children_of_one_parent_do_not_meet() {
        assert_eq!(relation(Reference, Reference), Free);
    }

    #[test]
    fn a_child_and_a_change_of_the_parents_other_columns_may_both_commit() {
        assert_eq!(relation(Reference, Update), Follows);
        assert_eq!(relation(Update, Reference), Follows);
    }

    #[test]
    fn two_changes_of_a_row_conflict_and_so_does_everything_with_its_removal() {
        assert_eq!(relation(Update, Update), Conflict);
        for strength in [Reference, Update, Exclusive] {
            assert_eq!(relation(Exclusive, strength), Conflict);
            assert_eq!(relation(strength, Exclusive), Conflict);
        }
    }
}
