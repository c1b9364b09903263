//! Errors between the extension and the server, in any module.

use std::time::Duration;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::encoding::InvalidText;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An argument that must not be NULL or empty.
    #[error("{what} must not be empty")]
    Empty { what: &'static str },
    /// Bytes of an argument, a setting or the catalog that are not valid text.
    #[error(transparent)]
    InvalidText(#[from] InvalidText),
    #[error("argument \"{argument}\" of {bytes} bytes is too long, the limit is {limit}")]
    ArgumentTooLong { argument: String, bytes: usize, limit: usize },
    #[error("argument \"{argument}\" is nested deeper than 127 levels")]
    NestedTooDeep { argument: String },
    /// A value of the catalog or of a table.
    #[error("value of {bytes} bytes is too long, the limit is {limit}")]
    ValueTooLong { bytes: usize, limit: usize },
    /// No memory for a value of this size.
    #[error("out of memory")]
    OutOfMemory { bytes: usize },
    /// A query of the extension failed: a bug of pg_civic.
    #[error("the catalog could not be read: {why}")]
    Catalog { why: String },
    /// Code that a table executes exceeded its limit and was cancelled.
    #[error("work on table {table} took longer than {} s", limit.as_secs())]
    Overran { table: String, limit: Duration },
    /// As above, but the code ignored cancellation, so its process was ended.
    #[error("code on table {table} ran longer than {} s and ignored its cancellation", limit.as_secs())]
    GivenUp { table: String, limit: Duration },
    #[error("could not start a thread: {why}")]
    NoThread { why: String },
    /// A thread panicked: a bug of pg_civic. The server's log has the message.
    #[error("the transfer failed because of a bug in pg_civic")]
    Panicked,
}

impl Error {
    pub fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            Error::Empty { .. } => ERRCODE_INVALID_PARAMETER_VALUE,
            Error::InvalidText(_) => ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
            Error::ArgumentTooLong { .. }
            | Error::NestedTooDeep { .. }
            | Error::ValueTooLong { .. } => ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Error::OutOfMemory { .. } => ERRCODE_OUT_OF_MEMORY,
            Error::Catalog { .. } | Error::Panicked => ERRCODE_INTERNAL_ERROR,
            Error::Overran { .. } | Error::GivenUp { .. } => ERRCODE_QUERY_CANCELED,
            Error::NoThread { .. } => ERRCODE_INSUFFICIENT_RESOURCES,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::OutOfMemory { bytes } => {
                Some(format!("{bytes} bytes were requested: send a smaller value."))
            }
            Error::Overran { .. } | Error::GivenUp { .. } => Some(
                "Look for a lock on the table, and at its triggers, casts and index expressions."
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Raises the error in the server.
    #[cold]
    pub fn raise(self) -> ! {
        let report = ErrorReport::new(self.sqlstate(), self.to_string(), "pg_civic");
        raise(match self.hint() {
            Some(hint) => report.set_hint(hint),
            None => report,
        })
    }
}

impl From<pgrx::spi::Error> for Error {
    fn from(error: pgrx::spi::Error) -> Self {
        Error::Catalog { why: error.to_string() }
    }
}

/// Raises an error in the server.
pub fn raise(report: ErrorReport) -> ! {
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return");
}
