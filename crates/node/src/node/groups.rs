//! Groups on this node: creating, learning, changing, leaving; and the links that follow from their members.

use super::Node;
use crate::clients::ReplyTo;
use crate::description::{self, is_plain, member_text};
use crate::limits::{FAREWELL, WAITERS_MAX};
use crate::replica::Replica;
use crate::waiting::{ChangeKind, ChangeWaiter};
use crate::FaceContext;
use client::{GroupDescription, GroupId, NewMember, NodeId, Progress, Refusal, RefusalReason, Response};
use consensus::{Change, Configuration, Input, Member, Role, Token};
use network::{Peer, PublicKey};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tracing::{error, info};

impl Node {
    /// Makes sure that peers can reach this node.
    pub(super) async fn listen(&mut self) -> Result<(), Refusal> {
        if self.listening {
            return Ok(());
        }
        let addresses = self.listen_address.clone();
        for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            let bound = self.links.listen(address).await.map_err(|error| {
                Refusal::definite(RefusalReason::Invalid, error.to_string())
                    .with_hint("Set another listen address or port for the engine.")
            })?;
            let bound: Vec<String> = bound.iter().map(ToString::to_string).collect();
            info!("listening for peers on {}", bound.join(", "));
        }
        self.listening = true;
        Ok(())
    }

    pub(super) async fn create_group(
        &mut self,
        to: ReplyTo,
        name: String,
        kind: String,
        label: String,
        database: String,
    ) {
        if let Err(refusal) = self.try_create_group(to, name, kind, label, database).await {
            self.clients.refuse(to, refusal);
        }
    }

    async fn try_create_group(
        &mut self,
        to: ReplyTo,
        name: String,
        kind: String,
        label: String,
        database: String,
    ) -> Result<(), Refusal> {
        check_texts(&[&name, &kind, &label, &database])?;
        if name.is_empty() {
            return Err(Refusal::definite(RefusalReason::Invalid, "a group needs a name"));
        }
        if !self.faces.knows(&kind) {
            return Err(Refusal::definite(
                RefusalReason::Invalid,
                format!("this node cannot serve groups of kind \"{kind}\""),
            ));
        }
        self.refuse_name(&name)?;
        self.listen().await?;
        let member = Member {
            node: self.node,
            address: self.advertise_address.clone(),
            public_key: self.public_key.to_vec(),
            role: Role::Voter,
            label: member_text(&label, &database),
        };
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| Refusal::definite(RefusalReason::Invalid, format!("cannot draw a group id: {error}")))?;
        let group = GroupId(u128::from_le_bytes(random));
        let token = self.wait_for_change(to, group, ChangeKind::Create)?;
        let discipline = self.faces.discipline(&kind);
        self.input(Input::CreateGroup { token, group, name, kind, detail: database, discipline, member });
        Ok(())
    }

    fn refuse_name(&self, name: &str) -> Result<(), Refusal> {
        if self.replicas.values().any(|replica| replica.configuration.name == name) {
            return Err(Refusal::definite(
                RefusalReason::GroupExists,
                format!("group \"{name}\" exists on this node already"),
            ));
        }
        Ok(())
    }

    fn wait_for_change(&mut self, to: ReplyTo, group: GroupId, kind: ChangeKind) -> Result<Token, Refusal> {
        if self.waiting.changes.len() >= WAITERS_MAX {
            return Err(Refusal::definite(RefusalReason::Full, "too many changes wait").with_hint("Try again later."));
        }
        let token = self.waiting.token();
        self.waiting.changes.insert(token, ChangeWaiter { to, group, kind });
        Ok(token)
    }

    pub(super) async fn learn_group(&mut self, to: ReplyTo, group: GroupDescription, await_state: bool) {
        if let Err(refusal) = self.try_learn_group(to, group, await_state).await {
            self.clients.refuse(to, refusal);
        }
    }

    async fn try_learn_group(
        &mut self,
        to: ReplyTo,
        group: GroupDescription,
        await_state: bool,
    ) -> Result<(), Refusal> {
        let configuration = description::configuration(&group).map_err(|why| {
            Refusal::definite(RefusalReason::Invalid, format!("the group's configuration is invalid: {why}"))
        })?;
        let own = configuration.member(self.node).ok_or_else(|| {
            Refusal::definite(RefusalReason::NotAMember, "this node is not among the members of the group")
                .with_hint("Ask a member to add it first.")
        })?;
        if own.public_key != self.public_key {
            return Err(Refusal::definite(
                RefusalReason::Invalid,
                "the group knows this node under another public key",
            )
            .with_hint("Remove the member and join again."));
        }
        if !self.faces.knows(&configuration.kind) {
            return Err(Refusal::definite(
                RefusalReason::Invalid,
                format!("this node cannot serve groups of kind \"{}\"", configuration.kind),
            ));
        }
        let configuration = Arc::new(configuration);
        // Asking again after an interruption is harmless.
        match self.replicas.get_mut(&configuration.group) {
            Some(known) if known.awaits_state && await_state => {
                known.configure(configuration);
                known.installing = None;
                self.clients.answer(to, &Response::Done);
                return Ok(());
            }
            Some(known) if known.configuration.member(self.node).is_none() => {
                return Err(Refusal::definite(
                    RefusalReason::Change,
                    format!(
                        "this node was removed from group \"{}\" and has not forgotten it yet",
                        known.configuration.name
                    ),
                )
                .with_hint("Forget the group here first, then join again."));
            }
            Some(known) if !known.awaits_state => {
                self.clients.answer(to, &Response::Done);
                return Ok(());
            }
            Some(_) => {}
            None => self.refuse_name(&configuration.name)?,
        }
        self.listen().await?;
        if await_state {
            self.ensure_replica(&configuration)?.awaits_state = true;
            self.clients.answer(to, &Response::Done);
            return Ok(());
        }
        let token = self.wait_for_change(to, configuration.group, ChangeKind::Learn)?;
        self.input(Input::LearnGroup { token, configuration });
        Ok(())
    }

    pub(super) fn join_request(
        &mut self,
        to: ReplyTo,
        group: GroupId,
        member: NewMember,
        wait_ms: u32,
    ) -> Result<(), Refusal> {
        check_texts(&[&member.label, &member.database, &member.address])?;
        let replica = self.replica(group)?;
        let name = replica.configuration.name.clone();
        if let Some(other) = replica.configuration.members.iter().find(|other| {
            other.node != member.node && (other.address == member.address || other.public_key == member.public_key)
        }) {
            return Err(Refusal::definite(
                RefusalReason::Change,
                format!("member {} of group \"{name}\" has the same address or key", other.node),
            )
            .with_hint("If that node is gone for good, remove it first."));
        }
        // Already in: nothing to change unless something differs.
        let wanted = description::member(&member);
        let known = replica.configuration.member(member.node);
        if known.is_some_and(|known| Member { role: known.role, ..wanted.clone() } == *known) {
            let description = description::group_description(&replica.configuration);
            self.clients.answer(to, &Response::Group(description));
            return Ok(());
        }
        self.progress(to, format!("adding node {} to group \"{name}\"", member.node));
        let add = if member.witness { Change::AddWitness } else { Change::AddLearner };
        self.change(to, group, add(wanted), wait_ms, true)
    }

    pub(super) fn promote(&mut self, to: ReplyTo, group: GroupId, node: NodeId, wait_ms: u32) -> Result<(), Refusal> {
        let replica = self.replica(group)?;
        match replica.configuration.member(node) {
            None => Err(unknown_member(node)),
            Some(member) if member.role.votes() && !replica.configuration.is_joint() => {
                self.clients.answer(to, &Response::Done);
                Ok(())
            }
            Some(_) => {
                self.progress(to, format!("making node {node} a voter"));
                self.change(to, group, Change::Promote(node), wait_ms, false)
            }
        }
    }

    pub(super) fn remove(&mut self, to: ReplyTo, group: GroupId, node: NodeId, wait_ms: u32) -> Result<(), Refusal> {
        let replica = self.replica(group)?;
        if replica.configuration.member(node).is_none() {
            return Err(unknown_member(node));
        }
        if replica.configuration.members.len() == 1 {
            return Err(Refusal::definite(
                RefusalReason::Change,
                format!("node {node} is the last member of group \"{}\"", replica.configuration.name),
            )
            .with_hint("Forget the group instead."));
        }
        self.progress(to, format!("removing node {node}"));
        self.change(to, group, Change::Remove(node), wait_ms, false)
    }

    fn change(
        &mut self,
        to: ReplyTo,
        group: GroupId,
        change: Change,
        wait_ms: u32,
        described: bool,
    ) -> Result<(), Refusal> {
        let deadline = self.deadline(wait_ms);
        let kind = ChangeKind::Members { change: change.clone(), deadline, described };
        let token = self.wait_for_change(to, group, kind)?;
        self.input(Input::Change { token, group, change, deadline });
        Ok(())
    }

    fn progress(&mut self, to: ReplyTo, message: String) {
        self.clients.answer(to, &Response::Progress(Progress { message }));
    }

    /// The core's answer to a creation, a learning or a change of members.
    pub(super) fn changed(&mut self, token: Token, result: Result<Arc<Configuration>, consensus::Refusal>) {
        let Some(waiter) = self.waiting.changes.remove(&token) else {
            return;
        };
        let configuration = match result {
            Ok(configuration) => configuration,
            Err(refusal) => return self.change_refused(waiter, refusal),
        };
        let response = match waiter.kind {
            ChangeKind::Create | ChangeKind::Learn => match self.ensure_replica(&configuration) {
                Ok(_) if matches!(waiter.kind, ChangeKind::Create) => {
                    Response::Group(description::group_description(&configuration))
                }
                Ok(_) => Response::Done,
                Err(refusal) => Response::Refused(refusal),
            },
            ChangeKind::Members { described: true, .. } => {
                Response::Group(description::group_description(&configuration))
            }
            ChangeKind::Members { .. } => Response::Done,
        };
        self.clients.answer(waiter.to, &response);
    }

    /// A change that had to stand back is asked again until its deadline.
    fn change_refused(&mut self, waiter: ChangeWaiter, refusal: consensus::Refusal) {
        let again = matches!(
            refusal,
            consensus::Refusal::ChangeUnderWay(_)
                | consensus::Refusal::Behind { .. }
                | consensus::Refusal::NotInContact(_)
        );
        if let ChangeKind::Members { deadline, .. } = waiter.kind {
            if again && self.now() < deadline {
                if let consensus::Refusal::Behind { held, closed } = refusal {
                    self.progress(waiter.to, format!("catching up: at slot {held} of {closed}"));
                }
                self.waiting.again.push(waiter);
                return;
            }
        }
        let refusal = self.refusal(waiter.group, refusal);
        self.clients.refuse(waiter.to, refusal);
    }

    /// Asks again for the changes that had to stand back.
    pub(super) fn change_again(&mut self) {
        for waiter in std::mem::take(&mut self.waiting.again) {
            let ChangeKind::Members { change, deadline, .. } = waiter.kind.clone() else {
                continue;
            };
            let group = waiter.group;
            let token = self.waiting.token();
            self.waiting.changes.insert(token, waiter);
            self.input(Input::Change { token, group, change, deadline });
        }
    }

    /// A configuration came into force.
    pub(super) fn configured(&mut self, configuration: Arc<Configuration>) {
        info!(
            "group \"{}\" is in epoch {} with {}",
            configuration.name,
            configuration.epoch.0,
            description::members_text(&configuration)
        );
        match self.replicas.get_mut(&configuration.group) {
            Some(replica) => {
                replica.configure(configuration);
                self.refresh_peers();
            }
            None => {
                if let Err(refusal) = self.ensure_replica(&configuration) {
                    error!("group \"{}\" cannot be served: {refusal}", configuration.name);
                }
            }
        }
    }

    /// The group's replica, made with an empty face if it is new here.
    pub(super) fn ensure_replica(&mut self, configuration: &Arc<Configuration>) -> Result<&mut Replica, Refusal> {
        let group = configuration.group;
        if !self.replicas.contains_key(&group) {
            let replica = new_replica(&mut *self.faces, self.node, self.start, configuration)
                .map_err(|why| Refusal::definite(RefusalReason::Invalid, why))?;
            self.replicas.insert(group, replica);
            self.refresh_peers();
        }
        Ok(self.replicas.get_mut(&group).expect("it was just made"))
    }

    /// Links go to every other member of every group, and for a moment to members just removed.
    pub(super) fn refresh_peers(&mut self) {
        let mut peers = BTreeMap::new();
        let node = self.node;
        // Where this node is no member any more it would only be refused.
        let joined = |replica: &&Replica| replica.configuration.member(node).is_some();
        for replica in self.replicas.values().filter(joined) {
            for member in &replica.configuration.members {
                if member.node != self.node {
                    peers.insert(
                        member.node,
                        Peer {
                            address: member.address.clone(),
                            public_key: PublicKey::from_bytes(member.public_key.clone()),
                        },
                    );
                }
            }
        }
        let now = Instant::now();
        for (node, peer) in std::mem::take(&mut self.peers) {
            if !peers.contains_key(&node) {
                self.farewells.entry(node).or_insert((peer, now + FAREWELL));
            }
        }
        self.peers = peers.clone();
        self.farewells.retain(|node, (_, until)| !peers.contains_key(node) && *until > now);
        for (node, (peer, _)) in &self.farewells {
            peers.insert(*node, peer.clone());
        }
        self.links.set_peers(peers);
    }

    /// Forgets a group of which this node is no member any more, or the last one.
    pub(super) fn forget(&mut self, to: ReplyTo, group: GroupId) -> Result<(), Refusal> {
        let node = self.node;
        let is_disowned = self.is_disowned(group);
        let replica = self.replica(group)?;
        let is_member = replica.configuration.member(node).is_some() && !is_disowned;
        if is_member && replica.configuration.members.len() > 1 && !replica.awaits_state {
            return Err(Refusal::definite(
                RefusalReason::Change,
                format!("this node is a member of group \"{}\"", replica.configuration.name),
            )
            .with_hint("Remove it from the group first."));
        }
        self.replicas.remove(&group);
        self.faces.forgotten(group);
        self.streams.forget_group(group);
        self.many_logs.forget_group(group);
        self.deliveries
            .retain(|effect| !matches!(effect, consensus::Effect::Deliver { group: of, .. } if *of == group));
        self.forget_large(group);
        self.input(Input::Forget { group });
        self.refresh_peers();
        let checkpoints = self.checkpoints.clone();
        self.in_background(
            move || checkpoints.remove_group(group),
            move |node, result| match result {
                Ok(()) => node.clients.answer(to, &Response::Done),
                Err(error) => node.clients.refuse(to, Refusal::definite(RefusalReason::Storage, error.to_string())),
            },
        );
        Ok(())
    }
}

/// A replica with an empty face.
pub(crate) fn new_replica(
    faces: &mut dyn crate::FaceFactory,
    node: NodeId,
    start: client::Start,
    configuration: &Arc<Configuration>,
) -> Result<Replica, String> {
    let description = description::group_description(configuration);
    let context = FaceContext {
        group: &description,
        member: description.members.iter().find(|member| member.node == node),
        node,
        start,
    };
    let face = faces.make(context)?;
    Ok(Replica::new(node, Arc::clone(configuration), face))
}

fn unknown_member(node: NodeId) -> Refusal {
    Refusal::definite(RefusalReason::UnknownMember, format!("node {node} is not a member of the group"))
}

fn check_texts(texts: &[&str]) -> Result<(), Refusal> {
    match texts.iter().find(|text| !is_plain(text)) {
        Some(text) => Err(Refusal::definite(
            RefusalReason::Invalid,
            format!("a name or address of {} bytes is too long, or has control characters", text.len()),
        )),
        None => Ok(()),
    }
}
