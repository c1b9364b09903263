//! Fetching media and storing it while the caller waits.

use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;

use super::target::{Target, is_sensitive, media_type, target};
use crate::error::Error;
use crate::media::MediaError;
use crate::pg;
use crate::storage::StorageError;
use crate::storage::api as service;

/// A file that was stored.
struct Stored {
    target: Target,
    content_type: String,
    size: u64,
}

/// Fetches a file from Twilio and uploads it to where the ticket's media goes.
///
/// That takes its time, in which a ticket can become sensitive. So it is looked up before, between
/// and after; where the file is in the open by then it is removed, and the call fails.
fn download(
    media_url: &str,
    media_content_type: &str,
    ticket_id: &str,
    tenant_id: &str,
    is_sensitive: bool,
) -> Result<Stored, Error> {
    let (api, source) = (service::storage_api()?, service::media_source()?);
    source.check(media_url).map_err(StorageError::Transfer)?;
    let content_type = media_type(media_content_type)?;
    let mut target = target(tenant_id, ticket_id, content_type, is_sensitive)?;

    let url = media_url.to_owned();
    let media = service::exchange(move |cancel| source.fetch(&url, cancel))?;
    let (content_type, size) = (media.content_type, media.body.len() as u64);
    target.decide(self::is_sensitive(tenant_id, ticket_id, target.is_sensitive)?);

    let (bucket, path) = (target.bucket.id(), target.path.clone());
    let (kind, sender) = (content_type.clone(), api.clone());
    service::exchange(move |cancel| sender.upload(bucket, &path, &kind, media.body, cancel))?;
    if self::is_sensitive(tenant_id, ticket_id, target.is_sensitive)? != target.is_sensitive {
        let (bucket, path) = (target.bucket.id(), target.path.clone());
        let removed = service::exchange(move |cancel| api.remove(bucket, &path, cancel));
        return Err(match removed {
            Ok(_) => MediaError::BecameSensitive,
            Err(_) => MediaError::LeftInTheOpen {
                object: format!("{}/{}", target.bucket.id(), target.path),
            },
        }
        .into());
    }
    Ok(Stored { target, content_type, size })
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
        let Stored { target, content_type, size } = download(
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
}
