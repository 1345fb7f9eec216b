//! Which groups have logs of values: one small log per object, most of them idle, which are loaded when they are used
//! (design, sections 1 and 6) and not all at the start.

use consensus::{Configuration, Discipline};

/// Whether the data logs of this group are loaded on demand, with [`crate::LogReader::load_log`].
pub(crate) fn is_of_values(configuration: &Configuration) -> bool {
    configuration.discipline == Discipline::Values
}
