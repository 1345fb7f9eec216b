//! A snapshot mark: a slot at which one backend of one node stands still while its state is copied (design of tables,
//! section 11).

use std::time::Instant;

use client::{Error, Origin, Request, Response};
use consensus::{GroupId, OperationId, Slot};

use crate::decision::{is_our_turn, milliseconds, GRACE};
use crate::shared::{Area, State};
use crate::{commit, conflict, engine_connection, settings};

/// Waits for the turn of a snapshot mark that this backend puts into the group's log, and returns its slot with the
/// turn held: nothing commits on this server until [`pass`]. An error or the end of the transaction passes it too.
pub fn propose(group_id: GroupId) -> Slot {
    let Some(group) = Area::attached().group(group_id) else { commit::raise_no_group() };
    let (backend, index) = commit::own_backend();
    let area = Area::attached();
    let wait = settings::commit_timeout();
    let deadline = Instant::now() + wait;
    commit::note_running();
    let id = OperationId { node: area.node(), start: area.start(), sequence: area.next_sequence() };
    let request = Request::Mark { group: group_id, id, origin: Some(Origin(index.0)), wait_ms: milliseconds(wait) };
    backend.note_operation(id);
    let running = backend.word();
    if running.state != State::Running || !backend.change(running, State::Proposed) {
        conflict::raise_if_doomed();
        panic!("a transaction that is {:?} cannot mark a snapshot", running.state);
    }
    commit::note_mark(group);
    let end = engine_connection::with(|connection| {
        connection.send(&request)?;
        loop {
            while let Some((_, response)) = connection.try_receive()? {
                if let Response::Refused(refusal) = response {
                    return Err(refusal.into());
                }
            }
            if is_our_turn(backend, group) {
                return Ok(());
            }
            let remaining = (deadline + GRACE).saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(Error::Deadline);
            }
            connection.wait(Some(remaining))?;
            pgrx::check_for_interrupts!();
        }
    });
    if let Err(error) = end {
        engine_connection::raise("cannot mark a snapshot", &error);
    }
    backend.granted()
}

/// Ends the turn of the mark of [`propose`].
pub fn pass() {
    let group = commit::forget_mark();
    let (backend, _) = commit::own_backend();
    let word = backend.word();
    assert!(word.state == State::Granted, "the mark's turn is this backend's");
    group.pass_turn(backend.granted());
    let running = backend.change(word, State::Running);
    assert!(running, "a granted word is changed by its owner only");
}
