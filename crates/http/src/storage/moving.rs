//! Files of one bucket that go to another.

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::StorageApi;
use crate::error::Error;
use crate::limits::Cancel;
use crate::path;

/// Entries of one page of [`StorageApi::list`]. Their JSON fits an answer, however long the names are.
pub const LIST_PAGE: usize = 32;

/// A file, by bucket and path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub bucket: &'a str,
    pub path: &'a str,
}

/// What is directly in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Without the folder.
    pub name: String,
    pub is_folder: bool,
}

impl StorageApi {
    /// Moves a file. A version of the API that knows no other bucket answers with success too, and has
    /// moved nothing: ask [`StorageApi::stat`] afterwards. [`NotFound`](crate::Kind::NotFound) without such a file,
    /// and where the API has no such route; [`Duplicate`](crate::Kind::Duplicate) where the target exists.
    pub fn move_to(&self, from: Place<'_>, to: Place<'_>, cancel: &Cancel) -> Result<(), Error> {
        self.send_to("object/move", from, to, cancel)
    }

    /// Copies a file. Everything said of [`StorageApi::move_to`] holds.
    pub fn copy_to(&self, from: Place<'_>, to: Place<'_>, cancel: &Cancel) -> Result<(), Error> {
        self.send_to("object/copy", from, to, cancel)
    }

    fn send_to(
        &self,
        route: &str,
        from: Place<'_>,
        to: Place<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        path::object(from.bucket, from.path)?;
        path::object(to.bucket, to.path)?;
        let body = json!({
            "bucketId": from.bucket,
            "sourceKey": from.path,
            "destinationBucket": to.bucket,
            "destinationKey": to.path,
        });
        self.post(route, &body, cancel).map(drop)
    }

    /// At most [`LIST_PAGE`] entries of a folder, by name, from a place on.
    pub fn list(
        &self,
        bucket: &str,
        folder: &str,
        offset: usize,
        cancel: &Cancel,
    ) -> Result<Vec<Entry>, Error> {
        let bucket = path::object(bucket, folder).map(|_| path::encode(bucket))?;
        let body = json!({
            "prefix": format!("{folder}/"),
            "limit": LIST_PAGE,
            "offset": offset,
            "sortBy": {"column": "name", "order": "asc"},
        });
        let answer = self.post(&format!("object/list/{bucket}"), &body, cancel)?;
        let entry = |entry: &Value| {
            // A folder is no row of its own, and so has no id.
            Some(Entry {
                name: entry["name"].as_str()?.to_owned(),
                is_folder: entry["id"].is_null(),
            })
        };
        let entries = answer.as_array().map(|entries| entries.iter().map(entry).collect());
        entries.flatten().ok_or_else(|| self.malformed("does not list a folder"))
    }

    fn post(&self, route: &str, body: &Value, cancel: &Cancel) -> Result<Value, Error> {
        let mut request = self.request(Method::POST, route)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.exchange(request, Some(body.to_string().into_bytes()), cancel)
    }
}
