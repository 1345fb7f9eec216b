//! What nodes say to one another, and its encoding: one version byte, then postcard.
//!
//! Decoding hostile bytes gives an error and never a panic. What it holds meanwhile is the frame's own size and, for the
//! lists in it, which are bounded one by one, a megabyte.

use crate::ballot::Ballot;
use crate::bounded::at_most;
use crate::bounds::{self, BATCH_ENTRIES_MAX, GROUP_LOGS_MAX, HEARTBEAT_LOGS_MAX, HEARTBEAT_NODES_MAX};
use crate::configuration::Configuration;
use crate::entry::Entry;
use crate::ids::{Epoch, GroupId, LogId, NodeId, OperationId, Sequence, Slot, Start};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The only version of the encoding that is spoken. The hello between peers agrees on a range of them. Since 2 an entry may be a
/// part of an operation, and a refusal names the start under which more was seen. Since 3 a configuration says what the group's logs
/// are, and lists of logs come in pages. Since 4 the pages of a comparison are numbered. Since 5 whatever
/// concerns a group names the sender's start.
pub const MESSAGE_VERSION: u8 = 5;

/// A message between two nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// Between nodes, not logs.
    Heartbeat(Heartbeat),
    /// The receiver came back below what the sender saw of it, or runs twice: it must stop (rule 7).
    Impostor(Impostor),
    /// About one group.
    Group {
        /// The group.
        group: GroupId,
        /// The sender's epoch of it.
        epoch: Epoch,
        /// The sender's start: what a start says counts once its first heartbeat has shown where its log stands (rule 7).
        start: Start,
        /// What it says.
        body: GroupMessage,
    },
}

/// "I am here, this is whom I hear."
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender's start.
    pub start: Start,
    /// Differs between two processes that run as the same node and start.
    pub incarnation: u64,
    /// Durable length of the sender's log (rule 7).
    pub position: Sequence,
    /// The same at the sender's start: what it came back with.
    pub position_at_start: Sequence,
    /// Nodes that the sender heard within the failure time-out.
    #[serde(deserialize_with = "at_most::<HEARTBEAT_NODES_MAX, _, _, _>")]
    pub hears: Vec<NodeId>,
    /// Those of them that said the same of the sender.
    #[serde(deserialize_with = "at_most::<HEARTBEAT_NODES_MAX, _, _, _>")]
    pub contacts: Vec<NodeId>,
    /// Where the logs that were busy lately stand.
    #[serde(deserialize_with = "at_most::<HEARTBEAT_LOGS_MAX, _, _, _>")]
    pub logs: Vec<LogPosition>,
}

/// Where a log stands at the sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogPosition {
    /// The group.
    pub group: GroupId,
    /// The sender's epoch of it.
    pub epoch: Epoch,
    /// The log.
    pub log: LogId,
    /// The highest ballot that the sender knows of.
    pub ballot: Ballot,
    /// Closed-up-to.
    pub closed: Slot,
    /// What its state holds durably; of a witness, up to where it has trimmed.
    pub held: Slot,
    /// Of a witness: whether its log has room.
    pub room: Room,
}

/// How much room the log of a witness has for what some voter's state may lack.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum Room {
    /// Enough. Also of a member that is no witness.
    #[default]
    Enough,
    /// Little: members should make their states durable now.
    Little,
    /// None: nothing new should be admitted.
    None,
}

/// Why a node is refused as itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Impostor {
    /// It came back with an older log than others have seen of it.
    LogWentBack {
        /// What was seen.
        seen: Sequence,
        /// Under which start.
        under: Start,
        /// What it came back with.
        found: Sequence,
    },
    /// Another process runs as the same node.
    RunsTwice {
        /// The incarnation that is refused; the receiver stops only if it is its own.
        incarnation: u64,
    },
}

/// An accepted slot as a phase-1 answer carries it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// The slot.
    pub slot: Slot,
    /// Its highest accepted ballot.
    pub ballot: Ballot,
    /// The value; none if damaged (rule 9).
    pub entry: Option<Entry>,
}

/// A chosen notice: what was accepted under `ballot` in these slots was chosen (rule 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChosenRange {
    /// First slot.
    pub first: Slot,
    /// Last slot.
    pub last: Slot,
    /// Under which ballot.
    pub ballot: Ballot,
}

