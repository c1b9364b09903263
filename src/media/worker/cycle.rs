//! What the worker itself does in the database: it claims jobs, takes over those of a worker before it, and
//! records attempts that no other table takes part in.

use std::time::Duration;

use pgrx::Uuid;

use super::flight::{self, InFlight};
use crate::error::Error;
use crate::media::job::{Attempt, Kind, Outcome};
use crate::media::store::{self, Hold, Job, Shares, Turns, as_owner};
use crate::media::tables::{in_transaction, in_transaction_if_free};
use crate::pg::shared;
use crate::pg::subtransaction::attempt;
use crate::settings::media::media_attempts;

/// How many old jobs are removed at a time.
const PRUNED_AT_ONCE: usize = 1000;

/// What a poll of the table has shown.
#[derive(Default)]
pub struct Polled {
    /// Claimed, and to be worked on.
    pub jobs: Vec<Job>,
    /// In flight, and to be cancelled.
    pub cancelled: Vec<Uuid>,
    /// How long it is until another job is due.
    pub next_due: Option<Duration>,
    /// Whether no more old jobs are left.
    pub is_all_pruned: bool,
}

/// What a poll does from time to time.
#[derive(Clone, Copy)]
pub struct Upkeep {
    /// How long jobs are kept after their end; `None` for ever.
    pub retention: Option<Duration>,
}

/// Polls the table: what has been cancelled, what a worker before has left, jobs of these kinds that are
/// due, those that restrict files first; and, if it is time for it, jobs that are to be removed or have a time
/// that cannot be. `None` where there is no queue.
pub fn poll(
    is_in_flight: impl Fn(&Uuid) -> bool,
    kinds: &[Kind],
    to_claim: usize,
    mut shares: Shares,
    turns: &mut Turns,
    upkeep: Option<Upkeep>,
) -> Result<Option<Polled>, ()> {
    let poll = || {
        let mut polled = Polled { is_all_pruned: true, ..Polled::default() };
        for (id, attempts, is_cancelled) in store::running()? {
            if !is_in_flight(&id) {
                take_over(id, attempts);
            } else if is_cancelled {
                polled.cancelled.push(id);
            }
        }
        for kind in kinds {
            let left = to_claim - polled.jobs.len();
            if left > 0 {
                polled.jobs.extend(store::claim(*kind, left, &mut shares, turns)?);
            }
        }
        if to_claim > 0 {
            polled.next_due = store::next_due(kinds)?;
        }
        if upkeep.is_some() {
            store::unpark()?;
        }
        if let Some(retention) = upkeep.and_then(|upkeep| upkeep.retention) {
            let removed = store::prune(retention, PRUNED_AT_ONCE as i64)?;
            polled.is_all_pruned = removed < PRUNED_AT_ONCE;
        }
        Ok(polled)
    };
    in_transaction(|owner| as_owner(owner, poll))
}

/// A job runs, and is not in flight: a worker before this one was killed over it. One that cannot be
/// recorded, or is locked, is taken over at the next poll.
fn take_over(id: Uuid, attempts: i32) {
    let killed = Attempt {
        error: Some("the worker was killed, or its server crashed, during this attempt".to_owned()),
        ..Attempt::new(Outcome::Interrupted)
    };
    let _ = alone(|| store::hold_and_settle(id, attempts, &killed, media_attempts()));
}

/// Does something with one job that must not undo what is done with others.
fn alone<R>(body: impl FnOnce() -> Result<R, Error>) -> Result<R, ()> {
    attempt(|| body().map_err(|error| error.message()), |_, message| message.to_owned())
        .map_err(|why| store::warn(&format!("a media job is recorded later: {why}")))
}

/// Records how an attempt ended without other people's tables. `Err` where that is to be tried again.
pub fn settle(id: Uuid, attempts: i32, attempt: &Attempt) -> Result<Hold, ()> {
    let settle = || store::hold_and_settle(id, attempts, attempt, media_attempts());
    Ok(in_transaction(|owner| as_owner(owner, settle))?.unwrap_or(Hold::NotOurs))
}

/// The server shuts this process down, and these jobs are in flight: they are due again, and lose no
/// attempt. Those that somebody has locked do, as if the process had been killed. What is stored already
/// is not transferred again.
fn release(jobs: &[InFlight]) {
    let release = |it: &InFlight| {
        let released = Attempt { stored: it.stored.clone(), ..Attempt::new(Outcome::Released) };
        let (id, attempts) = (it.job.id, it.job.attempts);
        let _ = alone(|| store::hold_and_settle(id, attempts, &released, media_attempts()));
    };
    let release_all = || {
        jobs.iter().for_each(release);
        Ok(())
    };
    let _ = in_transaction_if_free(|owner| as_owner(owner, release_all));
}

/// At a shutdown no job loses an attempt.
pub fn release_all() {
    if let Some(shared) = shared::shared() {
        shared.mailbox.withdraw();
    }
    let released: Vec<_> = flight::jobs().drain().map(|(_, in_flight)| in_flight).collect();
    if !released.is_empty() {
        release(&released);
    }
}
