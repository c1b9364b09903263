//! The table `civic.media_jobs`: every statement that reads or writes it.
//!
//! They run with the rights of its owner, see [`as_owner`]: a session needs none of its own, and what
//! the owner has put on the table does no more than he could. Everything in them is qualified, values
//! are parameters.

mod orders;
mod sweep;

use std::ffi::CString;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::{PgLogLevel, Uuid};

pub use self::orders::{NewJob, add, cancel, retry};
pub use self::sweep::{Sweep, due_sweeps, end_sweep};
use super::job::{self, Next, Outcome, Report, State};
use super::target;
use crate::catalog::planned as rows;
use crate::error::Error;
use crate::media::MediaError;
use crate::pg::role::acting_as;
use crate::pg::subtransaction::attempt;
use crate::pg::{self, Column, Row, foreign};
use crate::storage::bucket::Bucket;

/// A job that the worker has in hand.
#[derive(Debug, Clone)]
pub struct Claim {
    pub id: Uuid,
    /// With the one that has been claimed.
    pub tries: i32,
    pub tenant_id: String,
    pub ticket_id: String,
    pub is_sensitive: bool,
    pub bucket: String,
    pub path: String,
    pub file_id: Uuid,
    /// Where an earlier try may have left the file, when its ticket was not sensitive.
    pub former_bucket: Option<String>,
    pub media_url: String,
    /// Content type and size in bytes, where an earlier try has stored the file and only its row in
    /// the table of attachments is missing.
    pub stored: Option<(String, u64)>,
}

impl Claim {
    /// As the row is after [`take_cover`].
    pub fn takes_cover(&mut self) {
        if !self.is_sensitive {
            let bucket = Bucket::for_media(true).id().to_owned();
            self.is_sensitive = true;
            self.stored = None;
            self.former_bucket = Some(std::mem::replace(&mut self.bucket, bucket));
        }
    }
}

/// Whose a job is, at the end of a try.
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

/// How many jobs have ended whose file may be in the open bucket though its ticket is sensitive: those
/// that have failed, and those from which it could not be removed.
pub fn count_in_the_open() -> Result<(i64, i64), Error> {
    let overdue = job::SWEPT * 2;
    let counts = rows(
        "SELECT pg_catalog.count(*) FILTER (WHERE state = 'failed'),
                pg_catalog.count(*) FILTER (WHERE sweep_at IS NOT NULL AND finished_at
                    < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1))
         FROM civic.media_jobs WHERE former_bucket IS NOT NULL AND finished_at IS NOT NULL",
        &[overdue.as_secs_f64().into()],
        |row| Ok::<(i64, i64), Error>((column(row, 1)?, column(row, 2)?)),
    )?;
    Ok(counts.into_iter().next().unwrap_or_default())
}

/// The owner of the table; `None` where this database has none of this extension. One of the name
/// that somebody else has made is not looked at.
pub fn owner() -> Result<Option<pg_sys::Oid>, Error> {
    let owners = rows(
        "SELECT c.relowner
         FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'civic'
         JOIN pg_catalog.pg_depend d
           ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
          AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
         JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_civic'
         WHERE c.relname = 'media_jobs' AND c.relkind = 'r'",
        &[],
        |row| column(row, 1),
    )?;
    Ok(owners.into_iter().next())
}

/// Whether nobody has locked the whole table. If so it stays open to this transaction.
pub fn is_free() -> Result<bool, Error> {
    let tables =
        rows("SELECT 'civic.media_jobs'::pg_catalog.regclass::pg_catalog.oid", &[], |row| {
            column(row, 1)
        })?;
    Ok(tables.into_iter().all(pg::worker::lock_rows_if_free))
}

/// Does something with the rights of the table's owner. It is the extension's own table, and without
/// a limit of time: its owner holds up no queue but this one.
pub fn as_owner<R>(
    owner: pg_sys::Oid,
    body: impl FnOnce() -> Result<R, Error>,
) -> Result<R, Error> {
    acting_as(owner, body)
}

/// What runs, according to the table: job, try, and whether it is to be cancelled.
pub fn running() -> Result<Vec<(Uuid, i32, bool)>, Error> {
    rows(
        "SELECT id, attempts, cancel_requested FROM civic.media_jobs WHERE state = 'running'",
        &[],
        |row| Ok::<_, Error>((column(row, 1)?, column(row, 2)?, column(row, 3)?)),
    )
}

/// The columns of a [`Claim`], in the order of [`read_claim`].
macro_rules! claim_columns {
    () => {
        "id, attempts, tenant_id, ticket_id, is_sensitive, bucket, path, file_id, media_url,
         content_type, file_size, former_bucket"
    };
}

