//! Actions that may fail without failing the transaction.

use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe};

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Runs an action in its own subtransaction. If it returns or raises an error, the subtransaction
/// is rolled back. `raised` converts a raised error, given its SQLSTATE and the start of its
/// message. A cancellation by the server is raised again; an error that only has the same SQLSTATE
/// is not.
pub fn attempt<R, E>(
    action: impl FnOnce() -> Result<R, E>,
    raised: impl Fn(PgSqlErrorCode, &str) -> E + UnwindSafe + RefUnwindSafe,
) -> Result<R, E> {
    run(action, true, raised)
}

/// Like [`attempt`], for an action that only raises: `Err` holds the message.
pub fn try_to<R>(action: impl FnOnce() -> R) -> Result<R, String> {
    attempt(|| Ok(action()), |_, message| message.to_owned())
}

/// Like [`try_to`], but rolls back after success too.
pub fn probe<R>(action: impl FnOnce() -> R) -> Result<R, String> {
    run(|| Ok(action()), false, |_, message| message.to_owned())
}

fn run<R, E>(
    action: impl FnOnce() -> Result<R, E>,
    is_kept: bool,
    raised: impl Fn(PgSqlErrorCode, &str) -> E + UnwindSafe + RefUnwindSafe,
) -> Result<R, E> {
    // SAFETY: the usual frame of a subtransaction (as in PL/pgSQL's exception blocks). Every exit
    // ends it and restores memory context and resource owner.
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

/// Longest part of an error message that is passed on, in bytes. The message of foreign code can
/// have any length, and it is copied into warnings, reports and jobs.
const MESSAGE_LIMIT: usize = 1024;

fn shortened(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_LIMIT)]
}

/// Whether the server itself cancelled the query. Any function may raise this SQLSTATE, but only
/// the server raises it where it processes interrupts.
pub(super) fn is_cancellation(report: &pg_sys::panic::ErrorReportWithLevel) -> bool {
    report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
        && report.function_name() == Some("ProcessInterrupts")
}
