//! How `synod` fails: what was refused, why, what to do, and an exit code per reason.

use std::fmt;

/// The reasons for which `synod` ends with something other than 0. The codes are part of the
/// interface: scripts test them, and `docs/operations.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Something that no other reason names: an I/O error, mostly.
    Unexpected,
    /// The command line asks for what cannot be: a number out of range, a setting that is none.
    Usage,
    /// The directory is no cluster, is somebody else's, or cannot be used by the servers' user.
    Directory,
    /// A program or the extension is missing, or has a version that does not fit.
    Missing,
    /// A port that a node needs is taken.
    PortTaken,
    /// The path of a Unix socket would be longer than the system allows.
    SocketPathTooLong,
    /// A server did not start or stop; its log says why.
    Server,
    /// The servers run, but the group could not be formed or joined.
    Group,
    /// There is no node of that number.
    NoSuchNode,
}

impl Reason {
    /// The documented exit code. 2 is also what the command line's own parser ends with.
    pub fn exit_code(self) -> u8 {
        match self {
            Reason::Unexpected => 1,
            Reason::Usage => 2,
            Reason::Directory => 3,
            Reason::Missing => 4,
            Reason::PortTaken => 5,
            Reason::SocketPathTooLong => 6,
            Reason::Server => 7,
            Reason::Group => 8,
            Reason::NoSuchNode => 9,
        }
    }
}

/// One failure, as a person reads it.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub reason: Reason,
    what: String,
    why: String,
    remedy: String,
}

impl Failure {
    /// `what` failed, because of `why`; `remedy` is what to do about it.
    pub fn new(reason: Reason, what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure { reason, what: what.into(), why: why.into(), remedy: remedy.into() }
    }

    /// A failed system call for which there is no better advice than what the system says.
    pub fn system(what: impl Into<String>, error: std::io::Error) -> Failure {
        let remedy = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "run it as the user who started the cluster, or as root",
            std::io::ErrorKind::StorageFull => "make room on that disk and run it again",
            _ => "see to that and run it again: every step can be repeated",
        };
        Failure::new(Reason::Unexpected, what, error.to_string(), remedy)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "synod: {}", self.what)?;
        for (label, text) in [("why", &self.why), ("what to do", &self.remedy)] {
            let mut lines = text.lines();
            writeln!(out, "  {label}: {}", lines.next().unwrap_or_default())?;
            for line in lines {
                writeln!(out, "    {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let failure = Failure::new(Reason::PortTaken, "a", "b\nc", "d");
        assert_eq!(failure.to_string(), "synod: a\n  why: b\n    c\n  what to do: d\n");
    }

    #[test]
    fn exit_codes_are_distinct_and_none_is_success() {
        let reasons = [
            Reason::Unexpected,
            Reason::Usage,
            Reason::Directory,
            Reason::Missing,
            Reason::PortTaken,
            Reason::SocketPathTooLong,
            Reason::Server,
            Reason::Group,
            Reason::NoSuchNode,
        ];
        let mut codes: Vec<u8> = reasons.iter().map(|reason| reason.exit_code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), reasons.len());
        assert!(!codes.contains(&0));
    }
}
