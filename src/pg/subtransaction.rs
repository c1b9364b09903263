//! What may fail without failing the transaction.

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Runs an action in a subtransaction of its own. `Err` has the message of the error that it raised:
/// then nothing of what it did is left. A cancelled query stays cancelled.
pub fn attempt<R>(action: impl FnOnce() -> R) -> Result<R, String> {
    run(action, true)
}

/// The same, and nothing of what it did is left where it succeeds either.
pub fn rehearse<R>(action: impl FnOnce() -> R) -> Result<R, String> {
    run(action, false)
}

fn run<R>(action: impl FnOnce() -> R, is_kept: bool) -> Result<R, String> {
    // SAFETY: the usual frame of a subtransaction (see PL/pgSQL's exception blocks): it is ended,
    // and context and resource owner are put back, on every way out.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        let put_back = move || {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        };
        let roll_back = move || {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            put_back();
        };
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        PgTryBuilder::new(std::panic::AssertUnwindSafe(|| {
            let result = action();
            if is_kept {
                pg_sys::ReleaseCurrentSubTransaction();
                put_back();
            } else {
                roll_back();
            }
            Ok(result)
        }))
        .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, move |error| {
            roll_back();
            error.rethrow()
        })
        .catch_others(move |error| {
            roll_back();
            use pg_sys::panic::CaughtError::{ErrorReport, PostgresError, RustPanic};
            let (PostgresError(report) | ErrorReport(report) | RustPanic { ereport: report, .. }) =
                error;
            Err(report.message().to_owned())
        })
        .execute()
    }
}
