//! Turns each module's error into the server's report: SQLSTATE, message, detail and hint.
//!
//! No message carries a secret or the value of the claims. More people can read the log than may
//! read the data.

use std::fmt;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

use crate::pg::{self, http_status};

/// An error that reaches the caller of a SQL function.
pub trait Report: std::error::Error + 'static {
    fn sqlstate(&self) -> PgSqlErrorCode;

    fn detail(&self) -> Option<String> {
        None
    }

    fn hint(&self) -> Option<String> {
        None
    }

    /// The primary message.
    fn message(&self) -> String {
        self.to_string()
    }

    #[cold]
    fn raise(self) -> !
    where
        Self: Sized,
    {
        Error::from(self).raise()
    }
}

impl Report for pg::Error {
    fn sqlstate(&self) -> PgSqlErrorCode {
        pg::Error::sqlstate(self)
    }

    fn hint(&self) -> Option<String> {
        pg::Error::hint(self)
    }
}

/// As [`pg::Error::Catalog`].
impl Report for pgrx::spi::Error {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR
    }

    fn message(&self) -> String {
        pg::Error::Catalog { why: self.to_string() }.to_string()
    }
}

/// The error of any module.
pub struct Error(Box<dyn Report>);

impl<E: Report> From<E> for Error {
    #[cold]
    fn from(error: E) -> Error {
        Error(Box::new(error))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message())
    }
}

/// Two errors are equal if SQLSTATE, message and hint are equal.
/// Runs a function that browsers call through PostgREST. An error to which `status` gives an HTTP status is
/// raised as `PTxyz`; others stay. `None` if it has got one, which `answers_http!` raises.
pub fn for_browsers<R>(
    status: impl Fn(&Error) -> Option<u16>,
    run: impl FnOnce() -> Result<R, Error>,
) -> Result<Option<R>, ErrorReport> {
    let error = match run() {
        Ok(answer) => return Ok(Some(answer)),
        Err(error) => error,
    };
    let Some(status) = status(&error) else { return Err(error.into()) };
    let (message, hint) = (error.message(), error.hint());
    http_status::leave(status, &message, error.detail().as_deref(), hint.as_deref());
    Ok(None)
}

#[cfg(test)]
impl PartialEq for Error {
    fn eq(&self, other: &Error) -> bool {
        self.sqlstate() == other.sqlstate()
            && self.message() == other.message()
            && self.hint() == other.hint()
    }
}

impl Error {
    pub fn sqlstate(&self) -> PgSqlErrorCode {
        self.0.sqlstate()
    }

    pub fn message(&self) -> String {
        self.0.message()
    }

    pub fn detail(&self) -> Option<String> {
        self.0.detail()
    }

    pub fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    /// The module's own error, if it is of this type.
    pub fn downcast_ref<E: Report>(&self) -> Option<&E> {
        let error: &dyn std::error::Error = &*self.0;
        error.downcast_ref()
    }

    /// Raises the error. For functions that run for each row: a `Result` that holds the server's
    /// report is several hundred bytes, and every call would carry them.
    #[cold]
    pub fn raise(self) -> ! {
        pg::error::raise(ErrorReport::from(self))
    }
}

impl From<Error> for ErrorReport {
    fn from(Error(error): Error) -> ErrorReport {
        let mut report = ErrorReport::new(error.sqlstate(), error.message(), "pg_civic");
        if let Some(detail) = error.detail() {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        report
    }
}

/// Lets a SQL function return a module's error with `?`.
macro_rules! reported {
    ($($error:ty),*) => {
        $(impl From<$error> for ::pgrx::pg_sys::panic::ErrorReport {
            fn from(error: $error) -> Self {
                $crate::error::Error::from(error).into()
            }
        })*
    };
}
pub(crate) use reported;

reported!(pg::Error);

/// The most characters of an outside value that a message repeats.
const SHOWN: usize = 64;

/// An outside value as a message shows it: cut and escaped.
pub fn shown(value: &str) -> String {
    let mut shown: String = value.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if value.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_outside_value_is_cut_in_a_message() {
        assert!(shown(&"x".repeat(1_000_000)).len() < 200);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(shown("a\nb"), "a\\nb");
    }
}
