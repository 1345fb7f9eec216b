//! Multi-Paxos as a pure state machine: no files, sockets, threads, clocks or randomness of its own.
//!
//! The contract, in one paragraph: give every event to [`Core::handle`], carry out what [`Core::poll_effect`] yields, in order,
//! until it yields nothing, and come back at [`Core::next_deadline`]. Write the records of [`Effect::Persist`] in order and say
//! [`Input::Persisted`] when they are durable; everything that must wait for that is held back inside, so every
//! [`Effect::Send`] may leave at once. Same inputs, same effects.
//!
//! The rules that this crate keeps are the numbered ones of the design's section 3; code and tests name them by number.

pub mod bounded;
pub mod bounds;

mod absence;
mod assembly;
mod attention;
mod ballot;
#[cfg(test)]
mod cluster;
mod comparison;
mod configuration;
mod confirmation;
mod context;
mod control;
mod core;
mod effect;
mod entry;
mod group;
mod id_window;
mod ids;
mod input;
mod log;
mod membership;
mod message;
mod news;
mod options;
mod pages;
mod peers;
mod random;
mod record;
mod recovered;
mod renewal;
mod residence;
mod seeded_bug;
mod status;
#[cfg(test)]
mod tests;
mod time;
mod turns;
mod windows;

pub use crate::core::Core;
pub use assembly::{Assembly, Incomplete, Whole};
pub use ballot::Ballot;
pub use configuration::{Configuration, Discipline, InvalidConfiguration, Member, MemberSet, Role};
pub use effect::{Effect, ProposalOutcome, Refusal, StopReason};
pub use entry::{Entry, EntryKind, InvalidEntry, LastPart, Part};
pub use id_window::{IdWindow, InvalidIdWindow, Occurrence, Outcome};
pub use ids::{Epoch, GroupId, InvalidOperationId, LogId, NodeId, OperationId, Sequence, Slot, Start, Token};
pub use input::{Change, Input};
pub use message::{
    Accepted, ChosenRange, GroupMessage, Heartbeat, Impostor, InvalidMessage, LogPosition, Message, NotProposed, Room,
    MESSAGE_VERSION,
};
pub use options::CoreOptions;
pub use record::Record;
pub use recovered::{Recovered, RecoveredEntry, RecoveredGroup, RecoveredLog};
pub use renewal::Renewal;
#[cfg(feature = "seeded_bugs")]
pub use seeded_bug::plant;
pub use seeded_bug::{is_planted, SeededBug};
pub use status::{GroupStatus, LogQueues, LogStatus, NodeStatus, PeerStatus};
pub use time::Time;
pub use windows::Windows;
