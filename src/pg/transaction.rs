//! The ends of transactions, and waiting.

use std::time::Duration;

use pgrx::{pg_guard, pg_sys};

// Each commit calls these. They raise no error, so they need no frame to catch one, which would cost
// more than they do.
unsafe extern "C-unwind" {
    fn GetCurrentTransactionNestLevel() -> i32;
    fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
}

/// What is told of transactions. Only `before_commit` and `before_prepare` may raise an error.
pub trait Observer {
    /// The transaction is about to commit; NOTIFY is still possible, and deferred triggers have run.
    fn before_commit();
    /// The transaction is about to be prepared for a commit in two phases.
    fn before_prepare();
    /// The transaction has committed, and is seen by others.
    fn committed();
    fn aborted();
    fn subtransaction_committed(level: i32);
    fn subtransaction_aborted(level: i32);
}

/// Tells an observer of every transaction of this process, for as long as it lives. Of several the
/// last one is told first.
pub fn observe<O: Observer>() {
    // SAFETY: the functions live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction::<O>), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction::<O>), std::ptr::null_mut());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction<O: Observer>(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => O::before_commit(),
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => O::before_prepare(),
        pg_sys::XactEvent::XACT_EVENT_COMMIT => O::committed(),
        pg_sys::XactEvent::XACT_EVENT_ABORT => O::aborted(),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_subtransaction<O: Observer>(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => O::subtransaction_committed(level()),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => O::subtransaction_aborted(level()),
        _ => {}
    }
}

/// How many transactions are open, one within the other: 1 outside of any savepoint.
pub fn level() -> i32 {
    // SAFETY: reads this backend's state.
    unsafe { GetCurrentTransactionNestLevel() }
}

/// Does something under the transaction's snapshot, which at its end none of its statements has set. Where
/// an error unwinds, the end of the (sub)transaction takes the snapshot away.
pub fn with_snapshot<R>(action: impl FnOnce() -> R) -> R {
    // SAFETY: pushed and popped in pairs, within one (sub)transaction.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = action();
    // SAFETY: as above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// Whether the current transaction may write nothing.
pub fn is_read_only() -> bool {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::XactReadOnly }
}

/// Now, in microseconds since 2000-01-01 UTC.
pub fn now() -> i64 {
    // SAFETY: asks the clock.
    unsafe { GetCurrentTimestamp() }
}

/// Sleeps until this process's latch is set or the time is over, and then does what the server asks
/// of a process at such a point: it may end here, by an error or altogether. Other sessions wait for
/// that, DROP DATABASE for one. So the caller has nothing borrowed that the end of a transaction needs.
pub fn wait(time: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: this process's own latch.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            time.as_millis() as std::ffi::c_long,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pg_sys::check_for_interrupts!();
}

/// From now on this process's commits wait for no disk and no standby: for one that stores nothing.
/// Its transaction ids do need storage, once in many, and there it would wait for an absent standby.
pub fn commit_without_waiting() {
    // SAFETY: a setting and a value that the server knows.
    unsafe {
        pg_sys::SetConfigOption(
            c"synchronous_commit".as_ptr(),
            c"off".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}
