//! The table `civic.media_jobs`: every statement that reads or writes it.
//!
//! They run with the rights of its owner, see [`as_owner`]: a session needs none of its own, and what
//! the owner has put on the table does no more than the owner could. Everything in them is qualified,
//! values are parameters.

/// The columns of a [`Job`], in the order of [`read_job`].
macro_rules! job_columns {
    () => {
        "id, attempts, kind, tenant_id, ticket_id, is_sensitive, bucket, path, file_id, media_url,
         content_type, file_size"
    };
}

mod claim;
mod commands;
mod counts;
mod restrict;

use std::time::Duration;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{PgLogLevel, Uuid};

pub use self::claim::{Shares, Turns, claim};
pub use self::commands::{NewJob, add, cancel, retry};
pub use self::counts::{counts, oldest_due};
pub use self::restrict::{make_sensitive, open_tickets, restrict_tickets};
use super::job::{self, Attempt, Ended, Kind, Next, Outcome, State};
use crate::catalog::planned as rows;
use crate::error::Error;
use crate::events::publish::{self, Subject};
use crate::pg::role::acting_as;
use crate::pg::shared::counters::count_at_commit;
use crate::pg::{self, Column, Row, table};
use crate::storage::bucket::Bucket;

/// A job that the worker has claimed.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: Uuid,
    /// With the one that it was claimed for.
    pub attempts: i32,
    pub kind: Kind,
    pub tenant_id: String,
    pub ticket_id: String,
    pub is_sensitive: bool,
    pub bucket: String,
    /// Of a `fetch` job's file; empty for a `restrict` job.
    pub path: String,
    pub file_id: Option<Uuid>,
    pub media_url: String,
    /// Content type and size in bytes, where an earlier attempt has stored the file and only its row in
    /// the table of attachments is missing.
    pub stored: Option<(String, u64)>,
}

impl Job {
    /// As the row is after [`make_sensitive`].
    pub fn becomes_sensitive(&mut self) {
        if !self.is_sensitive {
            self.is_sensitive = true;
            self.stored = None;
            self.bucket = Bucket::for_media(true).id().to_owned();
        }
    }
}

/// Whose a job is, at the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It is this worker's, and its row is locked.
    Ours { is_cancelled: bool },
    /// Somebody else has locked its row: later.
    Locked,
    /// It is not this worker's any more, or is gone.
    NotOurs,
}

/// A column that is NOT NULL.
fn column<T: Column>(row: &Row<'_, '_>, place: usize) -> Result<T, Error> {
    let null = || pg::Error::Catalog { why: format!("column {place} of civic.media_jobs is NULL") };
    Ok(row.get(place)?.ok_or_else(null)?)
}

fn execute(sql: &'static str, arguments: &[DatumWithOid<'_>]) -> Result<(), Error> {
    rows(sql, arguments, |_| Ok::<_, Error>(())).map(|_| ())
}

/// The owner of the table; `None` where this database has none of this extension. One of the name
/// that somebody else has made is not looked at.
pub fn owner() -> Option<pg_sys::Oid> {
    table::owner_of_own(c"civic", c"media_jobs")
}

/// Locks the table as a change of its rows does, before anything of it is read: a lock that is taken for reading
/// first, and then made stronger, deadlocks with a REINDEX.
pub fn lock() {
    if let Some(table) = table::find(c"civic", c"media_jobs") {
        table::lock_for_writing(table);
    }
}

/// Makes jobs due whose time is further away than any delay: the clock was set back.
pub fn unpark() -> Result<(), Error> {
    execute(
        "UPDATE civic.media_jobs SET next_attempt_at = pg_catalog.now()
         WHERE id = ANY (ARRAY(
             SELECT id FROM civic.media_jobs
             WHERE state = 'queued' AND kind = ANY ($1)
               AND next_attempt_at > pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $2)
             FOR UPDATE SKIP LOCKED))",
        &[
            Kind::ALL.map(Kind::name).map(str::to_owned).to_vec().into(),
            // A minute more, for what was recorded while the statement waited.
            (job::LONGEST_DELAY.as_secs_f64() + 60.0).into(),
        ],
    )
}

