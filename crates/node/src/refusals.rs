//! The core's refusals as clients are told them.

use client::{Certainty, Refusal, RefusalReason};
use consensus::{Configuration, NodeId};

/// Members by node and label.
fn named(configuration: Option<&Configuration>, nodes: &[NodeId]) -> Vec<(NodeId, String)> {
    let label = |node: NodeId| {
        let member = configuration.and_then(|configuration| configuration.member(node));
        member.map(|member| crate::description::member_description(member).label).unwrap_or_default()
    };
    nodes.iter().map(|node| (*node, label(*node))).collect()
}

/// What a client is told of the core's refusal.
pub(crate) fn from_core(refusal: consensus::Refusal, configuration: Option<&Configuration>) -> Refusal {
    use consensus::Refusal as Core;
    let message = refusal.to_string();
    match refusal {
        Core::UnknownGroup => Refusal::definite(RefusalReason::UnknownGroup, message),
        Core::Removed(_) => removed(message),
        Core::NoQuorum { answering, silent } => Refusal {
            answering: named(configuration, &answering),
            silent: named(configuration, &silent),
            ..Refusal::definite(RefusalReason::NoQuorum, "no quorum of the group answers").with_hint(
                "Wait until a majority of the members is reachable again, or remove dead members while one is.",
            )
        },
        Core::DeadlinePassed => Refusal::definite(RefusalReason::Deadline, message),
        Core::Withdrawn => Refusal::definite(RefusalReason::Withdrawn, message),
        Core::Full(_) => Refusal::definite(RefusalReason::Full, message).with_hint("Try again."),
        Core::TooLarge(_) => Refusal::definite(RefusalReason::TooLarge, message),
        Core::Exists => Refusal::definite(RefusalReason::GroupExists, message),
        Core::ChangeUnderWay(_) => {
            Refusal::definite(RefusalReason::Change, message).with_hint("Try again when it is done.")
        }
        Core::Superseded(_) => {
            Refusal::definite(RefusalReason::Conflict, message).with_hint("Read the value, and try again.")
        }
        Core::Unfit(_) => Refusal::definite(RefusalReason::Change, message),
        Core::NotInContact(_) => Refusal::definite(RefusalReason::Change, message)
            .with_hint("Start that node, and check that it and this one reach each other's engine address."),
        Core::Witness => {
            Refusal::definite(RefusalReason::NoState, message).with_hint("Ask a member that is no witness.")
        }
        Core::Behind { .. } => Refusal::definite(RefusalReason::NoState, message),
        Core::Barred => Refusal::definite(RefusalReason::Storage, message),
        _ => Refusal::definite(RefusalReason::Invalid, message),
    }
}

/// The node was removed from the group.
pub(crate) fn not_a_member(group: &str) -> Refusal {
    removed(format!("this node is not a member of group \"{group}\" any more"))
}

fn removed(message: String) -> Refusal {
    let hint = "What it holds of the group is its own from now on; to follow the group again, let it join again.";
    Refusal::definite(RefusalReason::NotAMember, message).with_hint(hint)
}

/// The outcome of a proposal that was sent and not seen decided in time.
pub(crate) fn outcome_unknown() -> Refusal {
    Refusal {
        certainty: Certainty::Unknown,
        ..Refusal::definite(RefusalReason::Deadline, "the outcome of the operation is not known yet")
            .with_hint("Ask for its outcome by its id.")
    }
}

/// The end of a large operation whose last part was not sent: nothing of it takes effect.
pub(crate) fn not_sent_in_time() -> Refusal {
    Refusal::definite(RefusalReason::Deadline, "the deadline passed before all of the operation was sent")
        .with_hint("Wait longer, or make it smaller.")
}

/// The end of a large operation whose parts are not kept any more.
pub(crate) fn parts_given_up() -> Refusal {
    Refusal::definite(
        RefusalReason::Full,
        "the operation was given up: too many large operations were under way at once",
    )
    .with_hint("Try again.")
}

/// The end of an operation whose id was closed before it was decided.
pub(crate) fn closed() -> Refusal {
    Refusal::definite(RefusalReason::Closed, "the operation was given up: its id was closed before it was decided")
}
