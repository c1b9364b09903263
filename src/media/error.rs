//! Why a media job cannot be done, or not in that way.

use pgrx::{PgSqlErrorCode, Uuid};

use super::job::State;
use crate::error::{Report, reported, shown};
use crate::storage::bucket;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    #[error(
        "the file is stored, and the table of attachments refuses its row with SQLSTATE {sqlstate}"
    )]
    AttachmentRefused { sqlstate: String },
    /// A content type that is not accepted from outside.
    #[error("content type \"{}\" is not supported for media", shown(content_type))]
    MediaType { content_type: String },
    /// The ticket became sensitive while its media was stored, and the file was removed.
    #[error("the ticket has become sensitive during the transfer, and the file was removed")]
    BecameSensitive,
    /// The same, and the file could not be removed.
    #[error(
        "the ticket has become sensitive during the transfer, and the file could not be removed: {object}"
    )]
    LeftInTheOpen { object: String },
    /// The same of a job's ticket: its next attempt stores the file behind the firewall.
    #[error("the ticket has become sensitive during the transfer")]
    NowSensitive,
    #[error("there is no media job {id}")]
    NoMediaJob { id: Uuid },
    /// A media job in a state in which that cannot be done to it.
    #[error("media job {id} is {} and cannot be {action}", state.name())]
    MediaJobState { id: Uuid, state: State, action: &'static str },
    /// The process that works on a table for a media job ended.
    #[error("the process that works on table {table} ended during this attempt")]
    HelperEnded { table: String },
    /// Media jobs of a municipality wait, as one of them delayed those of others.
    #[error(
        "another job of municipality \"{}\" has taken too long on a table, and its jobs wait",
        shown(tenant_id)
    )]
    TenantStalled { tenant_id: String },
    /// A job that moves a sensitive ticket's files is not cancelled.
    #[error("media job {id} moves files of a sensitive ticket and cannot be cancelled")]
    RestrictsFiles { id: Uuid },
}

reported!(MediaError);

impl Report for MediaError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            MediaError::MediaJobState { .. }
            | MediaError::AttachmentRefused { .. }
            | MediaError::HelperEnded { .. }
            | MediaError::RestrictsFiles { .. }
            | MediaError::TenantStalled { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            MediaError::BecameSensitive
            | MediaError::LeftInTheOpen { .. }
            | MediaError::NowSensitive => ERRCODE_T_R_SERIALIZATION_FAILURE,
            MediaError::MediaType { .. } => ERRCODE_INVALID_PARAMETER_VALUE,
            MediaError::NoMediaJob { .. } => ERRCODE_NO_DATA_FOUND,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            MediaError::MediaType { .. } => {
                let types = bucket::MEDIA_TYPES.join(", ");
                return Some(format!("The content types are {types}."));
            }
            MediaError::BecameSensitive | MediaError::NowSensitive => "Try again.",
            MediaError::LeftInTheOpen { .. } => "Remove it from the bucket, and try again.",
            MediaError::MediaJobState { .. } => {
                "Queued and running jobs can be cancelled; queued, failed and cancelled ones retried."
            }
            MediaError::NoMediaJob { .. }
            | MediaError::AttachmentRefused { .. }
            | MediaError::HelperEnded { .. }
            | MediaError::TenantStalled { .. }
            | MediaError::RestrictsFiles { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
