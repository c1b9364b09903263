//! Why `setup()`, `teardown()` or `check()` cannot do its work.

use pgrx::PgSqlErrorCode;

use crate::error::{Report, reported, shown};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    #[error("there is no relation with OID {oid}")]
    NoRelation { oid: u32 },
    #[error("{relation} is {kind}, not a table")]
    NotATable { relation: String, kind: &'static str },
    /// The table does not hold tickets.
    #[error("table {relation} has no column {}", missing.join(", "))]
    MissingColumns { relation: String, missing: Vec<String>, known: String },
    /// An object of somebody else's has the name of one of ours.
    #[error("{object} exists and is not pg_civic's")]
    NameTaken { object: String },
    /// Storage creates the columns with other types.
    #[error("the tables of Storage have columns of other types: {}", found.join("; "))]
    StorageColumns { found: Vec<String> },
    /// A table that `protect()` does not take, and what to do instead.
    #[error("{table} {why}")]
    NotProtectable { table: String, why: String, remedy: String },
    #[error("table {table} has no column \"{column}\" ({argument})")]
    NoColumn { table: String, column: String, argument: &'static str },
    /// The column's type cannot hold what it is compared with.
    #[error("column \"{column}\" of table {table} is of type {type_name}, not {wanted}")]
    ColumnKind { table: String, column: String, type_name: String, wanted: &'static str },
    #[error(
        "column \"{column}\" of table {table} is of type {type_name}, the id of {tickets} is of type {id}"
    )]
    TicketKind { table: String, column: String, type_name: String, tickets: String, id: String },
    /// The table of tickets that a column refers to is not known, or open itself.
    #[error("cannot tell which tickets column \"{column}\" of table {table} refers to: {why}")]
    NoTickets { table: String, column: String, why: String, remedy: String },
    #[error("readable is 'staff' or 'tenant', not '{}'", shown(value))]
    InvalidReadable { value: String },
}

reported!(SetupError);

impl Report for SetupError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            SetupError::NoRelation { .. } => ERRCODE_UNDEFINED_TABLE,
            SetupError::NotATable { .. } => ERRCODE_WRONG_OBJECT_TYPE,
            SetupError::MissingColumns { .. } => ERRCODE_UNDEFINED_COLUMN,
            SetupError::NameTaken { .. } => ERRCODE_DUPLICATE_OBJECT,
            SetupError::StorageColumns { .. }
            | SetupError::ColumnKind { .. }
            | SetupError::TicketKind { .. } => ERRCODE_DATATYPE_MISMATCH,
            SetupError::NotProtectable { .. } => ERRCODE_WRONG_OBJECT_TYPE,
            SetupError::NoColumn { .. } => ERRCODE_UNDEFINED_COLUMN,
            SetupError::NoTickets { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            SetupError::InvalidReadable { .. } => ERRCODE_INVALID_PARAMETER_VALUE,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            SetupError::NoRelation { .. } | SetupError::NotATable { .. } => {
                "Give a table, such as 'public.tickets'.".to_owned()
            }
            SetupError::MissingColumns { known, .. } => {
                format!("setup looks for the columns {known}.")
            }
            SetupError::NameTaken { .. } => {
                "Rename or drop it, then run civic.setup() again.".to_owned()
            }
            SetupError::StorageColumns { .. } => {
                "Give the columns the types that Supabase Storage creates them with.".to_owned()
            }
            SetupError::NotProtectable { remedy, .. } | SetupError::NoTickets { remedy, .. } => {
                remedy.clone()
            }
            SetupError::NoColumn { argument, .. } => {
                format!("Name a column of the table in {argument}.")
            }
            SetupError::ColumnKind { .. } => {
                "Name another column, or '' (for a list '{}') for none.".to_owned()
            }
            SetupError::TicketKind { .. } => {
                "Give both columns the same type, or pass ticket_column => ''.".to_owned()
            }
            SetupError::InvalidReadable { .. } => {
                "staff: the roles in civic.staff_readers; tenant: every user of the municipality."
                    .to_owned()
            }
        })
    }
}
