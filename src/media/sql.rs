//! The SQL functions of media: one fetches a file while the caller waits, the others add, cancel and retry
//! jobs. They change the queue with the rights of its owner, so that no other role needs any.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, Uuid};
use serde_json::json;

use super::MediaError;
use super::store::{self, NewJob};
use super::target::{Target, media_type, target};
use super::transfer::{self, Stored};
use crate::error::Error;
use crate::pg;
use crate::storage::StorageError;
use crate::storage::api as service;
use crate::tickets::sensitivity;

/// Fetches a file from Twilio and stores it in the bucket of the ticket's media.
///
/// A ticket can become sensitive meanwhile, so it is looked up before, between and after. A file that has
/// been stored in the open by that time is removed, and the call fails.
fn download(
    media_url: &str,
    media_content_type: &str,
    ticket_id: &str,
    tenant_id: &str,
    is_sensitive: bool,
) -> Result<(Target, Stored), Error> {
    let (api, source) = (service::storage_api()?, service::media_source()?);
    source.check(media_url).map_err(StorageError::Transfer)?;
    let content_type = media_type(media_content_type)?;
    let mut target = target(tenant_id, ticket_id, content_type, is_sensitive)?;

    let url = media_url.to_owned();
    let media = service::exchange(move |cancel| source.fetch(&url, cancel))?;
    target.decide(sensitivity::is_sensitive(tenant_id, ticket_id, target.is_sensitive)?);

    let (bucket, path, sender) = (target.bucket.id(), target.path.clone(), api.clone());
    let stored =
        service::exchange(move |cancel| transfer::store(&sender, bucket, &path, media, cancel))?;
    let is_sensitive = sensitivity::is_sensitive(tenant_id, ticket_id, target.is_sensitive)?;
    if is_sensitive != target.is_sensitive {
        let path = target.path.clone();
        let removed = service::exchange(move |cancel| api.remove(bucket, &path, cancel));
        return Err(match removed {
            Ok(_) => MediaError::BecameSensitive,
            Err(_) => MediaError::LeftInTheOpen { object: format!("{bucket}/{}", target.path) },
        }
        .into());
    }
    Ok((target, stored))
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
    // Only the addresses of the services are looked at here: no request is sent.
    service::storage_api()?;
    service::media_source()?.check(media_url).map_err(StorageError::Transfer)?;
    let content_type = media_type(media_content_type)?;
    let target = target(tenant_id, ticket_id, content_type, is_sensitive)?;
    let job = NewJob { tenant_id, ticket_id, target: &target, media_url, content_type };
    change_queue(|| store::add(&job))
}

/// Changes the queue, and wakes the worker at the commit.
fn change_queue<R>(change: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    let no_table = || pg::Error::Catalog { why: "there is no civic.media_jobs".to_owned() };
    let result = store::as_owner(store::owner().ok_or_else(no_table)?, change)?;
    super::wake_worker_at_commit();
    Ok(result)
}

#[pg_schema]
mod civic {
    use super::*;

    /// Fetches media and stores it: `{bucket, path, file_id, content_type, file_size}`. A NULL counts
    /// as nothing given, for `is_sensitive` as true.
    #[pg_extern(volatile, parallel_unsafe, cost = 100000)]
    #[search_path(pg_catalog, pg_temp)]
    fn download_and_upload_media(
        media_url: Option<pg::Url<'_>>,
        media_content_type: Option<pg::ContentType<'_>>,
        ticket_id: Option<pg::Text<'_>>,
        tenant_id: Option<pg::Text<'_>>,
        is_sensitive: default!(Option<bool>, false),
    ) -> Result<JsonB, ErrorReport> {
        let (target, Stored { content_type, size }) = download(
            media_url.as_deref().unwrap_or_default(),
            media_content_type.as_deref().unwrap_or_default(),
            ticket_id.as_deref().unwrap_or_default(),
            tenant_id.as_deref().unwrap_or_default(),
            is_sensitive.unwrap_or(true),
        )?;
        Ok(JsonB(json!({
            "bucket": target.bucket.id(),
            "path": target.path,
            "file_id": target.file_id.to_string(),
            "content_type": content_type,
            "file_size": size,
        })))
    }

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
        Ok(change_queue(|| store::cancel(job_id))?)
    }

    /// Has a job tried anew, and at once.
    ///
    /// Errors: P0002 for an unknown job, 55000 for one that runs or is done.
    #[pg_extern(volatile, parallel_unsafe, cost = 100)]
    #[search_path(pg_catalog, pg_temp)]
    fn retry_media_job(job_id: Uuid) -> Result<(), ErrorReport> {
        Ok(change_queue(|| store::retry(job_id))?)
    }
}
