//! Media of WhatsApp messages: fetched from where they came in, and put into Storage.

pub mod job;
pub mod queue;
pub mod service;
pub mod transfer;
pub mod worker;

use std::cell::Cell;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{PgXactCallbackEvent, Uuid};

use queue::NewJob;
use service::{Configuration, Service};

use crate::error::Error;
use crate::pg::shared;
use crate::storage::bucket::{self, Bucket};
use crate::storage::path;

/// Prepares the worker. Call it while the library is preloaded.
pub fn initialize() {
    worker::register();
}

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
    let transaction = Some(crate::pg::transaction_number());
    WOKEN.replace(transaction) != transaction
}

/// Checks what the webhook gave, fixes where the file goes, and adds the job.
fn enqueue(
    media_url: &str,
    media_content_type: &str,
    ticket_id: &str,
    tenant_id: &str,
    is_sensitive: bool,
) -> Result<Uuid, Error> {
    let service = Service::new(Configuration::read()?)?;
    service.source.check(media_url)?;
    let file_id = queue::new_id()?;
    let bucket = Bucket::for_media(is_sensitive);
    let extension = bucket::file_extension(media_content_type);
    let path = path::object_path(tenant_id, ticket_id, &format!("{file_id}.{extension}"))?;
    let id = queue::add(&NewJob {
        tenant_id,
        ticket_id,
        is_sensitive,
        bucket: bucket.id(),
        path: &path,
        file_id,
        media_url,
        media_content_type,
    })?;
    wake_worker_at_commit();
    Ok(id)
}

#[pg_schema]
mod civic {
    use super::*;

    /// Has the worker fetch a file and store it. Gives the job's id at once.
    ///
    /// Errors: 55000 where the service is not configured, 22023 for a URL, a content type, a ticket or
    /// a tenant that cannot be.
    #[pg_extern(volatile, parallel_unsafe, cost = 1000, security_definer)]
    #[search_path(pg_catalog, pg_temp)]
    fn enqueue_media(
        media_url: &str,
        media_content_type: &str,
        ticket_id: &str,
        tenant_id: &str,
        is_sensitive: default!(bool, false),
    ) -> Result<Uuid, ErrorReport> {
        Ok(enqueue(media_url, media_content_type, ticket_id, tenant_id, is_sensitive)?)
    }

    /// Cancels a job: at once where it waits, as soon as may be where it runs.
    ///
    /// Errors: P0002 for an unknown job, 55000 for one that has ended.
    #[pg_extern(volatile, parallel_unsafe, cost = 100, security_definer)]
    #[search_path(pg_catalog, pg_temp)]
    fn cancel_media_job(job_id: Uuid) -> Result<(), ErrorReport> {
        queue::cancel(job_id)?;
        wake_worker_at_commit();
        Ok(())
    }

    /// Has a job tried anew, and at once.
    ///
    /// Errors: P0002 for an unknown job, 55000 for one that runs or is done.
    #[pg_extern(volatile, parallel_unsafe, cost = 100, security_definer)]
    #[search_path(pg_catalog, pg_temp)]
    fn retry_media_job(job_id: Uuid) -> Result<(), ErrorReport> {
        queue::retry(job_id)?;
        wake_worker_at_commit();
        Ok(())
    }
}
