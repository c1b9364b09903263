//! Ends of transactions, and waiting.

use std::time::Duration;

use pgrx::{pg_guard, pg_sys};

use super::guc;

// Called at each commit. They raise no error, so they need no error frame, which would cost more
// than the call.
unsafe extern "C-unwind" {
    fn GetCurrentTransactionNestLevel() -> i32;
    fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
}

/// Callbacks for transaction events. Only `before_commit` and `before_prepare` may raise an error.
pub trait Observer {
    /// The transaction is about to commit. Deferred triggers have run; NOTIFY is still possible.
    fn before_commit();
    /// The transaction is about to be prepared for a two-phase commit.
    fn before_prepare();
    /// The transaction is prepared: this session's part in it has ended.
    fn prepared() {}
    /// The transaction has committed and is visible to others.
    fn committed();
    fn aborted();
    fn subtransaction_committed(level: i32);
    fn subtransaction_aborted(level: i32);
}

/// Registers an observer of every transaction of this process, for the life of the process. The
/// observer registered last is called first.
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
        pg_sys::XactEvent::XACT_EVENT_PREPARE => O::prepared(),
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

/// The nesting level of transactions: 1 outside of any savepoint.
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

/// Whether the current transaction is read-only.
pub fn is_read_only() -> bool {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::XactReadOnly }
}

/// Now, in microseconds since 2000-01-01 UTC.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { GetCurrentTimestamp() }
}

/// Sleeps until this process's latch is set or the time is over, then processes interrupts. That
/// may raise an error or end the process; other sessions can wait for it, for example in DROP
/// DATABASE. So the caller must hold no borrow that the end of a transaction needs.
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

/// Makes this process's commits wait for no disk and no standby, for a process that stores nothing.
/// Its transaction ids do need storage from time to time, and an absent standby would block there.
pub fn commit_without_waiting() {
    guc::set_in_process(c"synchronous_commit", c"off");
}

/// Makes this process's commits wait for the disk alone: an absent standby would hold up all that the process
/// does for others.
pub fn commit_without_standbys() {
    guc::set_in_process(c"synchronous_commit", c"local");
}
