//! Background workers: how they are registered, begin, wait, reload their settings, and end.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgrx::PgLogLevel;
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::prelude::*;

use super::guc;
use super::worker_slot::WorkerSlot;

unsafe extern "C-unwind" {
    /// The server's own handler of SIGTERM (tcop/tcopprot.h): whatever can be interrupted then is.
    fn die(signal: std::ffi::c_int);
}

/// How long the server waits before it starts a worker again.
const RESTART_TIME: Duration = Duration::from_secs(1);
/// How often a worker that is not wanted looks whether it is.
const WANTED_INTERVAL: Duration = Duration::from_secs(1);

/// Whether a shutdown of this process was ever requested.
static SHUTDOWN_REQUESTED: AtomicBool = AtomicBool::new(false);

/// What [`at_shutdown`] was given.
static AT_SHUTDOWN: OnceLock<fn()> = OnceLock::new();

/// Of SIGTERM: may be called amid anything.
unsafe extern "C-unwind" fn shutdown_requested(signal: std::ffi::c_int) {
    SHUTDOWN_REQUESTED.store(true, Ordering::Relaxed);
    // SAFETY: the server's own handler, called as one.
    unsafe { die(signal) };
}

/// Has the server start a worker once it can write, and again a second after it ends. Call it while the
/// library is preloaded.
///
/// Not in a server that pg_upgrade has started: the worker's session would be in the way there.
pub fn register(name: &str, function: &str) {
    // SAFETY: reads a variable of this process.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    BackgroundWorkerBuilder::new(name)
        .set_library("pg_civic")
        .set_function(function)
        .set_type(name)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(RESTART_TIME))
        .load();
}

/// What a shutdown request (SIGTERM) meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// It ends a transaction, and a wait for a lock as well.
    Interrupts,
    /// A transaction is finished first: it is short, and waits for nobody.
    AfterTransaction,
}

/// Begins a worker in a database, as the server's own superuser, with a search_path, defaults of
/// transactions and timeouts that no other role chooses. Before that it waits, without a connection, until it
/// is wanted; and after starts in vain, up to [`LONGEST_BACKOFF`].
pub fn begin(
    database: &str,
    slot: &'static WorkerSlot,
    shutdown: Shutdown,
    is_wanted: impl Fn() -> bool,
) {
    handle_signals(shutdown);
    // The server ignores SIGHUP at the beginning of a background worker: a reload between the fork and here
    // would be lost.
    guc::reload_settings();
    let failed = slot.count_start();
    wait_for_start(backoff(failed), is_wanted);
    // The first failure of a row is logged. Why the others fail says the same.
    let log_level = c"log_min_messages";
    if failed > 0 {
        guc::set_in_session(log_level, Some(c"panic"));
    }
    // In turn: its name has changed after ALTER DATABASE … RENAME, its OID where it was created again.
    match slot.last_database().filter(|_| failed.is_multiple_of(2)) {
        Some(database) => BackgroundWorker::connect_worker_to_spi_by_oid(Some(database), None),
        None => BackgroundWorker::connect_worker_to_spi(Some(database), None),
    }
    guc::set_in_session(log_level, None);
    for (name, value) in [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"lock_timeout", c"0"),
        (c"statement_timeout", c"0"),
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        (c"transaction_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        // Its statements are short, and a plan that was compiled is made anew at each change of the catalog.
        (c"jit", c"off"),
    ] {
        guc::set_in_process(name, value);
    }
}

fn handle_signals(shutdown: Shutdown) {
    match shutdown {
        Shutdown::AfterTransaction => {
            BackgroundWorker::attach_signal_handlers(
                SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM,
            );
        }
        Shutdown::Interrupts => {
            // SAFETY: a handler that does what the server's own does, in its place before signals are let
            // in.
            unsafe {
                #[cfg(not(feature = "pg18"))]
                pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(shutdown_requested));
                #[cfg(feature = "pg18")]
                pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(shutdown_requested));
            }
            BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
        }
    }
}

/// The longest time between two starts of a worker that cannot work.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// How long a worker waits before it connects, after so many starts in vain. The server itself waits a second.
fn backoff(failed: u32) -> Duration {
    let longest = LONGEST_BACKOFF - RESTART_TIME;
    match failed {
        0 | 1 => Duration::ZERO,
        _ => Duration::from_secs(1 << (failed - 1).min(6)).min(longest),
    }
}

/// Waits for so long, or until the settings are reloaded, and until the worker is wanted.
fn wait_for_start(time: Duration, is_wanted: impl Fn() -> bool) {
    let end = Instant::now() + time;
    let mut is_reloaded = false;
    loop {
        if is_shutdown_requested() {
            super::end_process_to_be_restarted();
        }
        if BackgroundWorker::sighup_received() {
            guc::reload_settings();
            is_reloaded = true;
        }
        let left = end.saturating_duration_since(Instant::now());
        let is_over = left.is_zero() || is_reloaded;
        if is_over && is_wanted() {
            return;
        }
        sleep(None, if is_over { WANTED_INTERVAL } else { left });
    }
}

