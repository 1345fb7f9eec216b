//! The window of operation ids (rule 10): log state, driven in delivery order, alike on every member.
//!
//! An id's first occurrence uses it up; later ones take no effect and give the first's outcome. An id older than the window
//! is refused everywhere alike. What is forgotten depends on the log alone: the oldest by slot, when there are too many.

use crate::bounded::{at_most, map_of_at_most};
use crate::bounds::{self, ID_WINDOW_MAX, OUTCOME_BYTES_MAX};
use crate::ids::{NodeId, OperationId, Slot, Start};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// What became of an operation at its slot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It took effect; the face's own answer.
    Applied(Vec<u8>),
    /// It was rejected at its slot; the face's own reason.
    Rejected(Vec<u8>),
    /// Its id was closed before it came: it definitely failed.
    Closed,
}

/// What the window says to an id that appears in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Occurrence {
    /// The first: apply it, then [`IdWindow::record`] what came out.
    First,
    /// A later one, without effect: the first was at this slot and ended so.
    Repeated(Slot, Outcome),
    /// Older than the window: without effect, its outcome is no longer known.
    Expired,
}

/// The ids used up lately, with their outcomes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Encoded", into = "Encoded")]
pub struct IdWindow {
    capacity: usize,
    used: BTreeMap<OperationId, (Slot, Outcome)>,
    order: VecDeque<OperationId>,
    /// Per node and start: the highest sequence forgotten. At or below it, nothing is known.
    floors: BTreeMap<(NodeId, Start), u64>,
}

/// How a checkpoint holds it: each id once, in the order of use.
#[derive(Serialize, Deserialize)]
struct Encoded {
    capacity: usize,
    #[serde(deserialize_with = "at_most::<ID_WINDOW_MAX, _, _, _>")]
    used: Vec<(OperationId, Slot, Outcome)>,
    #[serde(deserialize_with = "map_of_at_most::<ID_WINDOW_MAX, _, _, _>")]
    floors: BTreeMap<(NodeId, Start), u64>,
}

