//! Errors in claims.

use pgrx::PgSqlErrorCode;

use crate::error::{Report, reported};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    #[error("setting \"{setting}\" does not hold a JSON object of claims")]
    Invalid { setting: String },
    /// Larger than the claims of any real request.
    #[error("claims of {bytes} bytes in setting \"{setting}\" are too long, the limit is {limit}")]
    TooLong { setting: String, bytes: usize, limit: usize },
    #[error("column \"{column}\" of table \"{table}\" is guarded")]
    GuardedColumn { table: String, column: String },
    /// The column has been dropped or renamed since.
    #[error("guarded column \"{column}\" of table \"{table}\" does not exist")]
    NoGuardedColumn { table: String, column: String },
    #[error("function civic_firewall.guard_columns can only be called as a trigger")]
    NotATrigger,
}

reported!(ClaimsError);

impl Report for ClaimsError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            ClaimsError::Invalid { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION
            }
            ClaimsError::TooLong { .. } => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            ClaimsError::GuardedColumn { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            ClaimsError::NoGuardedColumn { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            ClaimsError::NotATrigger => PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            ClaimsError::Invalid { .. } | ClaimsError::TooLong { .. } => {
                "The gateway sets it from the verified JWT; leave it empty where there is none."
            }
            ClaimsError::GuardedColumn { .. } => {
                "Only roles in civic.column_writers set it; leave it as it is."
            }
            ClaimsError::NoGuardedColumn { .. } => {
                "Call civic.protect() for the table again, with the columns that it has now."
            }
            ClaimsError::NotATrigger => return None,
        };
        Some(hint.to_owned())
    }
}
