//! Who gets a link to which file.

use std::time::Duration;

use super::StorageError;
use super::access::Reader;
use super::api;
use super::{object, path, signed_url};
use crate::claims::{self, Identity};
use crate::error::Error;
use crate::settings;

/// A link to a file: for a person where he may read it, for the server's own side where it exists.
///
/// The current user's row security is asked in either case, and a person's claims beside it, also
/// where he comes as a role that no policy holds. Without claims nobody but such a role sees a row.
///
/// Errors: 22023 for the expiry and for what cannot be a bucket's id, 55000 where the service is not
/// configured, P0002 where there is no such file for the caller.
pub fn signed_url(bucket: &str, name: &str, expiry: i32) -> Result<String, Error> {
    let expiry = signed_url::expiry(expiry)?;
    // A link names bucket and path in one: the id "a/b" would be the folder "b" of the bucket "a".
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
