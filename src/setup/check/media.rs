//! The worker that fetches media, and the jobs that wait for it.

use super::super::plan::{Finding, bad, good};
use super::server::preload_statement;
use crate::catalog;
use crate::error::Error;
use crate::media::request::Request;
use crate::media::{queue, tables};
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
    let (has_jobs, (failed, overdue)) = match queue::owner()? {
        Some(owner) => {
            queue::as_owner(owner, || Ok((queue::has_unfinished()?, queue::count_in_the_open()?)))?
        }
        None => (false, (0, 0)),
    };
    if failed > 0 {
        let detail = format!(
            "{failed} jobs have failed, and files of theirs may be in bucket evidence though the tickets \
             are sensitive"
        );
        let fix = "SELECT civic.retry_media_job(id) FROM civic.media_jobs
WHERE former_bucket IS NOT NULL AND state = 'failed';";
        return Ok(bad(component, detail, fix));
    }
    if overdue > 0 {
        let detail = format!(
            "files of {overdue} jobs whose tickets are sensitive cannot be removed from bucket evidence: \
             the server's log says why"
        );
        return Ok((component.to_owned(), false, detail, None));
    }
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
