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
}

reported!(ClaimsError);

impl Report for ClaimsError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            ClaimsError::Invalid { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION
            }
            ClaimsError::TooLong { .. } => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(
            "The gateway sets it from the verified JWT; leave it empty where there is none."
                .to_owned(),
        )
    }
}