/// The same; false where that would have to wait for somebody who has locked the whole table.
pub fn lock_if_free() -> bool {
    table::find(c"civic", c"media_jobs").is_none_or(pg::worker::lock_rows_if_free)
}

/// Does something with the rights of the table's owner. It is the extension's own table, and without
/// a limit of time: its owner holds up no queue but this one.
pub fn as_owner<R>(
    owner: pg_sys::Oid,
    body: impl FnOnce() -> Result<R, Error>,
) -> Result<R, Error> {
    acting_as(owner, || {
        // A session has one of its own, in which an operator could be another's.
        pg::guc::fix_search_path();
        body()
    })
}

/// What runs, according to the table: job, attempt, and whether it is to be cancelled.
pub fn running() -> Result<Vec<(Uuid, i32, bool)>, Error> {
    rows(
        "SELECT id, attempts, cancel_requested FROM civic.media_jobs WHERE state = 'running'",
        &[],
        |row| Ok::<_, Error>((column(row, 1)?, column(row, 2)?, column(row, 3)?)),
    )
}

fn read_job(row: &Row<'_, '_>) -> Result<Job, Error> {
    Ok(Job {
        id: column(row, 1)?,
        attempts: column(row, 2)?,
        kind: Kind::from_name(&column::<String>(row, 3)?).unwrap_or(Kind::Fetch),
        tenant_id: column(row, 4)?,
        ticket_id: column(row, 5)?,
        is_sensitive: column(row, 6)?,
        bucket: column(row, 7)?,
        path: row.get(8)?.unwrap_or_default(),
        file_id: row.get(9)?,
        media_url: row.get(10)?.unwrap_or_default(),
        stored: row.get(11)?.zip(row.get::<i64>(12)?.map(i64::unsigned_abs)),
    })
}

/// A job that runs, in its attempt of this number.
pub fn claimed(id: Uuid, attempts: i32) -> Result<Option<Job>, Error> {
    let jobs = rows(
        concat!(
            "SELECT ",
            job_columns!(),
            " FROM civic.media_jobs WHERE id = $1 AND attempts = $2 AND state = 'running'"
        ),
        &[id.into(), attempts.into()],
        read_job,
    )?;
    Ok(jobs.into_iter().next())
}

/// Locks a job's row at the end of an attempt, for [`settle`].
pub fn hold(id: Uuid, attempts: i32) -> Result<Hold, Error> {
    let locked = rows(
        "SELECT cancel_requested FROM civic.media_jobs
         WHERE id = $1 AND attempts = $2 AND state = 'running' FOR UPDATE SKIP LOCKED",
        &[id.into(), attempts.into()],
        |row| column(row, 1),
    )?;
    if let Some(is_cancelled) = locked.into_iter().next() {
        return Ok(Hold::Ours { is_cancelled });
    }
    let there = rows(
        "SELECT true FROM civic.media_jobs WHERE id = $1 AND attempts = $2 AND state = 'running'",
        &[id.into(), attempts.into()],
        |_| Ok::<_, Error>(()),
    )?;
    Ok(if there.is_empty() { Hold::NotOurs } else { Hold::Locked })
}

/// Holds a job and records how its attempt ended.
pub fn hold_and_settle(
    id: Uuid,
    attempts: i32,
    attempt: &Attempt,
    limit: u32,
) -> Result<Hold, Error> {
    let hold = hold(id, attempts)?;
    if let Hold::Ours { is_cancelled } = hold {
        settle(id, is_cancelled, attempt, limit)?;
    }
    Ok(hold)
}

