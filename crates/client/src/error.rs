//! Why talking to the engine failed.

use crate::{Certainty, Refusal};

/// Why talking to the engine failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine's socket cannot be reached.
    #[error("cannot connect to the engine's socket {path}: {source}")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke. Whatever was asked and not answered is unknown.
    #[error("the connection to the engine was lost: {what}")]
    Lost {
        /// How.
        what: String,
    },
    /// No answer came in time. Whatever was asked is unknown.
    #[error("the engine did not answer in time")]
    Deadline,
    /// A frame is larger than both ends agreed on.
    #[error("a message of {bytes} bytes is larger than the limit of {bytes_max} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The other end sent something that is no frame of this protocol.
    #[error("malformed message: {what}")]
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// The engine refused the request.
    #[error(transparent)]
    Refused(Box<Refusal>),
}

impl Error {
    /// What is certain about the effect of the request that failed this way, given that it was sent.
    pub fn certainty(&self) -> Certainty {
        match self {
            Error::Connect { .. } | Error::TooLarge { .. } => Certainty::Definite,
            Error::Lost { .. } | Error::Deadline | Error::Malformed { .. } => Certainty::Unknown,
            Error::Refused(refusal) => refusal.certainty,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::Refused(Box::new(refusal))
    }
}
