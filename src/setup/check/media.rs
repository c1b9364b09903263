//! The worker that fetches media, and the jobs that wait for it.

use super::super::plan::{Finding, bad, good};
use super::server::{STANDBY, preload_statement, why_not_running};
use crate::error::Error;
use crate::media::store::Failed;
use crate::media::tables::request::Request;
use crate::media::{store, tables};
use crate::pg::foreign;
use crate::pg::shared::{self, Shared};
use crate::settings::media::media_concurrency;
use crate::storage::api as service;
use crate::{catalog, pg, settings};

/// The job and the table whose code runs beyond its limit.
fn held_up(shared: &Shared) -> Option<String> {
    let current = shared.mailbox.current().filter(|current| current.elapsed >= foreign::LIMIT)?;
    let job = Request::from_json(&current.request)?.id;
    Some(format!(
        "media job {job} has been waiting for table {} for {} s, and others wait for it",
        current.table,
        current.elapsed.as_secs()
    ))
}

/// Where no job waits, nothing is wrong: not every database has media.
pub fn worker() -> Result<Finding, Error> {
    let component = "media worker";
    let has_jobs = match store::owner() {
        Some(owner) => store::as_owner(owner, store::has_unfinished)?,
        None => false,
    };
    let found = |detail: String, fix: Option<String>| match has_jobs {
        false => good(component, detail),
        true => (component.to_owned(), false, format!("{detail}; jobs wait"), fix),
    };
    let Some(shared) = shared::shared() else {
        let detail = "the library is not preloaded, so there is no worker".to_owned();
        return Ok(found(detail, preload_statement()?));
    };
    if pg::is_standby() {
        return Ok(good(component, STANDBY));
    }
    Ok(match shared.media.is_this_database() {
        Some(false) => {
            let fix = catalog::texts(
                "SELECT pg_catalog.format(
                     'ALTER SYSTEM SET civic.database = %L; -- and restart the server',
                     pg_catalog.current_database())",
                &[],
            )?;
            found(format!("serves database {}", settings::database()), Some(fix.concat()))
        }
        Some(true) if shared.media.pid().is_some() => {
            if let Some(held_up) = held_up(shared) {
                return Ok((component.to_owned(), false, held_up, None));
            }
            if shared.media_tables.pid().is_none() {
                let (why, fix) = why_not_running(&shared.media_tables)?;
                return Ok(found(format!("process \"{}\" is {why}", tables::NAME), fix));
            }
            if media_concurrency() == 0 {
                let fix = "ALTER SYSTEM RESET civic.media_concurrency; SELECT pg_reload_conf();";
                return Ok(found(
                    "off: civic.media_concurrency is 0".to_owned(),
                    Some(fix.to_owned()),
                ));
            }
            match service::storage_api().map(drop).and(service::media_source().map(drop)) {
                Ok(()) => good(component, "running"),
                // Which settings are missing, and why others cannot be used, has rows of its own.
                Err(error) => found(format!("running, and idle: {}", error.message()), None),
            }
        }
        _ => {
            let (why, fix) = why_not_running(&shared.media)?;
            (component.to_owned(), false, format!("{why}; media jobs wait"), fix)
        }
    })
}

/// Jobs that have failed, until they are removed.
pub fn failed() -> Result<Vec<Finding>, Error> {
    let Some(owner) = store::owner() else { return Ok(vec![]) };
    let Some(Failed { jobs, since, error }) = store::as_owner(owner, store::failed)? else {
        return Ok(vec![]);
    };
    let detail = format!("{jobs} have failed, the first at {since}, the last because: {error}");
    let fix = "SELECT civic.retry_media_job(id) FROM civic.media_jobs WHERE state = 'failed';";
    Ok(vec![bad("failed media jobs", detail, fix)])
}

/// Sensitive tickets of which files may be where everybody in the municipality reads them.
pub fn restricted() -> Result<Vec<Finding>, Error> {
    let component = "files of sensitive tickets";
    let Some(owner) = store::owner() else { return Ok(vec![]) };
    let Some(open) = store::as_owner(owner, store::open_tickets)? else { return Ok(vec![]) };
    if open.tickets == 0 {
        let detail = format!("{} tickets wait for their last look", open.last_looks);
        return Ok(vec![good(component, detail)]);
    }
    let since = open.since.unwrap_or_default();
    let detail =
        format!("{} tickets wait for their files to be moved, since {since}", open.tickets);
    if open.attempts == 0 && !open.is_overdue {
        return Ok(vec![good(component, detail)]);
    }
    let why = open.error.map_or_else(String::new, |why| format!(": {why}"));
    let detail = format!(
        "files of {} tickets may be in bucket evidence or documents, since {since}{why}",
        open.tickets
    );
    let fix = "SELECT civic.retry_media_job(id) FROM civic.media_jobs
WHERE kind = 'restrict' AND state = 'queued' AND NOT last_look;";
    Ok(vec![bad(component, detail, fix)])
}
