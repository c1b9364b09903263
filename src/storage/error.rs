//! Errors of files, paths and the storage service.
//!
//! A request for another caller's file and one for a file that does not exist get the same error.

use civic_http::Kind;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

use super::bucket::{self, Bucket};
use crate::error::{self, Error, Report, reported, shown};
use crate::pg;
use crate::tickets::TicketError;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// A purpose without a bucket.
    #[error("unknown purpose \"{}\"", shown(purpose))]
    UnknownPurpose { purpose: String },
    /// A tenant or folder that cannot be one segment of an object's path.
    #[error("{what} \"{}\" cannot be part of an object's path: {why}", shown(value))]
    InvalidSegment { what: &'static str, value: String, why: String },
    #[error("filename \"{}\" has no character that can be kept", shown(filename))]
    UnusableFilename { filename: String },
    /// Longer than the Storage API accepts.
    #[error("object path of {bytes} bytes is too long, the limit is {limit}")]
    PathTooLong { bytes: usize, limit: usize },
    #[error("content type \"{}\" is not of the form type/subtype", shown(content_type))]
    InvalidContentType { content_type: String },
    /// Settings that a function needs are missing.
    #[error("storage service is not configured")]
    NotConfigured { missing: Vec<&'static str> },
    /// The secrets are in the configuration file, but the library is not preloaded.
    #[error("storage service is disabled: every role can read its secrets")]
    SecretsExposed,
    /// An HTTP exchange failed. The message contains no secret.
    #[error("{}", _0.message())]
    Transfer(civic_http::Error),
    #[error("permission denied to upload to bucket \"{bucket}\"")]
    UploadForbidden { bucket: &'static str },
    #[error("content type \"{}\" cannot be uploaded", shown(content_type))]
    UnsupportedContentType { content_type: String },
    /// A form instead of a file.
    #[error("content type \"{}\" is that of a form, not of a file", shown(content_type))]
    Form { content_type: String },
    #[error("file of {size} bytes cannot be uploaded: it is empty")]
    EmptyFile { size: i64, setting: &'static str },
    #[error("file of {size} bytes is too large, the limit is {limit}")]
    FileTooLarge { size: i64, limit: u64, setting: &'static str },
    /// There is no upload under this file id that the caller may confirm.
    #[error("there is no upload \"{}\" to confirm", shown(file_id))]
    NoUpload { file_id: String },
    /// There is no such object that the caller may get a link to.
    #[error("there is no object \"{}\" in bucket \"{}\"", shown(path), shown(bucket))]
    NoObject { bucket: String, path: String },
    #[error("a link cannot be valid for {seconds} seconds")]
    Expiry { seconds: i64 },
    #[error("bucket \"{}\" is not one that pg_civic guards", shown(bucket))]
    NotABucket { bucket: String },
    /// Not `{tenant}/{id}/{filename}` in the characters and the length that the Storage API accepts.
    #[error("path \"{}\" cannot be used: {why}", shown(path))]
    MalformedPath { path: String, why: String },
    #[error("file id \"{}\" is not a UUID", shown(file_id))]
    InvalidFileId { file_id: String },
    /// `civic.media_table` names no table, or is not a qualified name.
    #[error("table of attachments \"{}\" {why}", shown(table))]
    NoMediaTable { table: String, why: &'static str },
    /// A row of the table of attachments still names where a file was.
    #[error("a row of table {table} still names where a moved file was")]
    AttachmentStays { table: String },
    #[error("table of attachments {table} has no column {}", missing.join(", "))]
    MediaTableColumns { table: String, missing: Vec<String> },
}

reported!(StorageError);

/// Runs a function that browsers call through PostgREST. An error whose SQLSTATE PostgREST would answer
/// with the wrong HTTP status gets [`status`]'s as `PTxyz`; others stay. `None` if it has got one, which
/// `answers_http!` raises.
pub fn for_browsers<R>(run: impl FnOnce() -> Result<R, Error>) -> Result<Option<R>, ErrorReport> {
    error::for_browsers(status, run)
}

/// The HTTP status of an error for a browser, where that of its SQLSTATE is wrong: PostgREST answers most
/// SQLSTATEs that are not an input error with 500, a missing table with 404 and a refused key with 403.
fn status(error: &Error) -> Option<u16> {
    const BAD_REQUEST: u16 = 400;
    const NOT_FOUND: u16 = 404;
    const CONFLICT: u16 = 409;
    const SERVER: u16 = 500;
    if let Some(pg::Error::ArgumentTooLong { .. }) = error.downcast_ref() {
        return Some(BAD_REQUEST);
    }
    if let Some(TicketError::NotFound { .. }) = error.downcast_ref() {
        return Some(NOT_FOUND);
    }
    match error.downcast_ref::<StorageError>()? {
        StorageError::PathTooLong { .. } => Some(BAD_REQUEST),
        StorageError::NoUpload { .. } | StorageError::NoObject { .. } => Some(NOT_FOUND),
        // What is wrong is the server's configuration.
        StorageError::NoMediaTable { .. } | StorageError::MediaTableColumns { .. } => Some(SERVER),
        StorageError::Transfer(error) => match error.kind() {
            Kind::NotFound | Kind::MediaNotFound => Some(NOT_FOUND),
            Kind::Duplicate => Some(CONFLICT),
            Kind::Unauthorized
            | Kind::MediaUnauthorized
            | Kind::Refused
            | Kind::Invalid
            | Kind::UnsupportedType => Some(SERVER),
            Kind::Cancelled
            | Kind::Unreachable
            | Kind::Certificate
            | Kind::TimedOut
            | Kind::CutShort
            | Kind::Busy
            | Kind::ServerError
            | Kind::Rejected
            | Kind::Malformed
            | Kind::TooLarge => None,
        },
        StorageError::UnknownPurpose { .. }
        | StorageError::InvalidSegment { .. }
        | StorageError::UnusableFilename { .. }
        | StorageError::InvalidContentType { .. }
        | StorageError::NotConfigured { .. }
        | StorageError::SecretsExposed
        | StorageError::UploadForbidden { .. }
        | StorageError::UnsupportedContentType { .. }
        | StorageError::Form { .. }
        | StorageError::EmptyFile { .. }
        | StorageError::FileTooLarge { .. }
        | StorageError::Expiry { .. }
        | StorageError::NotABucket { .. }
        | StorageError::MalformedPath { .. }
        | StorageError::InvalidFileId { .. }
        | StorageError::AttachmentStays { .. } => None,
    }
}

/// The content types that users may upload.
pub const UPLOAD_TYPES: &str = "image/jpeg, image/png, image/webp and application/pdf";

impl StorageError {
    /// The error for a file that is empty or too large.
    pub fn size(size: i64, limit: u64, setting: &'static str) -> StorageError {
        match size {
            ..1 => StorageError::EmptyFile { size, setting },
            _ => StorageError::FileTooLarge { size, limit, setting },
        }
    }
}

impl Report for StorageError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            StorageError::UnknownPurpose { .. }
            | StorageError::InvalidSegment { .. }
            | StorageError::UnusableFilename { .. }
            | StorageError::InvalidContentType { .. }
            | StorageError::UnsupportedContentType { .. }
            | StorageError::Form { .. }
            | StorageError::EmptyFile { .. }
            | StorageError::FileTooLarge { .. }
            | StorageError::Expiry { .. }
            | StorageError::NotABucket { .. }
            | StorageError::MalformedPath { .. } => ERRCODE_INVALID_PARAMETER_VALUE,
            StorageError::InvalidFileId { .. } => ERRCODE_INVALID_TEXT_REPRESENTATION,
            StorageError::PathTooLong { .. } => ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            StorageError::NotConfigured { .. }
            | StorageError::AttachmentStays { .. }
            | StorageError::SecretsExposed => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            StorageError::Transfer(error) => transfer_sqlstate(error.kind()),
            StorageError::UploadForbidden { .. } => ERRCODE_INSUFFICIENT_PRIVILEGE,
            StorageError::NoUpload { .. } | StorageError::NoObject { .. } => ERRCODE_NO_DATA_FOUND,
            StorageError::NoMediaTable { .. } => ERRCODE_UNDEFINED_TABLE,
            StorageError::MediaTableColumns { .. } => ERRCODE_UNDEFINED_COLUMN,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            StorageError::UnknownPurpose { .. } => {
                return Some(format!("The purposes are {}.", bucket::purposes().join(", ")));
            }
            StorageError::NotConfigured { missing } => {
                let missing = missing.join(" and ");
                return Some(format!(
                    "Set {missing} in the server's configuration file, and reload it."
                ));
            }
            StorageError::UnsupportedContentType { .. } => {
                return Some(format!("The allowed types are {UPLOAD_TYPES}."));
            }
            StorageError::EmptyFile { setting, .. }
            | StorageError::FileTooLarge { setting, .. } => {
                return Some(format!("The limit is the setting {setting}."));
            }
            StorageError::NotABucket { .. } => {
                let buckets = bucket::ALL.map(Bucket::id).join(", ");
                return Some(format!("The buckets are {buckets}."));
            }
            StorageError::Transfer(error) => transfer_hint(error.kind())?,
            StorageError::UnusableFilename { .. } => {
                "Give a name with at least one letter or digit, such as photo.jpg."
            }
            StorageError::InvalidContentType { .. } => "Give a media type such as image/jpeg.",
            StorageError::SecretsExposed => {
                "Add pg_civic to shared_preload_libraries and restart the server; change the secrets \
                 where a role may have seen them."
            }
            StorageError::UploadForbidden { .. } => {
                "The claims need a municipality, and for gbv-evidence one of the roles of \
                 civic.sensitive_uploaders."
            }
            StorageError::Form { .. } => {
                "Upload the file inside the form, with its own content type."
            }
            StorageError::NoUpload { .. } => {
                "Upload the file to the bucket and path that request_upload() gave, then confirm it. \
                 An upload that its owner may not read can be confirmed only once."
            }
            StorageError::Expiry { .. } => {
                "Give a number of seconds from 1 to 604800, which is 7 days."
            }
            StorageError::MalformedPath { .. } => {
                "Use a path of object_path() or request_upload()."
            }
            StorageError::InvalidFileId { .. } => "Give the file_id of request_upload().",
            StorageError::NoMediaTable { .. } | StorageError::MediaTableColumns { .. } => {
                "Set civic.media_table, for example to public.media_attachments."
            }
            StorageError::InvalidSegment { .. }
            | StorageError::AttachmentStays { .. }
            | StorageError::PathTooLong { .. }
            | StorageError::NoObject { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

fn transfer_sqlstate(kind: Kind) -> PgSqlErrorCode {
    use PgSqlErrorCode::*;
    match kind {
        Kind::Cancelled => ERRCODE_QUERY_CANCELED,
        Kind::Unreachable | Kind::Certificate => {
            ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION
        }
        Kind::TimedOut | Kind::CutShort => ERRCODE_CONNECTION_FAILURE,
        Kind::Busy => ERRCODE_INSUFFICIENT_RESOURCES,
        Kind::ServerError | Kind::Rejected => ERRCODE_SYSTEM_ERROR,
        Kind::Malformed => ERRCODE_PROTOCOL_VIOLATION,
        Kind::MediaNotFound | Kind::NotFound => ERRCODE_NO_DATA_FOUND,
        Kind::Duplicate => ERRCODE_DUPLICATE_OBJECT,
        Kind::Unauthorized | Kind::MediaUnauthorized => ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
        Kind::TooLarge => ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        Kind::UnsupportedType | Kind::Refused | Kind::Invalid => ERRCODE_INVALID_PARAMETER_VALUE,
    }
}

fn transfer_hint(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Unreachable => {
            "Check that the database's server can reach this host. civic.storage_url or \
             civic.supabase_url names the Storage API's; media comes from the host of its own URL."
        }
        Kind::TimedOut => "civic.http_timeout is the limit of time.",
        Kind::Busy | Kind::ServerError => "Try again later.",
        Kind::Unauthorized => {
            "Check civic.service_key. A key that is not a JWT works through the project's gateway \
             only, at civic.supabase_url."
        }
        Kind::MediaUnauthorized => "Check civic.twilio_account_sid and civic.twilio_auth_token.",
        Kind::TooLarge => "civic.media_max_size is the limit here; the bucket may have its own.",
        Kind::Refused => "civic.media_hosts lists the hosts that media may be fetched from.",
        Kind::Certificate => {
            "The server trusts the certificates of its operating system, or those that SSL_CERT_FILE \
             names in its environment."
        }
        Kind::Cancelled
        | Kind::CutShort
        | Kind::Malformed
        | Kind::MediaNotFound
        | Kind::NotFound
        | Kind::Duplicate
        | Kind::UnsupportedType
        | Kind::Rejected
        | Kind::Invalid => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_purpose_lists_the_known_ones() {
        let hint = StorageError::UnknownPurpose { purpose: String::new() }.hint().unwrap();
        assert_eq!(hint, "The purposes are evidence, documents, gbv-evidence, proof_of_residence.");
    }
}
