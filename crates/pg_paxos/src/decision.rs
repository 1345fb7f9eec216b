//! What a backend that has proposed waits for: the log's decision, and its turn (design of tables, sections 3 and 10).

use std::time::{Duration, Instant};

use client::{Certainty, Error, Outcome, Refusal, RefusalReason, Request, RequestNumber, Response, Settled};
use consensus::{GroupId, OperationId};
use pgrx::pg_sys;

use crate::engine_connection::{self, EngineConnection};
use crate::shared::{Backend, Group, State};

/// How much longer than the engine a backend waits, so that the engine's own, better informed refusal arrives.
pub const GRACE: Duration = Duration::from_millis(500);

/// How long a cancelled backend waits for the engine to say whether the proposal could be taken back.
const WITHDRAW_WAIT: Duration = Duration::from_millis(500);

/// How the wait for the log ended, when the engine could be asked.
pub enum Decision {
    /// Chosen, certified, and everything before it is applied.
    Turn,
    /// It takes no effect: it met a transaction before it in the log.
    Rejected(Outcome),
    /// Taken back because of a cancel.
    Withdrawn,
    /// Cancelled, and it could not be taken back.
    Interrupted,
    /// An earlier entry needs its locks.
    Displaced,
    /// Chosen and certified, but its turn did not come in time.
    LateTurn,
}

/// Whether everything before the slot that the backend was granted is applied.
pub fn is_our_turn(backend: &Backend, group: &Group) -> bool {
    backend.word().state == State::Granted && group.is_turn(backend.granted())
}

/// Waits until the log has decided on a proposal and its turn has come, or until the wait ends otherwise.
pub fn await_decision(
    connection: &mut EngineConnection,
    backend: &Backend,
    group: &Group,
    id: OperationId,
    number: RequestNumber,
    deadline: Instant,
) -> Result<Decision, Error> {
    let mut withdrawal: Option<(RequestNumber, Instant)> = None;
    // Most often nothing comes over the socket: looking only when it is ready spares a system call per transaction.
    let mut readable = false;
    loop {
        if is_our_turn(backend, group) {
            return Ok(Decision::Turn);
        }
        while let Some((arrived, response)) = if readable { connection.try_receive()? } else { None } {
            if arrived == number {
                return match decision_of(response) {
                    // Taken back on request: the cancel is what the client should hear of.
                    Err(error) if withdrawal.is_some() && error.certainty() == Certainty::Definite => {
                        Ok(Decision::Withdrawn)
                    }
                    decision => decision,
                };
            }
            if withdrawal.is_some_and(|(number, _)| number == arrived) {
                return Ok(match response {
                    Response::Withdrawn(true) => Decision::Withdrawn,
                    _ => Decision::Interrupted,
                });
            }
        }
        let now = Instant::now();
        let word = backend.word();
        let granted = word.state == State::Granted;
        if backend.is_displaced(word) {
            return Ok(Decision::Displaced);
        }
        if now >= deadline + GRACE {
            return if granted { Ok(Decision::LateTurn) } else { Err(Error::Deadline) };
        }
        let until = withdrawal.map_or(deadline + GRACE, |(_, until)| until);
        if now >= until {
            return Ok(Decision::Interrupted);
        }
        if is_interrupted() && withdrawal.is_none() {
            if granted {
                return Ok(Decision::Interrupted);
            }
            let number = connection.send(&Request::Withdraw { id })?;
            withdrawal = Some((number, now + WITHDRAW_WAIT));
            continue;
        }
        readable = connection.wait(Some(until - now))?;
        run_harmless_interrupts();
    }
}

fn decision_of(response: Response) -> Result<Decision, Error> {
    match response {
        Response::Outcome(outcome) if !outcome.verdict.is_accepted() => Ok(Decision::Rejected(outcome)),
        Response::Refused(refusal) => Err(refusal.into()),
        other => Err(Error::Malformed { what: format!("unexpected answer to a proposal: {other:?}") }),
    }
}

/// Whether a cancel or a shutdown asks this backend to stop.
fn is_interrupted() -> bool {
    // SAFETY: plain reads of this process's own flags.
    unsafe { pg_sys::QueryCancelPending != 0 || pg_sys::ProcDiePending != 0 }
}

/// Serves what PostgreSQL wants of a waiting process, cancels excepted: those are the caller's to act on.
fn run_harmless_interrupts() {
    // SAFETY: on the main thread, as PostgreSQL's own CHECK_FOR_INTERRUPTS.
    unsafe {
        if pg_sys::InterruptPending != 0 && !is_interrupted() {
            pg_sys::ProcessInterrupts();
        }
    }
}

/// The connection broke after the proposal was sent. Asks a new engine what became of it, which settles it.
pub fn ask_again(
    backend: &Backend,
    group: &Group,
    group_id: GroupId,
    id: OperationId,
    deadline: Instant,
    lost: Error,
) -> Result<Decision, Error> {
    let settled = loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(lost);
        }
        let request = Request::OutcomeOf { group: group_id, id, wait_ms: milliseconds(remaining) };
        match engine_connection::call(&request, remaining) {
            Ok(Response::Settled(settled)) => break settled,
            Ok(_) => return Err(lost),
            Err(Error::Refused(refusal)) if refusal.reason != RefusalReason::Stopping => {
                return Err(unknown_refusal(id, &refusal))
            }
            Err(_) => engine_connection::pause(Duration::from_millis(20)),
        }
    };
    match settled {
        Settled::Decided(outcome) if outcome.verdict.is_accepted() => await_turn(backend, group, deadline),
        Settled::Decided(outcome) => Ok(Decision::Rejected(outcome)),
        Settled::Closed { .. } => {
            Err(Refusal::definite(RefusalReason::Closed, "the engine was restarted before the transaction was chosen")
                .with_hint("Run the transaction again.")
                .into())
        }
        Settled::Expired => Err(lost),
    }
}

fn unknown_refusal(id: OperationId, refusal: &Refusal) -> Error {
    Refusal { certainty: Certainty::Unknown, ..refusal.clone() }.about(id).into()
}

/// Chosen and certified for certain: waits for the grant, and for the turn.
fn await_turn(backend: &Backend, group: &Group, deadline: Instant) -> Result<Decision, Error> {
    loop {
        if is_our_turn(backend, group) {
            return Ok(Decision::Turn);
        }
        // The new engine granted it before it answered, or gave the slot to the applier.
        if backend.word().state != State::Granted || Instant::now() >= deadline {
            return Ok(Decision::LateTurn);
        }
        engine_connection::pause(Duration::from_millis(20));
    }
}

/// A wait as the engine is told it.
pub fn milliseconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}
