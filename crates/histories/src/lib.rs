//! Checks what clients saw of a database against what it promises.
//!
//! A history is what clients did and were told, with times: [`Event`]s, of which [`History`] makes transactions. Two
//! checkers judge it. Neither knows anything of PostgreSQL or of Paxos, so neither can share a mistake with them.
//!
//! * [`check_registers`]: each key is a register that must be linearizable (Herlihy and Wing). Where every value is
//!   written once, Gibbons and Korach's zones decide it exactly; otherwise a search in the manner of Wing, Gong and Lowe
//!   does, within a budget.
//! * [`check_lists`]: each key is a list to which transactions append values that are written once, so that every read
//!   shows the whole history of its key (Kingsbury and Alvaro's Elle). From the order of versions follow Adya's
//!   dependencies between transactions, and from their cycles the anomalies.
//!
//! What is not known is treated so: a transaction of unknown outcome may have happened at any time after it began, or
//! not at all, until somebody saw what it wrote. A search that runs out of budget says so ([`Verdict::Undecided`]);
//! that is never a pass.

mod anomaly;
mod cycles;
mod event;
#[cfg(test)]
mod exhaustive;
mod graph;
mod history;
mod level;
mod linearization;
mod lists;
mod registers;
mod verdict;
mod zones;

pub use anomaly::{Anomaly, Kind};
pub use event::{Event, Key, Malformed, Moment, Node, Outcome, Phase, Process, Step, Value};
pub use history::{History, Transaction};
pub use level::{Isolation, Level, Order};
pub use lists::check_lists;
pub use registers::{check_registers, REGISTER_START};
pub use verdict::{Counts, Verdict};