fn read_claim(row: &Row<'_, '_>) -> Result<Claim, Error> {
    Ok(Claim {
        id: column(row, 1)?,
        tries: column(row, 2)?,
        tenant_id: column(row, 3)?,
        ticket_id: column(row, 4)?,
        is_sensitive: column(row, 5)?,
        bucket: column(row, 6)?,
        path: column(row, 7)?,
        file_id: column(row, 8)?,
        media_url: column(row, 9)?,
        former_bucket: row.get(12)?,
        stored: row.get(10)?.zip(row.get::<i64>(11)?.map(i64::unsigned_abs)),
    })
}

/// Takes up to so many jobs that are due, the longest due first. Jobs that somebody has locked are
/// passed by.
pub fn claim(limit: usize) -> Result<Vec<Claim>, Error> {
    rows(
        // As an array, so that jobs are looked for, and locked, once.
        concat!(
            "UPDATE civic.media_jobs
             SET state = 'running', attempts = attempts + 1, next_attempt_at = NULL,
                 started_at = pg_catalog.clock_timestamp()
             WHERE id = ANY (ARRAY(
                 SELECT id FROM civic.media_jobs
                 WHERE state = 'queued' AND next_attempt_at <= pg_catalog.now()
                 ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED))
             RETURNING ",
            claim_columns!()
        ),
        &[(limit as i64).into()],
        read_claim,
    )
}

/// A job that runs, in its try of this number.
pub fn claimed(id: Uuid, tries: i32) -> Result<Option<Claim>, Error> {
    let claims = rows(
        concat!(
            "SELECT ",
            claim_columns!(),
            " FROM civic.media_jobs WHERE id = $1 AND attempts = $2 AND state = 'running'"
        ),
        &[id.into(), tries.into()],
        read_claim,
    )?;
    Ok(claims.into_iter().next())
}

/// Whether the ticket of an ordinary job has become sensitive since.
///
/// Errors: as [`target::is_sensitive`].
pub fn is_now_sensitive(claim: &Claim) -> Result<bool, Error> {
    let Claim { tenant_id, ticket_id, .. } = claim;
    if claim.is_sensitive {
        return Ok(false);
    }
    briefly(
        || target::is_sensitive(tenant_id, ticket_id, false),
        |sqlstate| MediaError::TicketsUnreadable { sqlstate },
    )
}

/// Has a job's file go behind the firewall, and be removed from where it may be already.
pub fn take_cover(id: Uuid) -> Result<(), Error> {
    execute(
        "UPDATE civic.media_jobs
         SET is_sensitive = true, former_bucket = bucket, bucket = $2, content_type = NULL,
             file_size = NULL
         WHERE id = $1",
        &[id.into(), Bucket::for_media(true).id().into()],
    )
}

/// Does something with tables of others, in a subtransaction: where that fails, or takes too long, the
/// job waits and not the process. Nor does the process wait for a lock that somebody has forgotten.
pub fn briefly<R>(
    body: impl FnOnce() -> Result<R, Error>,
    raised: impl Fn(String) -> MediaError + UnwindSafe + RefUnwindSafe,
) -> Result<R, Error> {
    let lock_timeout = |time: &str| {
        execute("SELECT pg_catalog.set_config('lock_timeout', $1, true)", &[time.into()])
    };
    attempt(
        || {
            lock_timeout("1s")?;
            let result = body()?;
            lock_timeout("0")?;
            Ok(result)
        },
        |sqlstate, _| match foreign::take_overrun() {
            Some(error) if sqlstate == PgSqlErrorCode::ERRCODE_QUERY_CANCELED => error.into(),
            _ => raised(pg::sqlstate_text(sqlstate)).into(),
        },
    )
}

/// Locks a job's row at the end of a try, for [`settle`].
pub fn hold(id: Uuid, tries: i32) -> Result<Hold, Error> {
    let locked = rows(
        "SELECT cancel_requested FROM civic.media_jobs
         WHERE id = $1 AND attempts = $2 AND state = 'running' FOR UPDATE SKIP LOCKED",
        &[id.into(), tries.into()],
        |row| column(row, 1),
    )?;
    if let Some(is_cancelled) = locked.into_iter().next() {
        return Ok(Hold::Ours { is_cancelled });
    }
    let there = rows(
        "SELECT true FROM civic.media_jobs WHERE id = $1 AND attempts = $2 AND state = 'running'",
        &[id.into(), tries.into()],
        |_| Ok::<_, Error>(()),
    )?;
    Ok(if there.is_empty() { Hold::NotOurs } else { Hold::Locked })
}

