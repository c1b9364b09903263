//! The only way to run code of other roles that their tables can execute: triggers, casts,
//! policies, generated columns, index expressions, input and output functions.
//!
//! [`run`] runs it as the table's owner in a security-restricted operation with a time limit. After
//! the limit the server cancels it repeatedly, because a function can catch a cancellation.
//! [`GRACE`] later an error that no function can catch ends the process.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_int, c_uint};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::error::Error;
use super::role::acting_as;
use super::subtransaction::is_cancellation;

/// The default time limit for code of other roles.
pub const LIMIT: Duration = Duration::from_secs(5);
/// How long code may go on after its limit if it ignores cancellation.
pub const GRACE: Duration = Duration::from_secs(5);
/// Time between two cancellations.
const INTERVAL: Duration = Duration::from_millis(200);
const CANCELLATIONS: u32 = (GRACE.as_millis() / INTERVAL.as_millis()) as u32;

/// USER_TIMEOUT of utils/timeout.h in PostgreSQL 17 and 18. In older versions it is one less. The
/// server takes any number from USER_TIMEOUT on as a request for a free timer.
const USER_TIMEOUT: c_uint = 13;

// These raise no error, except RegisterTimeout, which ends the process if no timer is free.
unsafe extern "C-unwind" {
    fn RegisterTimeout(timeout: c_uint, handler: unsafe extern "C-unwind" fn()) -> c_uint;
    fn enable_timeout_every(timeout: c_uint, at: pg_sys::TimestampTz, milliseconds: c_int);
    fn disable_timeout(timeout: c_uint, keep_indicator: bool);
    fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
}

/// How often the timer has fired since it was set.
static FIRED: AtomicU32 = AtomicU32::new(0);
/// Whether this process ends because code ignored cancellation.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);
static OBSERVER: OnceLock<fn(&str)> = OnceLock::new();

thread_local! {
    /// The tables whose code runs, innermost last, each with its limit.
    static RUNNING: RefCell<Vec<(String, Duration)>> = const { RefCell::new(vec![]) };
    /// The last error that [`run`] raised.
    static OVERRAN: Cell<Option<Error>> = const { Cell::new(None) };
}

/// Runs `act` as `owner`, restricted as in [`acting_as`], within `limit`. `table` is the name that
/// messages show. A nested call counts against the time of the outer one.
///
/// Errors: 57014 with the table's name after `limit`. [`GRACE`] later the session or background
/// worker is terminated; the log and the client get the same name. A cancellation or timeout of the
/// caller works as usual.
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

/// Returns and clears the last error that [`run`] raised, for a caller that catches it: code of
/// other roles can raise the same SQLSTATE with any text.
pub fn take_overrun() -> Option<Error> {
    OVERRAN.take()
}

/// Calls `observer` with each table whose code this process is about to run.
pub fn observe(observer: fn(&str)) {
    // Set once: a process sets it at its start.
    let _ = OBSERVER.set(observer);
}

/// Whether this process ends because code ignored cancellation.
pub fn is_given_up() -> bool {
    GIVEN_UP.load(Ordering::Relaxed)
}

fn overran(table: &str) -> Error {
    let limit = RUNNING.with_borrow(|running| running.first().map_or(LIMIT, |(_, limit)| *limit));
    Error::Overran { table: table.to_owned(), limit }
}

fn is_servers_own(error: &CaughtError) -> bool {
    use CaughtError::{ErrorReport, PostgresError, RustPanic};
    let (PostgresError(report) | ErrorReport(report) | RustPanic { ereport: report, .. }) = error;
    is_cancellation(report)
}

/// A table whose code runs. The outermost one owns the timer.
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
        // SAFETY: once per process, which is already connected to a database. The function and the
        // hook live as long as the library; the previous hook is kept and called.
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
    // SAFETY: as above. If the timer has fired, a pending cancellation is the timer's: clear it.
    unsafe {
        disable_timeout(timer(), false);
        if FIRED.load(Ordering::Relaxed) > 0 {
            (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
        }
    }
}

/// The server calls this in its SIGALRM handler, so it only does what a signal handler may do.
unsafe extern "C-unwind" fn expired() {
    let signal = if FIRED.fetch_add(1, Ordering::Relaxed) < CANCELLATIONS {
        libc::SIGINT
    } else {
        GIVEN_UP.store(true, Ordering::Relaxed);
        libc::SIGTERM
    };
    // SAFETY: signals this process and its child programs, as statement_timeout does. The server's
    // own handlers do the rest.
    unsafe {
        let process = pg_sys::MyProcPid;
        libc::kill(-process, signal);
        libc::kill(process, signal);
    }
}

static mut PREVIOUS_HOOK: pg_sys::emit_log_hook_type = None;

/// Adds the name of the table to the error that ends the process.
#[pg_guard]
unsafe extern "C-unwind" fn explain(error: *mut pg_sys::ErrorData) {
    // SAFETY: the server passes the error that it is about to report. Its texts are in its own
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
    let reason = Error::GivenUp { table: table.clone(), limit: *limit + GRACE }.to_string();
    CString::new(format!("{}{}.", reason[..1].to_uppercase(), &reason[1..])).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Files that take a role without a time limit, and why.
    const WITHOUT_LIMIT: [(&str, &str); 5] = [
        (
            "src/catalog.rs",
            "the extension's own table; catalog changes, where building an index takes long",
        ),
        ("pg/role.rs", "the function itself"),
        ("pg/foreign.rs", "this module sets the limit"),
        ("pg/realtime.rs", "sends events of tickets, with a limit for lock waits only"),
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
    fn code_of_other_roles_runs_only_through_this_module() {
        let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
        let mut found = vec![];
        visit(source, &mut found);
        for (file, _) in WITHOUT_LIMIT {
            found.retain(|path| !path.ends_with(file));
        }
        assert!(
            found.is_empty(),
            "{found:?}: use pg::foreign::run, or list the file with the reason for no limit"
        );
    }
}
