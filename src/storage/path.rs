//! The path of an object: `{tenant}/{folder}/{filename}`, made safe.
//!
//! A filename is untrusted input. The resulting path always has exactly three segments, contains
//! only characters that the Storage API accepts, and stays in its folder.

use super::StorageError;
use crate::error::{Error, shown};
use crate::pg;

/// Longest path, in bytes: the limit of S3, where Supabase stores objects.
pub const PATH_LIMIT: usize = 1024;
/// Longest filename, in bytes: the limit of the file backend, and of `media_attachments.filename`.
pub const FILENAME_LIMIT: usize = 255;
/// A longer "extension" counts as part of the name.
const EXTENSION_LIMIT: usize = 16;

/// Whether the Storage API accepts the character in an object's key (its `isValidKey`). `/`
/// separates segments and is handled elsewhere.
fn is_key_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_!.*'() &$@=;:+,?-".contains(character)
}

/// Names the first character that the Storage API refuses in a path or a part of one.
fn refused_character(path: &str) -> Option<String> {
    let refused = |c: &char| *c != '/' && !is_key_character(*c);
    path.chars().find(refused).map(|character| {
        format!("it contains \"{}\", which the Storage API refuses", shown(&character.to_string()))
    })
}

/// Checks a tenant or a folder. Unlike a filename it says whose file it is. So it is rejected, not
/// changed: a changed one could belong to another tenant.
pub fn segment<'a>(what: &'static str, value: &'a str) -> Result<&'a str, Error> {
    let refuse = |why: &str| {
        let (value, why) = (value.to_owned(), why.to_owned());
        Err(StorageError::InvalidSegment { what, value, why }.into())
    };
    if value.is_empty() {
        return Err(pg::Error::Empty { what }.into());
    }
    if matches!(value, "." | "..") {
        return refuse("it is a directory name");
    }
    if value.contains('/') {
        return refuse("it contains \"/\"");
    }
    if value.len() > FILENAME_LIMIT {
        return refuse("it is longer than 255 bytes");
    }
    match refused_character(value) {
        Some(why) => refuse(&why),
        None => Ok(value),
    }
}

/// Makes a filename safe. The result is deterministic:
///
/// - directories are removed, of any system (`C:\x\photo.jpg`, `../photo.jpg`),
/// - white space and dots at both ends are removed,
/// - a run of characters that the Storage API rejects becomes one `_`, and so does `?`, which ends
///   the path of a URL: Storage's own client does not encode it,
/// - a name longer than 255 bytes is cut before the last extension.
pub fn filename(filename: &str) -> Result<String, Error> {
    if filename.is_empty() {
        return Err(pg::Error::Empty { what: "filename" }.into());
    }
    let unusable = || StorageError::UnusableFilename { filename: filename.to_owned() };
    let last = filename.rsplit(['/', '\\']).next().unwrap_or_default();
    let is_edge = |c: char| c.is_whitespace() || c.is_control() || c == '.';
    let trimmed = last.trim_matches(is_edge);
    if trimmed.is_empty() {
        return Err(unusable().into());
    }

    let mut safe = String::new();
    let mut replacing = false;
    for character in trimmed.chars() {
        if is_key_character(character) && character != '?' {
            safe.push(character);
            replacing = false;
        } else if !replacing {
            safe.push('_');
            replacing = true;
        }
    }
    if safe.len() > FILENAME_LIMIT {
        let extension = match safe.rfind('.') {
            Some(dot) if safe.len() - dot <= EXTENSION_LIMIT + 1 => safe.split_off(dot),
            _ => String::new(),
        };
        safe.truncate(FILENAME_LIMIT - extension.len());
        safe.truncate(safe.trim_end_matches(['.', ' ']).len());
        safe.push_str(&extension);
    }
    if !safe.bytes().any(|b| b.is_ascii_alphanumeric()) {
        return Err(unusable().into());
    }
    Ok(safe)
}

/// `{tenant}/{folder}/{filename}` with the filename made safe.
pub fn object_path(tenant_id: &str, folder: &str, name: &str) -> Result<String, Error> {
    let tenant_id = segment("tenant", tenant_id)?;
    let folder = segment("folder", folder)?;
    let name = filename(name)?;
    let path = format!("{tenant_id}/{folder}/{name}");
    if path.len() > PATH_LIMIT {
        return Err(StorageError::PathTooLong { bytes: path.len(), limit: PATH_LIMIT }.into());
    }
    Ok(path)
}

/// Whether a name has the form `{tenant}/{id}/{filename}` for this tenant: at least three segments,
/// none of them empty, `.` or `..`.
pub fn is_upload_of(tenant_id: &str, name: &str) -> bool {
    let mut segments = name.split('/');
    segments.next() == Some(tenant_id)
        && !matches!(tenant_id, "" | "." | "..")
        && segments.try_fold(0, |count, segment| match segment {
            "" | "." | ".." => None,
            _ => Some(count + 1),
        }) >= Some(2)
}

/// Checks that a path has the form `{tenant}/{id}/{filename}` for some tenant, within the characters
/// and length that the Storage API accepts. Errors: 22023, with the reason.
pub fn check(path: &str) -> Result<(), StorageError> {
    let tenant_id = path.split('/').next().unwrap_or_default();
    let why = if path.len() > PATH_LIMIT {
        format!("it is longer than {PATH_LIMIT} bytes")
    } else if !is_upload_of(tenant_id, path) {
        "it is not of the form tenant/id/filename".to_owned()
    } else if let Some(why) = refused_character(path) {
        why
    } else {
        return Ok(());
    };
    Err(StorageError::MalformedPath { path: path.to_owned(), why })
}