/// A message about one group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GroupMessage {
    /// Phase 1 over every slot above `closed`.
    Prepare {
        /// The log.
        log: LogId,
        /// The ballot to promise.
        ballot: Ballot,
        /// The proposer's closed-up-to.
        closed: Slot,
    },
    /// The answer, in parts: everything accepted above the higher of both closed-up-to.
    Promise {
        /// The log.
        log: LogId,
        /// The promised ballot.
        ballot: Ballot,
        /// The acceptor's closed-up-to.
        closed: Slot,
        /// The parts carry what was accepted above this slot; only parts that agree in it belong together.
        above: Slot,
        /// Number of this part, from zero.
        part: u32,
        /// Whether this is the last part.
        last: bool,
        /// What this part carries.
        #[serde(deserialize_with = "at_most::<BATCH_ENTRIES_MAX, _, _, _>")]
        accepted: Vec<Accepted>,
        /// Durable length of the sender's log.
        position: Sequence,
    },
    /// Neither promised nor accepted, because of a higher promise or because the slots are closed.
    Refused {
        /// The log.
        log: LogId,
        /// The ballot that was refused.
        ballot: Ballot,
        /// The acceptor's promise.
        promised: Ballot,
        /// The acceptor's closed-up-to.
        closed: Slot,
    },
    /// Phase 2 for consecutive slots.
    Accept {
        /// The log.
        log: LogId,
        /// Under this ballot.
        ballot: Ballot,
        /// Slot of the first entry.
        first: Slot,
        /// The entries.
        #[serde(deserialize_with = "at_most::<BATCH_ENTRIES_MAX, _, _, _>")]
        entries: Arc<[Entry]>,
        /// What the sender knows chosen.
        chosen: Option<ChosenRange>,
        /// Who wants the answer.
        answer_to: NodeId,
    },
    /// Accepted, durably.
    Accepted {
        /// The log.
        log: LogId,
        /// Under this ballot.
        ballot: Ballot,
        /// First slot.
        first: Slot,
        /// Last slot.
        last: Slot,
        /// The acceptor's closed-up-to.
        closed: Slot,
        /// Durable length of the sender's log.
        position: Sequence,
    },
    /// These slots are chosen.
    Chosen {
        /// The log.
        log: LogId,
        /// Which, and under which ballot.
        range: ChosenRange,
    },
    /// Please propose these.
    Forward {
        /// The log.
        log: LogId,
        /// The entries.
        #[serde(deserialize_with = "at_most::<BATCH_ENTRIES_MAX, _, _, _>")]
        entries: Vec<Entry>,
        /// The node that wants them proposed.
        origin: NodeId,
        /// How often they were passed on.
        hops: u8,
    },
    /// Not proposed here.
    NotProposed {
        /// The log.
        log: LogId,
        /// Which.
        #[serde(deserialize_with = "at_most::<BATCH_ENTRIES_MAX, _, _, _>")]
        ids: Vec<OperationId>,
        /// Why.
        reason: NotProposed,
        /// The highest ballot that the sender knows of.
        ballot: Ballot,
    },
    /// How far may the log have got? (rule 5)
    ReadAsk {
        /// The log.
        log: LogId,
        /// The reader's round.
        round: u64,
    },
    /// The answer; durable state only.
    ReadAnswer {
        /// The log.
        log: LogId,
        /// The reader's round.
        round: u64,
        /// Closed-up-to.
        closed: Slot,
        /// Highest slot accepted durably.
        highest: Slot,
        /// Its ballot.
        ballot: Ballot,
        /// The promise, durable or not: a hint of who may own the log, no part of the answer.
        promised: Ballot,
    },
    /// Send me chosen entries.
    Fetch {
        /// The log.
        log: LogId,
        /// From this slot on.
        from: Slot,
        /// Up to this slot.
        up_to: Slot,
    },
    /// Chosen entries in consecutive slots.
    Fetched {
        /// The log.
        log: LogId,
        /// Slot of the first.
        first: Slot,
        /// Ballots and entries; none if the log no longer reaches back to what was asked, or has none of it yet.
        #[serde(deserialize_with = "at_most::<BATCH_ENTRIES_MAX, _, _, _>")]
        entries: Arc<[(Ballot, Entry)]>,
        /// The sender's closed-up-to.
        closed: Slot,
        /// What the sender's log no longer holds.
        trimmed: Slot,
    },
    /// Send me what you accepted in these slots, chosen or not, so that I can finish it.
    AskAccepted {
        /// The log.
        log: LogId,
        /// From this slot.
        from: Slot,
        /// Up to this slot.
        up_to: Slot,
    },
    /// The answer.
    HasAccepted {
        /// The log.
        log: LogId,
        /// The sender's closed-up-to.
        closed: Slot,
        /// What it accepted above that.
        #[serde(deserialize_with = "at_most::<BATCH_ENTRIES_MAX, _, _, _>")]
        accepted: Vec<Accepted>,
    },
    /// Which configuration is in force?
    AskConfiguration,
    /// A chosen configuration.
    Configured {
        /// The configuration.
        configuration: Arc<Configuration>,
    },
    /// The sender has made this epoch durable (the message's own epoch).
    Fenced,
    /// For the sync pass: where do your logs stand that come after this one?
    SyncAsk {
        /// The last log of the page before; none to begin.
        after: Option<LogId>,
    },
    /// The answer; durable state only.
    SyncAnswer {
        /// What was asked.
        after: Option<LogId>,
        /// Each log with closed-up-to and highest accepted slot, in order.
        #[serde(deserialize_with = "at_most::<GROUP_LOGS_MAX, _, _, _>")]
        logs: Vec<(LogId, Slot, Slot)>,
        /// Whether no more follow.
        last: bool,
        /// Whether the sender may vote (rule 9); if not, this counts for no sync pass.
        votes: bool,
    },
    /// Which logs have you that come after this one, and where do they stand? (Logs of values only.)
    CompareAsk {
        /// Names the question, at the node that asks.
        number: u64,
        /// The last log of the page before; none to begin.
        after: Option<LogId>,
    },
    /// The answer.
    Compare {
        /// The question that it answers: a page of an earlier comparison may lack what came since.
        number: u64,
        /// What was asked.
        after: Option<LogId>,
        /// Each log with closed-up-to and highest accepted slot, in order.
        #[serde(deserialize_with = "at_most::<GROUP_LOGS_MAX, _, _, _>")]
        logs: Vec<(LogId, Slot, Slot)>,
        /// Whether no more follow.
        last: bool,
    },
    /// The sender has the values of these slots chosen, and the receiver may not: fetch them, then say so. (Logs of values only.)
    Newer {
        /// Names the list.
        number: u64,
        /// Logs and slots.
        #[serde(deserialize_with = "at_most::<GROUP_LOGS_MAX, _, _, _>")]
        logs: Vec<(LogId, Slot)>,
    },
    /// The sender has everything of that list.
    UpToDate {
        /// Names the list.
        number: u64,
    },
    /// Where the sender's logs of this group stand.
    Positions {
        /// Each log.
        #[serde(deserialize_with = "at_most::<GROUP_LOGS_MAX, _, _, _>")]
        logs: Vec<LogPosition>,
    },
    /// Take over this log: its owner has stopped proposing under `ballot`.
    Invite {
        /// The log.
        log: LogId,
        /// The owner's ballot.
        ballot: Ballot,
    },
}

