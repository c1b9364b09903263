//! Why a media job cannot be done, or not in that way.

use pgrx::{PgSqlErrorCode, Uuid};

use super::job::State;
use crate::error::{Report, reported, shown};
use crate::storage::bucket;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    /// The ticket whose media it is belongs to another municipality.
    #[error("ticket \"{}\" is not of this municipality", shown(ticket_id))]
    TicketOfAnother { ticket_id: String },
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
    #[error(
        "whether the ticket is sensitive cannot be told: reading it fails with SQLSTATE {sqlstate}"
    )]
    TicketsUnreadable { sqlstate: String },
    /// The process that works on a table for a media job ended.
    #[error("the process that works on table {table} ended during this attempt")]
    HelperEnded { table: String },
    /// Media jobs of a municipality wait, as one of them delayed those of others.
    #[error(
        "another job of municipality \"{}\" has taken too long on a table, and its jobs wait",
        shown(tenant_id)
    )]
    TenantStalled { tenant_id: String },
    /// A column of a type whose values cannot be read without the code of its owner.
    #[error("column {column} of table {table} is of type {type_name}, which cannot be read")]
    ColumnType { table: String, column: &'static str, type_name: String },
    #[error("whether the ticket is sensitive cannot be told: no table of tickets is known")]
    NoTickets,
    /// Row security hides tickets from the owner of their table.
    #[error(
        "whether the ticket is sensitive cannot be told: row security hides tickets of {table}"
    )]
    TicketsHidden { table: String },
}

reported!(MediaError);

impl Report for MediaError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            MediaError::MediaJobState { .. }
            | MediaError::TicketsUnreadable { .. }
            | MediaError::AttachmentRefused { .. }
            | MediaError::NoTickets
            | MediaError::ColumnType { .. }
            | MediaError::HelperEnded { .. }
            | MediaError::TenantStalled { .. }
            | MediaError::TicketsHidden { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            MediaError::BecameSensitive
            | MediaError::LeftInTheOpen { .. }
            | MediaError::NowSensitive => ERRCODE_T_R_SERIALIZATION_FAILURE,
            MediaError::MediaType { .. } | MediaError::TicketOfAnother { .. } => {
                ERRCODE_INVALID_PARAMETER_VALUE
            }
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
            MediaError::NoTickets => {
                "Name it: SELECT * FROM civic.setup('public.tickets'). Media that is declared sensitive \
                 needs none."
            }
            MediaError::ColumnType { .. } => {
                "Use uuid, text, varchar, char, smallint, integer, bigint or numeric."
            }
            MediaError::TicketsHidden { .. } => {
                "Let the table's owner read all of it: ALTER TABLE ... NO FORCE ROW LEVEL SECURITY."
            }
            MediaError::NoMediaJob { .. }
            | MediaError::TicketsUnreadable { .. }
            | MediaError::AttachmentRefused { .. }
            | MediaError::HelperEnded { .. }
            | MediaError::TenantStalled { .. }
            | MediaError::TicketOfAnother { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
