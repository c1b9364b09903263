//! The errors of the storage service.
//!
//! Whoever asks for what is not his learns no more than of what is not there: one error, one text.

use std::time::Duration;

use civic_http::Kind;
use pgrx::{PgSqlErrorCode, Uuid};

use super::shown;
use crate::media::job::State;
use crate::storage::bucket;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceError {
    /// Settings without which a function cannot work.
    NotConfigured { missing: Vec<&'static str> },
    /// The secrets stand in the configuration file, and the library is not preloaded.
    SecretsExposed,
    /// An exchange over HTTP failed. Its message has no secret.
    Transfer(civic_http::Error),
    /// No thread could be started.
    NoThread { why: String },
    /// A thread has panicked: a mistake of pg_civic. The server's log has what it said.
    Panicked,
    /// The caller may not upload there.
    UploadForbidden { bucket: &'static str },
    /// A content type that may not be uploaded.
    UnsupportedContentType { content_type: String },
    /// A form in the place of a file.
    Form { content_type: String },
    /// A file that is too large for its content type, or empty.
    FileSize { size: i64, limit: u64, setting: &'static str },
    /// Nothing was uploaded under this file id that the caller may confirm.
    NoUpload { file_id: String },
    /// No object that the caller may have a link to.
    NoObject { bucket: String, path: String },
    /// A link that is to be valid for no time, or for too long.
    Expiry { seconds: i32 },
    /// A bucket that is not of pg_civic's.
    NotABucket { bucket: String },
    /// A path that is not `{tenant}/{id}/{filename}` in the Storage API's characters.
    MalformedPath { path: String },
    /// `civic.media_table` names no table, or is no qualified name.
    NoMediaTable { table: String, why: &'static str },
    /// The table of attachments lacks columns without which nothing can be recorded.
    MediaTableColumns { table: String, missing: Vec<String> },
    /// The ticket whose media it is belongs to another municipality.
    TicketOfAnother { ticket_id: String },
    /// The table of attachments refuses the row of a file that is stored.
    AttachmentRefused { sqlstate: String },
    /// A row of the table of attachments still names where a file was.
    AttachmentStays { table: String },
    /// A content type that is not believed of a file from outside.
    MediaType { content_type: String },
    /// The ticket has become sensitive while its media was stored in the open; `left` is what could
    /// not be removed.
    BecameSensitive { left: Option<String> },
    /// The same of a job's ticket: its next try takes the file behind the firewall.
    NowSensitive,
    /// A media job that is not there.
    NoMediaJob { id: Uuid },
    /// A media job in a state in which that cannot be done to it.
    MediaJobState { id: Uuid, state: State, action: &'static str },
    /// A media job that cannot be cancelled, because it moves a sensitive ticket's files.
    RestrictsFiles { id: Uuid },
    /// Whether a ticket is sensitive cannot be told: the server refuses to read the tickets.
    TicketsUnreadable { sqlstate: String },
    /// Code that a table executes has taken longer than its limit, and was cancelled.
    Overran { table: String, limit: Duration },
    /// The same, and it ignored its cancellations, so that its process was ended.
    GivenUp { table: String, limit: Duration },
    /// The process that works on a table for a media job has ended meanwhile.
    HelperEnded { table: String },
    /// Media jobs of a municipality wait, as one of them has held up those of others.
    TenantStalled { tenant_id: String },
    /// A column of a type whose values cannot be read without the code of its owner.
    ColumnType { table: String, column: &'static str, type_name: String },
    /// Whether a ticket is sensitive cannot be told, as no table of tickets is known.
    NoTickets,
    /// Whether a ticket is sensitive cannot be told, as row security hides tickets from their owner.
    TicketsHidden { table: String },
}

/// The content types that a person may upload.
pub const UPLOAD_TYPES: &str = "image/jpeg, image/png, image/webp and application/pdf";

impl ServiceError {
    pub fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            ServiceError::NotConfigured { .. }
            | ServiceError::SecretsExposed
            | ServiceError::MediaJobState { .. }
            | ServiceError::RestrictsFiles { .. }
            | ServiceError::TicketsUnreadable { .. }
            | ServiceError::AttachmentRefused { .. }
            | ServiceError::AttachmentStays { .. }
            | ServiceError::NoTickets
            | ServiceError::ColumnType { .. }
            | ServiceError::HelperEnded { .. }
            | ServiceError::TenantStalled { .. }
            | ServiceError::TicketsHidden { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            ServiceError::Overran { .. } | ServiceError::GivenUp { .. } => ERRCODE_QUERY_CANCELED,
            ServiceError::Transfer(error) => match error.kind() {
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
                Kind::Unauthorized => ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
                Kind::TooLarge => ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                Kind::UnsupportedType | Kind::Refused | Kind::Invalid => {
                    ERRCODE_INVALID_PARAMETER_VALUE
                }
            },
            ServiceError::BecameSensitive { .. } | ServiceError::NowSensitive => {
                ERRCODE_T_R_SERIALIZATION_FAILURE
            }
            ServiceError::NoThread { .. } => ERRCODE_INSUFFICIENT_RESOURCES,
            ServiceError::Panicked => ERRCODE_INTERNAL_ERROR,
            ServiceError::UploadForbidden { .. } => ERRCODE_INSUFFICIENT_PRIVILEGE,
            ServiceError::UnsupportedContentType { .. }
            | ServiceError::Form { .. }
            | ServiceError::FileSize { .. }
            | ServiceError::Expiry { .. }
            | ServiceError::NotABucket { .. }
            | ServiceError::MalformedPath { .. }
            | ServiceError::MediaType { .. }
            | ServiceError::TicketOfAnother { .. } => ERRCODE_INVALID_PARAMETER_VALUE,
            ServiceError::NoUpload { .. }
            | ServiceError::NoObject { .. }
            | ServiceError::NoMediaJob { .. } => ERRCODE_NO_DATA_FOUND,
            ServiceError::NoMediaTable { .. } => ERRCODE_UNDEFINED_TABLE,
            ServiceError::MediaTableColumns { .. } => ERRCODE_UNDEFINED_COLUMN,
        }
    }

    pub fn message(&self) -> String {
        match self {
            ServiceError::NotConfigured { .. } => "storage service is not configured".to_owned(),
            ServiceError::SecretsExposed => {
                "storage service is shut: every role can read its secrets".to_owned()
            }
            ServiceError::Transfer(error) => error.message().to_owned(),
            ServiceError::NoThread { why } => format!("could not start a thread: {why}"),
            ServiceError::Panicked => "the transfer failed by a mistake of pg_civic".to_owned(),
            ServiceError::UploadForbidden { bucket } => {
                format!("permission denied to upload to bucket \"{bucket}\"")
            }
            ServiceError::UnsupportedContentType { content_type } => {
                format!("content type \"{}\" cannot be uploaded", shown(content_type))
            }
            ServiceError::Form { content_type } => {
                format!("content type \"{}\" is that of a form, not of a file", shown(content_type))
            }
            ServiceError::FileSize { size, .. } if *size < 1 => {
                format!("file of {size} bytes cannot be uploaded: it is empty")
            }
            ServiceError::FileSize { size, limit, .. } => {
                format!("file of {size} bytes is too large, the limit is {limit}")
            }
            ServiceError::NoUpload { file_id } => {
                format!("there is no upload \"{}\" to confirm", shown(file_id))
            }
            ServiceError::NoObject { bucket, path } => {
                format!("there is no object \"{}\" in bucket \"{}\"", shown(path), shown(bucket))
            }
            ServiceError::Expiry { seconds } => {
                format!("a link cannot be valid for {seconds} seconds")
            }
            ServiceError::NotABucket { bucket } => {
                format!("bucket \"{}\" is not one that pg_civic guards", shown(bucket))
            }
            ServiceError::MalformedPath { path } => {
                format!("path \"{}\" is not of the form tenant/id/filename", shown(path))
            }
            ServiceError::NoMediaTable { table, why } => {
                format!("table of attachments \"{}\" {why}", shown(table))
            }
            ServiceError::MediaTableColumns { table, missing } => {
                format!("table of attachments {table} has no column {}", missing.join(", "))
            }
            ServiceError::TicketOfAnother { ticket_id } => {
                format!("ticket \"{}\" is not of this municipality", shown(ticket_id))
            }
            ServiceError::MediaType { content_type } => {
                format!("content type \"{}\" is not believed of media", shown(content_type))
            }
            ServiceError::BecameSensitive { left: None } => {
                "the ticket has become sensitive during the transfer, and the file was removed"
                    .to_owned()
            }
            ServiceError::BecameSensitive { left: Some(object) } => format!(
                "the ticket has become sensitive during the transfer, and the file could not be \
                 removed: {object}"
            ),
            ServiceError::NowSensitive => {
                "the ticket has become sensitive during the transfer".to_owned()
            }
            ServiceError::NoMediaJob { id } => format!("there is no media job {id}"),
            ServiceError::MediaJobState { id, state, action } => {
                format!("media job {id} is {} and cannot be {action}", state.name())
            }
            ServiceError::AttachmentStays { table } => {
                format!("a row of table {table} still names where a moved file was")
            }
            ServiceError::RestrictsFiles { id } => {
                format!("media job {id} moves files of a sensitive ticket and cannot be cancelled")
            }
            ServiceError::AttachmentRefused { sqlstate } => format!(
                "the file is stored, and the table of attachments refuses its row with SQLSTATE {sqlstate}"
            ),
            ServiceError::TicketsUnreadable { sqlstate } => format!(
                "whether the ticket is sensitive cannot be told: reading it fails with SQLSTATE {sqlstate}"
            ),
            ServiceError::Overran { table, limit } => {
                format!("work on table {table} took longer than {} s", limit.as_secs())
            }
            ServiceError::GivenUp { table, limit } => format!(
                "code on table {table} ran longer than {} s and ignored its cancellation",
                limit.as_secs()
            ),
            ServiceError::HelperEnded { table } => {
                format!("the process that works on table {table} ended during this try")
            }
            ServiceError::TenantStalled { tenant_id } => format!(
                "another job of municipality \"{}\" has taken too long on a table, and its jobs wait",
                shown(tenant_id)
            ),
            ServiceError::ColumnType { table, column, type_name } => {
                format!(
                    "column {column} of table {table} is of type {type_name}, which cannot be read"
                )
            }
            ServiceError::NoTickets => {
                "whether the ticket is sensitive cannot be told: no table of tickets is known"
                    .to_owned()
            }
            ServiceError::TicketsHidden { table } => {
                format!(
                    "whether the ticket is sensitive cannot be told: row security hides tickets of {table}"
                )
            }
        }
    }

    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            ServiceError::NotConfigured { missing } => format!(
                "Set {} in the server's configuration file, and reload it.",
                missing.join(" and ")
            ),
            ServiceError::SecretsExposed => {
                "Add pg_civic to shared_preload_libraries and restart the server; change the secrets \
                 where a role may have seen them."
                    .to_owned()
            }
            ServiceError::Transfer(error) => return transfer_hint(error.kind()).map(str::to_owned),
            ServiceError::UploadForbidden { .. } => {
                "The claims need a municipality, and for gbv-evidence one of the roles of \
                 civic.sensitive_uploaders."
                    .to_owned()
            }
            ServiceError::UnsupportedContentType { .. } => format!("{UPLOAD_TYPES} can."),
            ServiceError::Form { .. } => {
                "Upload the file that is in it, with its own content type.".to_owned()
            }
            ServiceError::FileSize { setting, .. } => {
                format!("The limit is the setting {setting}.")
            }
            ServiceError::NoUpload { .. } => {
                "Upload the file to the bucket and path that request_upload() gave, then confirm it. \
                 An upload that its owner may not read is confirmed once."
                    .to_owned()
            }
            ServiceError::Expiry { .. } => {
                "Give a number of seconds from 1 to 604800, which is 7 days.".to_owned()
            }
            ServiceError::NotABucket { .. } => {
                format!("The buckets are {}.", bucket::ALL.map(bucket::Bucket::id).join(", "))
            }
            ServiceError::MalformedPath { .. } => {
                "Use a path of object_path() or request_upload().".to_owned()
            }
            ServiceError::NoMediaTable { .. } | ServiceError::MediaTableColumns { .. } => {
                "civic.media_table names it, as in public.media_attachments.".to_owned()
            }
            ServiceError::MediaType { .. } => {
                format!("The content types are {}.", bucket::MEDIA_TYPES.join(", "))
            }
            ServiceError::BecameSensitive { left: None } | ServiceError::NowSensitive => {
                "Try again.".to_owned()
            }
            ServiceError::BecameSensitive { left: Some(_) } => {
                "Remove it from the bucket, and try again.".to_owned()
            }
            ServiceError::MediaJobState { .. } => {
                "Queued and running jobs can be cancelled; queued, failed and cancelled ones retried."
                    .to_owned()
            }
            ServiceError::NoTickets => {
                "Name it: SELECT * FROM civic.setup('public.tickets'). Media that is declared sensitive \
                 needs none."
                    .to_owned()
            }
            ServiceError::Overran { .. } | ServiceError::GivenUp { .. } => {
                "Look for a lock on the table, and at its triggers, casts and index expressions."
                    .to_owned()
            }
            ServiceError::ColumnType { .. } => {
                "Use uuid, text, varchar, char, smallint, integer, bigint or numeric.".to_owned()
            }
            ServiceError::TicketsHidden { .. } => {
                "Let the table's owner read all of it: ALTER TABLE ... NO FORCE ROW LEVEL SECURITY."
                    .to_owned()
            }
            ServiceError::NoThread { .. }
            | ServiceError::Panicked
            | ServiceError::NoObject { .. }
            | ServiceError::NoMediaJob { .. }
            | ServiceError::RestrictsFiles { .. }
            | ServiceError::TicketsUnreadable { .. }
            | ServiceError::AttachmentRefused { .. }
            | ServiceError::AttachmentStays { .. }
            | ServiceError::HelperEnded { .. }
            | ServiceError::TenantStalled { .. }
            | ServiceError::TicketOfAnother { .. } => return None,
        };
        Some(hint)
    }
}

fn transfer_hint(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Unreachable => {
            "Is the URL in civic.storage_url or civic.supabase_url right, and can the database's \
             server reach it?"
        }
        Kind::TimedOut => "civic.http_timeout says how long it may take.",
        Kind::Busy | Kind::ServerError => "Try again later.",
        Kind::Unauthorized => {
            "Are civic.service_key, or civic.twilio_account_sid and civic.twilio_auth_token, right?"
        }
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