/// Records how an attempt ended of a job whose row is locked, and publishes its end.
pub fn settle(id: Uuid, is_cancelled: bool, attempt: &Attempt, limit: u32) -> Result<(), Error> {
    let found = rows(
        "SELECT kind, attempts, last_look FROM civic.media_jobs WHERE id = $1",
        &[id.into()],
        |row| Ok::<(String, i32, bool), Error>((column(row, 1)?, column(row, 2)?, column(row, 3)?)),
    )?;
    let Some((kind, attempts, is_last_look)) = found.into_iter().next() else { return Ok(()) };
    let (kind, attempts) = (Kind::from_name(&kind).unwrap_or(Kind::Fetch), attempts.unsigned_abs());
    let outcome = &attempt.outcome;
    let ended = Ended { kind, outcome, is_cancelled, is_last_look, attempts };
    let next = job::next(ended, limit, pg::random());
    // The state, the time until it is due, the attempts that count, and whether the next look is the last.
    let (state, delay, attempts, is_last_look) = match next {
        Next::End(state) => (state, None, attempts, is_last_look),
        Next::Again(delay) => (State::Queued, Some(delay), attempts, is_last_look),
        Next::Uncounted(delay) => {
            (State::Queued, Some(delay), attempts.saturating_sub(1), is_last_look)
        }
        Next::Look { delay, is_last } => (State::Queued, Some(delay), 0, is_last),
    };
    let (content_type, file_size) = attempt.stored.clone().unzip();
    execute(
        "UPDATE civic.media_jobs
         SET state = $2, attempts = $3,
             next_attempt_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $4),
             finished_at = CASE WHEN $4 IS NULL THEN pg_catalog.clock_timestamp() END,
             content_type = $5, file_size = $6,
             last_error = CASE WHEN $8 THEN COALESCE(last_error, $7) ELSE $7 END,
             last_look = $9
         WHERE id = $1",
        &[
            id.into(),
            state.name().into(),
            (attempts as i32).into(),
            delay.map(|delay| delay.as_secs_f64()).into(),
            content_type.into(),
            file_size.map(|size| size as i64).into(),
            attempt.error.as_deref().into(),
            // Why a job was not worked on says less than why its last attempt failed.
            matches!(outcome, Outcome::Postponed { .. }).into(),
            is_last_look.into(),
        ],
    )?;
    if matches!(next, Next::End(_)) {
        publish_end(id)?;
        log_end(id)?;
    }
    if kind == Kind::Restrict && attempts == limit && matches!(next, Next::Again(_)) {
        let why = attempt.error.as_deref().unwrap_or("the worker was killed");
        warn(&format!(
            "files of a sensitive ticket may be in the open: media job {id} has failed {limit} times, and \
             is tried every hour: {why}"
        ));
    }
    // Last: what fails before is recorded later, and counts then.
    count_attempt(kind, outcome, next);
    Ok(())
}

fn count_attempt(kind: Kind, outcome: &Outcome, next: Next) {
    let (attempt, kind) = (outcome.end(), kind as usize);
    count_at_commit(|counters| &counters.media_attempts[kind][attempt as usize], 1);
    if let Outcome::Refused { class, .. } = outcome {
        count_at_commit(|counters| &counters.media_errors[*class as usize], 1);
    }
    if let Next::End(state) = next {
        count_end(kind, state);
    }
}

fn count_end(kind: usize, state: State) {
    if let Some(end) = state.end() {
        count_at_commit(|counters| &counters.media_ended[kind][end as usize], 1);
    }
}

/// Into the server's log, for its operator.
pub fn warn(message: &str) {
    ereport!(PgLogLevel::WARNING, PgSqlErrorCode::ERRCODE_WARNING, message.to_owned());
}

/// Publishes a job's end at the commit. Those who may not read the file do not receive it.
fn publish_end(id: Uuid) -> Result<(), Error> {
    let ends = rows(
        "SELECT tenant_id, is_sensitive,
                pg_catalog.json_build_object(
                    'type', 'media_job', 'job_id', id, 'ticket_id', ticket_id,
                    'municipality_id', tenant_id, 'state', state, 'is_sensitive', is_sensitive,
                    'bucket', bucket, 'path', path, 'file_id', file_id,
                    'content_type', content_type, 'file_size', file_size)::pg_catalog.text
         FROM civic.media_jobs WHERE id = $1",
        &[id.into()],
        |row| {
            Ok::<_, Error>((column::<String>(row, 1)?, column(row, 2)?, column::<String>(row, 3)?))
        },
    )?;
    for (tenant_id, is_sensitive, payload) in ends {
        let Some(channel) = job::channel(&tenant_id, is_sensitive) else { continue };
        let subject = Subject { table: 0, is_sensitive };
        if let Err(error) = publish::send(&channel, payload.as_bytes(), subject) {
            count_at_commit(|counters| &counters.notify_lost, 1);
            warn(&format!("the end of media job {id} is not published: {}", error.message()));
        }
    }
    Ok(())
}

