//! The storage service's SQL functions: uploads, their records, and links.
//!
//! They have effects, so a NULL argument is an error.

use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;

use super::upload::{self, File, Sizes};
use super::{confirm, link, refusal};
use crate::pg::required;
use crate::settings::service as limits;
use crate::{claims, pg, settings};

#[pg_schema]
mod civic {
    use super::*;

    /// The destination of the caller's own upload: `{bucket, path, file_id}`, with a new file id.
    #[pg_extern(volatile, parallel_safe, cost = 20)]
    fn request_upload(
        filename: Option<pg::Text<'_>>,
        content_type: Option<pg::ContentType<'_>>,
        file_size: Option<i64>,
        purpose: Option<pg::Text<'_>>,
    ) -> Result<JsonB, ErrorReport> {
        let file = File {
            name: required("filename", filename)?.as_str(),
            content_type: required("content_type", content_type)?.as_str(),
            size: required("file_size", file_size)?,
        };
        let sizes = Sizes { image: limits::image_max_size(), pdf: limits::pdf_max_size() };
        let file_id = pg::random_uuid().to_string();
        let purpose = required("purpose", purpose)?;
        let identity = claims::identity()?;
        let (bucket, path) =
            upload::request(&identity, &settings::access(), sizes, file, &purpose, &file_id)
                .inspect_err(refusal::count_error)?;
        Ok(JsonB(json!({"bucket": bucket.id(), "path": path, "file_id": file_id})))
    }

    /// Records an upload that has taken place, and returns its row.
    #[pg_extern(volatile, parallel_unsafe, cost = 1000)]
    #[search_path(pg_catalog, pg_temp)]
    fn confirm_upload(
        file_id: Option<pgrx::Uuid>,
        purpose: Option<pg::Text<'_>>,
    ) -> Result<JsonB, ErrorReport> {
        let file_id = required("file_id", file_id)?.to_string();
        Ok(JsonB(confirm::confirm(&file_id, &required("purpose", purpose)?)?))
    }

    /// Uploads a file with the service key: `{bucket, path}`. Fails if the object exists.
    #[pg_extern(volatile, parallel_unsafe, cost = 100000)]
    #[search_path(pg_catalog, pg_temp)]
    fn upload_file(
        bucket: Option<pg::Text<'_>>,
        path: Option<pg::Text<'_>>,
        content: Option<pg::Bytes>,
        content_type: Option<pg::ContentType<'_>>,
    ) -> Result<JsonB, ErrorReport> {
        let (bucket, path) = (required("bucket", bucket)?, required("path", path)?);
        let (content, content_type) =
            (required("content", content)?, required("content_type", content_type)?);
        upload::check(&bucket, &path, &content_type, content.size(), limits::media_max_size())?;
        upload::upload(&bucket, &path, &content, &content_type)?;
        Ok(JsonB(json!({"bucket": bucket.as_str(), "path": path.as_str()})))
    }

    /// A link to a file, valid for `expiry` seconds. Row security decides as in the caller's own
    /// query. The caller's search_path stays in effect: functions in policies of other roles may
    /// need it.
    #[pg_extern(volatile, parallel_restricted, cost = 1000)]
    fn get_signed_url(
        bucket: Option<pg::Text<'_>>,
        path: Option<pg::Text<'_>>,
        expiry: default!(Option<i32>, 3600),
    ) -> Result<String, ErrorReport> {
        let (bucket, path) = (required("bucket", bucket)?, required("path", path)?);
        Ok(link::signed_url(&bucket, &path, required("expiry", expiry)?)?)
    }
}
