//! Background workers: registration; and transactions, sleep and shutdown of a worker with threads.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::prelude::*;

unsafe extern "C-unwind" {
    /// The server's own SIGTERM handler (tcop/tcopprot.h): interrupts whatever is interruptible.
    fn die(signal: std::ffi::c_int);
}

/// Whether this process was ever asked to shut down.
static SHUTDOWN_REQUESTED: AtomicBool = AtomicBool::new(false);

/// The function passed to [`on_shutdown`].
static SHUTDOWN_HOOK: OnceLock<fn()> = OnceLock::new();

/// SIGTERM handler: may run at any point.
unsafe extern "C-unwind" fn request_shutdown(signal: std::ffi::c_int) {
    SHUTDOWN_REQUESTED.store(true, Ordering::Relaxed);
    // SAFETY: the server's own handler, called from a signal handler.
    unsafe { die(signal) };
}

/// Registers a worker that starts once the server accepts writes, and restarts a second after it
/// ends. Call it while the library is preloaded.
pub fn register(name: &str, function: &str) {
    BackgroundWorkerBuilder::new(name)
        .set_library("pg_civic")
        .set_function(function)
        .set_type(name)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

/// Connects a worker to a database as the bootstrap superuser, with a fixed search_path and fixed
/// transaction defaults.
///
/// SIGTERM interrupts whatever the worker does, including a lock wait.
pub fn begin(database: &str) {
    // SAFETY: the handler does what the server's own does. It is installed before signals are
    // unblocked.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(request_shutdown));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(request_shutdown));
    }
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    BackgroundWorker::connect_worker_to_spi(Some(database), None);
    for (name, value) in [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"lock_timeout", c"0"),
    ] {
        // SAFETY: settings and values that the server knows.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}

/// Registers a function that runs once when this process shuts down on request, also in the middle
/// of a transaction, which is rolled back first. The function can use its own transactions, but
/// nothing interrupts it, so it must not wait. An error in it is logged and ends it.
pub fn on_shutdown(hook: fn()) {
    if SHUTDOWN_HOOK.set(hook).is_ok() {
        // SAFETY: the function lives as long as the process. It runs before the server's own exit
        // callbacks, which were registered earlier.
        unsafe { pg_sys::before_shmem_exit(Some(run_shutdown_hook), pg_sys::Datum::from(0)) };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn run_shutdown_hook(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    let Some(hook) = SHUTDOWN_HOOK.get().filter(|_| SHUTDOWN_REQUESTED.load(Ordering::Relaxed))
    else {
        return;
    };
    // SAFETY: the server does the same at this point when it removes temporary tables.
    unsafe { pg_sys::AbortOutOfAnyTransaction() };
    hook();
}

/// Takes the table lock of a writer if it is free; false if the caller would have to wait.
pub fn lock_rows_if_free(table: pg_sys::Oid) -> bool {
    // SAFETY: the end of the transaction releases the lock.
    unsafe {
        pg_sys::ConditionalLockRelationOid(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE)
    }
}

/// Runs an action in its own transaction. An error ends the worker.
pub fn transaction<R>(body: impl FnOnce() -> R) -> R {
    let result = BackgroundWorker::transaction(AssertUnwindSafe(body));
    // SAFETY: no transaction is open. Without this call the table's changes are not counted, and
    // autovacuum does not run.
    unsafe { pg_sys::pgstat_report_stat(true) };
    result
}

/// Sleeps until this process's latch is set, the file is readable or the time is over. Then it
/// processes interrupts, which may raise an error. It leaves a shutdown request to the caller, see
/// [`take_shutdown_request`].
pub fn wait(file: BorrowedFd<'_>, time: Duration) {
    let events = pg_sys::WL_LATCH_SET
        | pg_sys::WL_TIMEOUT
        | pg_sys::WL_SOCKET_READABLE
        | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: this process's own latch, and a file that stays open during the call.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            file.as_raw_fd(),
            time.as_millis() as std::ffi::c_long,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    if !is_shutdown_requested() {
        pg_sys::check_for_interrupts!();
    }
}

fn is_shutdown_requested() -> bool {
    // SAFETY: reads a variable of this process that a signal sets.
    unsafe { (&raw const pg_sys::ProcDiePending).read_volatile() != 0 }
}

/// Whether the worker was asked to shut down. Clears the request, so that the worker can clean up:
/// only a further request interrupts it.
pub fn take_shutdown_request() -> bool {
    let requested = is_shutdown_requested();
    if requested {
        // SAFETY: a variable of this process; the worker ends by itself.
        unsafe { (&raw mut pg_sys::ProcDiePending).write_volatile(0) };
    }
    requested
}