/// Why an entry was not proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NotProposed {
    /// The receiver is not the owner.
    NotOwner,
    /// The owner's queues are full.
    Full,
}

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// Nothing there.
    #[error("the message is empty")]
    Empty,
    /// Larger than any message.
    #[error("a message of {0} bytes is larger than the largest allowed")]
    Large(usize),
    /// From another version.
    #[error("message version {0} is unknown")]
    Version(u8),
    /// Not decodable.
    #[error("the message cannot be decoded")]
    Malformed,
    /// Decoded, but a number or a list is out of its bounds.
    #[error("the message is out of bounds: {0}")]
    OutOfBounds(&'static str),
}

impl GroupMessage {
    /// How much of the sender's log is durable, if it says so.
    pub(crate) fn position(&self) -> Option<Sequence> {
        match self {
            GroupMessage::Promise { position, .. } | GroupMessage::Accepted { position, .. } => Some(*position),
            _ => None,
        }
    }
}

impl Message {
    /// The bytes that go to a peer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size_hint());
        bytes.push(MESSAGE_VERSION);
        postcard::to_extend(self, bytes).expect("a message always encodes")
    }

    /// About how many bytes it takes encoded: a large entry must not be moved again and again while the buffer grows.
    fn size_hint(&self) -> usize {
        let entries = |entries: &[Entry]| entries.iter().map(|entry| entry.len() + 8).sum::<usize>();
        256 + match self {
            Message::Group { body: GroupMessage::Accept { entries: all, .. }, .. } => entries(all),
            Message::Group { body: GroupMessage::Forward { entries: all, .. }, .. } => entries(all),
            Message::Group { body: GroupMessage::Fetched { entries, .. }, .. } => {
                entries.iter().map(|(_, entry)| entry.len() + 64).sum()
            }
            Message::Group { body: GroupMessage::Promise { accepted, .. }, .. } => {
                accepted.iter().map(|accepted| 64 + accepted.entry.as_ref().map_or(0, Entry::len)).sum()
            }
            _ => 0,
        }
    }

    /// Reads what a peer sent.
    ///
    /// # Errors
    /// The bytes are no message of a known version, or break a bound.
    pub fn decode(bytes: &[u8]) -> Result<Message, InvalidMessage> {
        let (version, body) = bytes.split_first().ok_or(InvalidMessage::Empty)?;
        if bytes.len() > bounds::MESSAGE_BYTES_MAX {
            return Err(InvalidMessage::Large(bytes.len()));
        }
        if *version != MESSAGE_VERSION {
            return Err(InvalidMessage::Version(*version));
        }
        let (message, rest): (Message, &[u8]) =
            postcard::take_from_bytes(body).map_err(|_| InvalidMessage::Malformed)?;
        if !rest.is_empty() {
            return Err(InvalidMessage::Malformed);
        }
        message.check()?;
        Ok(message)
    }

    /// Everything that later arithmetic relies on.
    fn check(&self) -> Result<(), InvalidMessage> {
        let out = |why| Err(InvalidMessage::OutOfBounds(why));
        let slots_ok = |slots: &[Slot]| slots.iter().all(|slot| *slot <= Slot::LARGEST);
        let ballots_ok =
            |ballots: &[Ballot]| ballots.iter().all(|ballot| ballot.round <= 1 << 62 && ballot.epoch.0 <= 1 << 62);
        let (epoch, body) = match self {
            Message::Heartbeat(heartbeat) => {
                let positions = heartbeat.logs.iter().all(|log| {
                    slots_ok(&[log.closed, log.held]) && ballots_ok(&[log.ballot]) && log.epoch.0 <= 1 << 62
                });
                return if positions { Ok(()) } else { out("position") };
            }
            Message::Impostor(_) => return Ok(()),
            Message::Group { epoch, body, .. } => (epoch, body),
        };
        if epoch.0 > 1 << 62 {
            return out("epoch");
        }
        let ok = match body {
            GroupMessage::Prepare { ballot, closed, .. } => slots_ok(&[*closed]) && ballots_ok(&[*ballot]),
            GroupMessage::Promise { ballot, closed, above, accepted, .. } => {
                slots_ok(&[*closed, *above])
                    && ballots_ok(&[*ballot])
                    && accepted.iter().all(|a| slots_ok(&[a.slot]) && ballots_ok(&[a.ballot]))
            }
            GroupMessage::Refused { ballot, promised, closed, .. } => {
                slots_ok(&[*closed]) && ballots_ok(&[*ballot, *promised])
            }
            GroupMessage::Accept { ballot, first, entries, chosen, .. } => {
                let range = chosen.as_ref().is_none_or(|r| slots_ok(&[r.first, r.last]) && ballots_ok(&[r.ballot]));
                range
                    && slots_ok(&[*first])
                    && *first > Slot::ZERO
                    && ballots_ok(&[*ballot])
                    && !entries.is_empty()
                    && entries.len() <= bounds::BATCH_ENTRIES_MAX
            }
            GroupMessage::Accepted { ballot, first, last, closed, .. } => {
                slots_ok(&[*first, *last, *closed]) && ballots_ok(&[*ballot])
            }
            GroupMessage::Chosen { range, .. } => slots_ok(&[range.first, range.last]) && ballots_ok(&[range.ballot]),
            GroupMessage::ReadAnswer { closed, highest, ballot, promised, .. } => {
                slots_ok(&[*closed, *highest]) && ballots_ok(&[*ballot, *promised])
            }
            GroupMessage::Fetch { from, up_to, .. } | GroupMessage::AskAccepted { from, up_to, .. } => {
                slots_ok(&[*from, *up_to])
            }
            GroupMessage::Fetched { first, entries, closed, trimmed, .. } => {
                slots_ok(&[*first, *closed, *trimmed]) && entries.iter().all(|(ballot, _)| ballots_ok(&[*ballot]))
            }
            GroupMessage::HasAccepted { closed, accepted, .. } => {
                slots_ok(&[*closed]) && accepted.iter().all(|a| slots_ok(&[a.slot]) && ballots_ok(&[a.ballot]))
            }
            GroupMessage::Configured { configuration } => configuration.check().is_ok(),
            GroupMessage::SyncAnswer { logs, .. } | GroupMessage::Compare { logs, .. } => {
                logs.iter().all(|(_, closed, highest)| slots_ok(&[*closed, *highest]))
                    && logs.windows(2).all(|pair| pair[0].0 < pair[1].0)
            }
            GroupMessage::Positions { logs } => {
                logs.iter().all(|log| slots_ok(&[log.closed, log.held]) && ballots_ok(&[log.ballot]))
            }
            GroupMessage::NotProposed { ballot, .. } | GroupMessage::Invite { ballot, .. } => ballots_ok(&[*ballot]),
            GroupMessage::Forward { entries, .. } => entries.len() <= bounds::BATCH_ENTRIES_MAX,
            GroupMessage::ReadAsk { .. }
            | GroupMessage::AskConfiguration
            | GroupMessage::Fenced
            | GroupMessage::SyncAsk { .. }
            | GroupMessage::CompareAsk { .. }
            | GroupMessage::UpToDate { .. } => true,
            GroupMessage::Newer { logs, .. } => logs.iter().all(|(_, slot)| slots_ok(&[*slot])),
        };
        if ok {
            Ok(())
        } else {
            out("group message")
        }
    }
}
