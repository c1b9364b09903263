//! Why it cannot be determined whether a ticket is sensitive.

use pgrx::PgSqlErrorCode;

use crate::error::{Report, reported, shown};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The ticket belongs to another municipality.
    #[error("ticket \"{}\" is not of this municipality", shown(ticket_id))]
    OfAnother { ticket_id: String },
    #[error(
        "whether the ticket is sensitive cannot be told: reading it fails with SQLSTATE {sqlstate}"
    )]
    Unreadable { sqlstate: String },
    /// A column of a type whose values cannot be read without the code of its owner.
    #[error("column {column} of table {table} is of type {type_name}, which cannot be read")]
    ColumnType { table: String, column: &'static str, type_name: String },
    #[error("whether the ticket is sensitive cannot be told: no table of tickets is known")]
    NoTable,
    /// Or the caller does not see it, which is the same answer.
    #[error("there is no ticket \"{}\"", shown(ticket_id))]
    NotFound { ticket_id: String },
    /// Row security hides tickets from the owner of their table.
    #[error(
        "whether the ticket is sensitive cannot be told: row security hides tickets of {table}"
    )]
    Hidden { table: String },
}

reported!(TicketError);

impl Report for TicketError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            TicketError::OfAnother { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            TicketError::NotFound { .. } => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            TicketError::Unreadable { .. }
            | TicketError::ColumnType { .. }
            | TicketError::NoTable
            | TicketError::Hidden { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            TicketError::NoTable => {
                "Name it: SELECT * FROM civic.setup('public.tickets'). Media that is declared sensitive \
                 needs none."
            }
            TicketError::ColumnType { .. } => {
                "Use uuid, text, varchar, char, smallint, integer, bigint or numeric."
            }
            TicketError::Hidden { .. } => {
                "Let the table's owner read all of it: ALTER TABLE ... NO FORCE ROW LEVEL SECURITY."
            }
            TicketError::NotFound { .. } => {
                "Staff mark the tickets of their municipality, others those assigned to them."
            }
            TicketError::OfAnother { .. } | TicketError::Unreadable { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
