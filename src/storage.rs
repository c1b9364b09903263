//! Files and access to them: the SQL functions over the rules in this folder.
//!
//! They look nothing up by name, so they set no search_path: that would cost more than the
//! functions do.

pub mod access;
pub mod api;
pub mod attachment;
pub mod bucket;
mod confirm;
mod error;
mod firewall;
mod link;
mod object;
pub mod path;
mod refusal;
mod service;
mod signed_url;
mod upload;

pub use error::StorageError;

use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::json;

use crate::{claims, pg, settings};
use bucket::Bucket;

const FOLDER: pg::planner::Folder = pg::planner::Folder {
    contains: c"in_tenant_folder",
    start: c"tenant_folder_start",
    end: c"tenant_folder_end",
};

pg::planner::support_function!(
    /// What the planner makes of `in_tenant_folder`.
    civic_in_tenant_folder_support,
    pg_finfo_civic_in_tenant_folder_support,
    as_range,
    FOLDER
);
pg::planner::support_function!(
    /// What the planner makes of `list_bounds`.
    civic_list_bounds_support,
    pg_finfo_civic_list_bounds_support,
    as_bounds,
    FOLDER
);

#[pg_schema]
mod civic {
    use super::*;

    /// The bucket for a purpose. Errors: 22023 for an unknown purpose.
    #[pg_extern(immutable, parallel_safe, cost = 1)]
    fn bucket_for_purpose(purpose: pg::Text<'_>) -> Result<&'static str, ErrorReport> {
        Ok(Bucket::for_purpose(&purpose)?.id())
    }

    /// The bucket for a ticket's media.
    #[pg_extern(immutable, parallel_safe, cost = 1)]
    fn bucket_for_media(is_sensitive: bool) -> &'static str {
        Bucket::for_media(is_sensitive).id()
    }

    /// The filename extension of a media type; `bin` for an unknown type.
    #[pg_extern(immutable, parallel_safe, cost = 1)]
    fn file_extension(content_type: pg::ContentType<'_>) -> &'static str {
        bucket::file_extension(&content_type)
    }

    /// `{tenant}/{folder}/{filename}` with the filename made safe. Errors: 22023 if that is not
    /// possible.
    #[pg_extern(immutable, parallel_safe, cost = 5)]
    fn object_path(
        tenant_id: pg::Text<'_>,
        folder: pg::Text<'_>,
        filename: pg::Text<'_>,
    ) -> Result<String, ErrorReport> {
        Ok(path::object_path(&tenant_id, &folder, &filename)?)
    }

    /// The destination of an upload: `{bucket, path, file_id}`. Errors: 22023 for a file that
    /// cannot be uploaded.
    #[pg_extern(immutable, parallel_safe, cost = 10)]
    fn generate_upload_url(
        purpose: pg::Text<'_>,
        tenant_id: pg::Text<'_>,
        file_id: pg::Text<'_>,
        filename: pg::Text<'_>,
        content_type: pg::ContentType<'_>,
    ) -> Result<JsonB, ErrorReport> {
        let bucket = Bucket::for_purpose(&purpose)?.id();
        if !path::is_content_type(&content_type) {
            Err(StorageError::InvalidContentType {
                content_type: content_type.as_str().to_owned(),
            })?;
        }
        let path = path::object_path(&tenant_id, &file_id, &filename)?;
        Ok(JsonB(json!({"bucket": bucket, "path": path, "file_id": file_id.as_str()})))
    }

    /// The buckets in which the caller may read their own tenant's folder.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn readable_buckets() -> pg::TextArrayResult {
        claims::ask(|identity| {
            let access = settings::access();
            let buckets = access::readable_buckets(identity, &access);
            pg::TextArrayResult::new(buckets.map(Bucket::id))
        })
    }

    /// The first name in the caller's folder, in byte order.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn tenant_folder_start() -> Option<pg::TextResult> {
        claims::ask(|identity| identity.folder_start().map(pg::TextResult::new))
    }

    /// The first name after the caller's folder, in byte order.
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn tenant_folder_end() -> Option<pg::TextResult> {
        claims::ask(|identity| identity.folder_end().map(pg::TextResult::new))
    }

    /// Whether a name is in the caller's folder, in byte order; NULL without a tenant. The planner makes
    /// it the range of the folder where the name is a column, see [`pg::planner`].
    #[pg_extern(stable, parallel_safe, cost = 1)]
    fn in_tenant_folder(name: pg::RawText<'_>) -> Option<bool> {
        claims::ask(|identity| access::is_in_folder(identity, &name))
    }

    /// True. Behind a policy on `storage.objects`: where a query compares names in lower case, the planner
    /// makes it the bounds of the folder and the query, see [`pg::planner`].
    #[pg_extern(immutable, parallel_safe, cost = 1)]
    fn list_bounds(name: Option<pg::RawText<'_>>) -> bool {
        let _ = name;
        true
    }

    /// Whether the caller may add an object of this name to this bucket. False if the name is not
    /// valid text.
    #[pg_extern(stable, parallel_safe, cost = 5)]
    fn can_upload_object(bucket_id: pg::RawText<'_>, name: pg::RawText<'_>) -> bool {
        claims::ask(|identity| {
            let access = settings::access();
            let is_allowed = access::can_upload(identity, &access, &bucket_id, &name);
            refusal::counted(&bucket_id, is_allowed)
        })
    }
}
