//! The worker that fetches media, and the jobs that wait for it.

use super::super::plan::{Finding, bad, good};
use super::server::preload_statement;
use crate::catalog;
use crate::error::Error;
use crate::media::tables::request::Request;
use crate::media::{store, tables};
use crate::pg::foreign;
use crate::pg::shared::{self, Shared};
use crate::settings;
use crate::storage::api as service;

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
                let detail = format!(
                    "process \"{}\" is not running: the server's log says why, max_worker_processes may \
                     be too small",
                    tables::NAME
                );
                return Ok(found(detail, None));
            }
            match service::storage_api().map(drop).and(service::media_source().map(drop)) {
                Ok(()) => good(component, "running"),
                // Which settings are missing, and why others cannot be used, has rows of its own.
                Err(error) => found(format!("running, and idle: {}", error.message()), None),
            }
        }
        _ => {
            let detail = "not running: the server's log says why; media jobs wait";
            bad(component, detail, "SELECT pg_reload_conf(); -- and wait a second")
        }
    })
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
