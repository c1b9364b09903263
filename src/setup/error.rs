//! Why `setup()`, `teardown()` or `check()` cannot do its work.

use pgrx::PgSqlErrorCode;

use crate::error::{Report, reported};

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
            SetupError::StorageColumns { .. } => ERRCODE_DATATYPE_MISMATCH,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            SetupError::NoRelation { .. } | SetupError::NotATable { .. } => {
                "Give the table that holds the tickets, such as 'public.tickets'.".to_owned()
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
        })
    }
}
