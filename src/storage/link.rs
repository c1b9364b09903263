//! Links to files, and who gets them.

use std::time::Duration;

use super::StorageError;
use super::access::Reader;
use super::api;
use super::{object, path, signed_url};
use crate::claims::{self, Identity};
use crate::error::Error;
use crate::settings;

/// A link to a file: for a user if they may read it, for the server's own role if it exists.
///
/// The current user's row security applies in both cases. A user's claims apply too, even with a
/// database role that bypasses row security. Without claims only a role that bypasses row security
/// sees a row.
///
/// Errors: 22023 for an invalid expiry or bucket id, 55000 if the service is not configured, P0002
/// if there is no such file for the caller.
pub fn signed_url(bucket: &str, name: &str, expiry: i64) -> Result<String, Error> {
    let expiry = signed_url::expiry(expiry)?;
    // A link joins bucket and path: the id "a/b" would mean the folder "b" of the bucket "a".
    let bucket = path::segment("bucket", bucket)?;
    let signer = api::signer()?;
    let api = if signer.is_none() { Some(api::storage_api()?) } else { None };
    let no_object = || StorageError::NoObject { bucket: bucket.to_owned(), path: name.to_owned() };
    let identity = claims::identity()?;
    let may_read = *identity == Identity::default()
        || Reader::new(identity, &settings::access()).passes(bucket.as_bytes(), name.as_bytes());
    if !may_read || !object::exists(bucket, name)? {
        return Err(no_object().into());
    }
    if let Some((base_url, secret)) = signer {
        let now = signed_url::now();
        return Ok(signed_url::signed_url(&base_url, secret.expose(), bucket, name, now, expiry));
    }
    let api = api.ok_or_else(no_object)?;
    let (bucket, name) = (bucket.to_owned(), name.to_owned());
    api::exchange(move |cancel| {
        api.sign(&bucket, &name, Duration::from_secs(expiry.into()), cancel)
    })
}
