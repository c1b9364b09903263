//! What is done in the database at each turn. The worker looks and claims in one transaction. The
//! process that works on other people's tables prepares each job, and records it, in others.

use std::time::Duration;

use pgrx::Uuid;
use pgrx::prelude::*;

use super::attach::attach;
use super::in_hand::InHand;
use super::job::{Outcome, Report};
use super::queue::{self, Claim, Hold, Sweep};
use super::tables::{LOCKED, READY, SENSITIVE, SETTLED};
use crate::error::Error;
use crate::media::MediaError;
use crate::pg;
use crate::pg::mailbox::Answer;
use crate::settings::media as limits;

/// How many files are swept at a time.
const SWEPT_AT_ONCE: usize = 16;
/// How many old jobs are removed at a time.
const PRUNED_AT_ONCE: usize = 1000;

/// What a look at the table has shown.
#[derive(Default)]
pub struct Look {
    /// Claimed, and to be transferred.
    pub claims: Vec<Claim>,
    /// To be removed from where they must not be any more.
    pub sweeps: Vec<Sweep>,
    /// In hand, and to be cancelled.
    pub cancelled: Vec<Uuid>,
    /// How long it is until another job is due.
    pub next_due: Option<Duration>,
    /// Whether no more old jobs are left.
    pub is_all_pruned: bool,
}

/// The report where it cannot be told whether a ticket is sensitive.
fn of_ticket(error: &Error) -> Report {
    let may_heal = !matches!(error.downcast_ref(), Some(MediaError::TicketOfAnother { .. }));
    Report {
        outcome: Outcome::Refused { may_heal, retry_after: None },
        stored: None,
        error: Some(error.message()),
    }
}

/// Looks what has been cancelled, takes up what a worker before has left, claims so many jobs, and what
/// is to be swept where it can be, and removes jobs that ended longer ago than the retention. `None` where
/// there is no queue.
pub fn look(
    is_in_hand: impl Fn(&Uuid) -> bool,
    to_claim: usize,
    can_sweep: bool,
    retention: Option<Duration>,
) -> Option<Look> {
    let look = || {
        let mut look = Look { is_all_pruned: true, ..Look::default() };
        for (id, tries, is_cancelled) in queue::running()? {
            if !is_in_hand(&id) {
                take_up(id, tries)?;
            } else if is_cancelled {
                look.cancelled.push(id);
            }
        }
        if to_claim > 0 {
            look.claims = queue::claim(to_claim)?;
            look.next_due = queue::next_due()?;
        }
        if can_sweep {
            look.sweeps = queue::due_sweeps(SWEPT_AT_ONCE)?;
        }
        if let Some(retention) = retention {
            let removed = queue::prune(retention, PRUNED_AT_ONCE as i64)?;
            look.is_all_pruned = removed < PRUNED_AT_ONCE;
        }
        Ok(look)
    };
    in_transaction(|owner| queue::as_owner(owner, look))
}

/// A job runs, and this worker does not have it in hand: one before was killed over it.
fn take_up(id: Uuid, tries: i32) -> Result<(), Error> {
    let report = Report {
        outcome: Outcome::Interrupted,
        stored: None,
        error: Some("the worker was killed, or its server crashed, during this try".to_owned()),
    };
    match queue::hold(id, tries)? {
        Hold::Ours { is_cancelled } => {
            queue::settle(id, tries, is_cancelled, &report, limits::media_attempts())
        }
        // Looked at again next time.
        Hold::Locked | Hold::NotOurs => Ok(()),
    }
}

/// Records that a file is not, or not any more, where it must not be.
pub fn end_sweep(id: Uuid) {
    in_transaction(|owner| queue::as_owner(owner, || queue::end_sweep(id)));
}

/// Looks whether a claimed job's ticket is sensitive: it may have become so since the job was added.
/// Then its file goes behind the firewall, and is removed from where it may be already.
pub fn prepare(id: Uuid, tries: i32) -> Answer {
    let prepare = |owner| {
        let claim = queue::as_owner(owner, || queue::claimed(id, tries))?;
        let Some(claim) = claim else { return Ok(SETTLED) };
        if claim.is_sensitive {
            return Ok(SENSITIVE);
        }
        // As a rule nothing is written.
        let refused = match queue::as_owner(owner, || queue::is_now_sensitive(&claim)) {
            Ok(false) => return Ok(READY),
            Ok(true) => None,
            Err(error) => Some(of_ticket(&error)),
        };
        queue::as_owner(owner, || {
            let is_cancelled = match queue::hold(id, tries)? {
                Hold::Ours { is_cancelled } => is_cancelled,
                Hold::Locked => return Ok(LOCKED),
                Hold::NotOurs => return Ok(SETTLED),
            };
            match refused {
                None => queue::take_cover(id).map(|()| SENSITIVE),
                Some(report) => {
                    queue::settle(id, tries, is_cancelled, &report, limits::media_attempts())
                        .map(|()| SETTLED)
                }
            }
        })
    };
    in_transaction(prepare).unwrap_or(SETTLED)
}

