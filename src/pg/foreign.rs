//! The one way to run what other people's tables can execute: triggers, casts, policies, generated
//! columns, index expressions, input and output functions.
//!
//! [`run`] runs it as the table's owner in a restricted operation, and for a bounded time. After the
//! limit the server cancels it, and repeats that: a function can catch a cancellation. After
//! [`GRACE`] more the process that runs it ends, by an error that no function can catch.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_int, c_uint};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::role::acting_as;
use super::subtransaction::is_cancellation;
use crate::error::{Error, ServiceError};

/// How long code of others may take where nothing else is agreed.
pub const LIMIT: Duration = Duration::from_secs(5);
/// How long after its limit code that ignores cancellations may go on.
pub const GRACE: Duration = Duration::from_secs(5);
/// How often the cancellation is repeated.
const INTERVAL: Duration = Duration::from_millis(200);
const CANCELLATIONS: u32 = (GRACE.as_millis() / INTERVAL.as_millis()) as u32;

/// USER_TIMEOUT of utils/timeout.h in PostgreSQL 17 and 18. The server takes any number from
/// USER_TIMEOUT on, which is one less before, as a request for a free one.
const USER_TIMEOUT: c_uint = 13;

// They raise no error, but for RegisterTimeout, which ends the process where no timer is free.
unsafe extern "C-unwind" {
    fn RegisterTimeout(timeout: c_uint, handler: unsafe extern "C-unwind" fn()) -> c_uint;
    fn enable_timeout_every(timeout: c_uint, at: pg_sys::TimestampTz, milliseconds: c_int);
    fn disable_timeout(timeout: c_uint, keep_indicator: bool);
    fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
}

/// How often the timer has fired since it was set.
static FIRED: AtomicU32 = AtomicU32::new(0);
/// Whether this process ends because of code that ignored its cancellations.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);
static OBSERVER: OnceLock<fn(&str)> = OnceLock::new();

thread_local! {
    /// The tables whose code runs, the innermost last, each with its limit.
    static RUNNING: RefCell<Vec<(String, Duration)>> = const { RefCell::new(vec![]) };
    /// What [`run`] has raised last.
    static OVERRAN: Cell<Option<Error>> = const { Cell::new(None) };
}

/// Runs `act` as `owner`, restricted as [`acting_as`] says, within `limit`. `table` names in messages
/// what belongs to that owner. Within another call the outer one's time counts.
///
/// After `limit` this raises 57014, which names the table. After [`GRACE`] more the session, or the
/// background worker, is terminated; the log and the client get the same name. A cancellation or a
/// timeout of the caller's own counts as without this.
pub fn run<R>(owner: pg_sys::Oid, table: &str, limit: Duration, act: impl FnOnce() -> R) -> R {
    let _named = Named::enter(table, limit);
    if let Some(observe) = OBSERVER.get() {
        observe(table);
    }
    PgTryBuilder::new(AssertUnwindSafe(|| acting_as(owner, act)))
        .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, |error| {
            if FIRED.load(Ordering::Relaxed) > 0 && is_servers_own(&error) {
                let error = overran(table);
                OVERRAN.set(Some(error.clone()));
                error.raise()
            }
            error.rethrow()
        })
        .execute()
}

/// The error that [`run`] has raised since the last call, for a caller that catches it: code of others
/// can raise the same SQLSTATE with any text.
pub fn take_overrun() -> Option<Error> {
    OVERRAN.take()
}

/// Has `observer` called with each table whose code this process is about to run.
pub fn observe(observer: fn(&str)) {
    // Set once: the process that asks for it does so at its start.
    let _ = OBSERVER.set(observer);
}

/// Whether this process ends because of code that ignored its cancellations.
pub fn is_given_up() -> bool {
    GIVEN_UP.load(Ordering::Relaxed)
}

fn overran(table: &str) -> Error {
    let limit = RUNNING.with_borrow(|running| running.first().map_or(LIMIT, |(_, limit)| *limit));
    ServiceError::Overran { table: table.to_owned(), limit }.into()
}

fn is_servers_own(error: &CaughtError) -> bool {
    use CaughtError::{ErrorReport, PostgresError, RustPanic};
    let (PostgresError(report) | ErrorReport(report) | RustPanic { ereport: report, .. }) = error;
    is_cancellation(report)
}

/// A table whose code runs. The outermost has the timer.
struct Named;