/// Records how a try ended of a job whose row is locked, and tells of it where that is its end. What may
/// be in the open is swept from then on; not that of a job that has failed: it may be the only copy.
pub fn settle(
    id: Uuid,
    tries: i32,
    is_cancelled: bool,
    report: &Report,
    limit: u32,
) -> Result<(), Error> {
    let next = job::next(&report.outcome, is_cancelled, tries.unsigned_abs(), limit, pg::random());
    let (state, delay, uncounted) = match next {
        Next::End(state) => (state, None, 0),
        Next::Again(delay) => (State::Queued, Some(delay.as_secs_f64()), 0),
        Next::Anew => (State::Queued, Some(0.0), 1),
        Next::Later(delay) => (State::Queued, Some(delay.as_secs_f64()), 1),
    };
    let (content_type, file_size) = report.stored.clone().unzip();
    execute(
        "UPDATE civic.media_jobs
         SET state = $2, attempts = attempts - $3,
             next_attempt_at = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $4),
             finished_at = CASE WHEN $4 IS NULL THEN pg_catalog.clock_timestamp() END,
             content_type = $5, file_size = $6,
             last_error = CASE WHEN $8 THEN COALESCE(last_error, $7) ELSE $7 END,
             sweep_at = CASE WHEN $2 IN ('done', 'cancelled') AND former_bucket IS NOT NULL
                             THEN pg_catalog.clock_timestamp() END
         WHERE id = $1",
        &[
            id.into(),
            state.name().into(),
            uncounted.into(),
            delay.into(),
            content_type.into(),
            file_size.map(|size| size as i64).into(),
            report.error.as_deref().into(),
            // What a job was not worked on for says less than why its last try failed.
            matches!(report.outcome, Outcome::Postponed { .. }).into(),
        ],
    )?;
    if matches!(next, Next::End(_)) {
        tell(id)?;
        if state == State::Failed {
            warn_of_file(id)?;
        }
    }
    Ok(())
}

/// Into the server's log: a job has failed, and its file may be in the open.
fn warn_of_file(id: Uuid) -> Result<(), Error> {
    let places = rows(
        "SELECT path, former_bucket FROM civic.media_jobs
         WHERE id = $1 AND former_bucket IS NOT NULL",
        &[id.into()],
        |row| Ok::<(String, String), Error>((column(row, 1)?, column(row, 2)?)),
    )?;
    for (path, bucket) in places {
        warn(&format!(
            "media job {id} is failed, and its ticket has become sensitive: retry it, or remove {path} \
             from bucket {bucket}, should it be there"
        ));
    }
    Ok(())
}

/// Into the server's log, for whoever operates it.
pub fn warn(message: &str) {
    ereport!(PgLogLevel::WARNING, PgSqlErrorCode::ERRCODE_WARNING, message.to_owned());
}

/// Notifies of a job's end, at the commit. Those who may not read the file do not hear of it.
fn tell(id: Uuid) -> Result<(), Error> {
    let told = rows(
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
    for (tenant_id, is_sensitive, payload) in told {
        let Some(channel) = job::channel(&tenant_id, is_sensitive) else { continue };
        if let (Ok(channel), Ok(payload)) = (CString::new(channel.as_str()), CString::new(payload))
        {
            pg::notify::notify_if_room(&channel, &payload);
        }
    }
    Ok(())
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

/// How long it is until a queued job is due; zero where one is. `None` where none is queued.
pub fn next_due() -> Result<Option<Duration>, Error> {
    let seconds = rows(
        "SELECT pg_catalog.date_part('epoch', next_attempt_at - pg_catalog.clock_timestamp())
         FROM civic.media_jobs WHERE state = 'queued' ORDER BY next_attempt_at LIMIT 1",
        &[],
        |row| column::<f64>(row, 1),
    )?;
    let until = |seconds: &f64| Duration::try_from_secs_f64(*seconds).unwrap_or_default();
    Ok(seconds.first().map(until))
}

/// Removes jobs that ended longer ago than this, so many at most, but for those that are all that tells
/// of a file in the open. Gives how many it removed.
pub fn prune(retention: Duration, limit: i64) -> Result<usize, Error> {
    let removed = rows(
        "DELETE FROM civic.media_jobs WHERE id = ANY (ARRAY(
             SELECT id FROM civic.media_jobs
             WHERE finished_at <= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1)
               AND former_bucket IS NULL
             ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED))
         RETURNING id",
        &[retention.as_secs_f64().into(), limit.into()],
        |_| Ok::<_, Error>(()),
    )?;
    Ok(removed.len())
}
