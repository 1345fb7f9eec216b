//! Who waits for what: local requests between their arrival and their answer.

use crate::clients::{ClientNumber, ReplyTo};
use client::{Answer, GroupId, OperationId, Origin};
use consensus::{Change, LogId, Time, Token};
use std::collections::BTreeMap;

/// What a proposal of this node is.
#[derive(Debug)]
pub(crate) enum Proposal {
    /// A client's operation.
    Operation { origin: Option<Origin>, answer: Answer },
    /// A client's snapshot mark.
    Mark { origin: Option<Origin> },
    /// A client's value for a log of values.
    Value { log: LogId },
    /// The closing of an id on behalf of a client who asked for its outcome.
    Close,
}

/// A proposal and who waits for it.
#[derive(Debug)]
pub(crate) struct ProposalWaiter {
    pub(crate) to: ReplyTo,
    pub(crate) group: GroupId,
    pub(crate) proposal: Proposal,
}

impl ProposalWaiter {
    /// The log that it was proposed in.
    pub(crate) fn log(&self) -> LogId {
        match self.proposal {
            Proposal::Value { log } => log,
            _ => LogId::MAIN,
        }
    }

    pub(crate) fn origin(&self) -> Option<Origin> {
        match self.proposal {
            Proposal::Operation { origin, .. } | Proposal::Mark { origin } => origin,
            Proposal::Value { .. } | Proposal::Close => None,
        }
    }
}

/// A reader who waits for a barrier.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) to: ReplyTo,
    pub(crate) group: GroupId,
}

/// A change of a group that somebody waits for.
#[derive(Clone, Debug)]
pub(crate) struct ChangeWaiter {
    pub(crate) to: ReplyTo,
    pub(crate) group: GroupId,
    pub(crate) kind: ChangeKind,
}

/// Which change.
#[derive(Clone, Debug)]
pub(crate) enum ChangeKind {
    /// A new group.
    Create,
    /// A group that this node was added to.
    Learn,
    /// A change of members; asked again while another one is under way or the member has not caught up.
    Members { change: Change, deadline: Time, described: bool },
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) proposals: BTreeMap<OperationId, ProposalWaiter>,
    pub(crate) readers: BTreeMap<Token, Reader>,
    pub(crate) changes: BTreeMap<Token, ChangeWaiter>,
    /// Changes to be asked again at the next housekeeping.
    pub(crate) again: Vec<ChangeWaiter>,
    next_token: u64,
}

impl Waiting {
    pub(crate) fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    /// Forgets what a client waited for; returns its proposals, to be withdrawn.
    pub(crate) fn forget_client(&mut self, client: ClientNumber) -> Vec<(OperationId, GroupId, LogId)> {
        self.readers.retain(|_, reader| reader.to.client != client);
        self.changes.retain(|_, change| change.to.client != client);
        self.again.retain(|change| change.to.client != client);
        let gone: Vec<(OperationId, GroupId, LogId)> = self
            .proposals
            .iter()
            .filter(|(_, waiter)| waiter.to.client == client)
            .map(|(id, waiter)| (*id, waiter.group, waiter.log()))
            .collect();
        for (id, ..) in &gone {
            self.proposals.remove(id);
        }
        gone
    }
}
