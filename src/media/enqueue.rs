//! Jobs by SQL: added, cancelled, retried. The functions do it with the rights of the table's owner,
//! so that nobody else needs any.

use std::cell::Cell;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{PgXactCallbackEvent, Uuid};

use super::queue::{self, NewJob};
use super::target;
use crate::error::Error;
use crate::pg::{self, shared};
use crate::storage::StorageError;
use crate::storage::api as service;

/// Wakes the worker once the transaction has committed, and its jobs are to be seen.
fn wake_worker_at_commit() {
    if shared::shared().is_some() && is_first_of_transaction() {
        pgrx::register_xact_callback(PgXactCallbackEvent::Commit, || {
            if let Some(shared) = shared::shared() {
                shared.media.wake();
            }
        });
    }
}

thread_local! {
    static WOKEN: Cell<Option<pg_sys::LocalTransactionId>> = const { Cell::new(None) };
}

/// A transaction that adds a thousand jobs wakes the worker once.
fn is_first_of_transaction() -> bool {
    let transaction = Some(pg::transaction_number());
    WOKEN.replace(transaction) != transaction
}

fn given<'a>(what: &'static str, value: Option<&'a str>) -> Result<&'a str, Error> {
    Ok(value.filter(|value| !value.is_empty()).ok_or(pg::Error::Empty { what })?)
}

/// Checks what the webhook gave, fixes where the file goes, and adds the job.
fn enqueue(
    media_url: &str,
    media_content_type: &str,
    ticket_id: &str,
    tenant_id: &str,
    is_sensitive: bool,
) -> Result<Uuid, Error> {
    // Of the services only the addresses are looked at here: none is asked.
    service::storage_api()?;
    service::media_source()?.check(media_url).map_err(StorageError::Transfer)?;
    let content_type = target::media_type(media_content_type)?;
    let target = target::target(tenant_id, ticket_id, content_type, is_sensitive)?;
    let job = NewJob { tenant_id, ticket_id, target: &target, media_url, content_type };
    change_queue(|| queue::add(&job))
}

/// Changes something in the queue, of which the worker hears at the commit.
fn change_queue<R>(change: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    let no_table = || pg::Error::Catalog { why: "there is no civic.media_jobs".to_owned() };
    let result = queue::as_owner(queue::owner()?.ok_or_else(no_table)?, change)?;
    wake_worker_at_commit();
    Ok(result)
}

#[pg_schema]
mod civic {
    use super::*;

    /// Has the worker fetch a file and store it. Gives the job's id at once. A NULL counts as nothing
    /// given, for `is_sensitive` as true.
    ///
    /// Errors: 55000 where the service is not configured, 22023 for a URL, a content type, a ticket or
    /// a tenant that cannot be.
    #[pg_extern(volatile, parallel_unsafe, cost = 1000)]
    #[search_path(pg_catalog, pg_temp)]
    fn enqueue_media(
        media_url: Option<pg::Url<'_>>,
        media_content_type: Option<pg::ContentType<'_>>,
        ticket_id: Option<pg::Text<'_>>,
        tenant_id: Option<pg::Text<'_>>,
        is_sensitive: default!(Option<bool>, false),
    ) -> Result<Uuid, ErrorReport> {
        Ok(enqueue(
            given("media_url", media_url.as_deref())?,
            given("media_content_type", media_content_type.as_deref())?,
            given("ticket_id", ticket_id.as_deref())?,
            given("tenant_id", tenant_id.as_deref())?,
            is_sensitive.unwrap_or(true),
        )?)
    }

    /// Cancels a job: at once where it waits, as soon as may be where it runs.
    ///
    /// Errors: P0002 for an unknown job, 55000 for one that has ended.
    #[pg_extern(volatile, parallel_unsafe, cost = 100)]
    #[search_path(pg_catalog, pg_temp)]
    fn cancel_media_job(job_id: Uuid) -> Result<(), ErrorReport> {
        Ok(change_queue(|| queue::cancel(job_id))?)
    }

    /// Has a job tried anew, and at once.
    ///
    /// Errors: P0002 for an unknown job, 55000 for one that runs or is done.
    #[pg_extern(volatile, parallel_unsafe, cost = 100)]
    #[search_path(pg_catalog, pg_temp)]
    fn retry_media_job(job_id: Uuid) -> Result<(), ErrorReport> {
        Ok(change_queue(|| queue::retry(job_id))?)
    }
}
