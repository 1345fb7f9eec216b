//! The engine thread: one loop that owns everything of a node.
//!
//! A turn takes all that is at hand (finished log writes, peers' messages, clients' requests), gives it to the core,
//! and only then carries out what the core wants: the records of a turn are one submission to the log, the messages of
//! a turn leave in one write per peer, the answers of a turn in one write per client. Under load turns grow by
//! themselves, so batches do.

mod contact;
mod effects;
mod groups;
mod housekeeping;
mod large;
mod many_logs;
mod requests;
mod state_copy;
mod status;
mod streams;

use crate::clients::{ClientNumber, Clients};
use crate::inbox::{Event, Inbox};
use crate::limits::{DELIVERIES_PER_TURN, HOUSEKEEPING_INTERVAL, LINK_EVENTS_PER_TURN};
use crate::outgoing::Outgoing;
use crate::replica::Replica;
use crate::waiting::Waiting;
use crate::{EngineFailure, FaceFactory, Limits, SequenceSource};
use bytes::Bytes;
use client::Metrics;
use consensus::{Core, Effect, GroupId, Input, Message, NodeId, OperationId, Record, Sequence, Start, Time};
use network::{Events, Links, Peer};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::{Checkpoints, Completion, Log, LogReader};
use streams::Streams;
use tokio::sync::{mpsc, Notify};
use tracing::{debug, error, warn};

/// Work that another thread finished for the engine.
pub(crate) type Finished = Box<dyn FnOnce(&mut Node) + Send>;

pub(crate) use groups::new_replica;

/// What a node is made of; see [`Node`].
pub(crate) struct Parts {
    pub(crate) node: NodeId,
    pub(crate) start: Start,
    pub(crate) public_key: Bytes,
    pub(crate) listen_address: String,
    pub(crate) advertise_address: String,
    pub(crate) limits: Limits,
    pub(crate) origin: Instant,
    pub(crate) core: Core,
    pub(crate) log: Log,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) completions: mpsc::UnboundedReceiver<Completion>,
    pub(crate) links: Links,
    pub(crate) link_events: Events,
    pub(crate) inbox: Rc<Inbox>,
    pub(crate) faces: Box<dyn FaceFactory>,
    pub(crate) replicas: BTreeMap<GroupId, Replica>,
    pub(crate) sequence: SequenceSource,
}

/// Everything of a node, on its engine thread.
pub(crate) struct Node {
    node: NodeId,
    start: Start,
    public_key: Bytes,
    listen_address: String,
    advertise_address: String,
    listening: bool,
    limits: Limits,
    origin: Instant,
    core: Core,
    log: Log,
    reader: LogReader,
    checkpoints: Checkpoints,
    completions: mpsc::UnboundedReceiver<Completion>,
    links: Links,
    link_events: Events,
    inbox: Rc<Inbox>,
    clients: Clients,
    faces: Box<dyn FaceFactory>,
    replicas: BTreeMap<GroupId, Replica>,
    waiting: Waiting,
    outgoing: Outgoing,
    streams: Streams,
    sequence: SequenceSource,
    finished_sender: mpsc::UnboundedSender<Finished>,
    finished: mpsc::UnboundedReceiver<Finished>,
    /// Records of this turn, submitted together at its end.
    batch: Vec<(Sequence, Record)>,
    /// Decided slots on their way to the faces.
    deliveries: VecDeque<Effect>,
    many_logs: many_logs::ManyLogs,
    /// Members of all groups.
    peers: BTreeMap<NodeId, Peer>,
    contact: contact::Contact,
    disowned: contact::Disowned,
    /// Removed members whose links stay open for a moment.
    farewells: BTreeMap<NodeId, (Peer, Instant)>,
    /// The proposal that the core said was withdrawn, last.
    withdrawn: Option<OperationId>,
    metrics: Metrics,
    housekeeping_at: Instant,
    failure: Option<EngineFailure>,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Node {
        let (finished_sender, finished) = mpsc::unbounded_channel();
        Node {
            node: parts.node,
            start: parts.start,
            public_key: parts.public_key,
            listen_address: parts.listen_address,
            advertise_address: parts.advertise_address,
            listening: false,
            limits: parts.limits,
            origin: parts.origin,
            core: parts.core,
            reader: parts.log.reader(),
            log: parts.log,
            checkpoints: parts.checkpoints,
            completions: parts.completions,
            links: parts.links,
            link_events: parts.link_events,
            clients: Clients::new(Rc::clone(&parts.inbox)),
            inbox: parts.inbox,
            faces: parts.faces,
            replicas: parts.replicas,
            waiting: Waiting::default(),
            outgoing: Outgoing::default(),
            streams: Streams::default(),
            sequence: parts.sequence,
            finished_sender,
            finished,
            batch: Vec::new(),
            deliveries: VecDeque::new(),
            many_logs: many_logs::ManyLogs::default(),
            peers: BTreeMap::new(),
            contact: contact::Contact::new(),
            disowned: contact::Disowned::new(),
            farewells: BTreeMap::new(),
            withdrawn: None,
            metrics: Metrics::default(),
            housekeeping_at: Instant::now(),
            failure: None,
        }
    }

