//! What may fail without failing the transaction.

use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe};

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Runs an action in a subtransaction of its own. Where it gives an error, or raises one, which
/// `raised` makes of its SQLSTATE and the start of its message, nothing of what it did is left. A cancelled query
/// stays cancelled; an error that only has the SQLSTATE of one does not.
pub fn attempt<R, E>(
    action: impl FnOnce() -> Result<R, E>,
    raised: impl Fn(PgSqlErrorCode, &str) -> E + UnwindSafe + RefUnwindSafe,
) -> Result<R, E> {
    run(action, true, raised)
}

/// The same for an action that only raises: `Err` has the message.
pub fn try_to<R>(action: impl FnOnce() -> R) -> Result<R, String> {
    attempt(|| Ok(action()), |_, message| message.to_owned())
}

/// As [`try_to`], and nothing of what it did is left where it succeeds either.
pub fn probe<R>(action: impl FnOnce() -> R) -> Result<R, String> {
    run(|| Ok(action()), false, |_, message| message.to_owned())
}

fn run<R, E>(
    action: impl FnOnce() -> Result<R, E>,
    is_kept: bool,
    raised: impl Fn(PgSqlErrorCode, &str) -> E + UnwindSafe + RefUnwindSafe,
) -> Result<R, E> {
    // SAFETY: the usual frame of a subtransaction (see PL/pgSQL's exception blocks): it is ended,
    // and context and resource owner are put back, on every way out.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        let end = move |is_kept: bool| {
            if is_kept {
                pg_sys::ReleaseCurrentSubTransaction();
            } else {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
            }
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        };
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        PgTryBuilder::new(AssertUnwindSafe(|| {
            let result = action();
            end(is_kept && result.is_ok());
            result
        }))
        .catch_others(move |error| {
            end(false);
            use pg_sys::panic::CaughtError::{ErrorReport, PostgresError, RustPanic};
            let (PostgresError(report) | ErrorReport(report) | RustPanic { ereport: report, .. }) =
                &error;
            if is_cancellation(report) {
                error.rethrow()
            }
            Err(raised(report.sql_error_code(), shortened(report.message())))
        })
        .execute()
    }
}

/// Most bytes of an error's message that are handed on. That of other people's code can be of any
/// length, and is copied into warnings, reports and jobs.
const MESSAGE_LIMIT: usize = 1024;

fn shortened(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_LIMIT)]
}

/// Whether the server itself has cancelled the query. Any function may raise an error of this
/// SQLSTATE; only the server does so in the place where it answers interrupts.
pub(super) fn is_cancellation(report: &pg_sys::panic::ErrorReportWithLevel) -> bool {
    report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
        && report.function_name() == Some("ProcessInterrupts")
}