impl Named {
    fn enter(table: &str, limit: Duration) -> Named {
        let is_outermost = RUNNING.with_borrow_mut(|running| {
            running.push((table.to_owned(), limit));
            running.len() == 1
        });
        let named = Named;
        if is_outermost {
            set_timer(limit);
        }
        named
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let is_outermost = RUNNING.with_borrow_mut(|running| {
            running.pop();
            running.is_empty()
        });
        if is_outermost {
            stop_timer();
        }
    }
}

fn timer() -> c_uint {
    static TIMER: OnceLock<c_uint> = OnceLock::new();
    *TIMER.get_or_init(|| {
        // SAFETY: once per process, which is connected to a database by now. The function lives as
        // long as the library, and so does the hook; the one before it is kept and called.
        unsafe {
            PREVIOUS_HOOK = pg_sys::emit_log_hook;
            pg_sys::emit_log_hook = Some(explain);
            RegisterTimeout(USER_TIMEOUT, expired)
        }
    })
}

fn set_timer(limit: Duration) {
    let timer = timer();
    FIRED.store(0, Ordering::Relaxed);
    // SAFETY: a timer that this process has registered.
    unsafe {
        let at = GetCurrentTimestamp() + limit.as_micros() as i64;
        enable_timeout_every(timer, at, INTERVAL.as_millis() as c_int);
    }
}

fn stop_timer() {
    // SAFETY: as above. A cancellation that is still pending was the timer's, where it has fired.
    unsafe {
        disable_timeout(timer(), false);
        if FIRED.load(Ordering::Relaxed) > 0 {
            (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
        }
    }
}

/// Called by the server in its handler of SIGALRM: only what a signal handler may do.
unsafe extern "C-unwind" fn expired() {
    let signal = if FIRED.fetch_add(1, Ordering::Relaxed) < CANCELLATIONS {
        libc::SIGINT
    } else {
        GIVEN_UP.store(true, Ordering::Relaxed);
        libc::SIGTERM
    };
    // SAFETY: signals this process and the programs that it has started, as statement_timeout does.
    // The server's own handlers take it from there.
    unsafe {
        let process = pg_sys::MyProcPid;
        libc::kill(-process, signal);
        libc::kill(process, signal);
    }
}

static mut PREVIOUS_HOOK: pg_sys::emit_log_hook_type = None;

/// Says in the error that ends the process whose code is to blame.
#[pg_guard]
unsafe extern "C-unwind" fn explain(error: *mut pg_sys::ErrorData) {
    // SAFETY: the server hands over the error that it is about to report, whose texts are in its own
    // memory context and are freed with it.
    unsafe {
        if is_given_up()
            && (*error).elevel == pg_sys::FATAL as c_int
            && (*error).detail.is_null()
            && let Some(detail) = RUNNING.with_borrow(|running| given_up_detail(running))
        {
            (*error).detail = pg_sys::MemoryContextStrdup((*error).assoc_context, detail.as_ptr());
        }
        if let Some(previous) = PREVIOUS_HOOK {
            previous(error);
        }
    }
}

fn given_up_detail(running: &[(String, Duration)]) -> Option<CString> {
    let ((_, limit), (table, _)) = (running.first()?, running.last()?);
    let reason = ServiceError::GivenUp { table: table.clone(), limit: *limit + GRACE }.message();
    CString::new(format!("{}{}.", reason[..1].to_uppercase(), &reason[1..])).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Where a role is taken on without a limit of time, and why.
    const WITHOUT_LIMIT: [(&str, &str); 5] = [
        (
            "src/catalog.rs",
            "the extension's own table; catalog changes, of which an index takes long",
        ),
        ("pg/role.rs", "the function itself"),
        ("pg/foreign.rs", "this module sets the limit"),
        ("pg/realtime.rs", "sends events of tickets, with a limit for locks alone"),
        ("media/store.rs", "civic.media_jobs is the extension's own table"),
    ];

    fn visit(directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                visit(&path, found);
            } else if std::fs::read_to_string(&path).is_ok_and(|text| {
                text.contains("acting_as(") || text.contains("SetUserIdAndSecContext(")
            }) {
                found.push(path.display().to_string());
            }
        }
    }

    #[test]
    fn code_of_other_roles_runs_through_this_module_alone() {
        let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
        let mut found = vec![];
        visit(source, &mut found);
        for (file, _) in WITHOUT_LIMIT {
            found.retain(|path| !path.ends_with(file));
        }
        assert!(found.is_empty(), "{found:?}: use pg::foreign::run, or say why there is no limit");
    }
}
