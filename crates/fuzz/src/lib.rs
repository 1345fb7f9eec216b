//! Every decoder of bytes that come from outside, as a function that must hold for any bytes at all: frames and messages
//! of peers, the local API, the log and its directory, write sets, snapshots, texts.
//!
//! Each [`Target`] promises the same four things, and panics where one does not hold: the decoder does not panic; it
//! holds no more memory than the target's stated bound; what it accepts keeps the type's own rules; and what the program
//! itself encodes decodes to the same value. For the last one the input is also read as a source of choices, from
//! which a value is made ([`arbitrary`]), so that an input is worth something to a decoder as well as to an encoder.
//!
//! Two things drive the targets: `tests/parsers.rs`, an ordinary test on the stable toolchain that tries the corpus, fresh
//! valid encodings, and mutations of both; and `libfuzzer/`, which searches by coverage (`make fuzz`). `docs/fuzzing.md`
//! says how to use them.

mod allocation;
mod crash;
mod driver;
mod mutation;
mod target;

mod decoders;

// The extension itself can only be loaded by a server, but these two of its files need none.
#[allow(dead_code)]
#[path = "../../pg_paxos/src/connection_string.rs"]
mod connection_string;
#[allow(dead_code)]
#[path = "../../pg_paxos/src/libpq.rs"]
mod libpq;

pub use driver::{corpus_files, Driver};
pub use mutation::Mutator;
pub use target::{Bound, Target};

/// All targets, by name.
pub const TARGETS: &[Target] = &[
    decoders::peer_message::TARGET,
    decoders::entry::TARGET,
    decoders::configuration::TARGET,
    decoders::peer_stream::TARGET,
    decoders::local_request::TARGET,
    decoders::local_response::TARGET,
    decoders::group_description::TARGET,
    decoders::segment::TARGET,
    decoders::checkpoint_file::TARGET,
    decoders::identity_file::TARGET,
    decoders::key_file::TARGET,
    decoders::state_copy::TARGET,
    decoders::certification::TARGET,
    decoders::write_set::TARGET,
    decoders::table_definition::TARGET,
    decoders::row::TARGET,
    decoders::verdict::TARGET,
    decoders::connection_string::TARGET,
    decoders::operation_id::TARGET,
    decoders::history::TARGET,
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