    /// Runs until told to stop or until something fails; says when local clients are served.
    pub(crate) async fn run(mut self, stop: Arc<Notify>, serving: impl FnOnce()) -> Result<(), EngineFailure> {
        if !self.replicas.is_empty() {
            self.listen()
                .await
                .map_err(|refusal| EngineFailure::Setup { what: refusal.message, hint: refusal.hint })?;
        }
        self.refresh_peers();
        serving();
        let timer = tokio::time::sleep_until(self.wake_at().into());
        tokio::pin!(timer);
        loop {
            let wake_at = self.wake_at().into();
            if timer.deadline() != wake_at {
                timer.as_mut().reset(wake_at);
            }
            // Decided slots that wait are work at hand: only look, do not wait.
            let hurry = !self.deliveries.is_empty();
            tokio::select! {
                biased;
                () = stop.notified() => return Ok(()),
                completion = self.completions.recv() => self.log_completed(completion),
                event = self.link_events.receive() => self.link_event(event),
                () = self.inbox.wait() => {}
                finished = self.finished.recv() => self.finish(finished),
                () = &mut timer => {}
                () = tokio::task::yield_now(), if hurry => {}
            }
            let began = Instant::now();
            self.take_what_is_at_hand().await;
            self.carry_out();
            // More at once when much waits, so that what waits stays bounded by what arrives in a few turns.
            self.deliver_some(DELIVERIES_PER_TURN.max(self.deliveries.len() / 4));
            self.carry_out();
            self.pump_streams();
            self.clients.flush();
            self.close_broken_clients();
            self.submit();
            self.metrics.loop_turns += 1;
            let took = began.elapsed().as_micros() as u64;
            self.metrics.loop_turn_us_max = self.metrics.loop_turn_us_max.max(took);
            if let Some(failure) = self.failure.take() {
                error!("the engine stops: {failure}");
                return Err(failure);
            }
        }
    }

    /// The core's clock.
    fn now(&self) -> Time {
        Time(self.origin.elapsed().as_micros() as u64)
    }

    /// The core's time `wait_ms` from now.
    fn deadline(&self, wait_ms: u32) -> Time {
        self.now() + Duration::from_millis(u64::from(wait_ms))
    }

    fn wake_at(&self) -> Instant {
        match self.core.next_deadline() {
            Some(deadline) => self.housekeeping_at.min(self.origin + Duration::from_micros(deadline.0)),
            None => self.housekeeping_at,
        }
    }

    fn input(&mut self, input: Input) {
        let now = self.now();
        self.core.handle(now, input);
    }

    async fn take_what_is_at_hand(&mut self) {
        while let Ok(completion) = self.completions.try_recv() {
            self.log_completed(Some(completion));
        }
        for _ in 0..LINK_EVENTS_PER_TURN {
            match self.link_events.try_receive() {
                Some(event) => self.link_event(Some(event)),
                None => break,
            }
        }
        while let Some(event) = self.inbox.pop() {
            match event {
                Event::ClientAccepted(stream) => self.clients.accept(stream),
                Event::ClientClosed { client, why } => {
                    debug!("local connection {} closed: {why}", client.0);
                    self.client_closed(client);
                }
                Event::ClientWritable(client) => self.clients.writable(client),
                Event::Request { to, request } => self.request(to, request).await,
            }
        }
        while let Ok(finished) = self.finished.try_recv() {
            self.finish(Some(finished));
        }
        if Instant::now() >= self.housekeeping_at {
            self.housekeeping_at = Instant::now() + HOUSEKEEPING_INTERVAL;
            self.keep_house();
        }
        let now = self.now();
        if self.core.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.core.handle(now, Input::Tick);
        }
    }

    fn log_completed(&mut self, completion: Option<Completion>) {
        match completion {
            Some(Completion::Durable(sequence)) => self.input(Input::Persisted { sequence }),
            Some(Completion::Damaged { group, log, slot }) => self.input(Input::Damaged { group, log, slot }),
            Some(Completion::CheckpointDamaged { group, slot }) => self.checkpoint_damaged(group, slot),
            Some(Completion::Failed(why)) => self.fail(EngineFailure::Storage(why.to_string())),
            None => self.fail(EngineFailure::Storage("the log's writer is gone".into())),
        }
    }

    fn link_event(&mut self, event: Option<network::Event>) {
        match event {
            Some(network::Event::Connected { node, .. }) => self.input(Input::Connected { node }),
            Some(network::Event::Disconnected { node }) => self.input(Input::Disconnected { node }),
            Some(network::Event::Frame { from, bytes }) => match Message::decode(&bytes) {
                Ok(message) => {
                    self.metrics.messages_received += 1;
                    self.input(Input::Message { from, message });
                }
                Err(error) => warn!("malformed message from {from}: {error}"),
            },
            None => self.fail(EngineFailure::Panic("the links are gone".into())),
        }
    }

    fn finish(&mut self, finished: Option<Finished>) {
        if let Some(finished) = finished {
            finished(self);
        }
    }

    fn client_closed(&mut self, client: ClientNumber) {
        if !self.clients.close(client) {
            return;
        }
        self.streams.forget_client(client);
        for (id, group, log) in self.waiting.forget_client(client) {
            if self.give_up_large(id, true) {
                continue;
            }
            self.input(Input::Withdraw { group, log, id });
        }
    }

    fn close_broken_clients(&mut self) {
        for client in self.clients.take_broken() {
            self.client_closed(client);
        }
    }

    /// Gives decided slots to the faces, at most `budget`.
    fn deliver_some(&mut self, budget: usize) {
        for _ in 0..budget {
            let Some(effect) = self.deliveries.pop_front() else {
                return;
            };
            let Effect::Deliver { group, slot, entry, .. } = effect else {
                unreachable!("only deliveries are queued here");
            };
            self.deliver(group, slot, entry);
        }
    }

    /// Runs `work` on another thread, then `then` on this one.
    fn in_background<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Node, T) + Send + 'static,
    ) {
        let sender = self.finished_sender.clone();
        tokio::task::spawn_blocking(move || {
            let result = work();
            // The engine may have stopped meanwhile.
            let _ = sender.send(Box::new(move |node: &mut Node| then(node, result)));
        });
    }

    /// The first failure counts; the loop ends with it.
    fn fail(&mut self, failure: EngineFailure) {
        self.failure.get_or_insert(failure);
    }
}
