//! The storage service's SQL functions: uploads, their records, and links.
//!
//! They have effects, so a NULL argument is an error. Browsers call three of them through PostgREST, which
//! makes an HTTP status of the SQLSTATE ([`for_browsers`]).

use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;

use super::error::for_browsers;
use super::upload::{self, File, Sizes};
use super::{confirm, link, refusal};
use crate::pg::argument::CONTENT_TYPE_LIMIT;
use crate::pg::http_status::answers_http;
use crate::pg::{Given, required};
use crate::settings::service as limits;
use crate::{claims, pg, settings};

#[pg_schema]
mod civic {
    use super::*;

    answers_http!(civic_request_upload, pg_finfo_civic_request_upload, request_upload_wrapper);
    answers_http!(civic_confirm_upload, pg_finfo_civic_confirm_upload, confirm_upload_wrapper);
    answers_http!(civic_get_signed_url, pg_finfo_civic_get_signed_url, get_signed_url_wrapper);

    /// The destination of the caller's own upload: `{bucket, path, file_id}`, with a new file id.
    #[pg_extern(sql = r#"
CREATE FUNCTION civic.request_upload(
    filename text, content_type text, file_size bigint, purpose text) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL SAFE COST 20 AS 'MODULE_PATHNAME', 'civic_request_upload';
"#)]
    fn request_upload(
        filename: Option<Given<'_>>,
        content_type: Option<Given<'_, CONTENT_TYPE_LIMIT>>,
        file_size: Option<i64>,
        purpose: Option<Given<'_>>,
    ) -> Result<Option<JsonB>, ErrorReport> {
        for_browsers(|| {
            let file = File {
                name: Given::required("filename", filename)?,
                content_type: Given::required("content_type", content_type)?,
                size: required("file_size", file_size)?,
            };
            let purpose = Given::required("purpose", purpose)?;
            let sizes = Sizes { image: limits::image_max_size(), pdf: limits::pdf_max_size() };
            let file_id = pg::random_uuid().to_string();
            let (identity, access) = (claims::identity()?, settings::access());
            let (bucket, path) =
                upload::request(&identity, &access, sizes, file, purpose, &file_id)
                    .inspect_err(refusal::count_error)?;
            Ok(JsonB(json!({"bucket": bucket.id(), "path": path, "file_id": file_id})))
        })
    }

    /// Records an upload that has taken place, and returns its row. `ticket_id` is the ticket that it belongs
    /// to.
    #[pg_extern(sql = r#"
CREATE FUNCTION civic.confirm_upload(file_id text, purpose text, ticket_id text DEFAULT NULL) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 1000 SET search_path TO pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'civic_confirm_upload';
"#)]
    fn confirm_upload(
        file_id: Option<Given<'_>>,
        purpose: Option<Given<'_>>,
        ticket_id: Option<Given<'_>>,
    ) -> Result<Option<JsonB>, ErrorReport> {
        for_browsers(|| {
            let file_id = confirm::file_id(Given::required("file_id", file_id)?)?;
            let purpose = Given::required("purpose", purpose)?;
            let ticket_id = Given::optional(ticket_id)?;
            Ok(JsonB(confirm::confirm(&file_id, purpose, ticket_id)?))
        })
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
    #[pg_extern(sql = r#"
CREATE FUNCTION civic.get_signed_url(bucket text, path text, expiry bigint DEFAULT 3600) RETURNS text
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 1000 AS 'MODULE_PATHNAME', 'civic_get_signed_url';
"#)]
    fn get_signed_url(
        bucket: Option<Given<'_>>,
        path: Option<Given<'_>>,
        expiry: Option<i64>,
    ) -> Result<Option<String>, ErrorReport> {
        for_browsers(|| {
            let bucket = Given::required("bucket", bucket)?;
            let path = Given::required("path", path)?;
            link::signed_url(bucket, path, required("expiry", expiry)?)
        })
    }
}