/// One line for each job that has ended in an attempt. It names no municipality, ticket or file.
fn log_end(id: Uuid) -> Result<(), Error> {
    let ends = rows(
        "SELECT state,
                pg_catalog.json_build_object(
                    'job_id', id, 'kind', kind, 'state', state, 'attempts', attempts,
                    'seconds', pg_catalog.round(pg_catalog.date_part('epoch', finished_at - created_at)::pg_catalog.numeric, 3),
                    'content_type', content_type, 'file_size', file_size, 'error', last_error)::pg_catalog.text
         FROM civic.media_jobs WHERE id = $1",
        &[id.into()],
        |row| Ok::<_, Error>((column::<String>(row, 1)?, column::<String>(row, 2)?)),
    )?;
    for (state, detail) in ends {
        let message = format!("media job {id} is {state}");
        ErrorReport::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message, "media_job")
            .set_detail(detail)
            .report(PgLogLevel::LOG);
    }
    Ok(())
}

/// Jobs that have failed.
pub struct Failed {
    pub jobs: i64,
    /// When the first one failed, in the server's words.
    pub since: String,
    /// Why the last one failed.
    pub error: String,
}

/// `None` where no job has failed.
pub fn failed() -> Result<Option<Failed>, Error> {
    let failed = rows(
        "SELECT pg_catalog.count(*), pg_catalog.min(finished_at)::pg_catalog.text,
                (pg_catalog.array_agg(last_error ORDER BY finished_at DESC))[1]
         FROM civic.media_jobs WHERE state = 'failed' HAVING pg_catalog.count(*) > 0",
        &[],
        |row| {
            Ok::<_, Error>(Failed {
                jobs: column(row, 1)?,
                since: column(row, 2)?,
                error: row.get(3)?.unwrap_or_default(),
            })
        },
    )?;
    Ok(failed.into_iter().next())
}

/// Whether there are jobs that have not ended.
pub fn has_unfinished() -> Result<bool, Error> {
    let unfinished = rows(
        "SELECT true FROM civic.media_jobs WHERE state IN ('queued', 'running') LIMIT 1",
        &[],
        |_| Ok::<_, Error>(()),
    )?;
    Ok(!unfinished.is_empty())
}

/// How long it is until a queued job of these kinds is due; zero where one is. `None` where none is
/// queued.
pub fn next_due(kinds: &[Kind]) -> Result<Option<Duration>, Error> {
    let due = |kind: &Kind| {
        let seconds = rows(
            "SELECT pg_catalog.date_part('epoch', next_attempt_at - pg_catalog.clock_timestamp())
             FROM civic.media_jobs WHERE state = 'queued' AND kind = $1
             ORDER BY next_attempt_at LIMIT 1",
            &[kind.name().into()],
            |row| column::<f64>(row, 1),
        )?;
        let until = |seconds: &f64| Duration::try_from_secs_f64(*seconds).unwrap_or_default();
        Ok(seconds.first().map(until))
    };
    let due = kinds.iter().map(due).collect::<Result<Vec<_>, Error>>()?;
    Ok(due.into_iter().flatten().min())
}

/// Removes jobs that ended longer ago than this, so many at most. Gives how many it removed.
pub fn prune(retention: Duration, limit: i64) -> Result<usize, Error> {
    let removed = rows(
        "DELETE FROM civic.media_jobs WHERE id = ANY (ARRAY(
             SELECT id FROM civic.media_jobs
             WHERE kind = ANY ($3) AND state = ANY ($4)
               AND finished_at <= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1)
             LIMIT $2 FOR UPDATE SKIP LOCKED))
         RETURNING id",
        &[
            retention.as_secs_f64().into(),
            limit.into(),
            Kind::ALL.map(Kind::name).map(str::to_owned).to_vec().into(),
            ["done", "failed", "cancelled"].map(str::to_owned).to_vec().into(),
        ],
        |_| Ok::<_, Error>(()),
    )?;
    Ok(removed.len())
}
