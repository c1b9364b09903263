//! The table `civic.media_jobs`: every statement that reads or writes it.
//!
//! A session's statements run with the extension's own rights, behind functions; the worker's inside
//! [`as_owner`]. Everything in them is qualified, values are parameters.

use std::time::Duration;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{self, SpiHeapTupleData};
use pgrx::{PgTryBuilder, Uuid};

use super::job::{self, Next, Outcome, State};
use crate::error::Error;
use crate::pg;

/// What a new job is made of; its target does not change from here on.
pub struct NewJob<'a> {
    pub tenant_id: &'a str,
    pub ticket_id: &'a str,
    pub is_sensitive: bool,
    pub bucket: &'a str,
    pub path: &'a str,
    pub file_id: Uuid,
    pub media_url: &'a str,
    pub media_content_type: &'a str,
}

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
    pub media_url: String,
    pub media_content_type: String,
}

/// How a try ended, with what the row tells of it.
#[derive(Debug, Clone)]
pub struct Report {
    pub outcome: Outcome,
    /// Content type and size in bytes of what is stored.
    pub stored: Option<(String, u64)>,
    /// Why it is not. No secret is in it.
    pub error: Option<String>,
}

/// What came of recording a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    Yes,
    /// Somebody has locked the job's row: later.
    Locked,
    /// The job is not this worker's any more, or is gone.
    NotOurs,
}

fn rows<R>(
    sql: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(&SpiHeapTupleData<'_>) -> Result<R, spi::Error>,
) -> Result<Vec<R>, Error> {
    Spi::connect_mut(|client| {
        let table = client.update(sql, None, arguments)?;
        table.into_iter().map(|row| Ok(read(&row)?)).collect()
    })
}

fn execute(sql: &str, arguments: &[DatumWithOid<'_>]) -> Result<(), Error> {
    rows(sql, arguments, |_| Ok(())).map(|_| ())
}

/// Adds a job that is due at once. Gives its id.
pub fn add(job: &NewJob<'_>) -> Result<Uuid, Error> {
    let ids = rows(
        "INSERT INTO civic.media_jobs (tenant_id, ticket_id, is_sensitive, bucket, path, file_id,
                                       media_url, media_content_type)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
        &[
            job.tenant_id.into(),
            job.ticket_id.into(),
            job.is_sensitive.into(),
            job.bucket.into(),
            job.path.into(),
            job.file_id.into(),
            job.media_url.into(),
            job.media_content_type.into(),
        ],
        |row| row.get::<Uuid>(1),
    )?;
    ids.into_iter().next().flatten().ok_or_else(|| Error::Catalog { why: "no id".to_owned() })
}

/// A job's state, its row locked. Errors: there is no such job.
fn locked_state(id: Uuid) -> Result<State, Error> {
    let states = rows(
        "SELECT state FROM civic.media_jobs WHERE id = $1 FOR UPDATE",
        &[id.into()],
        |row| row.get::<String>(1),
    )?;
    let state = states.into_iter().next().flatten();
    state.and_then(|state| State::from_name(&state)).ok_or(Error::NoMediaJob { id })
}

/// Cancels a job: at once where it waits, by the worker where it runs.
///
/// Errors: there is no such job; it has ended.
pub fn cancel(id: Uuid) -> Result<(), Error> {
    let state = locked_state(id)?;
    let next =
        state.when_cancelled().ok_or(Error::MediaJobState { id, state, action: "cancelled" })?;
    execute(
        "UPDATE civic.media_jobs
         SET cancel_requested = true, state = $2,
             next_attempt_at = NULL,
             finished_at = CASE $2 WHEN 'cancelled' THEN pg_catalog.now() END
         WHERE id = $1",
        &[id.into(), next.name().into()],
    )?;
    if next == State::Cancelled {
        tell(id)?;
    }
    Ok(())
}

/// Makes a job due at once: one that has failed or was cancelled with all its tries before it, one
/// that waits for its next try with those that it has left.
///
/// Errors: there is no such job; it runs, or is done.
pub fn retry(id: Uuid) -> Result<(), Error> {
    let state = locked_state(id)?;
    state.when_retried().ok_or(Error::MediaJobState { id, state, action: "retried" })?;
    execute(
        "UPDATE civic.media_jobs
         SET attempts = CASE state WHEN 'queued' THEN attempts ELSE 0 END,
             state = 'queued', cancel_requested = false, finished_at = NULL,
             next_attempt_at = pg_catalog.now()
         WHERE id = $1",
        &[id.into()],
    )
}

/// Does something in a transaction of its own, with the rights of the table's owner, so that nothing
/// that he has put on it does more than he could. `None` where this database has no such table, of
/// this extension; one that somebody else has made is not looked at.
///
/// For the worker.
pub fn as_owner<R>(body: impl FnOnce() -> Result<R, Error>) -> Result<Option<R>, Error> {
    pg::worker::transaction(|| {
        let owner = rows(
            "SELECT c.relowner
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'civic'
             JOIN pg_catalog.pg_depend d
               ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
              AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
             JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_civic'
             WHERE c.relname = 'media_jobs' AND c.relkind = 'r'",
            &[],
            |row| row.get::<pg_sys::Oid>(1),
        )?;
        match owner.into_iter().next().flatten() {
            Some(owner) => pg::worker::acting_as(owner, body).map(Some),
            None => Ok(None),
        }
    })
}

/// What runs, according to the table: job, try, and whether it is to be cancelled.
pub fn running() -> Result<Vec<(Uuid, i32, bool)>, Error> {
    let running = rows(
        "SELECT id, attempts, cancel_requested FROM civic.media_jobs WHERE state = 'running'",
        &[],
        |row| Ok((row.get::<Uuid>(1)?, row.get::<i32>(2)?, row.get::<bool>(3)?)),
    )?;
    Ok(running
        .into_iter()
        .filter_map(|(id, tries, is_cancelled)| Some((id?, tries?, is_cancelled?)))
        .collect())
}

/// Takes up to so many jobs that are due, the longest due first. Jobs that somebody has locked are
/// passed by.
pub fn claim(limit: usize) -> Result<Vec<Claim>, Error> {
    let read = |row: &SpiHeapTupleData<'_>| {
        let text = |place| Ok::<_, spi::Error>(row.get::<String>(place)?.unwrap_or_default());
        Ok((row.get::<Uuid>(1)?, row.get::<Uuid>(8)?).0.zip(row.get::<Uuid>(8)?).map(
            |(id, file_id)| {
                Ok::<_, spi::Error>(Claim {
                    id,
                    tries: row.get(2)?.unwrap_or_default(),
                    tenant_id: text(3)?,
                    ticket_id: text(4)?,
                    is_sensitive: row.get(5)?.unwrap_or(true),
                    bucket: text(6)?,
                    path: text(7)?,
                    file_id,
                    media_url: text(9)?,
                    media_content_type: text(10)?,
                })
            },
        ))
    };
    let claims = rows(
        "UPDATE civic.media_jobs j
         SET state = 'running', attempts = attempts + 1, next_attempt_at = NULL,
             started_at = pg_catalog.clock_timestamp()
         FROM (SELECT id FROM civic.media_jobs
               WHERE state = 'queued' AND next_attempt_at <= pg_catalog.now()
               ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED) due
         WHERE j.id = due.id
         RETURNING j.id, j.attempts, j.tenant_id, j.ticket_id, j.is_sensitive, j.bucket, j.path,
                   j.file_id, j.media_url, j.media_content_type",
        &[(limit as i64).into()],
        read,
    )?;
    claims.into_iter().flatten().map(|claim| Ok(claim?)).collect()
}