/// A window that cannot have come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid window of ids: {0}")]
pub struct InvalidIdWindow(&'static str);

impl TryFrom<Encoded> for IdWindow {
    type Error = InvalidIdWindow;

    /// A checkpoint comes from another member: what it says is held against everything that is relied on later.
    fn try_from(encoded: Encoded) -> Result<IdWindow, InvalidIdWindow> {
        let wrong = |why| Err(InvalidIdWindow(why));
        if !(1..=ID_WINDOW_MAX).contains(&encoded.capacity) || encoded.used.len() > encoded.capacity {
            return wrong("it holds more ids than it may");
        }
        if !encoded.used.windows(2).all(|pair| pair[0].1 <= pair[1].1) {
            return wrong("its ids are not in slot order");
        }
        let detail = |outcome: &Outcome| match outcome {
            Outcome::Applied(detail) | Outcome::Rejected(detail) => detail.len(),
            Outcome::Closed => 0,
        };
        if encoded.used.iter().any(|(_, _, outcome)| detail(outcome) > OUTCOME_BYTES_MAX) {
            return wrong("an outcome is too long");
        }
        let order: VecDeque<OperationId> = encoded.used.iter().map(|(id, _, _)| *id).collect();
        let used: BTreeMap<_, _> = encoded.used.into_iter().map(|(id, slot, outcome)| (id, (slot, outcome))).collect();
        if used.len() != order.len() {
            return wrong("an id is used twice");
        }
        Ok(IdWindow { capacity: encoded.capacity, used, order, floors: encoded.floors })
    }
}

impl From<IdWindow> for Encoded {
    fn from(mut window: IdWindow) -> Encoded {
        let used = window.order.iter().map(|id| {
            let (slot, outcome) = window.used.remove(id).expect("what is in order is used");
            (*id, slot, outcome)
        });
        Encoded { capacity: window.capacity, used: used.collect(), floors: window.floors }
    }
}

impl Default for IdWindow {
    fn default() -> Self {
        IdWindow::new(bounds::ID_WINDOW_MAX)
    }
}

impl IdWindow {
    /// A window of this many ids. Part of the log's state: every member must use the same.
    #[must_use]
    pub fn new(capacity: usize) -> IdWindow {
        assert!(capacity > 0);
        IdWindow { capacity, used: BTreeMap::new(), order: VecDeque::new(), floors: BTreeMap::new() }
    }

    /// What is known of an id.
    #[must_use]
    pub fn look_up(&self, id: OperationId) -> Occurrence {
        if let Some((slot, outcome)) = self.used.get(&id) {
            return Occurrence::Repeated(*slot, outcome.clone());
        }
        let floor = self.floors.get(&(id.node, id.start)).copied().unwrap_or(0);
        // A node that has a floor for a later start is past this one: whatever it knew of the earlier is gone.
        let passed = self
            .floors
            .range((id.node, Start(id.start.0.saturating_add(1)))..=(id.node, Start(u64::MAX)))
            .next()
            .is_some();
        if id.sequence <= floor || passed {
            return Occurrence::Expired;
        }
        Occurrence::First
    }

    /// The id ended so at this slot. Call it once per first occurrence, in slot order.
    pub fn record(&mut self, slot: Slot, id: OperationId, outcome: Outcome) {
        assert_eq!(self.look_up(id), Occurrence::First, "an id ends once");
        self.used.insert(id, (slot, outcome));
        self.order.push_back(id);
        while self.order.len() > self.capacity {
            self.forget_oldest();
        }
    }

    /// A close entry for `target` appeared at this slot: what the asker is to be told.
    pub fn close(&mut self, slot: Slot, target: OperationId) -> Occurrence {
        let occurrence = self.look_up(target);
        if occurrence != Occurrence::First {
            return occurrence;
        }
        self.record(slot, target, Outcome::Closed);
        Occurrence::Repeated(slot, Outcome::Closed)
    }

    /// The slot at which the newest id was used up; none in an empty window.
    #[must_use]
    pub fn last_slot(&self) -> Option<Slot> {
        self.order.back().map(|id| self.used[id].0)
    }

    /// How many ids it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn forget_oldest(&mut self) {
        let Some(id) = self.order.pop_front() else { return };
        self.used.remove(&id).expect("what is in order is used");
        let floor = self.floors.entry((id.node, id.start)).or_default();
        *floor = (*floor).max(id.sequence);
        // Floors of a node's earlier starts say no more than that of a later one.
        let earlier: Vec<_> =
            self.floors.range((id.node, Start(0))..(id.node, id.start)).map(|(key, _)| *key).collect();
        for key in earlier {
            self.floors.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(node: u128, start: u64, sequence: u64) -> OperationId {
        OperationId { node: NodeId(node), start: Start(start), sequence }
    }

    fn applied(text: &str) -> Outcome {
        Outcome::Applied(text.as_bytes().to_vec())
    }

    #[test]
    fn the_first_occurrence_uses_an_id_up() {
        let mut window = IdWindow::new(10);
        assert_eq!(window.look_up(id(1, 1, 1)), Occurrence::First);
        window.record(Slot(5), id(1, 1, 1), Outcome::Rejected(vec![7]));
        assert_eq!(
            window.look_up(id(1, 1, 1)),
            Occurrence::Repeated(Slot(5), Outcome::Rejected(vec![7])),
            "rejected ones too"
        );
        assert_eq!(window.look_up(id(2, 1, 1)), Occurrence::First, "another node's id is another id");
    }

    #[test]
    fn closing_makes_failure_final() {
        let mut window = IdWindow::new(10);
        assert_eq!(window.close(Slot(1), id(1, 1, 1)), Occurrence::Repeated(Slot(1), Outcome::Closed));
        assert_eq!(
            window.look_up(id(1, 1, 1)),
            Occurrence::Repeated(Slot(1), Outcome::Closed),
            "it can not take effect any more"
        );
        window.record(Slot(2), id(1, 1, 2), applied("done"));
        assert_eq!(
            window.close(Slot(3), id(1, 1, 2)),
            Occurrence::Repeated(Slot(2), applied("done")),
            "what happened stays"
        );
    }

    #[test]
    fn ids_older_than_the_window_are_refused() {
        let mut window = IdWindow::new(2);
        window.record(Slot(1), id(1, 1, 2), applied("a"));
        window.record(Slot(2), id(1, 1, 3), applied("b"));
        window.record(Slot(3), id(1, 1, 4), applied("c"));
        assert_eq!(window.look_up(id(1, 1, 2)), Occurrence::Expired);
        assert_eq!(window.look_up(id(1, 1, 1)), Occurrence::Expired, "older than what was forgotten");
        assert_eq!(window.close(Slot(4), id(1, 1, 1)), Occurrence::Expired, "nothing final can be said");
        assert_eq!(window.look_up(id(1, 1, 5)), Occurrence::First);
        assert_eq!(window.len(), 2);
    }

    #[test]
    fn an_earlier_start_ends_with_the_floor_of_a_later_one() {
        let mut window = IdWindow::new(1);
        window.record(Slot(1), id(1, 1, 9), applied("a"));
        window.record(Slot(2), id(1, 2, 1), applied("b"));
        assert_eq!(window.look_up(id(1, 1, 10)), Occurrence::First, "nothing of start 2 is forgotten yet");
        window.record(Slot(3), id(2, 1, 1), applied("c"));
        assert_eq!(window.look_up(id(1, 1, 10)), Occurrence::Expired);
        assert_eq!(window.look_up(id(1, 2, 2)), Occurrence::First);
    }

    #[test]
    fn a_checkpoint_brings_it_back_as_it_was() {
        let mut window = IdWindow::new(3);
        for sequence in 1..=5 {
            window.record(Slot(sequence), id(u128::from(sequence % 2), 1, sequence), applied("x"));
        }
        let bytes = postcard::to_stdvec(&window).expect("it encodes");
        let mut back: IdWindow = postcard::from_bytes(&bytes).expect("it decodes");
        assert_eq!(back, window);
        back.record(Slot(6), id(1, 1, 7), applied("y"));
        window.record(Slot(6), id(1, 1, 7), applied("y"));
        assert_eq!(back, window);
    }

    #[test]
    fn a_window_that_cannot_have_come_about_is_refused() {
        let used = |slot: u64, sequence: u64| (id(1, 1, sequence), Slot(slot), Outcome::Closed);
        let decode = |capacity: usize, used: Vec<(OperationId, Slot, Outcome)>| {
            let encoded = Encoded { capacity, used, floors: BTreeMap::new() };
            postcard::from_bytes::<IdWindow>(&postcard::to_stdvec(&encoded).expect("it encodes"))
        };
        assert!(decode(2, vec![used(1, 1), used(2, 2)]).is_ok());
        assert!(decode(2, vec![used(1, 1), used(2, 1)]).is_err(), "an id twice");
        assert!(decode(1, vec![used(1, 1), used(2, 2)]).is_err(), "more than it may hold");
        assert!(decode(2, vec![used(2, 1), used(1, 2)]).is_err(), "out of order");
        assert!(decode(0, vec![]).is_err(), "no room at all");
        let long = Outcome::Applied(vec![0; OUTCOME_BYTES_MAX + 1]);
        assert!(decode(2, vec![(id(1, 1, 1), Slot(1), long)]).is_err(), "an outcome longer than any");
    }
}
