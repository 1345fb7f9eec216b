//! Valid values of the shared types, made from choices.

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use consensus::{
    Ballot, Configuration, Discipline, Entry, Epoch, GroupId, LogId, Member, NodeId, OperationId, Renewal, Role,
    Sequence, Slot, Start,
};
use std::collections::{BTreeMap, BTreeSet};

/// Up to `most` items.
pub(crate) fn several<T>(
    choices: &mut Unstructured<'_>,
    most: usize,
    mut one: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = choices.int_in_range(0..=most)?;
    (0..count).map(|_| one(choices)).collect()
}

/// Something or nothing.
pub(crate) fn perhaps<T>(
    choices: &mut Unstructured<'_>,
    one: impl FnOnce(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Option<T>> {
    if choices.arbitrary()? {
        one(choices).map(Some)
    } else {
        Ok(None)
    }
}

pub(crate) fn node(choices: &mut Unstructured<'_>) -> Result<NodeId> {
    Ok(NodeId(if choices.ratio(3, 4)? { choices.int_in_range(1..=5)? } else { choices.arbitrary()? }))
}

pub(crate) fn group(choices: &mut Unstructured<'_>) -> Result<GroupId> {
    Ok(GroupId(choices.int_in_range(1..=3)?))
}

pub(crate) fn log(choices: &mut Unstructured<'_>) -> Result<LogId> {
    Ok(LogId(choices.int_in_range(0..=2)?))
}

pub(crate) fn slot(choices: &mut Unstructured<'_>) -> Result<Slot> {
    Ok(Slot(if choices.ratio(3, 4)? { choices.int_in_range(0..=40)? } else { choices.int_in_range(0..=1 << 62)? }))
}

pub(crate) fn epoch(choices: &mut Unstructured<'_>) -> Result<Epoch> {
    Ok(Epoch(if choices.ratio(3, 4)? { choices.int_in_range(1..=9)? } else { choices.int_in_range(1..=1 << 62)? }))
}

pub(crate) fn start(choices: &mut Unstructured<'_>) -> Result<Start> {
    Ok(Start(choices.arbitrary()?))
}

pub(crate) fn sequence(choices: &mut Unstructured<'_>) -> Result<Sequence> {
    Ok(Sequence(choices.arbitrary()?))
}

pub(crate) fn ballot(choices: &mut Unstructured<'_>) -> Result<Ballot> {
    Ok(Ballot {
        epoch: epoch(choices)?,
        round: choices.int_in_range(0..=1 << 62)?,
        node: node(choices)?,
        start: start(choices)?,
    })
}

pub(crate) fn operation_id(choices: &mut Unstructured<'_>) -> Result<OperationId> {
    Ok(OperationId { node: node(choices)?, start: start(choices)?, sequence: choices.arbitrary()? })
}

/// Some bytes, few.
pub(crate) fn some_bytes(choices: &mut Unstructured<'_>) -> Result<Bytes> {
    let count = choices.int_in_range(0..=24)?;
    Ok(Bytes::copy_from_slice(choices.bytes(usize::min(count, choices.len()))?))
}

/// A short text, at times with what quoting must survive.
pub(crate) fn text(choices: &mut Unstructured<'_>) -> Result<String> {
    const PIECES: [&str; 12] = ["a", "host", "5432", " ", "'", "\\", "\"", "=", "\u{e9}", "\u{1f600}", "x.y", "-"];
    Ok(several(choices, 6, |choices| Ok(*choices.choose(&PIECES)?))?.concat())
}

pub(crate) fn entry(choices: &mut Unstructured<'_>) -> Result<Entry> {
    let id = operation_id(choices)?;
    Ok(match choices.int_in_range(0..=6)? {
        0 => Entry::no_op(),
        4 => Entry::value(id, slot(choices)?, &some_bytes(choices)?),
        1 => Entry::close(id, operation_id(choices)?),
        2 => Entry::snapshot_mark(id),
        3 => Entry::configuration(&configuration(choices)?),
        _ => Entry::operation(id, &some_bytes(choices)?),
    })
}

fn member(choices: &mut Unstructured<'_>, node: NodeId, role: Role) -> Result<Member> {
    Ok(Member { node, address: text(choices)?, public_key: some_bytes(choices)?.to_vec(), role, label: text(choices)? })
}

/// Whether a member of this role may have voted in the configuration before.
fn voted(role: Role) -> bool {
    role.votes() || role.is_leaving() || role == Role::Away
}

pub(crate) fn configuration(choices: &mut Unstructured<'_>) -> Result<Configuration> {
    let first = NodeId(choices.int_in_range(1..=9)?);
    let founder = member(choices, first, Role::Voter)?;
    let (group, epoch) = (group(choices)?, epoch(choices)?);
    let mut made = Configuration::first(group, &text(choices)?, &text(choices)?, &text(choices)?, founder);
    made.epoch = epoch;
    made.discipline = *choices.choose(&[Discipline::Sequences, Discipline::Values])?;
    let others: BTreeSet<u128> = several(choices, 5, |choices| choices.int_in_range(10..=30))?.into_iter().collect();
    let joint: bool = choices.arbitrary()?;
    for other in others {
        let settled = [Role::Voter, Role::Learner, Role::Witness, Role::NewWitness, Role::Away];
        let leaving = [Role::Leaving, Role::LeavingWitness];
        let leaves = joint && choices.arbitrary()?;
        let role = *choices.choose(if leaves { &leaving[..] } else { &settled[..] })?;
        made.members.push(member(choices, NodeId(other), role)?);
    }
    if joint {
        made.old_voters =
            Some(made.members.iter().filter(|member| voted(member.role)).map(|member| member.node).collect());
    }
    if made.check().is_err() {
        // Too many witnesses, or in a group of values: they hold the state after all.
        for member in &mut made.members {
            member.role = match member.role {
                Role::Witness => Role::Voter,
                Role::NewWitness => Role::Learner,
                Role::LeavingWitness => Role::Leaving,
                other => other,
            };
        }
    }
    if choices.ratio(1, 4)? {
        made.renewed = BTreeMap::from([(made.members[0].node, Renewal { joint: made.epoch, start: start(choices)? })]);
    }
    assert_eq!(made.check(), Ok(()), "valid values are made here");
    Ok(made)
}
