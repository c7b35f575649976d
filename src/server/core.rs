//! The loop of one executor: its ring, and the roles that it carries.
//!
//! ```text
//! loop {
//!     submit, wait, collect ─► each completion to its role
//!     clients: deliver what the pipeline told
//!     pipeline: one turn
//!     clients: deliver again (a role of the same executor has just been told), finish the turn
//! }
//! ```
//! The loop is the executor's one task and waits in its own ring, not in glommio's reactor, which
//! parks with a `membarrier` each time.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::io::clock;
use crate::io::ring::{Completion, Ring, RingError, Token, Wait};
use crate::log::LogError;
use crate::server::client::ClientCore;
use crate::server::stages::Stage;
use crate::server::writer::PipelineCore;
use crate::time::{Time, WallMs};

/// How long a core waits at most: so that a role's forgotten deadline costs no more than this.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a stopping server goes on sending what it owes.
const FAREWELL: Duration = Duration::from_secs(2);

/// The roles of one executor.
pub struct Roles {
    pub pipeline: Option<PipelineCore>,
    pub clients: Option<ClientCore>,
    /// The clients' listeners, by their tokens.
    pub listeners: Vec<(Token, OwnedFd)>,
}

/// Why a core ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum CoreFault {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("{0}")]
    Ensemble(String),
}

/// Runs the roles on `ring` until `stop` is set and everything that was accepted is done.
///
/// # Errors
/// The disk or the ring failed. Nothing is acknowledged after it.
pub fn run(mut ring: Ring, mut roles: Roles, stop: &Arc<AtomicBool>) -> Result<(), CoreFault> {
    let listeners: Vec<Token> = roles.listeners.iter().map(|(token, _)| *token).collect();
    for (token, listener) in roles.listeners.drain(..) {
        ring.listen(token, listener);
    }
    let mut paused: Option<Time> = None;
    let mut stopped: Option<Time> = None;
    let mut wait = Wait::No;
    let mut is_submitting = false;
    loop {
        is_submitting = !is_submitting && wait != Wait::No && ring.should_submit_first();
        ring.turn(if is_submitting { Wait::No } else { wait })?;
        let (now, wall) = (clock::now(), clock::wall());
        let mut accept_failed = false;
        set_time(&mut roles, now, wall);
        let before = packet_counts(&roles);
        if let Some(clients) = &mut roles.clients {
            // What other cores have told comes before what clients ask, who may know of it.
            clients.deliver();
        }
        let mut is_only_sent = is_submitting;
        while let Some(completion) = ring.next_completion() {
            accept_failed |= matches!(completion, Completion::AcceptFailed { .. });
            is_only_sent &= matches!(completion, Completion::Sent { .. });
            dispatch(&mut roles, completion)?;
        }
        if is_only_sent {
            // Nothing has happened but that what was to be sent is: only that can go on.
            send(&mut ring, &mut roles);
            wait = how_long(&roles, now, stopped.is_some() || paused.is_some());
            continue;
        }
        let decoded = clock::now();
        note(&mut roles, Stage::Decode, (decoded - now).as_nanos(), before);
        if accept_failed {
            paused = Some(now);
        }
        if paused.is_some_and(|since| now.since(since) >= WAIT_MAX / 2) {
            paused = None;
            listeners.iter().for_each(|&token| ring.resume_accept(token));
        }
        turn(&mut ring, &mut roles, now)?;
        if stopped.is_none() {
            move_listener(&mut ring, &mut roles, &listeners);
        }
        if stopped.is_none() && stop.load(Ordering::Relaxed) {
            stopped = Some(now);
            listeners.iter().for_each(|&token| ring.close(token));
            if let Some(pipeline) = &mut roles.pipeline {
                pipeline.stop();
            }
        }
        if let Some(since) = stopped {
            let are_clients_finished = roles.clients.as_ref().is_none_or(ClientCore::is_finished);
            if let Some(pipeline) = &mut roles.pipeline {
                pipeline.leave_behind(are_clients_finished);
            }
            let is_finished = is_finished(&roles);
            if !is_finished && now.since(since) >= FAREWELL {
                tracing::warn!("not everything that was accepted is answered: it takes too long");
            }
            if is_finished || now.since(since) >= FAREWELL {
                return Ok(());
            }
        }
        wait = how_long(&roles, now, stopped.is_some() || paused.is_some());
    }
}

