//! What is to happen when. Events of the same moment happen in the order in which they were planned.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Microseconds since the simulation began: the time that nobody inside can see.
pub type Moment = u64;

/// Planned events.
#[derive(Debug)]
pub struct Schedule<E> {
    order: BinaryHeap<Reverse<(Moment, u64)>>,
    events: BTreeMap<u64, E>,
    next: u64,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Schedule { order: BinaryHeap::new(), events: BTreeMap::new(), next: 0 }
    }
}

impl<E> Schedule<E> {
    /// Plans an event.
    pub fn at(&mut self, moment: Moment, event: E) {
        self.order.push(Reverse((moment, self.next)));
        self.events.insert(self.next, event);
        self.next += 1;
    }

    /// Takes the next event.
    pub fn take_next(&mut self) -> Option<(Moment, E)> {
        let Reverse((moment, number)) = self.order.pop()?;
        let event = self.events.remove(&number).expect("an event is taken once");
        Some((moment, event))
    }
}
