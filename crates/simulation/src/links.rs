//! Links between nodes: they come up and break some time after the paths under them do, and bring messages.

use std::sync::Arc;

use consensus::{Input, Message, NodeId, Start};

use crate::cluster::{Cluster, Event};

impl Cluster {
    pub(crate) fn arrive(&mut self, from: NodeId, to: NodeId, message: Arc<Message>) {
        let Some(receiver) = self.nodes.get(&to) else { return };
        // One that came back since, on an old disk itself, would believe such a start, and take the right one for an impostor.
        let refused = sender_start(&message).and_then(|start| self.refused.get(&(from, start)));
        if refused.is_some_and(|refused| receiver.clock.begun > *refused) {
            return;
        }
        // What was under way when a path was cut is lost with it.
        if self.network.is_open(from, to) {
            self.give(to, Input::Message { from, message: Message::clone(&message) });
        }
    }

    /// Links come up and go down as the paths under them do, some time later.
    pub(crate) fn check_links(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for &from in &ids {
            for &to in &ids {
                if from == to || !self.nodes[&from].is_running() {
                    continue;
                }
                let open = self.network.is_open(from, to) && self.nodes[&to].is_running();
                let connected = self.nodes[&from].connected.contains(&to);
                let set = &mut self.nodes.get_mut(&from).expect("a node of this cluster").connected;
                if open && !connected && self.random.chance(0.7) {
                    set.insert(to);
                    self.give(from, Input::Connected { node: to });
                } else if !open && connected && self.random.chance(self.plan.break_links) {
                    set.remove(&to);
                    self.give(from, Input::Disconnected { node: to });
                }
            }
        }
        self.introduce_members();
        let wait = self.random.between(5_000, 50_000);
        self.schedule.at(self.now + wait, Event::CheckLinks);
    }
}

fn sender_start(message: &Message) -> Option<Start> {
    match message {
        Message::Heartbeat(heartbeat) => Some(heartbeat.start),
        Message::Group { start, .. } => Some(*start),
        Message::Impostor(_) => None,
    }
}