/// Whether a text is a media type: `type/subtype` of RFC 9110's token characters, with or without
/// parameters.
pub fn is_content_type(content_type: &str) -> bool {
    let is_token = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
    };
    civic_http::essence(content_type)
        .split_once('/')
        .is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(given: &str) -> String {
        filename(given).unwrap()
    }

    #[test]
    fn an_ordinary_name_does_not_change() {
        assert_eq!(name("photo.jpg"), "photo.jpg");
        assert_eq!(name("My photo (2) - final.JPG"), "My photo (2) - final.JPG");
    }

    #[test]
    fn directories_are_dropped() {
        assert_eq!(name("../../other-tenant/x/photo.jpg"), "photo.jpg");
        assert_eq!(name("C:\\Users\\me\\photo.jpg"), "photo.jpg");
        assert_eq!(name("/etc/passwd"), "passwd");
    }

    #[test]
    fn dots_and_spaces_at_the_ends_are_removed() {
        assert_eq!(name("..photo.jpg"), "photo.jpg");
        assert_eq!(name(".htaccess"), "htaccess");
        assert_eq!(name(" photo.jpg. "), "photo.jpg");
    }

    #[test]
    fn characters_that_the_storage_api_rejects_become_an_underscore() {
        assert_eq!(name("foto van pothole é#%.jpg"), "foto van pothole _.jpg");
        assert_eq!(name("a\u{0}b\nc.png"), "a_b_c.png");
        assert_eq!(name("日本.jpg"), "_.jpg");
    }

    #[test]
    fn a_question_mark_becomes_an_underscore() {
        assert_eq!(name("What?.jpg"), "What_.jpg");
        assert_eq!(name("??é?.jpg"), "_.jpg");
    }

    #[test]
    fn a_name_without_any_allowed_character_is_refused() {
        for given in [".", "..", "...", "a/", "a/..", " ", "\u{7f}", "日本", "___"] {
            let error = filename(given).unwrap_err();
            assert!(
                matches!(error.downcast_ref(), Some(StorageError::UnusableFilename { .. })),
                "{given:?}"
            );
        }
        assert_eq!(filename(""), Err(pg::Error::Empty { what: "filename" }.into()));
    }

    #[test]
    fn a_long_name_keeps_its_last_extension() {
        let long = name(&format!("{}.tar.gz", "x".repeat(1_000_000)));
        assert_eq!(long.len(), FILENAME_LIMIT);
        assert!(long.ends_with(".gz"));
        assert_eq!(name(&format!("x.{}", "y".repeat(300))).len(), FILENAME_LIMIT);
    }

    #[test]
    fn a_tenant_or_folder_is_refused_and_never_changed() {
        for (tenant, folder) in
            [("", "f"), ("t", ""), ("t/u", "f"), ("t", "f/.."), ("..", "f"), ("t", "."), ("é", "f")]
        {
            assert!(object_path(tenant, folder, "a.jpg").is_err(), "{tenant:?} {folder:?}");
        }
        assert_eq!(object_path("t", "f", "a.jpg").unwrap(), "t/f/a.jpg");
    }

    #[test]
    fn an_upload_has_three_valid_segments() {
        assert!(is_upload_of("t", "t/id/a.jpg"));
        assert!(is_upload_of("t", "t/id/sub/a.jpg"));
        for bad in
            ["t", "t/", "t/a.jpg", "t//a.jpg", "t/id/", "t/./a", "t/../a", "u/id/a", "/t/id/a", ""]
        {
            assert!(!is_upload_of("t", bad), "{bad:?}");
        }
        assert!(!is_upload_of("", "/id/a"));
        assert!(!is_upload_of("..", "../id/a"));
    }

    #[test]
    fn a_refused_path_names_the_real_reason() {
        let why = |path: &str| check(path).unwrap_err().to_string();
        assert_eq!(
            why("t/f/Café.jpg"),
            "path \"t/f/Café.jpg\" cannot be used: it contains \"é\", which the Storage API refuses"
        );
        assert!(why("t/a.jpg").ends_with("it is not of the form tenant/id/filename"));
        assert!(why(&format!("t/f/{}", "x".repeat(1024))).ends_with("longer than 1024 bytes"));
        let segment = object_path("é", "f", "a.jpg").unwrap_err().message();
        assert!(segment.ends_with("it contains \"é\", which the Storage API refuses"), "{segment}");
    }

    #[test]
    fn a_content_type_has_two_tokens() {
        assert!(is_content_type("image/jpeg"));
        assert!(is_content_type("text/plain; charset=utf-8"));
        for bad in ["", "jpeg", "image/", "/jpeg", "a/b/c", "image/jp eg"] {
            assert!(!is_content_type(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_path_never_leaves_its_folder(given in "(\\PC|[./\\\\\\x00-\\x1f]){0,40}") {
            if let Ok(path) = object_path("tenant", "folder", &given) {
                prop_assert!(path.starts_with("tenant/folder/"));
                prop_assert_eq!(path.split('/').count(), 3);
                prop_assert!(is_upload_of("tenant", &path));
                prop_assert!(path.chars().all(|c| c == '/' || is_key_character(c)));
            }
        }

        #[test]
        fn making_a_name_safe_is_idempotent(given in "\\PC{1,300}") {
            if let Ok(once) = filename(&given) {
                prop_assert!(once.len() <= FILENAME_LIMIT);
                prop_assert_eq!(filename(&once).unwrap(), once);
            }
        }

        #[test]
        fn the_last_extension_is_kept(stem in "[a-z]{1,400}", extension in "[a-z0-9]{1,16}") {
            let safe = filename(&format!("{stem}.{extension}")).unwrap();
            let suffix = format!(".{extension}");
            prop_assert!(safe.ends_with(&suffix));
        }
    }
}