fn set_time(roles: &mut Roles, now: Time, wall: WallMs) {
    if let Some(pipeline) = &mut roles.pipeline {
        pipeline.set_time(now, wall);
    }
    if let Some(clients) = &mut roles.clients {
        clients.set_time(now, wall);
    }
}

/// Takes clients at another address, if there is one.
fn move_listener(ring: &mut Ring, roles: &mut Roles, listeners: &[Token]) {
    let moved = roles.clients.as_mut().and_then(ClientCore::take_listener);
    if let (Some(listener), Some(&token)) = (moved, listeners.first()) {
        ring.close(token);
        ring.listen(token, listener);
    }
}

fn dispatch(roles: &mut Roles, completion: Completion<'_>) -> Result<(), LogError> {
    match completion {
        Completion::Written { .. } | Completion::Synced { .. } => match &mut roles.pipeline {
            Some(pipeline) => pipeline.handle(completion),
            None => Ok(()),
        },
        completion if roles.pipeline.as_ref().is_some_and(|it| it.owns(&completion)) => {
            roles.pipeline.as_mut().map_or(Ok(()), |pipeline| pipeline.handle(completion))
        }
        completion => {
            if let Some(clients) = &mut roles.clients {
                clients.handle(completion);
            }
            Ok(())
        }
    }
}

/// What the roles do after the completions of a turn.
fn turn(ring: &mut Ring, roles: &mut Roles, now: Time) -> Result<(), CoreFault> {
    if let Some(clients) = &mut roles.clients {
        clients.deliver();
        if clients.poll_timeout() <= now {
            clients.handle_timeout();
        }
        if roles.pipeline.is_some() {
            clients.send_batch();
        }
    }
    if let Some(pipeline) = &mut roles.pipeline {
        pipeline.turn(ring)?;
        if let Some(reason) = pipeline.poll_fault() {
            return Err(CoreFault::Ensemble(reason));
        }
    }
    let before = packet_counts(roles);
    let delivering = clock::now();
    if let Some(clients) = &mut roles.clients {
        clients.deliver();
    }
    let delivered = clock::now();
    note(roles, Stage::Encode, (delivered - delivering).as_nanos(), before);
    send(ring, roles);
    note(roles, Stage::Send, (clock::now() - delivered).as_nanos(), before);
    Ok(())
}

/// Sends what the turn has made: clients' replies before what no other server waits for.
fn send(ring: &mut Ring, roles: &mut Roles) {
    if let Some(clients) = &mut roles.clients {
        clients.finish_turn(ring);
    }
    if let Some(pipeline) = &mut roles.pipeline {
        pipeline.finish_turn(ring);
    }
}

fn packet_counts(roles: &Roles) -> (u64, u64) {
    roles.clients.as_ref().map_or((0, 0), ClientCore::packet_counts)
}

/// Notes what a stage of the clients' role took: decoding for each packet that has come since
/// `before`, the others for each that was answered.
fn note(roles: &mut Roles, stage: Stage, nanos: u128, before: (u64, u64)) {
    let after = packet_counts(roles);
    let (received, sent) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    let count = if stage == Stage::Decode { received } else { sent };
    if let Some(clients) = &mut roles.clients {
        clients.note_stage(stage, nanos as u64, count);
    }
}

fn is_finished(roles: &Roles) -> bool {
    roles.pipeline.as_ref().is_none_or(PipelineCore::is_finished)
        && roles.clients.as_ref().is_none_or(ClientCore::is_finished)
}

fn how_long(roles: &Roles, now: Time, is_watching: bool) -> Wait {
    let has_work = roles.pipeline.as_ref().is_some_and(PipelineCore::has_work)
        || roles.clients.as_ref().is_some_and(ClientCore::has_work);
    if has_work {
        return Wait::No;
    }
    let due = [
        roles.pipeline.as_ref().and_then(PipelineCore::poll_timeout),
        roles.clients.as_ref().map(ClientCore::poll_timeout),
    ];
    let latest = if is_watching { WAIT_MAX / 20 } else { WAIT_MAX };
    let due = due.into_iter().flatten().map(|due| due.since(now)).min().unwrap_or(latest);
    Wait::AtMost(due.min(latest))
}