/// Runs a worker's cycles until a shutdown is requested. A cycle gets whether the settings have been
/// reloaded, and gives how long to wait for the next one. What sets the process's latch, or writes to the
/// file, ends the wait.
pub fn run(
    slot: &'static WorkerSlot,
    file: Option<BorrowedFd<'_>>,
    mut cycle: impl FnMut(bool) -> Duration,
) {
    while !takes_shutdown() {
        let is_reloaded = BackgroundWorker::sighup_received();
        if is_reloaded {
            guc::reload_settings();
        }
        let time = cycle(is_reloaded);
        let starts = slot.works();
        if starts > 1 {
            let message = format!("this process works again, after {} starts in vain", starts - 1);
            ereport!(PgLogLevel::LOG, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message);
        }
        wait(file, time);
    }
}

/// Makes this process's plans use an index wherever there is one, for a process that works on a queue: of a
/// table that has just grown the planner knows nothing yet.
pub fn prefer_indexes() {
    guc::set_in_process(c"enable_seqscan", c"off");
}

/// Has something done once at the shutdown of this process, wherever that meets it: also amid a
/// transaction, which is rolled back before. It can do transactions of its own, but nothing interrupts
/// it any more, so it must not wait. An error in it is logged, and ends it.
pub fn at_shutdown(action: fn()) {
    if AT_SHUTDOWN.set(action).is_ok() {
        // SAFETY: a function that lives as long as the process. It is called before what the server
        // itself does at the end, which was registered earlier.
        unsafe { pg_sys::before_shmem_exit(Some(exits), pg_sys::Datum::from(0)) };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn exits(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    let is_shutdown = SHUTDOWN_REQUESTED.load(Ordering::Relaxed);
    let Some(action) = AT_SHUTDOWN.get().filter(|_| is_shutdown) else { return };
    // SAFETY: as the server does it itself when it removes temporary tables at this point.
    unsafe { pg_sys::AbortOutOfAnyTransaction() };
    action();
}

/// Locks a table as a change of its rows does; false where that would have to wait.
pub fn lock_rows_if_free(table: pg_sys::Oid) -> bool {
    // SAFETY: a lock that the transaction's end releases.
    unsafe {
        pg_sys::ConditionalLockRelationOid(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)
    }
}

/// Does something in a transaction of its own. An error that is raised in it, or at its commit, ends the
/// transaction and not the worker. Gives SQLSTATE and message of such an error.
pub fn transaction<R>(body: impl FnOnce() -> R) -> Result<R, (PgSqlErrorCode, String)> {
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        Ok(BackgroundWorker::transaction(AssertUnwindSafe(body)))
    }))
    .catch_others(|error| {
        use pg_sys::panic::CaughtError::{ErrorReport, PostgresError, RustPanic};
        let (PostgresError(report) | ErrorReport(report) | RustPanic { ereport: report, .. }) =
            &error;
        // SAFETY: as the server's own loops do it after an error: whatever is open of a transaction ends.
        unsafe { pg_sys::AbortOutOfAnyTransaction() };
        Err((report.sql_error_code(), report.message().to_owned()))
    })
    .execute();
    // SAFETY: no transaction is open. Without it the table's changes would not be counted, and
    // autovacuum would not come.
    unsafe { pg_sys::pgstat_report_stat(true) };
    result
}

/// Sleeps until this process's latch is set, the file has something to read, or the time is over.
fn sleep(file: Option<BorrowedFd<'_>>, time: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let (socket, readable) = match file {
        Some(file) => (file.as_raw_fd(), pg_sys::WL_SOCKET_READABLE),
        None => (pg_sys::PGINVALID_SOCKET, 0),
    };
    // SAFETY: this process's own latch, and a file that is open throughout, or none.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            (events | readable) as i32,
            socket,
            time.as_millis() as std::ffi::c_long,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// The same. Then it does what the server asks of a process at such a point, and may end here by an error;
/// but a shutdown request is left to [`run`].
fn wait(file: Option<BorrowedFd<'_>>, time: Duration) {
    sleep(file, time);
    if !is_shutdown_requested() {
        pg_sys::check_for_interrupts!();
    }
}

/// Whether a shutdown of this worker has been requested, now or at any time before.
pub fn is_shutdown_requested() -> bool {
    // SAFETY: reads variables of this process that signals set.
    unsafe {
        (&raw const pg_sys::ProcDiePending).read_volatile() != 0
            || (&raw const pg_sys::ShutdownRequestPending).read_volatile() != 0
    }
}

/// The same. The worker may still put its things in order: what it does from here on is only interrupted
/// by the next such request.
fn takes_shutdown() -> bool {
    let is_requested = is_shutdown_requested();
    if is_requested {
        // SAFETY: a variable of this process; the worker ends by itself.
        unsafe { (&raw mut pg_sys::ProcDiePending).write_volatile(0) };
    }
    is_requested
}
