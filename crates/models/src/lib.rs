//! The consensus rules (design, section 3) as models small enough to try *everything*: every order of messages, every loss and
//! duplicate, every moment of a crash, up to the bounds that each model states.
//!
//! Three models, written after `crates/consensus` as it is coded:
//! - [`log`]: the log with owner fast path (rules 1 to 4);
//! - [`reads`]: quorum reads over it (rule 5);
//! - [`epochs`]: the joint change of the members under it (rules 4 and 6).
//!
//! What the log and the epochs have alike stands once: [`messages`], [`node_state`], [`stage`], and the three together as a
//! [`cluster`]. What a message means, and what an acceptor keeps of it, is each model's own, as the rules that it shows are.
//!
//! Each model has switches that break one rule; a test per switch shows that the search finds the harm. That proves the
//! model rich enough to see it, and the rule needed. `docs/models.md` lists bounds, states and results.
//!
//! **The network** of all three is the set of [`messages`] ever sent. Any of them may arrive at any time, again, or never: loss,
//! delay, reordering and duplication need no steps of their own. What a node counts (promises, acceptances, answers) it
//! counts straight from that set, in any subset that is a quorum: a message not yet counted is one not yet delivered.
//!
//! **The disk.** A node's state changes at once; its replies wait for a sync: [`node_state`].

pub mod checker;
pub mod cluster;
pub mod epochs;
pub mod log;
pub mod messages;
pub mod node_state;
pub mod reads;
pub mod runs;
pub mod stage;
pub mod words;
