//! A set of messages: everything ever sent, which is the network of all models, or the replies of a node that wait for its
//! disk.
//!
//! A set and not a queue, as the order of sending means nothing on a network that delays and repeats as it likes; kept in order
//! of content, so that equal sets are equal states.

use crate::words::{Node, Nodes};

/// The set.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Messages<M>(Vec<M>);

impl<M> Default for Messages<M> {
    fn default() -> Messages<M> {
        Messages(Vec::new())
    }
}

impl<M: Copy + Ord> Messages<M> {
    /// Puts a message in; once is enough.
    pub fn insert(&mut self, message: M) {
        if let Err(at) = self.0.binary_search(&message) {
            self.0.insert(at, message);
        }
    }

    /// Takes a message out, if it is there.
    pub fn remove(&mut self, message: &M) {
        if let Ok(at) = self.0.binary_search(message) {
            self.0.remove(at);
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is there.
    #[must_use]
    pub fn has(&self, message: &M) -> bool {
        self.0.binary_search(message).is_ok()
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &M> {
        self.0.iter()
    }

    /// Who sent a message of a kind: `sender` names the sender of those that count. A quorum is counted from this: a message
    /// not yet counted is one not yet delivered.
    pub fn senders(&self, sender: impl Fn(&M) -> Option<Node>) -> Nodes {
        self.0.iter().filter_map(sender).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_there_once_and_the_order_of_sending_is_forgotten() {
        let (mut one, mut other) = (Messages::default(), Messages::default());
        for message in [(1, 'b'), (0, 'a'), (1, 'b')] {
            one.insert(message);
        }
        for message in [(0, 'a'), (1, 'b')] {
            other.insert(message);
        }
        assert_eq!(one, other);
        assert_eq!(one.senders(|(from, what)| (*what == 'b').then_some(*from)), Nodes::of(&[1]));
        one.remove(&(1, 'b'));
        assert!(!one.has(&(1, 'b')) && one.has(&(0, 'a')));
        assert!(one.iter().eq(&[(0, 'a')]) && !one.is_empty());
    }
}
