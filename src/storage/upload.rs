//! Rules for uploads, and their destination.

use super::StorageError;
use super::access;
use super::api;
use civic_http::essence;

use super::bucket::Bucket;
use super::path;
use crate::claims::Identity;
use crate::error::Error;
use crate::pg::Bytes;
use crate::settings::Access;

/// The largest allowed uploads, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub image: u64,
    pub pdf: u64,
}

/// The bucket and the path of an upload into the caller's own folder.
///
/// Errors: 22023 for an unknown purpose, an invalid content type, size or filename; 42501 if the
/// caller may not upload it.
pub fn request(
    identity: &Identity,
    access: &Access,
    sizes: Sizes,
    file: File<'_>,
    purpose: &str,
    file_id: &str,
) -> Result<(Bucket, String), Error> {
    let bucket = Bucket::for_purpose(purpose)?;
    file.check(sizes)?;
    let forbidden = || Error::from(StorageError::UploadForbidden { bucket: bucket.id() });
    let tenant_id = identity.tenant_id().ok_or_else(forbidden)?;
    let path = path::object_path(tenant_id, file_id, file.name)?;
    if !access::can_upload(identity, access, bucket.id().as_bytes(), path.as_bytes()) {
        return Err(forbidden());
    }
    Ok((bucket, path))
}

/// A file as the caller describes it.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    pub name: &'a str,
    pub content_type: &'a str,
    pub size: i64,
}

impl File<'_> {
    fn check(&self, sizes: Sizes) -> Result<(), StorageError> {
        let (limit, setting) = match essence(self.content_type).to_ascii_lowercase().as_str() {
            "image/jpeg" | "image/png" | "image/webp" => (sizes.image, "civic.image_max_size"),
            "application/pdf" => (sizes.pdf, "civic.pdf_max_size"),
            _ => {
                let content_type = self.content_type.to_owned();
                return Err(StorageError::UnsupportedContentType { content_type });
            }
        };
        match u64::try_from(self.size) {
            Ok(size) if size > 0 && size <= limit => Ok(()),
            _ => Err(StorageError::size(self.size, limit, setting)),
        }
    }
}

/// Checks a file that the server itself uploads: one of our buckets, a path of the usual form, a
/// media type, and a size within the limit.
pub fn check(
    bucket: &str,
    path: &str,
    content_type: &str,
    size: usize,
    limit: u64,
) -> Result<(), Error> {
    if Bucket::from_id(bucket.as_bytes()).is_none() {
        return Err(StorageError::NotABucket { bucket: bucket.to_owned() }.into());
    }
    path::check(path)?;
    // The API would parse a form and store the file inside it.
    if essence(content_type).to_ascii_lowercase().starts_with("multipart/") {
        return Err(StorageError::Form { content_type: content_type.to_owned() }.into());
    }
    if !path::is_content_type(content_type) {
        return Err(
            StorageError::InvalidContentType { content_type: content_type.to_owned() }.into()
        );
    }
    if size as u64 > limit {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        return Err(StorageError::size(size, limit, "civic.media_max_size").into());
    }
    Ok(())
}

/// Uploads a file with the service key while the backend waits.
///
/// Errors: 55000 if the service is not configured, 53200 if there is not enough memory for the
/// file, and those of the exchange.
pub fn upload(bucket: &str, path: &str, content: &Bytes, content_type: &str) -> Result<(), Error> {
    let api = api::storage_api()?;
    let (bucket, path) = (bucket.to_owned(), path.to_owned());
    let (content, content_type) = (content.to_vec()?, content_type.to_owned());
    api::exchange(move |cancel| api.upload(&bucket, &path, &content_type, content, cancel))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZES: Sizes = Sizes { image: 1000, pdf: 500 };

    fn checked(content_type: &str, size: i64) -> Result<(), StorageError> {
        File { name: "a", content_type, size }.check(SIZES)
    }

    #[test]
    fn an_image_and_a_pdf_have_their_own_limits() {
        for image in ["image/jpeg", "image/png", "image/webp", "IMAGE/JPEG", "image/png; q=1"] {
            assert_eq!(checked(image, 1000), Ok(()), "{image}");
            assert!(checked(image, 1001).is_err(), "{image}");
        }
        assert_eq!(checked("application/pdf", 500), Ok(()));
        assert!(checked("application/pdf", 501).is_err());
    }

    #[test]
    fn other_types_are_refused() {
        for content_type in ["image/gif", "image/svg+xml", "text/html", "video/mp4", "", "image"] {
            assert!(checked(content_type, 1).is_err(), "{content_type}");
        }
    }

    #[test]
    fn an_empty_file_is_refused() {
        for size in [0, -1, i64::MIN] {
            assert!(checked("image/jpeg", size).is_err(), "{size}");
        }
    }

    #[test]
    fn a_form_is_not_a_file() {
        for form in ["multipart/form-data; boundary=x", "Multipart/Mixed"] {
            assert!(check("evidence", "t/f/a.jpg", form, 1, 1).is_err(), "{form}");
        }
    }

    #[test]
    fn the_server_uploads_only_to_its_own_buckets() {
        let ok = |bucket, path| check(bucket, path, "image/jpeg", 1, 1).is_ok();
        assert!(ok("evidence", "t/f/a.jpg"));
        for (bucket, path) in [
            ("avatars", "t/f/a.jpg"),
            ("", "t/f/a.jpg"),
            ("evidence", "t/a.jpg"),
            ("evidence", "t/../u/f/a.jpg"),
            ("evidence", "/t/f/a.jpg"),
            ("evidence", "t/f/é.jpg"),
            ("evidence", "t/f/a%2e.jpg"),
            ("evidence", ""),
        ] {
            assert!(!ok(bucket, path), "{bucket} {path}");
        }
        assert!(check("evidence", "t/f/a", "image/jpeg", 2, 1).is_err());
        assert!(check("evidence", "t/f/a", "jpeg", 1, 1).is_err());
    }

    proptest! {
        #[test]
        fn a_request_stays_in_the_callers_folder(name in "\\PC{1,40}", tenant in "[a-z./]{0,4}") {
            let claims = serde_json::json!({"t": tenant}).to_string();
            let identity =
                Identity::parse(claims.as_bytes(), &["t".to_owned()], &[], |_| None).unwrap();
            let access = Access::default();
            let file = File { name: &name, content_type: "image/png", size: 1 };
            if let Ok((bucket, path)) =
                request(&identity, &access, SIZES, file, "evidence", "id")
            {
                prop_assert_eq!(bucket, Bucket::Evidence);
                let start = format!("{}/id/", tenant);
                prop_assert!(path.starts_with(&start));
                prop_assert!(path::check(&path).is_ok());
            }
        }
    }
}