/// Records how a try ended, in a transaction of its own: what others' tables do with one job neither
/// delays nor undoes what is recorded of another.
pub fn record(id: Uuid, tries: i32, report: &Report) -> Answer {
    let hold = in_transaction(|owner| record_one(owner, id, tries, report));
    if hold == Some(Hold::Locked) { LOCKED } else { SETTLED }
}

/// Records how a try ended. A file that is stored gets its row in the table of attachments, with the
/// rights of that table's owner; where this fails the job is tried again, and only this of it. One
/// whose ticket has become sensitive meanwhile is taken behind the firewall by the next try.
fn record_one(owner: pg_sys::Oid, id: Uuid, tries: i32, report: &Report) -> Result<Hold, Error> {
    let hold = queue::as_owner(owner, || queue::hold(id, tries))?;
    let Hold::Ours { is_cancelled } = hold else { return Ok(hold) };
    let Some(claim) = queue::as_owner(owner, || queue::claimed(id, tries))? else {
        return Ok(Hold::NotOurs);
    };
    // Also where the try has failed: an earlier one may have left the file in the open.
    let is_sensitive = queue::as_owner(owner, || {
        let is_sensitive = queue::is_now_sensitive(&claim)?;
        if is_sensitive {
            queue::take_cover(id)?;
        }
        Ok(is_sensitive)
    });
    let refused = match (&report.stored, is_sensitive) {
        (None, _) => None,
        (Some(_), Err(error)) => Some(of_ticket(&error)),
        (Some(_), Ok(true)) => Some(Report::refused(MediaError::NowSensitive.to_string())),
        (Some((content_type, size)), Ok(false)) => {
            let attached = queue::as_owner(owner, || attach(&claim, content_type, *size));
            attached.err().map(|error| Report {
                stored: report.stored.clone(),
                ..Report::refused(error.message())
            })
        }
    };
    let report = refused.as_ref().unwrap_or(report);
    let limit = limits::media_attempts();
    queue::as_owner(owner, || queue::settle(id, tries, is_cancelled, report, limit))?;
    Ok(hold)
}

/// Records how a try ended without a look at other people's tables: one of those has held it up.
pub fn settle(id: Uuid, tries: i32, report: &Report) -> Hold {
    let settle = |owner| {
        queue::as_owner(owner, || {
            let hold = queue::hold(id, tries)?;
            if let Hold::Ours { is_cancelled } = hold {
                queue::settle(id, tries, is_cancelled, report, limits::media_attempts())?;
            }
            Ok(hold)
        })
    };
    in_transaction(settle).unwrap_or(Hold::NotOurs)
}

/// The server ends this process in good order, and these jobs are still in hand: they are due again, and
/// lose no try. Those that somebody has locked do, as if the process had been killed. What is stored
/// already is not transferred again.
pub fn release(jobs: &[InHand]) {
    let release = |job: &InHand| match queue::hold(job.claim.id, job.claim.tries)? {
        Hold::Ours { is_cancelled } => {
            let stored = job.stored.clone();
            let released = Report { outcome: Outcome::Released, stored, error: None };
            let (id, tries) = (job.claim.id, job.claim.tries);
            queue::settle(id, tries, is_cancelled, &released, limits::media_attempts())
        }
        Hold::Locked | Hold::NotOurs => Ok(()),
    };
    in_transaction(|owner| {
        queue::as_owner(owner, || {
            if queue::is_free()? { jobs.iter().try_for_each(release) } else { Ok(()) }
        })
    });
}

/// Does something in a transaction of its own, given the table's owner. `None` where there is no such
/// table. An error ends the worker, which starts anew.
fn in_transaction<R>(body: impl FnOnce(pg_sys::Oid) -> Result<R, Error>) -> Option<R> {
    let body = || queue::owner().and_then(|owner| owner.map(body).transpose());
    pg::worker::transaction(|| body().unwrap_or_else(|error| error.raise()))
}
