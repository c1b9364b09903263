//! An object's path as part of a URL.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{Error, Kind};

/// Characters that RFC 3986 allows in a path are not encoded, like `encodeURI` in the Storage API's own
/// client. The API decodes with `decodeURI`, which keeps `%2B` as it is and would sign another path
/// than the requested one.
const OUTSIDE_OF_A_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// A path, percent-encoded. The slashes between its segments are kept.
pub fn encode(path: &str) -> Cow<'_, str> {
    utf8_percent_encode(path, OUTSIDE_OF_A_PATH).into()
}

/// `bucket/path`, encoded. A segment that is empty, `.` or `..` is refused, because a URL with it,
/// encoded or not, leads to another path.
pub(crate) fn object(bucket: &str, path: &str) -> Result<String, Error> {
    let is_improper = |segment: &str| matches!(segment, "" | "." | "..");
    if bucket.contains('/') || is_improper(bucket) {
        return Err(Error::new(Kind::Invalid, "the bucket's id cannot be part of a URL"));
    }
    if path.split('/').any(is_improper) {
        let message = "the object's path has a segment that is empty, \".\" or \"..\"";
        return Err(Error::new(Kind::Invalid, message));
    }
    Ok(format!("{}/{}", encode(bucket), encode(path)))
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;
    use reqwest::Url;

    use super::*;

    #[test]
    fn accents_percent_signs_hashes_and_spaces_are_encoded() {
        assert_eq!(encode("t/f/é %#?.jpg"), "t/f/%C3%A9%20%25%23%3F.jpg");
        assert_eq!(encode("a\\b\"<>^`{|}"), "a%5Cb%22%3C%3E%5E%60%7B%7C%7D");
    }

    #[test]
    fn what_the_storage_api_decodes_unchanged_is_not_encoded() {
        let name = "_!.*'()&$@=;:+,-~aZ9";
        assert_eq!(encode(name), name);
    }

    #[test]
    fn a_path_that_a_url_would_normalise_is_refused() {
        for path in ["", "a//b", "/a", "a/", "a/./b", "../b", "a/.."] {
            assert_eq!(object("evidence", path).unwrap_err().kind(), Kind::Invalid, "{path:?}");
        }
        for bucket in ["", "..", "a/b"] {
            assert!(object(bucket, "a").is_err(), "{bucket:?}");
        }
    }

    proptest! {
        #[test]
        fn a_url_leads_to_the_path_that_was_encoded(path in "(\\PC|[/%#?\\\\ .]){1,40}") {
            if let Ok(encoded) = object("bucket", &path) {
                let url = Url::parse(&format!("http://h/base/{encoded}")).unwrap();
                prop_assert_eq!(url.query(), None);
                prop_assert_eq!(url.fragment(), None);
                prop_assert_eq!(url.path(), format!("/base/{encoded}"));
                let decoded = percent_decode_str(url.path()).decode_utf8().unwrap();
                prop_assert_eq!(decoded, format!("/base/bucket/{path}"));
            }
        }
    }
}
