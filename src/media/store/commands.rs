//! Commands of sessions: add a job, cancel one, retry one.

use pgrx::Uuid;

use super::{column, count_end, execute, make_sensitive, publish_end, rows};
use crate::error::Error;
use crate::media::MediaError;
use crate::media::job::{Kind, State};
use crate::media::target::Target;
use crate::pg;
use crate::tickets::sensitivity::is_sensitive;

/// What a new job is made of; its target does not change from here on.
pub struct NewJob<'a> {
    pub tenant_id: &'a str,
    pub ticket_id: &'a str,
    pub target: &'a Target,
    pub media_url: &'a str,
    /// What the webhook says it is.
    pub content_type: &'a str,
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
            job.target.is_sensitive.into(),
            job.target.bucket.id().into(),
            job.target.path.as_str().into(),
            job.target.file_id.into(),
            job.media_url.into(),
            job.content_type.into(),
        ],
        |row| column(row, 1),
    )?;
    let missing = || pg::Error::Catalog { why: "no row was added".to_owned() };
    Ok(ids.into_iter().next().ok_or_else(missing)?)
}

/// A job's kind and state, its row locked. Errors: there is no such job.
fn locked(id: Uuid) -> Result<(Kind, State), Error> {
    let found = rows(
        "SELECT kind, state FROM civic.media_jobs WHERE id = $1 FOR UPDATE",
        &[id.into()],
        |row| Ok::<(String, String), Error>((column(row, 1)?, column(row, 2)?)),
    )?;
    let found = found
        .first()
        .and_then(|(kind, state)| Some((Kind::from_name(kind)?, State::from_name(state)?)));
    found.ok_or_else(|| MediaError::NoMediaJob { id }.into())
}

/// Looks once more at the ticket of a job of which an earlier attempt may have left the file in the open.
fn look_at_ticket(id: Uuid) -> Result<(), Error> {
    let tickets = rows(
        "SELECT tenant_id, ticket_id FROM civic.media_jobs
         WHERE id = $1 AND state = 'queued' AND attempts > 0 AND NOT is_sensitive",
        &[id.into()],
        |row| Ok::<(String, String), Error>((column(row, 1)?, column(row, 2)?)),
    )?;
    for (tenant_id, ticket_id) in tickets {
        if is_sensitive(&tenant_id, &ticket_id, false)? {
            make_sensitive(id)?;
        }
    }
    Ok(())
}

/// Cancels a job: at once if it waits, by the worker if it runs.
///
/// Errors: there is no such job; it has ended; it restricts a sensitive ticket's files; whether its ticket
/// is sensitive is unknown.
pub fn cancel(id: Uuid) -> Result<(), Error> {
    let (kind, state) = locked(id)?;
    if kind == Kind::Restrict {
        return Err(MediaError::RestrictsFiles { id }.into());
    }
    look_at_ticket(id)?;
    let refused = MediaError::MediaJobState { id, state, action: "cancelled" };
    let next = state.when_cancelled().ok_or(refused)?;
    execute(
        "UPDATE civic.media_jobs
         SET cancel_requested = true, state = $2,
             next_attempt_at = NULL,
             finished_at = CASE $2 WHEN 'cancelled' THEN pg_catalog.now() END
         WHERE id = $1",
        &[id.into(), next.name().into()],
    )?;
    if next == State::Cancelled {
        publish_end(id)?;
        count_end(kind as usize, next);
    }
    Ok(())
}

/// Makes a job due at once. A failed or cancelled job starts over with the full number of attempts. A
/// waiting job keeps its remaining attempts.
///
/// Errors: there is no such job; it runs, or is done.
pub fn retry(id: Uuid) -> Result<(), Error> {
    let (_, state) = locked(id)?;
    let refused = MediaError::MediaJobState { id, state, action: "retried" };
    state.when_retried().ok_or(refused)?;
    execute(
        "UPDATE civic.media_jobs
         SET attempts = CASE state WHEN 'queued' THEN attempts ELSE 0 END,
             state = 'queued', cancel_requested = false, finished_at = NULL,
             next_attempt_at = pg_catalog.now()
         WHERE id = $1",
        &[id.into()],
    )
}
