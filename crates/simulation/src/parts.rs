//! Users' operations that travel in parts: the last one is proposed once all others are answered as chosen.

use std::collections::{BTreeMap, BTreeSet};

use consensus::{Entry, NodeId, OperationId, ProposalOutcome};

use crate::cluster::Cluster;

/// More parts than this are of no further interest.
const PARTS_MAX: u64 = 5;

/// Operations of which not all parts are chosen yet.
#[derive(Debug, Default)]
pub struct Unfinished {
    operations: BTreeMap<OperationId, Operation>,
    /// Whose each part in flight is.
    parts: BTreeMap<OperationId, OperationId>,
}

#[derive(Debug)]
struct Operation {
    node: NodeId,
    parts: u32,
    open: BTreeSet<OperationId>,
}

impl Unfinished {
    /// The node lost its memory: it never sends the last parts.
    pub fn crashed(&mut self, node: NodeId) {
        self.operations.retain(|_, operation| operation.node != node);
        let operations = &self.operations;
        self.parts.retain(|_, operation| operations.contains_key(operation));
    }
}

/// What stands in a place of an operation's body, and in no other.
pub fn piece(operation: OperationId, number: u32) -> Vec<u8> {
    format!("{operation}/{number};").into_bytes()
}

/// The whole body of an operation with this many parts before the last.
pub fn body(operation: OperationId, parts: u32) -> Vec<u8> {
    (0..=parts).flat_map(|number| piece(operation, number)).collect()
}

impl Cluster {
    /// A new operation in parts, at one node.
    pub(crate) fn user_proposes_in_parts(&mut self, id: NodeId) {
        let parts = u32::try_from(self.random.between(1, PARTS_MAX)).expect("a small number");
        let node = self.nodes.get_mut(&id).expect("a node of this cluster");
        let operation = node.next_id();
        let own: Vec<OperationId> = (0..parts).map(|_| node.next_id()).collect();
        let unfinished = &mut self.workload.unfinished;
        unfinished.operations.insert(operation, Operation { node: id, parts, open: own.iter().copied().collect() });
        unfinished.parts.extend(own.iter().map(|part| (*part, operation)));
        // In any order: each says where it stands.
        for (number, part) in (0..parts).zip(own).rev() {
            self.propose(id, Entry::part(part, operation, number, &piece(operation, number)));
        }
    }

    /// A proposal was answered; if it was the last open part of an operation, its end is proposed.
    pub(crate) fn part_answered(&mut self, node: NodeId, part: OperationId, outcome: &ProposalOutcome) {
        let unfinished = &mut self.workload.unfinished;
        // Proposed again elsewhere, it is no business of the one that sends the operation.
        let Some(id) = unfinished.parts.get(&part).copied().filter(|id| unfinished.operations[id].node == node) else {
            return;
        };
        unfinished.parts.remove(&part);
        let operation = unfinished.operations.get_mut(&id).expect("its part is in flight");
        operation.open.remove(&part);
        let parts = operation.parts;
        if !matches!(outcome, ProposalOutcome::Chosen(_)) {
            // Without its last part it takes no effect.
            let gone = unfinished.operations.remove(&id).expect("it was just there");
            unfinished.parts.retain(|part, _| !gone.open.contains(part));
        } else if operation.open.is_empty() {
            unfinished.operations.remove(&id);
            let length = u32::try_from(body(id, parts).len()).expect("a small number");
            self.propose(node, Entry::last_part(id, parts, length, &piece(id, parts)));
        }
    }
}
